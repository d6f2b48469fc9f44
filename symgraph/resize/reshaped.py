"""Models of other widths: narrow ones embedded in a wider shape, wide ones reduced to a narrower one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.inference.sources import RuleSources, Source, infer, ready, stored
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.io.shown import Shown
from symgraph.prove.same_function import check_unchanged
from symgraph.resize.embed import Embedding
from symgraph.resize.embed import embed as _embed
from symgraph.resize.narrow import Reduction, reduce
from symgraph.resize.shapes import common_shape, model_like
from symgraph.tracing import state_of


@dataclass(frozen=True, repr=False)
class Reshaped(Shown):
    """A stock model in another shape."""

    model: Model

    @property
    def module(self) -> nn.Module:
        """The network of the result."""
        return self.model.module

    @property
    def state(self) -> dict[str, Tensor]:
        """The state that a checkpoint of the model holds."""
        return stored(self.model.module, state_of(self.model.module))


@dataclass(frozen=True, repr=False)
class Embedded(Reshaped):
    """A stock model in the shape of a wider one with the function of a narrower one, and how its spaces grew."""

    embedding: Embedding

    def __str__(self) -> str:
        return str(self.embedding)


def embed(
    b: Source,
    example: Any = None,
    *,
    like: Source,
    input_size: Size | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
) -> Embedded:
    """B in the shape of a wider model of its architecture, with B's function up to 1e-9 in float64.

    Args:
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.

    Raises:
        CheckpointError: the models differ in more than widths, or a width admits no exact embedding, with the reason.
        UsageError: B is not narrower, or has no weights.
        VerifyError: the result does not compute what B computes.

    >>> make = lambda n: torch.nn.Sequential(torch.nn.Linear(6, n), torch.nn.ReLU(), torch.nn.Linear(n, 3))
    >>> narrow, wide = make(8), make(12)
    >>> x = torch.randn(5, 6)
    >>> torch.allclose(symgraph.embed(narrow, x, like=wide).module(x), narrow(x), atol=1e-5)
    True

    Source: Theus et al., arXiv 2506.22712, on unequal widths; docs/design.md, Unequal widths.
    """
    (wide, narrow), _ = ready((like, b), tied, ("the wider model", "the narrower model"), example, input_size)
    shape = common_shape(wide, narrow, lambda model: infer(model, rules=rules))
    if shape.narrow != "B" or shape.other is None:
        what = "wider than" if shape.narrow else "as wide as"
        raise UsageError(f"{narrow.spec} is {what} {wide.spec}", remedy="name the wider model as `like`")
    embedding = _embed(shape.symmetry, shape.other, state_of(narrow.module), state_of(wide.module))
    made = model_like(wide, narrow, embedding.state)
    check_unchanged(made, embedding.state, f"{narrow.spec} in the shape of {wide.spec}", source=narrow)
    return Embedded(made, embedding)


@dataclass(frozen=True, repr=False)
class Narrowed(Reshaped):
    """A stock model in the shape of a narrower one made from a wider one, and what that lost."""

    reduction: Reduction

    def __str__(self) -> str:
        return str(self.reduction)


def narrow(
    b: Source,
    example: Any = None,
    *,
    like: Source,
    input_size: Size | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
) -> Narrowed:
    """B in the shape of a narrower model of its architecture: approximate, with what is lost stated.

    Units and heads that are equal up to the group are merged, dead ones dropped, empty directions left out, all of it
    exactly; beyond that units are merged with the nearest, and streams and circuits lose their least directions.

    Args:
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.

    Raises:
        CheckpointError: the models differ in more than widths, or a space cannot be had in that size.
        UsageError: B is not wider, or has no weights.

    >>> make = lambda n: torch.nn.Sequential(torch.nn.Linear(6, n), torch.nn.ReLU(), torch.nn.Linear(n, 3))
    >>> narrow, wide = make(8), make(12)
    >>> symgraph.narrow(wide, torch.randn(5, 6), like=narrow).state["0.weight"].shape
    torch.Size([8, 6])

    Source: docs/design.md, Narrowing; merging as in Intra-Fusion, arXiv 2402.07839.
    """
    (small, wide), _ = ready((like, b), tied, ("the narrower model", "the wider model"), example, input_size)
    shape = common_shape(small, wide, lambda model: infer(model, rules=rules), reduce=True)
    if shape.other is None or not shape.wide:
        what = "narrower than" if shape.narrow else "as wide as"
        raise UsageError(f"{wide.spec} is {what} {small.spec}", remedy="name the narrower model as `like`")
    reduction = reduce(shape.other, shape.symmetry, state_of(wide.module), state_of(small.module))
    return Narrowed(model_like(small, wide, reduction.state), reduction)
