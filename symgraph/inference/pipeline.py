"""The stages of inference, from a traced graph to its symmetries; each is a function of what the one before found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from symgraph.errors import UsageError, near
from symgraph.inference.absorption import absorb_gains
from symgraph.inference.assembly import symmetry_graph, with_families, with_fibres, with_names
from symgraph.inference.collect import collect
from symgraph.inference.exchange import exchanges, joined
from symgraph.inference.explained import explain_calls, suppose_branches
from symgraph.inference.frames import find_frames
from symgraph.inference.kept_symmetry import keep_symmetry, kept_symmetry, key_of
from symgraph.inference.prepared import (
    Order,
    Prepared,
    cut_joined,
    decompose_uncovered,
    find_idioms,
    measure_regions,
    part_zeros,
    take_offsets,
    take_sums_apart,
    take_turns,
    unstack,
)
from symgraph.inference.read_forms import FORMS, Ways, with_forms
from symgraph.inference.spaces import Spaces, find_spaces
from symgraph.inference.ties import tie
from symgraph.inference.unread import with_unread
from symgraph.ir import Graph
from symgraph.rules.book import RuleBook, default_rules
from symgraph.symmetry.coverage import coverage_error
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import counted
from symgraph.tracing.uncollected import uncollected

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of inference."""

    name: str
    about: str
    apply: Callable[[Any], Any]


def settle_branches(spaces: Spaces) -> Spaces:
    """Joins the spaces of branches that can change places.

    Where some cannot after all, nothing may have been inferred from that they could: the equations are made anew.
    """
    while None in (verdicts := exchanges(spaces)):
        eq = spaces.draft.eq
        kept = tuple(family for family, exchange in zip(eq.branches, verdicts, strict=True) if exchange is not None)
        spaces = find_spaces(tie(absorb_gains(find_frames(collect(replace(eq.explained(), branches=kept))))))
    return joined(spaces, tuple(exchange for exchange in verdicts if exchange is not None))


STAGES: tuple[Stage, ...] = (
    Stage("unstack", "parts of a stack are picked before the reshape that told them apart", unstack),
    Stage("offsets", "numbers that are added to what is learned are a part of it", take_offsets),
    Stage("sums", "squares are summed without the terms that are summed with them", take_sums_apart),
    Stage(
        "measure", "regions that are known by what they compute say so: attention, turned pairs, norms", measure_regions
    ),
    Stage("turns", "parts that take turns along an axis are picked before the reshape as well", take_turns),
    Stage("idioms", "what pattern rules describe becomes one call each", find_idioms),
    Stage("decompose", "calls without a rule are taken apart where their parts have some", decompose_uncovered),
    Stage("zeros", "zeros that are read in several places are made for each of them", part_zeros),
    Stage("cut", "axes that tensors hold flattened are cut around the calls that name them", cut_joined),
    Stage("rules", "the rule of every call, and what is learned", explain_calls),
    Stage("branches", "subgraphs that look alike may change places", suppose_branches),
    Stage("equations", "axes of all values in one store, with the classes that rules admit", collect),
    Stage("frames", "axes that carry one element, cut alike where they are multiplied", find_frames),
    Stage("gains", "gains are absorbed by readers or writers, which makes two frames one", absorb_gains),
    Stage("ties", "frames that are still multiplied keep permutations, scales and signs", tie),
    Stage("spaces", "tied frames share a permutation; their scales obey its equations", find_spaces),
    Stage("exchanges", "branches that can change places share their spaces", settle_branches),
    Stage("fibres", "the spaces by whose position an element may vary", with_fibres),
    Stage("names", "names from rules and from parameters", with_names),
    Stage("families", "symmetries without a space: constants, means, statistics", with_families),
    Stage("symmetry", "the result", symmetry_graph),
)


def infer(
    graph: Graph, rules: RuleBook | None = None, *, strict: bool = False, order: Order | None = None
) -> SymmetryGraph:
    """Infers the symmetry class of every axis of every parameter; what was inferred before is read where it is kept.

    Args:
        graph: a traced model.
        rules: the rule book; the shipped rules by default.
        strict: raise if an operator has no rule, instead of treating its axes as rigid.
        order: gives a permutation of so many nodes, for testing that the order of equations cannot matter; it is asked
            again for the graph with what unread parameters may meet.

    Raises:
        CoverageError: with `strict`, naming every uncovered operator, its place and the rule to write.
    """
    book = rules or default_rules()
    key = None if order is not None else key_of(graph, book)
    symmetry = None if key is None else kept_symmetry(key, graph)
    if symmetry is None:
        symmetry = _inferred(graph, book, order)
        if key is not None:
            keep_symmetry(key, symmetry)
    if strict and symmetry.uncovered:
        raise coverage_error(symmetry.uncovered)
    return symmetry


def _inferred(graph: Graph, book: RuleBook, order: Order | None) -> SymmetryGraph:
    symmetry: SymmetryGraph = run(graph, book, order=order)
    taken, seen = list[Ways](), graph
    for forms in FORMS:
        ways = forms(seen)
        other: SymmetryGraph | None = run(graph, book, order=order, forms=(*taken, ways)) if ways else None
        if other is not None and other.dimension().number > symmetry.dimension().number:
            symmetry, seen = other, with_forms(seen, ways)
            taken.append(ways)
    closed = with_unread(symmetry)
    if closed is None:
        return symmetry
    found: SymmetryGraph = run(graph, book, order=order, read=closed, forms=taken)
    return found


def run(
    graph: Graph,
    rules: RuleBook | None = None,
    until: str = "symmetry",
    *,
    order: Order | None = None,
    read: Graph | None = None,
    forms: Sequence[Ways] = (),
) -> Any:
    """The value of a stage, which is immutable and prints.

    Args:
        read: what is read in the place of the traced graph, which the result stays on.
        forms: what is read in another form than it is stored in, each of what those before it leave.

    Raises:
        UsageError: there is no stage of that name.
    """
    stages = stages_until(until)
    seen = reduce(with_forms, forms, read or graph)
    own = tuple(form for ways in forms for form in ways.values())
    value: Any = Prepared(graph, rules or default_rules(), seen, order, forms=own)
    with uncollected():
        for stage in counted(_log, stages, len(stages), "inferring, stage"):
            value = stage.apply(value)
    return value


def stages_until(name: str) -> tuple[Stage, ...]:
    """The stages up to the one of that name; none for "graph", which is what the first of them is given.

    Raises:
        UsageError: there is no such stage; the names of all are given.
    """
    names = ("graph", *(stage.name for stage in STAGES))
    if name not in names:
        raise UsageError(f"there is no stage {name!r}", remedy=near(name, names, f"the stages are {', '.join(names)}"))
    return STAGES[: names.index(name)]
