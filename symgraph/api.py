"""The public functions: what the command line and the documents call, each one line away from a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from symgraph.errors import SymgraphError
from symgraph.inference.pipeline import infer as _infer
from symgraph.inference.sources import Progress, RuleSources, Source, infer, model, ready, rule_book, stored, trace
from symgraph.io.models import Model
from symgraph.ir import Graph
from symgraph.match.align import Aligned, align, plan
from symgraph.match.learn_options import LearnOptions
from symgraph.match.program import Program
from symgraph.match.universe import Universe, universe
from symgraph.match.weights import MatchOptions
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.recalibrate import recalibrated
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.canonical import canonicalise as _canonicalise
from symgraph.orbit.motion import MotionOptions
from symgraph.prove.audit import LARGEST, Audit
from symgraph.prove.audit import audit as _audit
from symgraph.prove.verify import Verification
from symgraph.prove.verify import verify as _verify
from symgraph.resize.reshaped import Embedded, Narrowed, embed, narrow
from symgraph.rules.loading import rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64
from symgraph.tracing.softmax_outputs import seen_by_softmax
from symgraph.tracing.wrap import is_pretrained

__all__ = [
    "Aligned",
    "Alignment",
    "Audit",
    "Canonical",
    "Embedded",
    "Graph",
    "LearnOptions",
    "LossBarrier",
    "MatchOptions",
    "Model",
    "MotionOptions",
    "Narrowed",
    "Program",
    "Progress",
    "RuleSources",
    "Source",
    "Space",
    "SymgraphError",
    "SymmetryGraph",
    "Universe",
    "Verification",
    "align",
    "audit",
    "canonicalise",
    "embed",
    "infer",
    "loss_barrier",
    "model",
    "narrow",
    "plan",
    "ready",
    "recalibrated",
    "rule",
    "rule_book",
    "stored",
    "trace",
    "universe",
    "verify",
]


def verify(
    source: Source, *, symmetry: SymmetryGraph | None = None, rules: RuleSources = None, **options: Any
) -> Verification:
    """Samples random elements of every inferred group and compares outputs in float64 (see `symgraph.verify.verify`).

    A model without weights (a config) is verified at random parameters.
    """
    found = symmetry if symmetry is not None else infer(source, rules=rules)
    state = None
    if isinstance(source, Model | nn.Module):
        m = model(source)
        state = state_of(m.module) if m.has_weights else None
    return _verify(found, state, **options)


def audit(
    source: Source,
    *,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    logits: bool = False,
    **options: Any,
) -> Audit:
    """Measures whether any continuous symmetry was missed (see `symgraph.audit.audit`).

    Of a model of transformers that is too large for that a tiny instance is made: the same architecture has the same
    symmetries, but for what its sizes leave undetermined. Any other model has to be given at a small size.

    Args:
        logits: infer and measure with outputs up to a shift along their last axis, as a softmax loss sees them.
    """
    found = symmetry if symmetry is not None else infer(source, rules=rules)
    if logits:
        found = _infer(seen_by_softmax(found.graph), rule_book(rules))
    m = model(source, weights=False) if isinstance(source, Model | nn.Module | str | Path) else None
    if m is not None and is_pretrained(m.module) and found.graph.size > LARGEST:
        from symgraph.tracing.tiny_instance import tiny_instance

        small = tiny_instance(m.module, LARGEST)
        options |= {"rules": rules, "logits": logits}
        return replace(audit(small.module, **options), instance=small.changes)
    state = state_of(m.module) if m is not None and m.has_weights else None
    return _audit(found, state, **options)


def canonicalise(source: Source, *, symmetry: SymmetryGraph | None = None, rules: RuleSources = None) -> Canonical:
    """The canonical form of a model, computed in float64 (design section 10)."""
    m = model(source)
    return _canonicalise(symmetry or infer(m, rules=rules), float64(state_of(m.module)))
