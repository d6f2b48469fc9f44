"""Weighted means of states of one architecture: as states, and in the place of a network's own tensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.io.state import check_finite
from symgraph.measure.forward import Point
from symgraph.tracing.deferred import Deferred, made
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

State = dict[str, Tensor]
# What messages call it.
_MEAN = "the weighted mean"
Mixture = tuple[float, ...]


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor | None = None) -> Tensor:
    """The weighted mean of tensors, by weights that sum to one; where one weight is 1 it is that tensor, to the bit.

    One after the other is mixed in: what all of them share stays as it is, to the bit. Negative weights come last, so
    that the weights up to each are never zero together. Without `out` it is differentiable.
    """
    first, *others = sorted(
        (model for model, weight in enumerate(weights) if weight), key=lambda model: weights[model] < 0
    )
    mean = tensors[first] if out is None else out.copy_(tensors[first])
    total = weights[first]
    for model in others:
        total += weights[model]
        mean = torch.lerp(mean, tensors[model].to(mean), weights[model] / total, out=out)
    return mean


def interpolate(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float], dtypes: Mapping[str, torch.dtype] | None = None
) -> State:
    """The weighted mean of states of one architecture, each tensor in the widest of its dtypes.

    Args:
        dtypes: those of the result, where they are to be others.

    Integers, and tensors that are equal in all states, are those of the first. Where tensors are deferred their mean
    is, and it is checked whenever it is made.

    Raises:
        UsageError: the weights do not fit.
        CheckpointError: the mean overflows its dtype.
    """
    check_weights(weights, len(states))
    wanted = dict(dtypes or {})
    mean_state: State = {}
    # What is one tensor in all of them under several names is one in the mean.
    first_name: dict[tuple[int, ...], str] = {}
    for name in counted(_log, states[0], len(states[0]), "mean of tensor"):
        tensors = [state[name] for state in states]
        first = first_name.setdefault(tuple(map(id, tensors)), name)
        mean_state[name] = (
            _interpolated(name, tensors, weights, wanted.get(name)) if first == name else mean_state[first]
        )
    check_finite({name: tensor for name, tensor in mean_state.items() if _is_new(tensor, states[0][name])}, where=_MEAN)
    return mean_state


def _is_new(mean: Tensor, first: Tensor) -> bool:
    """Whether a mean was computed here: one that is deferred is checked whenever it is."""
    return mean is not first and not isinstance(mean, Deferred)


def _interpolated(name: str, tensors: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype | None) -> Tensor:
    first = tensors[0]
    if not moves(first):
        return first
    wanted = dtype or reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    if not any(isinstance(tensor, Deferred) for tensor in tensors):
        return _computed(tensors, weights, wanted)

    def make() -> Tensor:
        computed = _computed([made(tensor) for tensor in tensors], weights, wanted)
        check_finite({name: computed}, where=_MEAN)
        return computed

    return Deferred(make, first.shape, wanted)


@torch.no_grad()
def _computed(tensors: Sequence[Tensor], weights: Sequence[float], wanted: torch.dtype) -> Tensor:
    first = tensors[0]
    if all(first.dtype is tensor.dtype and torch.equal(first, tensor) for tensor in tensors[1:]):
        return first.to(wanted)
    wide = torch.complex128 if first.is_complex() else torch.float64
    return weighted_mean(tensors, weights, torch.empty(first.shape, dtype=wide)).to(wanted)


def moves(tensor: Tensor) -> bool:
    """Whether a tensor can be mixed with others: integers and booleans cannot."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_shared_mask(tensors: Sequence[Tensor]) -> bool:
    """Whether entries that are not finite are the same in all: mixed with themselves they would become NaN."""
    first, *others = tensors
    if not others or bool(first.isfinite().all()):
        return False
    differs = torch.stack([first != other.to(first) for other in others]).any(0)
    return not bool((first.isfinite() | differs).all())


class Mixtures(Point):
    """A network at weighted means of states, always in the same memory.

    What the states lack is the network's own. With `own` all floating tensors are copies, which may be written to until
    the next move.
    """

    def __init__(
        self,
        network: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype | None,
        own: bool = False,
    ) -> None:
        self.moving: list[tuple[tuple[Tensor, ...], Tensor]] = []
        tensors: dict[str, Tensor] = {}
        fixed = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, tensor in (fixed | dict(states[0])).items():
            given = tuple(state.get(name, tensor).detach() for state in states)
            computed = compute_dtype(given[0], dtype)
            stays = not moves(given[0]) or name not in states[0] or is_shared_mask(given)
            if stays and not (own and given[0].is_floating_point()):
                tensors[name] = given[0].to(device, computed)
                continue
            tensors[name] = torch.empty(given[0].shape, dtype=computed, device=device)
            self.moving.append((given[:1] if stays else given, tensors[name]))
        first = next((tensor.dtype for _, tensor in self.moving), dtype or torch.float32)
        super().__init__(network, tensors, first)

    @torch.inference_mode()
    def move_to(self, weights: Sequence[float]) -> None:
        """Put the point there; where one weight is 1 it is that model, to the bit."""
        for states, point in self.moving:
            weighted_mean(states, weights if len(states) > 1 else (1.0,), point)


def compute_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """In which precision a tensor is computed with: as asked for, and halves in float32."""
    if dtype is not None and tensor.is_floating_point():
        return dtype
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def vertex(model: int, models: int) -> Mixture:
    """The mixture that is one model alone."""
    return tuple(float(place == model) for place in range(models))


def is_vertex(weights: Sequence[float]) -> bool:
    """Whether a mixture is one model alone; outside of the simplex one weight may be 1 beside others."""
    return max(weights) == 1.0 and min(weights) == 0.0


def dirichlet(models: int, concentration: float, samples: int, seed: int) -> list[tuple[float, ...]]:
    """Random weights of this many models; the seed decides alone, whatever has been drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parameter = torch.full((models,), concentration, dtype=torch.float64)
        drawn = torch.distributions.Dirichlet(parameter).sample((samples,))
    return [tuple(row) for row in drawn.tolist()]


def check_weights(weights: Sequence[float], models: int) -> None:
    """Raise unless there is one weight for each of two models or more, and they sum to one.

    Raises:
        UsageError: saying what is wrong and which weights would do.
    """
    if models < 2:
        raise UsageError(f"{models} model: there is nothing to merge it with", remedy="name two models or more")
    if len(weights) != models:
        even = " ".join([f"{1 / models:.6g}"] * models)
        raise UsageError(f"{models} models and {len(weights)} weights", remedy=f"give one for each, such as {even}")
    total = math.fsum(weights)
    if abs(total - 1) <= 1e-6:
        return
    scaled = " ".join(f"{weight / total:.6g}" for weight in weights) if total > 0 and math.isfinite(total) else ""
    remedy = f"in these proportions: {scaled}" if scaled else "give shares such as 0.5 0.5"
    raise UsageError(f"the weights sum to {total:g}, not to one", remedy=remedy)
