"""Two models of one class: the shape they can be compared in, and models around embedded states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.checkpoint import architecture_differences, check_same_architecture
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.models import Model
from symgraph.widening.lifting import Copies
from symgraph.widening.maps import Way, Widening
from symgraph.widening.pairing import pair, widenings


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape that two models are compared in.

    `symmetry` is that of the wider model; `narrow` names the other one ("A", "B", or "" where both have one shape),
    `inner` is its symmetry graph, and `spaces` says how its spaces grow.
    """

    symmetry: SymmetryGraph
    narrow: str = ""
    inner: SymmetryGraph | None = None
    spaces: tuple[Widening | Copies, ...] = ()


def common_shape(
    a: Model, b: Model, infer: Callable[[Model], SymmetryGraph], symmetry: SymmetryGraph | None = None
) -> Shape:
    """The shape of the wider of two models.

    Args:
        symmetry: that of A, if it is known already.

    Raises:
        CheckpointError: the classes, or configs other than in widths, differ; or neither can be embedded.
    """
    known = symmetry if symmetry is not None else infer(a)
    differences = architecture_differences(a, b)
    if not differences:
        return Shape(known)
    if type(a.module).__name__ != type(b.module).__name__:
        check_same_architecture(a, b)
    other = infer(b)
    pairs = pair(known, other)
    if not pairs.wider:
        check_same_architecture(a, b)
    narrow, outer, inner = ("B", known, other) if pairs.wider == "A" else ("A", other, known)
    pairs = pairs if narrow == "B" else pair(outer, inner)
    grown = tuple(m for m in widenings(pairs).values() if m.way is not Way.CONSTANT)
    return Shape(outer, narrow, inner, (*grown, *pairs.copies))


def wide_model(like: Model, narrow: Model, state: Mapping[str, Tensor]) -> Model:
    """A stock model in the shape of `like` with a state of that shape, named after the narrow model it came from.

    Every tensor takes the dtype that it has in the narrow model; tokenizers and the like are those of that model.
    """
    module = copy.deepcopy(like.module)
    dtypes = {n: t.dtype for n, t in (*narrow.module.named_parameters(), *narrow.module.named_buffers())}
    with torch.no_grad():
        for name, t in (*module.named_parameters(), *module.named_buffers()):
            if name in state:
                t.data = state[name].to("cpu", dtypes.get(name, t.dtype), copy=True)
    companions = tuple(f for f in narrow.files if f.name == "config.json")
    return replace(narrow, module=module, config=like.config, example=like.example, files=companions)
