"""Models that differ in how many tokens, labels or positions they have: matched on what both have, the rest kept.

Along these axes nothing moves, so that rows of one model alone take no part in a match. Each model is brought into the
shape of one of them; rows that not all have are the mean of those that all have, which asks for nothing. What an
alignment does is then done to the models with all their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import CheckpointError
from symgraph.io.models import Model
from symgraph.io.same_architecture import check_same_architecture
from symgraph.io.vocabulary import vocabulary
from symgraph.resize.shapes import model_like
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import leaves
from symgraph.tracing import state_of
from symgraph.tracing.deferred import made

State = dict[str, Tensor]
Infer = Callable[[Model], SymmetryGraph]
# What a configuration calls labels that nobody has named.
_UNNAMED = "LABEL_"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a tensor that one model has of those of another: `theirs` stand at `there` along `axis`."""

    axis: int
    theirs: Tensor
    there: Tensor

    def placed(self, tensor: Tensor, size: int, like: Tensor | None = None) -> Tensor:
        """The tensor with so many rows: its own where they belong, elsewhere those of another, or their mean."""
        own = tensor.index_select(self.axis, self.theirs)
        shape = [size if axis == self.axis else length for axis, length in enumerate(tensor.shape)]
        rest = like if like is not None else own.mean(self.axis, keepdim=True) if len(self.theirs) else own.new_zeros(1)
        return rest.to(tensor).expand(shape).clone().index_copy_(self.axis, self.there, own)

    def mask(self, size: int, dims: int) -> Tensor:
        """One where a row is there and zero elsewhere, to be multiplied with the tensor."""
        mask = torch.zeros(size, dtype=torch.float64).index_fill_(0, self.there, 1.0)
        return mask.view([-1 if axis == self.axis else 1 for axis in range(dims)])


