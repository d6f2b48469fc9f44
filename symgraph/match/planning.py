"""Plans: the programs that align two models and that bring any number of them into one basis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from symgraph.errors import UsageError
from symgraph.match.learn_options import LearnOptions
from symgraph.match.program import Apply, Canonicalise, Program, Regauge, Step
from symgraph.match.program_steps import (
    Check,
    Embed,
    Join,
    LearnAll,
    LearnStep,
    MatchStep,
    Reduce,
    Settle,
    Soften,
    Split,
    UnitPlan,
)
from symgraph.match.weights import MatchOptions, units
from symgraph.match.wreath import Tree
from symgraph.orbit.motion import chart_name, moving
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


@dataclass(frozen=True, slots=True)
class BlendOptions:
    """What is done to single units after a match.

    `split`: copy units into idle ones, exactly. `soft`: the temperature of soft permutations, which only approximate
    the function; 0 for none.
    """

    split: bool = False
    soft: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.soft < float("inf"):
            raise UsageError(f"soft is {self.soft:g}", remedy="give a temperature above 0, or 0 for permutations")


def learning_options(method: str, options: MatchOptions, learning: LearnOptions | None) -> LearnOptions | None:
    """The options of learning where it is asked for, restricted to the spaces that are matched."""
    if method != "learned":
        return None
    learning = learning or LearnOptions()
    if options.spaces != ("*",) and learning.motion.spaces == ("*",):
        learning = replace(learning, motion=replace(learning.motion, spaces=options.spaces))
    return learning


def plan_alignment(
    symmetry: SymmetryGraph,
    options: MatchOptions,
    inputs: Mapping[str, str] | None = None,
    learning: LearnOptions | None = None,
    method: str = "weights",
    embed: Embed | Reduce | None = None,
    blend: BlendOptions = BlendOptions(),
) -> Program:
    """The program that aligns B to A by a match (weights or activations) and with `learning` by training from there.

    Args:
        embed: what has to be done first where one model is narrower: to it, or to the other one.
        blend: what is done to single units after the match.

    Raises:
        UsageError: soft permutations are asked for, and elements to be trained between exact models.
    """
    if learning is not None and blend.soft:
        raise UsageError("soft permutations go with matching by weights or activations, not with learning")
    a, b = (embed.into if embed is not None and embed.model == k else k for k in ("A", "B"))
    blends, element = _blends(options, blend)
    end = _plain_end(a, b, element) if learning is None else _learned_end(symmetry, learning, a, b, element)
    steps: tuple[Step, ...] = (
        *(() if embed is None else (embed,)),
        Canonicalise(a, "A.canonical"),
        Canonicalise(b, "B.canonical"),
        _match_step(symmetry, options, method),
        *blends,
        *end,
    )
    return Program(symmetry.graph.model, symmetry.rules_hash, symmetry.fingerprint, steps, dict(inputs or {}))


def _match_step(symmetry: SymmetryGraph, o: MatchOptions, method: str) -> MatchStep:
    return MatchStep("B.canonical", "A.canonical", "element", **_matching(symmetry, o, method))


def _matching(symmetry: SymmetryGraph, o: MatchOptions, method: str) -> dict[str, Any]:
    own = {f.name: getattr(o, f.name) for f in fields(o)}
    own["weighting"] = o.weighting if isinstance(o.weighting, str) else dict(o.weighting)
    return own | {"units": tuple(_unit_plan(t, o.outer) for t in units(symmetry, o.spaces)), "method": method}


def _blends(o: MatchOptions, blend: BlendOptions) -> tuple[tuple[Step, ...], str]:
    """What is done to single units after the match, and what the element is called then."""
    weighting = "uniform" if o.weighting == "inputs" else o.weighting
    how = weighting if isinstance(weighting, str) else dict(weighting), o.spaces
    found: list[Step] = []
    element = "element"
    if blend.split:
        found.append(Split("B.canonical", "A.canonical", element, "element.split", *how))
        element = "element.split"
    if blend.soft:
        found.append(Soften("B.canonical", "A.canonical", element, "element.soft", blend.soft, *how))
        element = "element.soft"
    return tuple(found), element


def _plain_end(a: str, b: str, element: str) -> tuple[Step, ...]:
    return Regauge(element, b, a, "alignment"), Apply("alignment", b, "B.aligned")


def _learned_end(symmetry: SymmetryGraph, o: LearnOptions, a: str, b: str, element: str) -> tuple[Step, ...]:
    other = "learned.A" if o.dual or o.motion.gauge else ""
    learn = LearnStep("B.canonical", "A.canonical", element, "learned", other, **_training(symmetry, o))
    target = "" if o.motion.gauge else a
    found: tuple[Step, ...] = (
        learn,
        Regauge("learned", b, target, "alignment"),
        Apply("alignment", b, "B.aligned"),
        Check(b, "B.aligned"),
    )
    if not other:
        return found
    second = (Regauge("learned.A", a, target, "alignment.A"), Apply("alignment.A", a, "A.aligned"))
    return (*found, *second, Check(a, "A.aligned"))


def _training(symmetry: SymmetryGraph, o: LearnOptions) -> dict[str, Any]:
    own = {f.name: getattr(o, f.name) for f in fields(o) if f.name != "motion"}
    motion = {f.name: getattr(o.motion, f.name) for f in fields(o.motion)}
    plans = tuple(UnitPlan(s.name, str(s.group), chart_name(symmetry, s, o.motion)) for s in moving(symmetry, o.motion))
    return {**own, **motion, "units": plans}


def plan_universe(
    symmetry: SymmetryGraph,
    models: Sequence[str],
    options: MatchOptions,
    rounds: int = 10,
    reference: int | None = None,
    learning: LearnOptions | None = None,
    method: str = "weights",
) -> Program:
    """The program that brings models, called by their numbers, into one basis and gauge.

    Args:
        models: where each model comes from, for the reader.
        reference: the number of the model whose gauge it is; None leaves it to the run.
    """
    names = [str(i) for i in range(len(models))]
    canonical = tuple(f"{n}.canonical" for n in names)
    wanted = "" if reference is None else names[reference]
    steps: tuple[Step, ...] = (
        *(Canonicalise(n, c) for n, c in zip(names, canonical, strict=True)),
        Join(canonical, "universe", rounds, wanted, **_matching(symmetry, options, method)),
        *(() if learning is None else (LearnAll("universe", **_training(symmetry, learning)),)),
        Settle("universe", tuple(f"{n}.aligned" for n in names)),
    )
    inputs = dict(zip(names, models, strict=True))
    return Program(symmetry.graph.model, symmetry.rules_hash, symmetry.fingerprint, steps, inputs)


def _unit_plan(tree: Tree, outer: str = "joint") -> UnitPlan:
    s: Space = tree.space
    below = tuple(_unit_plan(c) for c in tree.children)
    ways = {"joint": " over inner optima", "gate": " by gates", "gram": " by inner products"}
    return UnitPlan(s.name, str(s.group), s.maps.solver + (ways[outer] if below else ""), below)
