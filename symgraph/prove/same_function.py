"""Whether a result computes what the model it was made from computes, as the user's own module says in eager mode.

The traced graph is what symmetries are inferred from, so that it cannot be what a result is judged by: an operator that
was traced wrongly, or for one kind of input only, would be wrong on both sides. Every result is therefore compared with
the model that it was made from by the module itself, on inputs of every kind, before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from symgraph.errors import VerifyError, argument, shorten
from symgraph.io.checkpoint import dtypes
from symgraph.io.models import Model
from symgraph.io.sums import extremes
from symgraph.ir import Graph
from symgraph.orbit.action import GroupElement
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Transform
from symgraph.prove.eager import Call, Eager, Standing, State, Variation, as_it_is, calls_of, floats
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import Deferred, later, made, waiting
from symgraph.tracing.sampling import in_float64

Change = Callable[[State], float]
Blame = Callable[[Change, float], str]
# A change of the outputs that no rounding needs to explain, in float64.
EXACT = 1e-9
# Parameters are moved by this share to see what rounding inside of a module (norms in float32) makes of it.
PROBE = 1e-9
# Changes beyond so many times what a probe changes are not rounding.
BEYOND = 50.0
PROBES = 2
# How many entries of noise a probe draws and repeats, a prime, and how far apart those of two tensors begin.
NOISE, STRIDE = 65521, 7919
# So many rows of a tensor are rounded at a time.
ROWS = 256


def _noisy(share: float, seed: int, places: Mapping[str, int]) -> Variation:
    """Each entry changed by its share of a noise that begins elsewhere in every tensor."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Nothing changes its sign, so that what is infinite stays it.
    noise = noise.clamp_(-3, 3).mul_(share).add_(1)
    return lambda name, tensor: _moved(tensor, noise, places[name])


def _share(*states: State) -> float:
    """By which share of themselves entries may be wrong in the precision of some states."""
    dtypes = {tensor.dtype for state in states for tensor in state.values() if tensor.is_floating_point()}
    return max([PROBE, *(torch.finfo(dtype).eps for dtype in dtypes)])


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor with the entries that another dtype keeps of it, in its own."""
    if tensor.dtype == dtype or not tensor.dim():
        return tensor.to(dtype)
    rounded = torch.empty_like(tensor)
    for into, part in zip(torch.split(rounded, ROWS), torch.split(tensor, ROWS), strict=True):
        into.copy_(part.to(dtype))
    return rounded


def check_unchanged(
    model: Model,
    after: State,
    what: str,
    *,
    source: Model | None = None,
    before: State | None = None,
    graph: Graph | None = None,
    calls: Sequence[Call] = (),
    blame: Blame | None = None,
) -> float:
    """The largest relative change of the outputs between a model and a state made from it, if it is rounding.

    The state is compared as it was computed, and again at the precision that the file keeps.

    Args:
        after: as it was computed, in float64 where that is what was computed in.
        what: what messages call the result.
        source: the model that the state was made from, where it is of another shape.
        before: what to compare with, where it is not what the source holds.
        graph, calls: as for `calls_of`, and further calls beside those.
        blame: given a measure of change and its limit, what to name as the cause.

    Raises:
        VerifyError: the outputs differ beyond rounding, or a buffer is infinite that was not.
    """
    origin = source or model
    kept = {name: later(after[name], dtype) for name, dtype in dtypes(model).items() if name in after}
    comparison = _Comparison(origin, model, before or {}, (*calls_of(origin, graph), *calls))
    # What rounding comes to is asked for in any case where a file keeps less than was computed.
    comparison.probe({_share(after), _share(after, kept)})
    changes, rounded = comparison.changes(after, (as_it_is, comparison.rounding(kept)))
    limit = comparison.limit(changes, after)
    if not max(changes.values(), default=0.0) <= limit:
        cause = blame(comparison.change, limit) if blame is not None else ""
        raise _changed(origin, what, changes, limit, cause)
    limit = comparison.limit(rounded, kept, after)
    if not (_stays_finite(comparison.state, kept) and max(rounded.values(), default=0.0) <= limit):
        raise _changed(origin, what, rounded, limit, "its numbers do not fit the precision of the file")
    return max(changes.values(), default=0.0)


class _Comparison:
    """What a model computes, and how much a state in its place changes that: relative root mean squares."""

    def __init__(self, origin: Model, model: Model, before: State, calls: Sequence[Call]) -> None:
        self.calls = calls = tuple(call for call in calls if not call.optional or _runs(origin.module, call))
        self.before, self.after = Eager(origin.module, calls), Eager(model.module, calls)
        self.state = {**self.before.own, **before}
        self._expected: list[tuple[Tensor, ...]] | None = None
        self._probed: dict[float, float] = {}

    @property
    def expected(self) -> list[tuple[Tensor, ...]]:
        """What the model computes."""
        if self._expected is None:
            self._expected = self.before.outputs(self.state)
        return self._expected

    def change(self, state: State) -> float:
        """The largest change on any call."""
        return max(self.changes(state)[0].values(), default=0.0)

    def changes(self, state: State, variations: Sequence[Variation] = (as_it_is,)) -> list[dict[str, float]]:
        """The change on each call, by its label, for each variation of a state."""
        labels = [call.label for call in self.calls]
        every = self.after.variants(state, variations)
        return [dict(zip(labels, map(_difference, self.expected, outputs), strict=True)) for outputs in every]

    def rounding(self, kept: State) -> Variation:
        """What a file keeps of a state; what is in none is the model's own."""

        def rounded(name: str, tensor: Tensor) -> Tensor:
            return _rounded(tensor, kept[name].dtype) if name in kept else made(self.after.own[name])

        held = {name: tensor for name, tensor in kept.items() if floats(tensor) and not isinstance(tensor, Deferred)}
        return Standing(held, rounded)

    def limit(self, changes: Mapping[str, float], *states: State) -> float:
        """What rounding explains: small changes of all parameters are tried where a change calls for it."""
        if max(changes.values(), default=0.0) <= EXACT:
            return EXACT
        share = _share(*states, self.before.own if self.before.dtype is None else {})
        self.probe({share})
        return max(EXACT, BEYOND * self._probed[share])

    def probe(self, shares: Collection[float]) -> None:
        """Tries changes by such shares, and what the model computes, in one pass over weights that have to be read.

        Of weights that are there, each is tried when its effect is asked for.
        """
        new = sorted(set(shares) - self._probed.keys())
        if self._expected is None and not waiting(self.state):
            return
        first = [] if self._expected is not None else [as_it_is]
        places = {name: STRIDE * number for number, name in enumerate(self.state)}
        probes = [_noisy(share, seed, places) for share in new for seed in range(PROBES)]
        variants = self.before.variants(self.state, [*first, *probes]) if new else []
        self._expected = variants.pop(0) if first else self.expected
        for number, share in enumerate(new):
            pairs = (
                zip(self._expected, moved, strict=True) for moved in variants[number * PROBES : (number + 1) * PROBES]
            )
            self._probed[share] = max(
                (_difference(before, after) for pair in pairs for before, after in pair), default=0.0
            )


