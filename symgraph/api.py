"""The public functions: what the command line and the documents call, each one line away from a stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symgraph.errors import SymgraphError, UsageError, either, read_at
from symgraph.inference.annotated import annotate
from symgraph.inference.pipeline import infer as _infer
from symgraph.inference.sources import (
    RuleSources,
    Source,
    Weights,
    given,
    infer,
    model,
    rule_book,
    trace,
    with_state,
)
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.io.options import check_keywords
from symgraph.io.options import given as options_of
from symgraph.io.programs import with_weights
from symgraph.io.ranks import joined
from symgraph.ir import Graph
from symgraph.match.align import align
from symgraph.match.aligned import Aligned
from symgraph.match.carry import CarriedVectors, transport_vectors
from symgraph.match.compare import Compared, compare
from symgraph.match.dual_ascent import DualAscent
from symgraph.match.gather import Gathered, gather
from symgraph.match.match_options import LearnOptions, MatchOptions
from symgraph.match.merge import Merged, merge
from symgraph.match.moments import CarriedMoments, transport_moments
from symgraph.match.one_basis import Universe
from symgraph.match.plan import plan
from symgraph.match.program import Program
from symgraph.match.quantiser_mapping import QuantiserMapping, quantiser_mapping
from symgraph.match.recipe_merge import merge_by_recipe
from symgraph.match.relax import Relaxed, relax
from symgraph.match.rotate import Rotated, rotate
from symgraph.match.same import Same, same
from symgraph.match.transport import Transported, transport
from symgraph.match.universe import universe
from symgraph.match.write import Applied, apply
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.plane import LossPlane, loss_plane
from symgraph.measure.recalibrate import recalibrated
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.canonical import canonicalise as _canonicalise
from symgraph.orbit.descend import Descended, Objective
from symgraph.orbit.descend import descend as _descend
from symgraph.orbit.descent_options import DescentOptions
from symgraph.orbit.representation import Representation
from symgraph.orbit.unique import unique as _unique
from symgraph.prove.audit import LARGEST, Audit
from symgraph.prove.audit import audit as _audit
from symgraph.prove.sample import moved
from symgraph.prove.verify import Verification
from symgraph.prove.verify import verify as _verify
from symgraph.resize.prune import Pruned, prune
from symgraph.resize.reshaped import Embedded, Narrowed, embed, narrow
from symgraph.rules.loading import rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing.progress import Progress
from symgraph.tracing.sampling import float64
from symgraph.tracing.softmax_outputs import seen_by_softmax
from symgraph.tracing.wrap import is_pretrained

__all__ = [
    "Aligned",
    "Alignment",
    "Applied",
    "Audit",
    "Canonical",
    "CarriedMoments",
    "CarriedVectors",
    "Compared",
    "Descended",
    "DescentOptions",
    "DualAscent",
    "Embedded",
    "Gathered",
    "Graph",
    "LearnOptions",
    "LossBarrier",
    "LossPlane",
    "MatchOptions",
    "Merged",
    "Model",
    "Narrowed",
    "Program",
    "Progress",
    "Pruned",
    "QuantiserMapping",
    "Relaxed",
    "Representation",
    "Rotated",
    "RuleSources",
    "Same",
    "Source",
    "Space",
    "SymgraphError",
    "SymmetryGraph",
    "Transported",
    "Universe",
    "Verification",
    "align",
    "annotate",
    "apply",
    "audit",
    "canonicalise",
    "compare",
    "descend",
    "embed",
    "gather",
    "infer",
    "joined",
    "loss_barrier",
    "loss_plane",
    "merge",
    "merge_by_recipe",
    "model",
    "narrow",
    "plan",
    "prune",
    "quantiser_mapping",
    "recalibrated",
    "relax",
    "rotate",
    "rule",
    "rule_book",
    "same",
    "sample",
    "trace",
    "transport",
    "transport_moments",
    "transport_vectors",
    "universe",
    "verify",
]


def verify(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    state: Weights | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    **options: Any,
) -> Verification:
    """Samples random elements of every inferred group and compares outputs in float64.

    A model without weights (a config, a graph) is verified at random parameters.

    Args:
        example, input_size: inputs of a module, or the shape of one, as for `trace`; of a graph, its state,
            or a module that has it.
        state: weights in the place of the model's own, or a module that has them.
        options: those of `symgraph.prove.verify.verify`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symgraph.verify(net, torch.randn(5, 6)).passed
    True
    """
    check_keywords(_verify, options, {})
    subject, weights = given(source, example, state, input_size=input_size)
    return _verify(symmetry or infer(subject, rules=rules), weights, **options)


def audit(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    state: Weights | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    logits: bool = False,
    **options: Any,
) -> Audit:
    """Measures whether any continuous symmetry was missed.

    Of a model of transformers that is too large for that a tiny instance is made: the same architecture has the same
    symmetries, but for what its sizes leave undetermined. Any other model has to be given at a small size.

    Args:
        example, input_size, state: as for `verify`.
        logits: infer and measure with outputs up to a shift along their last axis, as a softmax loss sees them.
        options: those of `symgraph.prove.audit.audit`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symgraph.audit(net, torch.randn(5, 6)).complete
    True
    """
    check_keywords(_audit, options, {})
    subject, weights = given(source, example, state, input_size=input_size, weights=False)
    symmetry = symmetry or infer(subject, rules=rules)
    if logits:
        symmetry = _infer(seen_by_softmax(symmetry.graph), rule_book(rules))
    if isinstance(subject, Model) and is_pretrained(subject.module) and symmetry.graph.size > LARGEST:
        from symgraph.tracing.tiny_instance import tiny_instance

        small = tiny_instance(subject.module, LARGEST)
        return replace(audit(small.module, rules=rules, logits=logits, **options), instance=small.changes)
    return _audit(symmetry, weights, **options)


def canonicalise(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    state: Weights | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    unique: bool = True,
) -> Canonical:
    """The canonical form of a model, computed in float64 (design section 10).

    Args:
        example, input_size, state: as for `verify`.
        unique: settle orders, axes and signs too, so that all models that differ by the group have one form; without
            it units stay where they are, as when models are matched.

    Raises:
        UsageError: the model has no weights.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symgraph.canonicalise(net, torch.randn(5, 6))
    canonical form of 83 numbers in 4 tensors
    """
    subject, weights = given(source, example, state, input_size=input_size)
    found, own = symmetry or infer(subject, rules=rules), float64(_weighted(weights, source))
    return _unique(found, own) if unique else _canonicalise(found, own)


def descend(
    sources: Source | list[Source],
    objective: Objective,
    options: DescentOptions | Mapping[str, Any] | None = None,
    *,
    example: Any = None,
    input_size: Size | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    **more: Any,
) -> Descended:
    """Minimises a function of the weights of one model, or of several, over all weights that compute the same.

    Args:
        objective: of as many states as there are models; a number that can be differentiated in their tensors.
        options: what moves, and how.
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        more: those of `symgraph.orbit.descend.descend`.

    Raises:
        UsageError: a model has no weights, nothing moves, or the objective is not finite.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> norms = lambda state: sum(tensor.square().sum() for tensor in state.values())
    >>> found = symgraph.descend(net, norms, {"steps": 3}, example=torch.randn(5, 6))
    >>> found.steps
    3
    """
    check_keywords(_descend, more, {"options": DescentOptions})
    every = sources if isinstance(sources, list) else [sources]
    held = [given(one, example, input_size=input_size) for one in every]
    states = [float64(_weighted(weights, subject)) for subject, weights in held]
    graph = symmetry or infer(held[0][0], rules=rules)
    with read_at(learning="options"):
        return _descend(graph, states, objective, options_of(DescentOptions, options), **more)


def sample(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    state: Weights | None = None,
    seed: int = 0,
    spread: float = 0.3,
    families: Collection[str] | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
) -> Any:
    """A model moved by a random element of its group: the same function at other weights.

    What is given stays as it is. A module (alone or with its inputs) gives a module, an exported program a program, a
    graph a state, all else a `Model`; each tensor keeps its dtype, and tied tensors stay tied.

    Args:
        example, input_size, state: as for `verify`; where a state is given, a state is returned.
        spread: how far from the identity elements of continuous families are drawn.
        families: patterns of the spaces and other families that move (default: all); * stands for any text.

    Raises:
        UsageError: the model has no weights, or a pattern names no family.

    >>> x = torch.randn(5, 6)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> moved = symgraph.sample(net, x, seed=1)
    >>> torch.allclose(moved(x), net(x), atol=1e-5), torch.equal(moved[0].weight, net[0].weight)
    (True, False)
    """
    subject, weights = given(source, example, state, input_size=input_size)
    held = _weighted(weights, source)
    changed = moved(symmetry or infer(subject, rules=rules), held, seed=seed, spread=spread, families=families)
    if state is not None or not isinstance(subject, Model):
        return changed
    if subject.program is not None and not isinstance(source, Model | str | Path):
        return with_weights(subject.program, changed)
    module = with_state(subject.module, changed)
    return module if isinstance(source, nn.Module | tuple) else replace(subject, module=module)


def _weighted(weights: dict[str, Tensor] | None, source: Source) -> dict[str, Tensor]:
    if weights is None:
        remedy = "name a checkpoint" + either(", or give the weights of a graph as state=", "")
        raise UsageError(f"{getattr(source, 'spec', type(source).__name__)} has no weights", remedy=remedy)
    return weights
