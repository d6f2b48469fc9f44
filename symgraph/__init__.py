"""Find, prove and use the weight-space symmetries of any traced PyTorch model.

import symgraph

graph = symgraph.infer("checkpoints/a")            # spaces and the group on each of them
symgraph.verify("checkpoints/a").raise_if_failed()  # random group elements do not change the outputs
aligned = symgraph.align("checkpoints/a", "checkpoints/b")
symgraph.loss_barrier(aligned.a, aligned.state, batches)
"""

from __future__ import annotations

from symgraph.align.alignment import Alignment
from symgraph.align.learn_options import LearnOptions
from symgraph.align.match import MatchOptions
from symgraph.align.motion import MotionOptions
from symgraph.align.program import Program
from symgraph.aligned import Aligned, align, plan
from symgraph.api import audit, canonicalise, infer, model, rule_book, trace, verify
from symgraph.audit import Audit
from symgraph.canonical import Canonical
from symgraph.errors import SymgraphError
from symgraph.infer.symmetry import Space, SymmetryGraph
from symgraph.ir import Graph
from symgraph.loss_barrier import loss_barrier
from symgraph.loss_curve import LossBarrier
from symgraph.models import Model
from symgraph.recalibration import recalibrated
from symgraph.reshaped import Embedded, Narrowed, embed, narrow
from symgraph.rules.load import rule
from symgraph.simplex import SimplexBarrier
from symgraph.simplex_barrier import simplex_barrier
from symgraph.universe import Universe, universe
from symgraph.verify import Verification

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