def _runs(module: nn.Module, call: Call) -> bool:
    # Whatever the user's code raises on inputs that it may not take.
    with suppress(Exception):
        return bool(Eager(module, (call,)).outputs({}))
    return False


def _stays_finite(before: State, after: State) -> bool:
    return all(_is_finite(tensor) for name, tensor in after.items() if name in before and _is_finite(before[name]))


def _is_finite(tensor: Tensor) -> bool:
    # The extremes say so in one pass, without a mask.
    ends = extremes(torch.view_as_real(made(tensor)) if tensor.is_complex() else tensor)
    return ends is None or all(bool(end.isfinite()) for end in ends)


def _changed(origin: Model, what: str, changes: Mapping[str, float], limit: float, cause: str) -> VerifyError:
    largest, kinds = max(changes.values()), [label for label, change in changes.items() if not change <= limit]
    fewer = argument("spaces", ["PATTERN"], within="options")
    return VerifyError(
        f"{what} does not compute what {origin.spec} computes: outputs change by {largest:.1e} on {shorten(kinds)}",
        cause=f"{cause or 'the symmetry does not hold'}; rounding explains a change of {limit:.0e}",
        remedy=f"nothing was written; leave a space out, {fewer}, and report the model with `symgraph verify`",
    )


def _moved(tensor: Tensor, noise: Tensor, start: int) -> Tensor:
    """A tensor in float64, each entry changed by its share of a noise from some place on."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    wide = tensor.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    factor = noise.roll(start).to(wide.device)
    rest = wide.numel() % len(noise)
    wide.view(-1)[: wide.numel() - rest].view(-1, len(noise)).mul_(factor)
    wide.view(-1)[wide.numel() - rest :].mul_(factor[:rest])
    return wide


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    return max(map(_relative, before, after), default=0.0)


def _relative(before: Tensor, after: Tensor) -> float:
    """The change over the size, as root mean squares; what is not finite before has to be the same afterwards."""
    before, after = in_float64(before), in_float64(after)
    same = (before == after) | (before.isnan() & after.isnan())
    change = torch.where(same, 0.0, (before - after).abs())
    size = torch.where(before.isfinite(), before.abs(), 0.0)
    ratio = float(change.norm() / size.norm().clamp_min(1e-300))
    return ratio if math.isfinite(ratio) else math.inf


# -- whose fault it is -----------------------------------------------------------------------------------------


def culprit(symmetry: SymmetryGraph, transform: Transform, state: State) -> Blame:
    """What names the first step of a transform that changes the function, and the spaces that it acts on wrongly."""

    def named(change: Change, limit: float) -> str:
        def wrong(steps: Sequence[Step]) -> bool:
            return not change(Transform(tuple(steps)).carried(state)) <= limit

        first = _first(transform.steps, wrong)
        step = transform.steps[first]
        if not isinstance(step, Act):
            return f"the function depends on what is moved: {step}"
        before = transform.steps[:first]
        parts = [Act(GroupElement(symmetry, {space: element})) for space, element in step.element.elements.items()]
        guilty = _all(parts, lambda some: wrong((*before, *some))) or parts
        names = [symmetry.spaces[space].name for act in guilty for space in act.element.elements]
        return f"the function depends on the basis of {shorten(names)}"

    return named


def _first(steps: Sequence[Step], wrong: Callable[[Sequence[Step]], bool]) -> int:
    """The first step after which something is wrong; by bisection, since what is wrong stays so."""
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(steps[:middle]) else (middle, high)
    return low


def _all(parts: Sequence[Act], wrong: Callable[[Sequence[Step]], bool]) -> list[Act]:
    """Those of the parts that are wrong by themselves."""
    if not parts or not wrong(parts):
        return []
    if len(parts) == 1:
        return list(parts)
    middle = len(parts) // 2
    return [*_all(parts[:middle], wrong), *_all(parts[middle:], wrong)]
