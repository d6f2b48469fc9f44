"""Stored statistics of norms, computed anew for weights that no training has seen.

The variance of a mean of two networks' activations is smaller than the mean of their variances, and the statistics that
a batch norm interpolates do not know. They are computed on batches of the training split instead: each call of
the operator normalises by its own batch, as in training, and the stored values become the mean over the batches.
Nothing else is in training mode, and it is the operator that is looked for, whichever module calls it.

Between models, what comes out of a norm shall have the mean and the deviation that the models have there, interpolated:
statistics that a model stores need not be those of its values. In another gauge they are not, since a gain makes up for
the scale of what is normalised, nor on other data than it was trained on.

Source: Jordan et al., REPAIR, arXiv 2211.08403.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from symgraph.errors import DataError, UsageError, one_line
from symgraph.measure.batches import counted as repeated
from symgraph.measure.batches import placed
from symgraph.measure.forward import Point
from symgraph.measure.mixture import compute_dtype, weighted_mean
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import counted
from symgraph.tracing.sampling import first_floating
from symgraph.tracing.wrap import evaluating

_log = logging.getLogger(__name__)

_BATCH_NORM = inspect.signature(functional.batch_norm)
# What `functional.batch_norm` calls, whose arguments have no names that can be asked for.
_TORCH_BATCH_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
# Channels that are constant in all models are as good as divided by nothing.
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and deviation of each channel as a norm hands it to its gain: (C,) both."""

    mean: Tensor
    deviation: Tensor


Spreads = Mapping[str, Spread]
"""By the name of the mean that the norm stores."""


def mean_of(spreads: Sequence[Spreads], weights: Sequence[float]) -> Spreads:
    """Interpolated between models."""
    return {
        name: Spread(
            weighted_mean([spread[name].mean for spread in spreads], weights),
            weighted_mean([spread[name].deviation for spread in spreads], weights),
        )
        for name in spreads[0]
    }


class _Calls(TorchFunctionMode, ABC):
    """Calls of batch norm with given statistics are noticed, and the statistics of their batches averaged.

    `stored` has the mean and the variance that each norm reads, and what it adds to the variance.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in tensors.items()}
        self.calls: dict[str, int] = {}
        self.stored: dict[str, tuple[Tensor, Tensor, float]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = _arguments(func, args, kwargs or {})
        name = self.names.get(id(named.get("running_mean")))
        if name is None or named.get("training"):
            return func(*args, **(kwargs or {}))
        count = self.calls[name] = self.calls.get(name, 0) + 1
        self.stored[name] = named["running_mean"], named["running_var"], named.get("eps", 1e-5)
        # The n-th batch enters with weight 1 / n: a mean in which all batches count alike.
        return self.called(name, named, {"training": True, "momentum": 1.0 / count})

    @abstractmethod
    def called(self, name: str, named: dict[str, Any], anew: dict[str, Any]) -> Any:
        """What a call gives; with the arguments of `anew` it takes the statistics of its batch into its average."""


class _Watched(_Calls):
    """They give what they give; what they store beside what there is says how it is spread."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def called(self, name: str, named: dict[str, Any], anew: dict[str, Any]) -> Any:
        zeros = torch.zeros_like(named["running_mean"]), torch.zeros_like(named["running_var"])
        mean, variance = self.seen.setdefault(name, zeros)
        functional.batch_norm(**named | anew | {"running_mean": mean, "running_var": variance})
        return functional.batch_norm(**named)

    def spreads(self) -> Spreads:
        """Of all calls so far."""
        found = {}
        for name, (mean, variance) in self.seen.items():
            stored, width, epsilon = self.stored[name]
            deviation = (width + epsilon).sqrt()
            found[name] = Spread((mean - stored) / deviation, (variance + epsilon).sqrt() / deviation)
        return found


class _Renewed(_Calls):
    """They normalise by their batch, to a given spread or to mean zero and deviation one, and store its statistics."""

    def __init__(self, tensors: Mapping[str, Tensor], wanted: Spreads) -> None:
        super().__init__(tensors)
        self.wanted = {
            name: Spread(spread.mean, spread.deviation.clamp_min(_LEAST_DEVIATION)) for name, spread in wanted.items()
        }

    def called(self, name: str, named: dict[str, Any], anew: dict[str, Any]) -> Any:
        spread = self.wanted.get(name)
        if spread is None:
            return functional.batch_norm(**named | anew)
        gain, bias = named.get("weight"), named.get("bias")
        shift = spread.mean if gain is None else gain * spread.mean
        own = {
            "weight": spread.deviation if gain is None else gain * spread.deviation,
            "bias": shift if bias is None else bias + shift,
        }
        return functional.batch_norm(**named | anew | own)

    def settle(self) -> None:
        """What is stored becomes what gives the wanted spread."""
        for name, spread in self.wanted.items():
            if name in self.stored:
                mean, variance, epsilon = self.stored[name]
                width = (variance + epsilon) / spread.deviation.square()
                mean.sub_(spread.mean * width.sqrt())
                variance.copy_((width - epsilon).clamp_min(0.0))