@dataclass(frozen=True, slots=True)
class Overlap:
    """Models in the shape of one of them.

    `matched`: those that are matched, of which only the rows count that all have. `whole`: each state with all its
    rows, in that shape; `rows` says where these stand, by the name of the tensor.
    """

    like: Model
    matched: tuple[Model, ...]
    whole: tuple[State, ...]
    rows: tuple[Mapping[str, Rows], ...]
    notes: tuple[str, ...]

    def mean(self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
        """The weighted mean of the tensors that differ in rows: of every row over the models that have it."""
        return {name: self._mean(name, [state[name] for state in states], weights) for name in self.rows[0]}

    def _mean(self, name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        wide = [made(tensor).double() for tensor in tensors]
        masks = [
            rows[name].mask(tensor.shape[rows[name].axis], tensor.dim())
            for rows, tensor in zip(self.rows, wide, strict=True)
        ]
        total = sum((weight * mask for weight, mask in zip(weights, masks, strict=True)), torch.zeros(()))
        weighted = sum(
            (weight * mask * tensor for weight, mask, tensor in zip(weights, masks, wide, strict=True)), torch.zeros(())
        )
        # A row whose models weigh nothing is that of the first that has it.
        last = next(tensor for tensor, mask in zip(wide, masks, strict=True) if bool((mask > 0).all()))
        return torch.where(total > 0, weighted / torch.where(total > 0, total, 1.0), last).to(tensors[0].dtype)


def overlap(models: Sequence[Model], like: int | None, infer: Infer, on_difference: str = "keep") -> Overlap | None:
    """What models of one class have in common, where they differ along axes on which nothing moves; else None.

    Args:
        like: the number of the model in whose shape the result is; by default the one that has the most rows.
        on_difference: "refuse" raises where there is such a difference.

    Raises:
        CheckpointError: one has rows that the one with the most rows lacks, or differences are to be refused.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in state_of(model.module).items()} for model in models]
    if len({type(model.module) for model in models}) > 1 or any(held.keys() != shapes[0].keys() for held in shapes):
        return None
    axes = _differing(models[0], shapes)
    if axes is None or not all(_rigid(infer(model), axes) for model in models):
        return None
    if on_difference == "refuse":
        check_same_architecture(
            models[0], next(model for model, held in zip(models, shapes, strict=True) if held != shapes[0])
        )
    entries = [sum(map(_numel, held.values())) for held in shapes]
    number = entries.index(max(entries)) if like is None else like
    return _joined(models, number, axes, complete=like is None)


def _differing(first: Model, shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, int] | None:
    """The axis of each parameter along which models differ; None where they do not, or in more than one.

    Buffers of other lengths are what the code of each shape computes: tables of positions, masks.
    """
    parameters = {name for name, _ in first.module.named_parameters()}
    differing = [name for name in parameters if len({held[name] for held in shapes}) > 1]
    axes = {name: _axis([held[name] for held in shapes]) for name in shapes[0] if name in differing}
    known = {name: axis for name, axis in axes.items() if axis is not None}
    return known if known and len(known) == len(axes) else None


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The one axis along which shapes differ."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    differing = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    return differing[0] if len(differing) == 1 else None


def _rigid(symmetry: SymmetryGraph, axes: Mapping[str, int]) -> bool:
    """Whether nothing moves along these axes."""
    active = {space.id for space in symmetry.active}
    terms = [symmetry.terms[name][axis] for name, axis in axes.items() if name in symmetry.terms]
    return not any(leaf.space in active for term in terms for leaf in leaves(term))


def _joined(models: Sequence[Model], number: int, axes: Mapping[str, int], *, complete: bool) -> Overlap:
    like = models[number]
    target = state_of(like.module)
    rows = [dict(_rows_of(model, like, axes)) for model in models]
    if complete:
        _check_complete(models, like, axes, rows)
    common = {name: _common([held[name] for held in rows]) for name in axes}
    matched, whole = [], []
    for model, held in zip(models, rows, strict=True):
        own = state_of(model.module)
        fitting = {name: tensor for name, tensor in own.items() if tensor.shape == target[name].shape}
        full = {
            name: place.placed(made(own[name]).detach(), target[name].shape[place.axis]) for name, place in held.items()
        }
        seen = {name: _seen(full[name], held[name].axis, common[name]) for name in held}
        matched.append(model_like(like, model, {**fitting, **seen}))
        whole.append({**fitting, **full})
    return Overlap(like, tuple(matched), tuple(whole), tuple(rows), tuple(_said(models, axes, common)))


def _common(rows: Sequence[Rows]) -> Tensor:
    """Where rows stand that all models have."""
    first, *others = ({*rows_of_model.there.tolist()} for rows_of_model in rows)
    return torch.tensor(sorted(first.intersection(*others)), dtype=torch.int64)


def _seen(tensor: Tensor, axis: int, common: Tensor) -> Tensor:
    """The tensor with the mean of the common rows in the place of all others."""
    return Rows(axis, common, common).placed(tensor, tensor.shape[axis])


def _rows_of(model: Model, like: Model, axes: Mapping[str, int]) -> Iterator[tuple[str, Rows]]:
    own, target = state_of(model.module), state_of(like.module)
    for name, axis in axes.items():
        sizes = own[name].shape[axis], target[name].shape[axis]
        theirs, there = _pairs(model, like, *sizes)
        yield name, Rows(axis, theirs, there)


def _pairs(model: Model, like: Model, size: int, target: int) -> tuple[Tensor, Tensor]:
    """Which of a model's rows are which of another's: by token, by label, or by position."""
    if model is like:
        same = torch.arange(size)
        return same, same
    for key, named in (("vocab_size", vocabulary), ("num_labels", _labels)):
        if (getattr(model.config, key, None), getattr(like.config, key, None)) == (size, target):
            one, other = named(model), named(like)
            if one is not None and other is not None:
                both = [(row, other[text]) for text, row in one.items() if text in other and row < size]
                both = [(row, place) for row, place in both if place < target]
                return tuple(torch.tensor([pair[side] for pair in both], dtype=torch.int64) for side in (0, 1))  # type: ignore[return-value]
            if named is _labels:
                return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    shared = torch.arange(min(size, target))
    return shared, shared


def _labels(model: Model) -> dict[str, int] | None:
    """The numbers of labels by their names; None where nobody has named them."""
    named: Mapping[Any, Any] = getattr(model.config, "id2label", None) or {}
    labels = {str(text): int(row) for row, text in named.items()}
    return None if not labels or all(text.startswith(_UNNAMED) for text in labels) else labels


def _check_complete(
    models: Sequence[Model], like: Model, axes: Mapping[str, int], rows_of: Sequence[Mapping[str, Rows]]
) -> None:
    for model, rows in zip(models, rows_of, strict=True):
        for name, axis in axes.items():
            missing = state_of(model.module)[name].shape[axis] - len(rows[name].theirs)
            if missing:
                raise CheckpointError(
                    f"{missing} rows of {name} in {model.spec} are none of {like.spec}",
                    cause="neither has all that both have, and what has no place in one of the shapes would be lost",
                    remedy="extend the one with the most rows by those of the others first, or align without merging",
                )


def _said(models: Sequence[Model], axes: Mapping[str, int], common: Mapping[str, Tensor]) -> Iterator[str]:
    for name, axis in axes.items():
        sizes = ", ".join(str(state_of(model.module)[name].shape[axis]) for model in models)
        yield f"{name} has {sizes} rows: {len(common[name])} that all have are matched, the others kept as they are"
    texts = [vocabulary(model) for model in models]
    if any(text is None for text in texts) and any(getattr(model.config, "vocab_size", None) for model in models):
        sized = {getattr(model.config, "vocab_size", None) for model in models}
        if len(sized) > 1:
            yield "not all models bring a tokenizer: tokens of one number are taken to be the same"
