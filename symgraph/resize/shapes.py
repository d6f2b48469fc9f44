"""Two models of one class: the shape they can be compared in, and models around embedded states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from symgraph.groups.ways import Way
from symgraph.io.models import Model
from symgraph.io.same_architecture import architecture_differences, check_same_architecture
from symgraph.resize.lifting import Copies
from symgraph.resize.maps import Widening
from symgraph.resize.pairing import AB, Names, pair, widenings
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import Deferred, cast


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape that two models are compared in.

    `symmetry` is that of the model which has it; `narrow` names the other one where that is embedded ("A" or "B"),
    `wide` where that is reduced, both are "" where the models have one shape. `other` is its symmetry graph, and
    `spaces` says how the spaces of the narrower one grow.
    """

    symmetry: SymmetryGraph
    narrow: str = ""
    wide: str = ""
    other: SymmetryGraph | None = None
    spaces: tuple[Widening | Copies, ...] = ()


def common_shape(
    a: Model,
    b: Model,
    infer: Callable[[Model], SymmetryGraph],
    symmetry: SymmetryGraph | None = None,
    *,
    reduce: bool = False,
    names: Names = AB,
) -> Shape:
    """The shape of the wider of two models, or that of A where a wider B is to be reduced.

    Args:
        symmetry: that of A, if it is known already.
        names: what messages call the two.

    Raises:
        CheckpointError: the classes, the parameters, or configs other than in widths, differ; or neither can be
            embedded.
    """
    known = symmetry if symmetry is not None else infer(a)
    differences = architecture_differences(a, b)
    if not differences:
        return Shape(known)
    if _parts(a.module) != _parts(b.module):
        check_same_architecture(a, b, widths=True, names=names)
    other = infer(b)
    pairs = pair(known, other, names)
    if not pairs.wider:
        check_same_architecture(a, b, widths=True)
    narrow, outer, inner = ("B", known, other) if pairs.wider == "A" else ("A", other, known)
    pairs = pairs if narrow == "B" else pair(outer, inner, names[::-1])
    grown = tuple(widening for widening in widenings(pairs).values() if widening.way is not Way.CONSTANT)
    if reduce and narrow == "A":
        return Shape(inner, "", "B", outer, (*grown, *pairs.copies))
    return Shape(outer, narrow, "", inner, (*grown, *pairs.copies))


def _parts(module: nn.Module) -> tuple[str, set[str]]:
    """What models that differ in widths alone have in common: their class, and the names of their parameters."""
    return type(module).__name__, {name for name, _ in module.named_parameters(remove_duplicate=False)}


def model_like(like: Model, source: Model, state: Mapping[str, Tensor]) -> Model:
    """A stock model in the shape of `like` with a state of that shape, named after the model it came from.

    Every tensor takes the dtype that it has in that model; tokenizers and the like are those of that model.
    """
    dtypes = {
        name: tensor.dtype for name, tensor in (*source.module.named_parameters(), *source.module.named_buffers())
    }
    # Every tensor is replaced, not written to: what is read where it is needed cannot be.
    held = {}
    with torch.no_grad():
        for name, tensor in (*like.module.named_parameters(), *like.module.named_buffers()):
            if name in state:
                value = cast(state[name].detach(), dtypes.get(name, tensor.dtype))
                value = value if isinstance(value, Deferred) else value.to("cpu", copy=True)
                held[id(tensor)] = (
                    nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
                )
    module = copy.deepcopy(like.module, held)
    companions = tuple(file for file in source.files if file.name == "config.json")
    return replace(source, module=module, config=like.config, example=like.example, files=companions)
