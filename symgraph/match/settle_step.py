"""The step that ends a program: every matched model in one gauge, its function compared with what it was.

What all elements have in common is free: it is chosen so that the reference stays where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from symgraph.errors import UsageError, shorten
from symgraph.io.heap import given_back
from symgraph.io.sums import noted
from symgraph.match.paired_blocks import Keep
from symgraph.match.program_run import Run, Together, checked_change, held, overgrown, released
from symgraph.match.program_step import ProgramStep
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import nearly_singular
from symgraph.orbit.on_demand import Carried
from symgraph.orbit.steps import Transform
from symgraph.tracing.deferred import Deferred
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

State = Mapping[str, Tensor]
# Tensors of so many entries are not held wide.
LARGE = 2**20


@dataclass(frozen=True, slots=True)
class Settle(ProgramStep):
    """Take all matched models into the gauge of their reference.

    `into` names the result of each, in the order in which the models were listed. `free`: what all have in common is
    kept as it was trained, so that the reference moves as well. `compared`: what each computes is compared with what it
    computed.
    """

    matched: str
    into: tuple[str, ...]
    free: bool = False
    compared: bool = True
    op: ClassVar[str] = "settle"

    def apply(self, run: Run) -> None:
        """The models as they are used together, and the alignment of each."""
        made = held(run.together, self.matched, self.op)
        if len(self.into) != len(made.states):
            raise UsageError(f"the program's step settle names {len(self.into)} of {len(made.states)} models")
        # The states of the match are not needed any more, and may be large.
        made.states = {name: {} for name in made.states}
        notes = _gauge_note(run, made)
        if grown := self._settle_all(run, made, notes):
            notes = _leave_gauge(run, made, grown)
            self._settle_all(run, made, notes)
        run.notes += notes
        if self.compared:
            largest = max(made.changes.values())
            run.notes.append(f"every model computes what it computed, up to {largest:.0e}")

    def _settle_all(self, run: Run, made: Together, notes: tuple[str, ...]) -> str:
        """Takes all models there, unless norms would grow beyond bounds: the answer then says which."""
        back = Transform() if made.trained or self.free else made.shared[made.first].inverse()
        names = zip(made.listed, self.into, strict=True)
        return next(filter(None, (self._settle(run, made, name, back, into, notes) for name, into in names)), "")

    def _settle(self, run: Run, made: Together, name: str, back: Transform, into: str, notes: tuple[str, ...]) -> str:
        own, reference = run.canonical[name].transform, made.reference
        hashes = (run.hashes.get(name, ""), "" if reference is None else run.hashes.get(reference, ""))
        objective = made.matched.objective
        run.sources[into] = name
        if name == reference and not self.free:
            # Its own way there and back cancels exactly.
            made.inside[name], made.basis[name], made.changes[name] = own, Transform(), 0.0
            run.alignments[into] = Alignment(run.symmetry, Transform(), *hashes, objective, notes)
            run.states[into] = run.given[name] if name in run.given else run.states[name]
            _pass(run, made, name, run.states[into], None)
            return ""
        made.inside[name] = own.then(made.shared[name]).then(back)
        made.basis[name] = made.shared[name].then(back)
        target = None if reference is None else run.canonical[reference].transform
        whole = made.inside[name] if target is None else made.inside[name].then(target.inverse())
        state = run.state(name, self.op)
        carried, rounded = whole.carried(state), _Rounded(run.given.get(name, {}))
        with torch.no_grad():
            names = counted(_log, carried, len(carried), "tensor")
            moved = {name: rounded.put(name, carried, run.keep) for name in names}
        if reference is not None and (grown := overgrown(moved, state, run.state(reference, self.op))):
            return grown
        compared, called = self.compared and name not in made.approximate, run.called.get(name, name)
        made.changes[name] = checked_change(run.symmetry, state, moved, called, f"{called} moved") if compared else 0.0
        run.alignments[into] = Alignment(run.symmetry, whole, *hashes, objective, notes)
        _pass(run, made, name, moved, run.alignments[into])
        run.states[into] = released({**moved, **rounded.held}, run.given[name]) if name in run.given else moved
        return ""

    def __str__(self) -> str:
        where = "as trained" if self.free else "in the gauge of their reference"
        compared = "; every function is compared" if self.compared else ""
        return f"{self.op:<13} {self.matched} -> {', '.join(self.into)}, {where}{compared}"


class _Rounded:
    """A result on its way to the precision of the model that it is made from.

    Where it would be held in memory, of large tensors only what is rounded is, and what was computed is made once more
    to be compared: wide it would take several times the model.
    """

    def __init__(self, like: State) -> None:
        self.held: dict[str, Tensor] = {}
        self._like = like

    def put(self, name: str, carried: Carried, keep: Keep) -> Tensor:
        """A tensor as it was computed, with its norm and its extremes, where `keep` puts it."""
        tensor = given_back(carried.alone(name))
        found = keep(tensor)
        dtype = self._like[name].dtype if name in self._like else tensor.dtype
        wide = dtype.itemsize < tensor.dtype.itemsize and tensor.device.type == "cpu"
        if found is tensor and wide and tensor.numel() >= LARGE:
            self.held[name] = rounded = tensor.to(dtype)
            found = Deferred(partial(carried.alone, name), tensor.shape, tensor.dtype, rounded=rounded)
        return noted(found, tensor)


def _pass(run: Run, made: Together, name: str, after: State, alignment: Alignment | None) -> None:
    """A model that has become another one has to pass the gate, unless it is an approximation that says so."""
    start = None if name in run.given else run.states[name]
    if run.gate is not None and name not in made.approximate and (alignment is not None or start is not None):
        run.gate.check(name, after, alignment, start)


def _gauge_note(run: Run, made: Together) -> tuple[str, ...]:
    """What is to be said where the models are in no gauge of theirs."""
    if made.trained:
        made.reference = None
        return ("gains and constants were trained: the models are in a gauge of their own",)
    if made.reference is None:
        zero = ", ".join(dict.fromkeys(name for m in made.states for name in run.canonical[m].singular))
        return (f"gains are zero ({zero}): the models are in canonical form, which is no gauge of theirs",)
    return ()


def _leave_gauge(run: Run, made: Together, grown: str) -> tuple[str, ...]:
    """Takes the models out of a gauge in which norms would grow beyond bounds, and says so."""
    reference = str(made.reference)
    canonical = run.canonical[reference]
    small = nearly_singular(canonical.transform)
    run.canonical[reference] = replace(canonical, singular=small or (grown.split(" ")[0],))
    made.reference = None
    why = f"gains near zero: {shorten(small)}; " if small else ""
    head = f"in the gauge of {run.called.get(reference, reference)} norms would grow ({why}{grown})"
    return (f"{head}: the models are in canonical form, which is no gauge of theirs",)
