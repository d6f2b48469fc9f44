"""What a user's own module computes, called in eager mode with other tensors in the place of its own.

The traced graph is what symmetries are inferred from, so that it cannot be what a result is judged by: an operator that
was traced wrongly, or for one kind of input only, would be wrong on both sides. Every result is therefore compared with
the model that it was made from by the module itself, on inputs of every kind, before anything is written.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from symgraph.errors import TraceError, VerifyError, argument, one_line, shorten
from symgraph.io.checkpoint import dtypes
from symgraph.io.models import Model
from symgraph.io.sums import extremes
from symgraph.ir import Graph
from symgraph.orbit.action import GroupElement
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import Deferred, later, made, waiting
from symgraph.tracing.kinds import further_kinds
from symgraph.tracing.sampling import random_inputs
from symgraph.tracing.several import Several, each, several
from symgraph.tracing.wrap import (
    TensorsOnly,
    evaluating,
    example_inputs,
    float_outputs,
    gathered_experts,
    is_pretrained,
)

State = Mapping[str, Tensor]
# Of a tensor under its name, what is computed with in its place.
Variation = Callable[[str, Tensor], Tensor]
Outputs = TypeVar("Outputs")
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
# Tensors of more entries are made when the module needs them, and not kept.
LARGE = 2**16
# What a call raises that does not fit the module.
_REFUSED = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of input: what it is called, and what the module is called with, if it can be (`optional`)."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


def calls_of(model: Model, graph: Graph | None = None) -> tuple[Call, ...]:
    """The example inputs of a model: those that came with it, or of every kind that its config speaks of.

    Args:
        graph: whose inputs are drawn at random where nothing else says what the module takes.
    """
    label, example = "the example inputs", model.example
    if isinstance(example, Mapping):
        return (Call(label, (), dict(example)),)
    if example is not None:
        return (Call(label, example if isinstance(example, tuple) else (example,)),)
    if is_pretrained(model.module):
        return tuple(_pretrained(model.module))
    return () if graph is None else (_drawn(model.module, graph),)


def _pretrained(module: nn.Module) -> Iterator[Call]:
    fixed, plain = TensorsOnly(module).fixed, example_inputs(module, masks=True)
    yield Call("the example inputs", (), {**plain, **fixed})
    for label, make in further_kinds(module, example_inputs(module)):
        # Not every class takes all that its signature names.
        with suppress(Exception):
            yield Call(label, (), {**make(), **fixed}, optional=True)


def _drawn(module: nn.Module, graph: Graph) -> Call:
    """Random inputs of the traced shapes, by name where they have the names of arguments."""
    inputs = random_inputs(graph, torch.Generator().manual_seed(0))
    named = {node.target: value for node, value in zip(graph.inputs, inputs, strict=True)}
    if named.keys() <= inspect.signature(module.forward).parameters.keys():
        return Call("random inputs", (), named)
    return Call("random inputs", tuple(inputs))


class Eager:
    """A module as a function of its parameters and buffers, on some calls.

    It computes in float64 where its code can, else in its own precision.
    """

    def __init__(self, module: nn.Module, calls: Sequence[Call]) -> None:
        self.module, self.calls = module, tuple(calls)
        self.own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.dtype: torch.dtype | None = torch.float64

    def outputs(self, state: State) -> list[tuple[Tensor, ...]]:
        """What floats among the outputs of every call, with `state` in the place of what the module holds.

        Raises:
            TraceError: the module cannot be called.
        """

        def called() -> list[tuple[Tensor, ...]]:
            return self._on({n: self._lazily(state.get(n, t), t) for n, t in self.own.items()})

        try:
            return self._in_either_precision(called)
        except _REFUSED as error:
            name = type(self.module).__name__
            remedy = "give inputs that it can be called on"
            raise TraceError(f"{name} cannot be called on its inputs", cause=one_line(error), remedy=remedy) from error

    def variants(self, state: State, variations: Sequence[Variation]) -> list[list[tuple[Tensor, ...]]]:
        """The outputs for each variation of a state; where tensors have to be read, each is read once for all of them.

        Raises:
            TraceError: as for `outputs`.
        """
        dtype = self.dtype
        if waiting(state):
            # Not every module can be called with several weights at once: by their values it may do different things.
            with suppress(Exception):
                return self._in_either_precision(lambda: self._together(state, variations))
            self.dtype = dtype
        return [self.outputs({n: _varied(v, n, t) for n, t in state.items()}) for v in variations]

    def _in_either_precision(self, called: Callable[[], Outputs]) -> Outputs:
        try:
            return called()
        except _REFUSED:
            if self.dtype is None:
                raise
        # Code that names its dtypes can be called in them alone.
        self.dtype = None
        return called()

    def _together(self, state: State, variations: Sequence[Variation]) -> list[list[tuple[Tensor, ...]]]:
        def handle(name: str, own: Tensor) -> Tensor:
            given = state.get(name, own)
            if name not in state or not _floats(given) or own.device.type != "cpu":
                return self._lazily(given, own)

            def parts() -> Iterator[Tensor]:
                held = made(given).detach()
                return (self._placed(v(name, held), own) for v in variations)

            if given.numel() <= LARGE:
                return several(list(parts()))
            dtype = self._dtype_of(given) if self.dtype is not None else own.dtype
            return Several(parts, torch.empty(given.shape, dtype=dtype, device="meta"), lazy=True)

        found = self._on({n: handle(n, t) for n, t in self.own.items()})
        count = len(variations)
        apart = [list(zip(*(each(t, count) for t in outputs), strict=True)) for outputs in found]
        return [[outputs[i] if outputs else () for outputs in apart] for i in range(count)]

    def _on(self, tensors: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        with evaluating(self.module), torch.no_grad(), gathered_experts(self.module):
            return [self._called(tensors, call) for call in self.calls]

    def _called(self, tensors: dict[str, Tensor], call: Call) -> tuple[Tensor, ...]:
        args, kwargs = tree_map_only(Tensor, self._computed, (call.args, dict(call.kwargs)))
        found = torch.func.functional_call(self.module, tensors, args, kwargs)
        named = float_outputs(found) if is_pretrained(self.module) else tree_leaves(found)
        return tuple(t for t in named if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()))

    def _lazily(self, tensor: Tensor, like: Tensor) -> Tensor:
        """What the module is called with: large tensors are made when an operator asks for them, one at a time."""
        if tensor.numel() <= LARGE or like.device.type != "cpu":
            return self._placed(made(tensor), like)
        dtype = self._dtype_of(tensor) if self.dtype is not None else like.dtype
        return Deferred(lambda: self._placed(made(tensor), like), tensor.shape, dtype)

    def _dtype_of(self, tensor: Tensor) -> torch.dtype:
        """In which dtype a tensor is computed with."""
        if tensor.is_complex():
            return torch.complex128
        return self.dtype or tensor.dtype if tensor.is_floating_point() else tensor.dtype

    def _placed(self, tensor: Tensor, like: Tensor) -> Tensor:
        return self._computed(tensor.detach().to(like.device, like.dtype if self.dtype is None else None))

    def _computed(self, tensor: Tensor) -> Tensor:
        return tensor if self.dtype is None else tensor.to(self._dtype_of(tensor))


def _as_it_is(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _noisy(share: float, seed: int, places: Mapping[str, int]) -> Variation:
    """Each entry changed by its share of a noise that begins elsewhere in every tensor."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Nothing changes its sign, so that what is infinite stays it.
    noise = noise.clamp_(-3, 3).mul_(share).add_(1)
    return lambda name, t: _moved(t, noise, places[name])


