"""The step that matches any number of canonical models, by weights or by activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import ClassVar

import torch

from symgraph.errors import DataError, UsageError, argument
from symgraph.io.options import values_of
from symgraph.match.activation_share import chosen, judge
from symgraph.match.activations import Activations
from symgraph.match.match_models import Matched, match
from symgraph.match.match_options import BY_LOSS, MATCHINGS, MatchOptions
from symgraph.match.observe_batches import observe_models
from symgraph.match.order_by_loss import exchanged, in_order
from symgraph.match.program_run import Run, Together, held
from symgraph.match.program_step import ProgramStep, UnitPlan, listed
from symgraph.match.run_file import Parts
from symgraph.match.unit_trees import units
from symgraph.orbit.canonical import nearly_singular
from symgraph.orbit.steps import Act, State, Transform
from symgraph.rules.book import default_rules

ORDERS = ("given", "hash")
Seen = Mapping[tuple[int, int], Activations]


@dataclass(frozen=True, slots=True)
class MatchStep(MatchOptions, ProgramStep):
    """Find the elements of the compact group that bring canonical models nearest to each other.

    Without `rounds` each is matched once, to those before it; in a round each is matched to the mean of all others.
    `order`: models as listed, or by the hashes of their weights, so that the order in which they are listed changes
    nothing. `reference`: the model whose gauge all end in; without one the first whose gauge has an inverse.
    """

    models: tuple[str, ...]
    into: str
    method: str = field(default="weights", kw_only=True)
    rounds: int = field(default=0, kw_only=True)
    order: str = field(default="given", kw_only=True)
    reference: str = field(default="", kw_only=True)
    units: tuple[UnitPlan, ...] = field(default=(), kw_only=True)
    op: ClassVar[str] = "match"

    def __post_init__(self) -> None:
        MatchOptions.__post_init__(self)
        for name, known in (("method", MATCHINGS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}", remedy=f"use {' or '.join(known)}")
        if self.rounds or len(self.models) > 2:
            refuse_inputs(self)

    @property
    def reads_data(self) -> bool:
        """Whether it needs activations, or losses."""
        return self._sees or self.outer == BY_LOSS

    @property
    def _sees(self) -> bool:
        return self.method == "activations" or self.weighting == "inputs"

    @property
    def is_shared(self) -> bool:
        """It is what takes long."""
        return True

    def apply(self, run: Run) -> None:
        """The models together, which are let go of in canonical form."""
        sources = {held(run.sources, c, self.op): c for c in self.models}
        names = list(sources) if self.order == "given" else sorted(sources, key=lambda n: run.hashes.get(n, n))
        if self.reference and self.reference not in names:
            what = f"there is no model {self.reference} among {', '.join(names)}"
            raise UsageError(what, remedy="name one of these as `reference` of the step")
        states = [dict(run.states.pop(sources[name])) for name in names]
        for name in names:
            run.canonical[name] = replace(run.canonical[name], state={})
        found = self._matched(run, states, self._parts(run, names))
        gauges = [name for name in ([self.reference] if self.reference else names) if not run.canonical[name].singular]
        # The first whose gauge is far from singular, if there is one.
        gauges.sort(key=lambda n: bool(nearly_singular(run.canonical[n].transform)))
        shared = {name: Transform((Act(element),)) for name, element in zip(names, found.elements, strict=True)}
        moved = dict(zip(names, found.states, strict=True))
        first, figures = gauges[0] if gauges else names[0], replace(found, states=())
        reference = first if gauges else None
        run.together[self.into] = Together(figures, moved, shared, tuple(sources), reference, first)

    def _parts(self, run: Run, names: Sequence[str]) -> Parts | None:
        """The places of the parts of the match in the file that the run leaves behind, if it leaves any."""
        if run.file is None:
            return None
        options = values_of(self, MatchOptions) | {"rounds": self.rounds}
        hashes = [run.hashes.get(name, name) for name in names]
        identity = {"symmetry": run.symmetry.fingerprint, "options": options, "models": hashes}
        file = run.file
        return lambda part: file.section(f"{self.op} {self.into}, {part}", identity)

    def _matched(self, run: Run, states: list[State], parts: Parts | None) -> Matched:
        seen = self._observed(run, states) if self._sees else None
        if self.outer != BY_LOSS:
            return self._by_cost(run, states, seen, parts)[0]
        kept = list(states)
        found, share, of_share = self._by_cost(run, states, seen, parts)
        return self._by_loss(run, kept, found, replace(self._options, alpha=share), of_share)

    def _by_cost(
        self, run: Run, states: list[State], seen: Seen | None, parts: Parts | None
    ) -> tuple[Matched, float | str, Seen | None]:
        """The match by costs, with the share of activations and with what was seen where it counts."""
        options = self._options
        if seen is not None:
            run.notes.append(str(seen[0, 1]))
        counted = {unit for one in (seen or {}).values() for unit in one.correlations}
        if seen is None or self.alpha != "auto" or not counted:
            found = match(run.symmetry, _released(states), options, self.rounds, run.progress, seen, run.keep, parts)
            return found, self.alpha, seen

        def of(ids: frozenset[int]) -> Seen:
            return {pair: s.of(ids) for pair, s in seen.items()}

        def matched(options: MatchOptions, ids: frozenset[int]) -> Matched:
            return match(run.symmetry, states, options, self.rounds, None, of(ids), run.keep)

        mixture = judge(run.data(), states, self.batches)
        trees = [unit for unit in units(run.symmetry, self.spaces) if unit.space.id in counted]
        best, note, (share, ids) = chosen(trees, options, matched, mixture, lambda m: m.states)
        run.notes.append(note)
        return best, share, of(ids)

    def _by_loss(
        self, run: Run, states: Sequence[State], found: Matched, options: MatchOptions, seen: Seen | None
    ) -> Matched:
        mixture = judge(run.data(), states, self.batches)
        if mixture is None:
            raise DataError("an order by loss needs data with labels", remedy=argument("outer", "joint"))
        both = None if seen is None else seen[0, 1]
        better = exchanged(run.symmetry, states, found.elements[1], options, mixture, both, run.progress)
        run.notes.append(str(better))
        return in_order(found, states[1], better)

    @property
    def _options(self) -> MatchStep:
        """What costs go by."""
        return replace(self, outer="joint") if self.outer == BY_LOSS else self

    def _observed(self, run: Run, states: Sequence[State]) -> Seen:
        lesson, every = run.data(), units(run.symmetry, self.spaces)
        trees = [u for u in every if any(fnmatch(u.space.name, pattern) for pattern in self.observed)]
        activations = self.method == "activations"
        if activations and not trees:
            names = ", ".join(unit.space.name for unit in every[:3])
            raise UsageError(
                f"nothing to observe matches {self.observed[0]!r}", remedy=f"units are called {names}, ..."
            )
        return observe_models(
            run.symmetry,
            lesson.network,
            lesson.book or default_rules(),
            states,
            lesson.training,
            trees if activations else (),
            dtype=run.dtype if self.rows == 0 else torch.float32,
            batches=self.batches,
            rows=self.rows,
            moments=self.weighting == "inputs",
            at=self.observed_at,
        )

    def __str__(self) -> str:
        share = " with the best share of several" if self.alpha == "auto" else f" with a share of {self.alpha}"
        how = f"by {self.method}{share if self.method == 'activations' else ''}"
        limits = f"at most {self.rounds} rounds, " if self.rounds else ""
        limits += f"at most {self.sweeps} sweeps, tolerance {self.tolerance:g}, seed {self.seed}"
        head = f"{self.op:<13} {', '.join(self.models)} -> {self.into} ({how}, {limits})"
        return listed(head, self.units)


def refuse_inputs(options: MatchOptions) -> None:
    """Raises for a weighting or an order that is one of two models.

    Raises:
        UsageError: saying which others there are.
    """
    if options.weighting == "inputs":
        raise UsageError(
            "a universe has no weighting 'inputs'", remedy=argument("weighting", "inputs-halved", within="options")
        )
    if options.outer == BY_LOSS:
        raise UsageError("a universe has no order by loss", remedy=argument("outer", "joint", within="options"))


def _released(states: list[State]) -> list[State]:
    """The states in a list of their own; the given one is emptied, so that only one list holds them."""
    found = list(states)
    states.clear()
    return found
