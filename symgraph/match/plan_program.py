"""What is asked for, and the program that brings any number of models into one basis and one gauge by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from symgraph.errors import UsageError, argument, called
from symgraph.io.options import given, values_of
from symgraph.io.pinned import ModelInput
from symgraph.match.blend_steps import Soften, Split
from symgraph.match.learn_step import LearnStep
from symgraph.match.match_models import DEFAULT
from symgraph.match.match_options import BY_LOSS, METHODS, LearnOptions, MatchOptions, Settings
from symgraph.match.match_step import MatchStep
from symgraph.match.prepare_steps import Canonicalise, Embed, Reduce
from symgraph.match.program import Program
from symgraph.match.program_step import ProgramStep, UnitPlan, folded
from symgraph.match.settle_step import Settle
from symgraph.match.unit_trees import units
from symgraph.orbit.motion import chart_name, moving
from symgraph.orbit.wreath import Tree
from symgraph.symmetry.graph import SymmetryGraph

WAYS = {
    "joint": " over inner optima",
    "gate": " by gates",
    "gram": " by inner products",
    "fixed": " in its order",
    BY_LOSS: " over inner optima, then by loss",
}
MATCHED = "matched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for: how to match and train, on which data, and where; or a program that says so."""

    method: str
    options: MatchOptions
    learning: LearnOptions
    settings: Settings
    data: Any = None
    program: Program | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"there is no method {self.method!r}",
                remedy=" or ".join(argument("method", method) for method in METHODS),
            )
        if self.data is not None or self.program is not None:
            return
        if self.method != "weights" or self.options.wants_data:
            what = f"method {self.method!r}" if self.method != "weights" else f"the {self.options.wants_data}"
            remedy = f"give batches of the training split, {argument('data')}; or {argument('data', 'none')}"
            raise UsageError(f"{what} needs data", remedy=remedy)


def asked(
    settings: Settings, method: str, options: Any, learning: Any, data: Any, program: Program | None = None
) -> Wanted:
    """What is asked for, with options as a caller gives them: as such, or by name."""
    return Wanted(
        method=method,
        options=given(MatchOptions, options),
        learning=given(LearnOptions, learning),
        settings=settings,
        data=data,
        program=program,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a program is to do.

    `inputs`: the names of the models, and where each comes from, for the reader. `method`: "weights" or "activations";
    with `learning` models are trained from there. `reshape`: what has to be done first with models of another width.
    `rounds`, `order`, `reference`: as in `MatchStep`. `split`, `soft`: what is done to units of the last model.
    """

    inputs: Mapping[str, str]
    method: str = "weights"
    options: MatchOptions = DEFAULT
    learning: LearnOptions | None = None
    reshape: Sequence[Embed | Reduce] = ()
    rounds: int = 0
    order: str = "given"
    reference: str = ""
    split: bool = False
    soft: float = 0.0


def plan_program(symmetry: SymmetryGraph, plan: Plan) -> Program:
    """The program of a plan.

    Raises:
        UsageError: soft permutations are asked for, and elements to be trained between exact models; or nothing has
            anything to learn.
    """
    if plan.learning is not None and plan.soft:
        what = "soft permutations go with matching by weights or activations, not with learning"
        raise UsageError(what, remedy=f"leave out {called('soft')}, or match by {argument('method', 'weights')}")
    names = {name: name for name in plan.inputs} | {r.model: r.into for r in plan.reshape}
    canonical = {shaped: f"{name}.canonical" for name, shaped in names.items()}
    steps: list[ProgramStep] = [*plan.reshape, *(Canonicalise(name, c) for name, c in canonical.items())]
    steps.append(_match_step(symmetry, plan, tuple(canonical.values()), names.get(plan.reference, "")))
    first, *_, last = names.values()
    steps += _blends(plan, first, last)
    if plan.learning is not None:
        steps.append(LearnStep(MATCHED, **_training(symmetry, plan)))
    free = plan.learning is not None and plan.learning.dual and plan.order == "given"
    exact = plan.learning is not None or plan.order == "hash"
    steps.append(Settle(MATCHED, tuple(f"{name}.aligned" for name in names), free=free, compared=exact))
    inputs = {name: ModelInput(model=spec) for name, spec in plan.inputs.items()}
    return Program(symmetry.graph.model, symmetry.rules_hash, symmetry.fingerprint, tuple(steps), inputs)


def _match_step(symmetry: SymmetryGraph, plan: Plan, canonical: tuple[str, ...], reference: str) -> MatchStep:
    plans = folded(tuple(_unit_plan(tree, plan.options.outer) for tree in units(symmetry, plan.options.spaces)))
    own: dict[str, Any] = {"method": plan.method, "rounds": plan.rounds, "order": plan.order}
    return MatchStep(canonical, MATCHED, **_values(plan.options), **own, reference=reference, units=plans)


def _values(options: Any) -> dict[str, Any]:
    """Options by name, as a step takes them."""
    found = values_of(options)
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}


def _blends(plan: Plan, reference: str, moving: str) -> list[ProgramStep]:
    """What is done to single units after the match."""
    o = plan.options
    how: dict[str, Any] = {"weighting": "uniform" if o.weighting == "inputs" else o.weighting, "spaces": o.spaces}
    found: list[ProgramStep] = []
    if plan.split:
        found.append(Split(MATCHED, moving, reference, **how))
    if plan.soft:
        found.append(Soften(MATCHED, moving, reference, plan.soft, **how))
    return found


def _training(symmetry: SymmetryGraph, plan: Plan) -> dict[str, Any]:
    """The options of training, restricted to the spaces that are matched, and what they come to on each unit."""
    options = plan.learning or LearnOptions()
    if options.spaces == ("*",):
        options = replace(options, spaces=plan.options.spaces)
    every = (
        UnitPlan(space.name, str(space.group), chart_name(symmetry, space, options))
        for space in moving(symmetry, options)
    )
    return {**_values(options), "units": folded(tuple(every))}


def _unit_plan(tree: Tree, outer: str) -> UnitPlan:
    below = tuple(_unit_plan(child, outer) for child in tree.children)
    space = tree.space
    return UnitPlan(space.name, str(space.group), space.maps.solver + (WAYS[outer] if below else ""), below)
