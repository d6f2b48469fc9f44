"""Find, prove and use the weight-space symmetries of any traced PyTorch model.

import symgraph

graph = symgraph.infer("checkpoints/a")            # spaces and the group on each of them
symgraph.verify("checkpoints/a").raise_if_failed()  # random group elements do not change the outputs
aligned = symgraph.align("checkpoints/a", "checkpoints/b")
symgraph.loss_barrier(aligned.a, aligned.state, batches)
"""

from __future__ import annotations

from symgraph.api import audit, canonicalise, infer, model, rule_book, trace, verify
from symgraph.errors import SymgraphError
from symgraph.io.models import Model
from symgraph.ir import Graph
from symgraph.match.align import Aligned, align, plan
from symgraph.match.learn_options import LearnOptions
from symgraph.match.program import Program
from symgraph.match.universe import Universe, universe
from symgraph.match.weights import MatchOptions
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.loss_curve import LossBarrier
from symgraph.measure.recalibrate import recalibrated
from symgraph.measure.simplex import SimplexBarrier
from symgraph.measure.simplex_barrier import simplex_barrier
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import Canonical
from symgraph.orbit.motion import MotionOptions
from symgraph.prove.audit import Audit
from symgraph.prove.verify import Verification
from symgraph.resize.reshaped import Embedded, Narrowed, embed, narrow
from symgraph.rules.loading import rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space

__version__ = "0.1.0"

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
    "SimplexBarrier",
    "Space",
    "SymgraphError",
    "SymmetryGraph",
    "Universe",
    "Verification",
    "__version__",
    "align",
    "audit",
    "canonicalise",
    "embed",
    "infer",
    "loss_barrier",
    "model",
    "narrow",
    "plan",
    "recalibrated",
    "rule",
    "rule_book",
    "simplex_barrier",
    "trace",
    "universe",
    "verify",
]