def _share(*states: State) -> float:
    """By which share of themselves entries may be wrong in the precision of some states."""
    dtypes = {t.dtype for state in states for t in state.values() if t.is_floating_point()}
    return max([PROBE, *(torch.finfo(d).eps for d in dtypes)])


def _varied(variation: Variation, name: str, tensor: Tensor) -> Tensor:
    """A variation of a tensor, made when the module needs it; in float64, which holds all others."""
    if variation is _as_it_is or not _floats(tensor):
        return tensor
    wide = torch.complex128 if tensor.is_complex() else torch.float64

    def make() -> Tensor:
        return variation(name, made(tensor).detach()).to(wide)

    return Deferred(make, tensor.shape, wide) if tensor.device.type == "cpu" else make()


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


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
    kept = {n: later(after[n], dtype) for n, dtype in dtypes(model).items() if n in after}
    comparison = _Comparison(origin, model, before or {}, (*calls_of(origin, graph), *calls))
    # What rounding comes to is asked for in any case where a file keeps less than was computed.
    comparison.probe({_share(after), _share(after, kept)})
    found, rounded = comparison.changes(after, (_as_it_is, comparison.rounding(kept)))
    limit = comparison.limit(found, after)
    if not max(found.values(), default=0.0) <= limit:
        cause = blame(comparison.change, limit) if blame is not None else ""
        raise _changed(origin, what, found, limit, cause)
    limit = comparison.limit(rounded, kept, after)
    if not (_stays_finite(comparison.state, kept) and max(rounded.values(), default=0.0) <= limit):
        raise _changed(origin, what, rounded, limit, "its numbers do not fit the precision of the file")
    return max(found.values(), default=0.0)