def _arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of batch norm by name, as `functional.batch_norm` takes them; else none."""
    if func is functional.batch_norm:
        return dict(_BATCH_NORM.bind(*args, **kwargs).arguments)
    if func is torch.batch_norm:
        return {
            name: value
            for name, value in (dict(zip(_TORCH_BATCH_NORM, args, strict=False)) | kwargs).items()
            if name in _TORCH_BATCH_NORM
        }
    return {}


def recalibrate_(
    network: nn.Module, tensors: Mapping[str, Tensor], batches: Iterable[Any], wanted: Spreads | None = None
) -> None:
    """Writes statistics of these batches into those among `tensors` that a batch norm of the network reads.

    Args:
        tensors: what the network is called with in the place of its own parameters and buffers; written to.
        wanted: how spread each norm shall hand on its channels; by default with mean zero and deviation one.

    Raises:
        UsageError: the network has no stored statistics.
        DataError: there are no batches, they do not fit the model, or one is too small to have a variance.
    """
    mode = _Renewed(tensors, wanted or {})
    _pass(network, tensors, batches, mode)
    with torch.inference_mode(any(tensor.is_inference() for tensor in tensors.values())):
        mode.settle()


def spreads_of(network: nn.Module, tensors: Mapping[str, Tensor], batches: Iterable[Any]) -> Spreads:
    """How spread the norms with stored statistics hand on their channels, as the model is.

    Raises:
        UsageError: the network has no stored statistics.
        DataError: there are no batches, they do not fit the model, or one is too small to have a variance.
    """
    mode = _Watched(tensors)
    _pass(network, tensors, batches, mode)
    return mode.spreads()


def _pass(network: nn.Module, tensors: Mapping[str, Tensor], batches: Iterable[Any], mode: _Calls) -> None:
    point = Point(network, tensors, first_floating(tensors).dtype)
    count = 0
    with evaluating(network), torch.no_grad():
        for number, raw in enumerate(batches):
            batch = placed(raw, point.device, point.dtype)
            try:
                with mode:
                    point.outputs(batch)
            except (IndexError, RuntimeError, ValueError, TypeError) as e:
                remedy = "check that the data is the kind the model takes, in batches of several examples"
                raise DataError(
                    f"recalibration, batch {number}: no statistics", cause=one_line(e), remedy=remedy
                ) from e
            _require(mode)
            count += 1
    if not count:
        raise DataError("no batches to recalibrate on", remedy="check the length of the data")


def _require(mode: _Calls) -> None:
    if not mode.calls:
        raise UsageError(
            "there is nothing to recalibrate",
            cause="no batch norm of this model reads statistics that it stores",
            remedy="leave recalibration out: other norms use no statistics of the training data",
        )


def recalibrated(
    network: nn.Module,
    state: Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    between: Sequence[tuple[Mapping[str, Tensor], float]] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """A state of the network with its stored statistics computed on batches of the training split.

    Args:
        state: as `state_dict` gives it, shared tensors under one name or all.
        between: the models that it is a mean of, as states of the network, with their weights: norms then hand on
            their channels with the mean and the deviation that these have, interpolated.
        device, dtype: where and in which precision to compute; halves are computed in float32.

    Raises:
        UsageError: the network has no stored statistics.
        DataError: there are no batches, they do not fit the model, or one is too small to have a variance.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    >>> state = symgraph.recalibrated(net, net.state_dict(), [[torch.randn(16, 6)]])
    >>> torch.equal(state["1.running_mean"], net[1].running_mean)
    False

    Source: Jordan et al., arXiv 2211.08403.
    """
    buffers = {name for name, _ in network.named_buffers()}
    if between:
        batches = repeated(batches, "to recalibrate on")
    spreads = [spreads_of(network, _tensors(network, model, device, dtype), batches) for model, _ in between]
    wanted = mean_of(spreads, [weight for _, weight in between]) if between else None
    tensors = _tensors(network, state, device, dtype)
    told = counted(_log, batches, len(batches) if isinstance(batches, Sized) else None, "statistics of batch")
    recalibrate_(network, tensors, told, wanted)
    return {
        name: tensors[name].to(tensor.device, tensor.dtype) if name in buffers else tensor
        for name, tensor in state.items()
    }


def _tensors(
    network: nn.Module, state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """What the network is called with, of which buffers are copies."""
    buffers = dict(network.named_buffers())
    own = {**dict(network.named_parameters()), **buffers, **state}
    return {name: _computed(made(tensor), device, dtype, copy=name in buffers) for name, tensor in own.items()}


def _computed(tensor: Tensor, device: str | torch.device, dtype: torch.dtype | None, copy: bool) -> Tensor:
    return tensor.detach().to(device, compute_dtype(tensor, dtype), copy=copy)
