"""Find, prove and use the weight-space symmetries of any traced PyTorch model.

import symgraph

graph = symgraph.infer("checkpoints/a")            # spaces and the group on each of them
symgraph.verify("checkpoints/a").raise_if_failed()  # random group elements do not change the outputs
aligned = symgraph.align("checkpoints/a", "checkpoints/b")
symgraph.loss_barrier(aligned.a, aligned.state, batches)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symgraph.api import (
        Aligned,
        Alignment,
        Applied,
        Audit,
        Canonical,
        CarriedMoments,
        CarriedVectors,
        Compared,
        Descended,
        DescentOptions,
        DualAscent,
        Embedded,
        Gathered,
        Graph,
        LearnOptions,
        LossBarrier,
        LossPlane,
        MatchOptions,
        Merged,
        Model,
        Narrowed,
        Program,
        Pruned,
        QuantiserMapping,
        Relaxed,
        Representation,
        Rotated,
        Same,
        Space,
        SymgraphError,
        SymmetryGraph,
        Transported,
        Universe,
        Verification,
        align,
        annotate,
        apply,
        audit,
        canonicalise,
        compare,
        descend,
        embed,
        gather,
        infer,
        joined,
        loss_barrier,
        loss_plane,
        merge,
        merge_by_recipe,
        model,
        narrow,
        plan,
        prune,
        quantiser_mapping,
        recalibrated,
        relax,
        rotate,
        rule,
        rule_book,
        same,
        sample,
        trace,
        transport,
        transport_moments,
        transport_vectors,
        universe,
        verify,
    )

__version__ = "0.1.0"

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
    "Pruned",
    "QuantiserMapping",
    "Relaxed",
    "Representation",
    "Rotated",
    "Same",
    "Space",
    "SymgraphError",
    "SymmetryGraph",
    "Transported",
    "Universe",
    "Verification",
    "__version__",
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

if not TYPE_CHECKING:
    # Nothing is imported before it is used: torch alone takes seconds, and `symgraph --help` needs none of it.

    def __getattr__(name: str) -> object:
        if name in __all__:
            entry = getattr(import_module("symgraph.api"), name)
        elif not name.startswith("_") and find_spec(f"symgraph.{name}"):
            entry = import_module(f"symgraph.{name}")
        else:
            raise AttributeError(f"module 'symgraph' has no attribute {name!r}")
        globals()[name] = entry
        return entry

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