class _Comparison:
    """What a model computes, and how much a state in its place changes that: relative root mean squares."""

    def __init__(self, origin: Model, model: Model, before: State, calls: Sequence[Call]) -> None:
        self.calls = calls = tuple(c for c in calls if not c.optional or _runs(origin.module, c))
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

    def changes(self, state: State, variations: Sequence[Variation] = (_as_it_is,)) -> list[dict[str, float]]:
        """The change on each call, by its label, for each variation of a state."""
        labels = [c.label for c in self.calls]
        every = self.after.variants(state, variations)
        return [dict(zip(labels, map(_difference, self.expected, found), strict=True)) for found in every]

    def rounding(self, kept: State) -> Variation:
        """What a file keeps of a state; what is in none is the model's own."""
        return lambda name, t: t.to(kept[name].dtype) if name in kept else made(self.after.own[name])

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
        first = [] if self._expected is not None else [_as_it_is]
        places = {n: STRIDE * i for i, n in enumerate(self.state)}
        probes = [_noisy(share, seed, places) for share in new for seed in range(PROBES)]
        found = self.before.variants(self.state, [*first, *probes]) if new else []
        self._expected = found.pop(0) if first else self.expected
        for i, share in enumerate(new):
            pairs = (zip(self._expected, moved, strict=True) for moved in found[i * PROBES : (i + 1) * PROBES])
            self._probed[share] = max((_difference(x, y) for pair in pairs for x, y in pair), default=0.0)


def _runs(module: nn.Module, call: Call) -> bool:
    # Whatever the user's code raises on inputs that it may not take.
    with suppress(Exception):
        return bool(Eager(module, (call,)).outputs({}))
    return False


def _stays_finite(before: State, after: State) -> bool:
    return all(_is_finite(t) for n, t in after.items() if n in before and _is_finite(before[n]))


def _is_finite(tensor: Tensor) -> bool:
    # The extremes say so in one pass, without a mask.
    ends = extremes(torch.view_as_real(made(tensor)) if tensor.is_complex() else tensor)
    return ends is None or all(bool(v.isfinite()) for v in ends)


def _changed(origin: Model, what: str, changes: Mapping[str, float], limit: float, cause: str) -> VerifyError:
    found, kinds = max(changes.values()), [label for label, change in changes.items() if not change <= limit]
    fewer = argument("spaces", ["PATTERN"], within="options")
    return VerifyError(
        f"{what} does not compute what {origin.spec} computes: outputs change by {found:.1e} on {shorten(kinds)}",
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
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    return max(map(_relative, before, after), default=0.0)


def _relative(before: Tensor, after: Tensor) -> float:
    """The change over the size, as root mean squares; what is not finite before has to be the same afterwards."""
    same = (before == after) | (before.isnan() & after.isnan())
    change = torch.where(same, 0.0, (before - after).abs()).double()
    size = torch.where(before.isfinite(), before.abs(), 0.0).double()
    found = float(change.norm() / size.norm().clamp_min(1e-300))
    return found if math.isfinite(found) else math.inf


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
        parts = [Act(GroupElement(symmetry, {s: e})) for s, e in step.element.elements.items()]
        guilty = _all(parts, lambda some: wrong((*before, *some))) or parts
        names = [symmetry.spaces[s].name for act in guilty for s in act.element.elements]
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
