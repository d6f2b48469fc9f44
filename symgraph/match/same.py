"""Whether one model is another in another gauge, that with noise, derived from it, or independent of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from symgraph.errors import CheckpointError, SymgraphError
from symgraph.inference.sources import RuleSources, Source, infer, ready
from symgraph.io.checkpoint import dtypes
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.io.same_architecture import architecture_differences
from symgraph.io.shown import Shown
from symgraph.match.laid_over import Overlay, overlay
from symgraph.match.one_basis import check_alike
from symgraph.match.one_function import is_one_function
from symgraph.match.residue import NOTHING, Residue, null_of, residue, rounding
from symgraph.match.verdicts import (
    DERIVED,
    INDEPENDENT,
    LIMITS,
    NOISE,
    ORDER,
    SAME,
    Figures,
    Limits,
    related,
    settled,
    verdict,
)
from symgraph.orbit.fitted import drawn
from symgraph.orbit.steps import State
from symgraph.resize.narrow import Reduction, reduce
from symgraph.resize.shapes import common_shape
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.progress import Progress, tell
from symgraph.tracing.sampling import float64, random_inputs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Same(Shown):
    """What B is to A.

    `verdict` is "same" (another gauge), "noise", "derived" or "independent". `residue` says what is left of the second
    model without the first, in the second one's own gauge; `gauge` names that one, "A" or "B", whichever leaves less.
    `explained` is the share of the squares that unrelated models (A's entries in another order) leave of B that A
    explains: 1 in an orbit, 0 by chance. `distance` is that of the match in canonical form over the
    norm of the model it is matched to, `chance` the same of unrelated models, by `deviations` of which it is nearer;
    `unrelated` is what these leave of B where they are fitted to it. `outputs` is the change of the outputs on random
    inputs over their size, `zeros` the share of entries of the model in whose gauge they were compared that are zero
    there alone.
    """

    models: tuple[str, str]
    verdict: str
    gauge: str
    residue: Residue
    explained: float
    deviations: float
    distance: float
    chance: tuple[float, ...]
    unrelated: tuple[float, ...]
    outputs: float
    zeros: float
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """What is left, relative to the size of each tensor: of noise, how much there is."""
        return self.residue.share

    def to_plain(self) -> dict[str, Any]:
        """Verdict and figures as plain data."""
        left, chance = self.residue, sum(self.chance) / len(self.chance)
        figures = {
            "share": left.share,
            "rounding": left.rounding,
            "unevenness": left.unevenness,
            "evidence": left.evidence,
            "peak": left.peak,
            "null": left.null,
        }
        null: dict[str, Any] = {"explained": self.explained, "deviations": self.deviations, "distance": self.distance}
        null |= {"chance": chance, "unrelated": self.unrelated}
        more = {"gauge": self.gauge, "outputs": self.outputs, "zeros": self.zeros, "notes": list(self.notes)}
        return {"models": list(self.models), "verdict": self.verdict, **figures, **null, **more}

    def __str__(self) -> str:
        a, b = self.models
        left, chance = self.residue, sum(self.chance) / len(self.chance)
        what = {
            SAME: f"{b} is {a} in another basis and gauge",
            NOISE: f"{b} is {a} in another basis and gauge, with noise of {left.share:.2%}",
            DERIVED: f"{b} is derived from {a}: what is left between them is no noise",
            INDEPENDENT: f"{b} is independent of {a}, as far as weights tell",
        }[self.verdict]
        apart = f"{left.share:.3g} of each tensor's size is left in the gauge of {self.gauge}"
        apart += f" (rounding: {left.rounding:.1g})"
        shape = f"uneven by {left.unevenness:.2f} across tensors, largest singular values {left.peak:.2f} times noise's"
        shape += f" (drawn noise: {left.null[0]:.2f}, {left.null[1]:.2f})" if any(left.null) else ""
        null = (
            f"distance in canonical form {self.distance:.4f}, by chance {chance:.4f} ({self.deviations:.1f} deviations)"
        )
        null += f", and fitted {sum(self.unrelated) / len(self.unrelated):.4f}" if self.unrelated else ""
        null += f": {max(self.explained, 0.0):.0%} is explained"
        outputs = f"outputs on random inputs change by {self.outputs:.2g}"
        there = a if self.gauge == "A" else b
        zeros = (
            [f"{self.zeros:.1%} of the entries are zero in {there} alone: pruned"] if self.zeros > LIMITS.pruned else []
        )
        return "\n  ".join([what, apart, shape, null, outputs, *zeros, *self.notes])


def same(
    a: Source,
    b: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
    progress: Progress | None = None,
) -> Same:
    """Whether B is A in another gauge, that with noise, derived from A, or independent of it.

    Where one model is wider, it is reduced to the shape of the other: units that are dead, copied or split go exactly.

    Args:
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        symmetry: that of the models, if it is known already.

    Raises:
        CheckpointError: the architectures differ in more than widths, or a gain of both models is zero.
        UsageError: a model has no weights.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.randn(5, 6)
    >>> symgraph.same(net, symgraph.sample(net, x), x).verdict
    'same'

    Source: docs/design.md, Same or different.
    """
    models, notes = ready((a, b), tied, ("A", "B"), example, input_size)
    pair = in_one_shape(models, symmetry, rules)
    found = list[Laid]()
    for laid in both_ways(pair, progress=progress):
        found.append(laid)
        if settled(laid.figures):
            break
    if not found:
        cause = "a gain of each is zero, so that neither can be brought into the gauge of the other"
        raise CheckpointError("the models cannot be compared", cause=cause, remedy="set the gain to a small number")
    best = min(found, key=lambda laid: (ORDER.index(laid.verdict), laid.left.share))
    over, names = best.over, (models[0].spec, models[1].spec)
    figures = over.explained, over.deviations, over.distance, over.chance, over.unrelated
    outputs = _outputs(pair.graph, *pair.states)
    unfound = best.verdict != SAME and is_one_function(pair.graph.graph, *pair.states)
    told, more = (SAME, (_UNFOUND,)) if unfound else (best.verdict, ())
    return Same(names, told, best.gauge, best.left, *figures, outputs, best.zeros, (*notes, *pair.notes, *more))


_UNFOUND = "the gauge was not found, but the outputs are equal, and every parameter shows in them"


@dataclass(frozen=True, slots=True)
class Laid:
    """One model laid over the other in the gauge of that, and what is left."""

    gauge: str
    over: Overlay
    left: Residue
    zeros: float

    @property
    def figures(self) -> Figures:
        """What the verdict follows from."""
        left, over = self.left, self.over
        uneven, peak = (figure - null for figure, null in zip((left.unevenness, left.peak), left.null, strict=True))
        related = over.left, over.explained, over.deviations
        directions = sum(part.directions for part in left.parts)
        return Figures(left.share, left.rounding, *related, uneven, left.evidence, peak, self.zeros, directions)

    @property
    def verdict(self) -> str:
        """What B is to A as far as this gauge tells."""
        return verdict(self.figures)


@dataclass(frozen=True, slots=True)
class InOneShape:
    """The symmetry graph of two models, their states in its shape, the dtypes they are stored in, and what was said."""

    graph: SymmetryGraph
    states: tuple[State, State]
    dtypes: tuple[Mapping[str, torch.dtype], Mapping[str, torch.dtype]]
    notes: tuple[str, ...]


def both_ways(pair: InOneShape, limits: Limits = LIMITS, progress: Progress | None = None) -> Iterator[Laid]:
    """A laid over B in its gauge, then B over A; without those whose gauge has a gain that is zero.

    Args:
        limits: from which on nothing more is measured.
    """
    for gauge, way in (("B", 1), ("A", -1)):
        tell(_log, progress, f"laying one model over the other, in the gauge of {gauge}")
        a, b = pair.states[::way]
        laid = _laid(pair.graph, gauge, a, b, pair.dtypes[::way][1], limits)
        if laid is not None:
            yield laid


def _laid(
    graph: SymmetryGraph, gauge: str, a: State, b: State, kept: Mapping[str, torch.dtype], limits: Limits
) -> Laid | None:
    """A laid over B and what is left; None where a gain of B is zero."""
    names = [name for name in graph.graph.parameters if name in b and b[name].is_floating_point()]
    try:
        over = overlay(graph, a, b, enough=limits.rounded * rounding(b, names, kept), far=limits.far)
    except SymgraphError:
        return None
    first = Laid(gauge, over, residue(over.state, b, NOTHING, names, kept), _zeros(over.state, b, names))
    if verdict(first.figures, limits) == SAME or not related(first.figures, limits):
        return first
    null = null_of(drawn(graph, over.state, over.weights), names)
    return replace(first, left=residue(over.state, b, null, names, kept))


def _outputs(graph: SymmetryGraph, a: State, b: State) -> float:
    """The change of the outputs on random inputs, the root mean square over that of the outputs of A."""
    inputs = random_inputs(graph.graph, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (Interpreter(graph.graph).run(state, inputs) for state in (a, b))
    change = whole = 0.0
    for one, other in zip(before, after, strict=True):
        if one.is_floating_point():
            finite = one.isfinite() & other.isfinite()
            change += float(torch.where(finite, one.double() - other.double(), 0.0).square().sum())
            whole += float(torch.where(finite, one.double(), 0.0).square().sum())
    return math.sqrt(change / max(whole, 1e-300))


def _zeros(here: State, b: State, names: list[str]) -> float:
    zero = sum(int(((b[name] == 0) & (here[name] != 0)).sum()) for name in names)
    return zero / max(sum(b[name].numel() for name in names), 1)


def in_one_shape(models: list[Model], symmetry: SymmetryGraph | None = None, rules: RuleSources = None) -> InOneShape:
    """Both models in the shape of the narrower one, and what became of the wider one."""
    a, b = models
    own = [float64(state_of(model.module)) for model in models]
    stored = dtypes(a), dtypes(b)
    known: dict[int, SymmetryGraph] = {}

    def graph(model: Model) -> SymmetryGraph:
        if id(model) not in known:
            known[id(model)] = infer(model, rules=rules)
        return known[id(model)]

    if not architecture_differences(a, b):
        if symmetry is None:
            check_alike({"A": a, "B": b}, "AB", graph)
        return InOneShape(symmetry or graph(a), (own[0], own[1]), stored, ())
    if symmetry is not None:
        raise CheckpointError("the models have two shapes", cause="one symmetry is given", remedy="leave it out")
    shape = common_shape(a, b, graph)
    wide = 0 if shape.narrow == "B" else 1
    small = models[1 - wide]
    found = reduce(graph(models[wide]), graph(small), own[wide], own[1 - wide])
    states = (found.state, own[1]) if wide == 0 else (own[0], found.state)
    return InOneShape(graph(small), states, stored, (_reduced("AB"[wide], found),))


def _reduced(name: str, found: Reduction) -> str:
    exact = "exactly: dead, copied and split units" if found.exact else f"its outputs change by {found.error:.2g}"
    sizes = ", ".join(f"{space.name} {space.before} -> {space.after}" for space in found.spaces)
    return f"{name} is wider, and was reduced ({exact}): {sizes}"
