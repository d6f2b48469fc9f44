"""Models that differ in how many tokens, labels or positions they have: matched on what both have, the rest kept.

Along these axes nothing moves, so that rows of one model alone take no part in a match. Each model is brought into the
shape of one of them; rows that not all have are the mean of those that all have, which asks for nothing. What an
alignment does is then done to the models with all their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, argument, shorten
from symgraph.io.checkpoint import tied_names
from symgraph.io.models import Model
from symgraph.ir import resized
from symgraph.resize.label_rows import label_axes, labels_of
from symgraph.resize.shapes import model_like
from symgraph.resize.token_rows import (
    Named,
    WantedTokens,
    axis_apart,
    matching,
    token_axes,
    tokens_in,
    told_apart,
    vocabulary_of,
)
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import leaves
from symgraph.tracing import state_of
from symgraph.tracing.deferred import made

State = dict[str, Tensor]
Infer = Callable[[Model], SymmetryGraph]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a tensor that one model has of those of another: `theirs` stand at `there` along `axis`."""

    axis: int
    theirs: Tensor
    there: Tensor

    def placed(self, tensor: Tensor, size: int, like: Tensor | None = None) -> Tensor:
        """The tensor with so many rows: its own where they belong, elsewhere those of another, or their mean."""
        own = tensor.index_select(self.axis, self.theirs)
        if like is None:
            like = own.mean(self.axis, keepdim=True) if len(self.theirs) else own.new_zeros(1)
        whole = like.to(tensor).expand(resized(tensor.shape, self.axis, size)).clone()
        return whole.index_copy_(self.axis, self.there, own)

    def mask(self, size: int, dims: int) -> Tensor:
        """One where a row is there and zero elsewhere, to be multiplied with the tensor."""
        mask = torch.zeros(size, dtype=torch.float64).index_fill_(0, self.there, 1.0)
        return mask.view([-1 if axis == self.axis else 1 for axis in range(dims)])


@dataclass(frozen=True, slots=True)
class Overlap:
    """Models in the shape of one of them, or in that of a joined vocabulary.

    `matched`: those that are matched, of which only the rows count that all have. `whole`: each state with all its
    rows, in that shape; `rows` says where these stand, by the name of the tensor. `tokenizer` holds the files of the
    tokenizer whose ids the rows have, where models differ in tokens.
    """

    like: Model
    matched: tuple[Model, ...]
    whole: tuple[State, ...]
    rows: tuple[Mapping[str, Rows], ...]
    notes: tuple[str, ...]
    tokenizer: dict[str, bytes] | None = None

    def mean(self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
        """The weighted mean of the tensors that differ in rows: of every row over the models that have it."""
        return {name: self._mean(name, [state[name] for state in states], weights) for name in self.rows[0]}

    def filled(self, states: Sequence[Mapping[str, Tensor]], base: int) -> list[State]:
        """States in which rows that a model lacks are those of the base, or the mean of the models that have them."""
        filled: list[State] = [dict(state) for state in states]
        for name in self.rows[0]:
            tensors, masks = self._wide(name, [state[name] for state in states])
            shares = [1.0] * len(tensors)
            donor = torch.where(masks[base] > 0, tensors[base], _over_those_that_have(tensors, masks, shares))
            for state, tensor, mask in zip(filled, tensors, masks, strict=True):
                state[name] = torch.where(mask > 0, tensor, donor)
        return filled

    def _mean(self, name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        return _over_those_that_have(*self._wide(name, tensors), weights).to(tensors[0].dtype)

    def _wide(self, name: str, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors in float64, and for each one where a row is its own and zero elsewhere."""
        wide = [made(tensor).double() for tensor in tensors]
        pairs = zip((rows[name] for rows in self.rows), wide, strict=True)
        return wide, [rows.mask(tensor.shape[rows.axis], tensor.dim()) for rows, tensor in pairs]


def _over_those_that_have(tensors: Sequence[Tensor], masks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Of every row the weighted mean over those that have it; of one that none has, over all of them."""
    mean = _weighted(tensors, [torch.ones_like(mask) for mask in masks], weights)
    # A row whose models weigh nothing is that of the first that has it.
    for tensor, mask in reversed(list(zip(tensors, masks, strict=True))):
        mean = torch.where(mask > 0, tensor, mean)
    total = _sum(masks, weights)
    return torch.where(total > 0, _weighted(tensors, masks, weights), mean)


def _weighted(tensors: Sequence[Tensor], masks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = _sum(masks, weights)
    weighted = _sum([mask * tensor for mask, tensor in zip(masks, tensors, strict=True)], weights)
    return weighted / torch.where(total > 0, total, 1.0)


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]).sum(0)


def placed_in(state: Mapping[str, Tensor], rows: Mapping[str, Tensor], module: nn.Module) -> State:
    """A state with these tensors in the place of its own, under all names that they have in the module."""
    tied = tied_names(module)
    return {name: rows.get(tied.get(name, name), tensor) for name, tensor in state.items()}


def overlap(
    models: Sequence[Model],
    like: int | None,
    infer: Infer,
    on_difference: str = "keep",
    wanted: WantedTokens | None = None,
) -> Overlap | None:
    """What models of one class have in common, where they differ along axes on which nothing moves; else None.

    Args:
        like: the number of the model in whose shape the result is; by default the one that has the most rows.
        on_difference: "refuse" raises where there is such a difference.
        wanted: whose tokens the result has, where models bring tokenizers with other ones.

    Raises:
        UsageError: two of them have no token in common.
        CheckpointError: one has rows that the one with the most rows lacks, or differences are to be refused.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in state_of(model.module).items()} for model in models]
    if len({type(model.module) for model in models}) > 1 or any(held.keys() != shapes[0].keys() for held in shapes):
        return None
    told = told_apart(models, wanted, sized_alike=all(held == shapes[0] for held in shapes))
    target = vocabulary_of(models, told, wanted) if told and wanted else None
    table = target.axes if target else token_axes(models[0]) if told else {}
    axes = _differing(models[0], shapes, label_axes(models) | table)
    if not axes or not all(_rigid(infer(model), axes) for model in models):
        return None
    if on_difference == "refuse":
        _refuse(models, axes, table)
    if target is not None:
        return _joined(models, target.like, axes, Named(target.tokens, told, table), complete=True, files=target.files)
    entries = [sum(map(prod, held.values())) for held in shapes]
    number = entries.index(max(entries)) if like is None else like
    named = Named(told[number], told, table) if table else None
    return _joined(models, models[number], axes, named, complete=like is None)


def _refuse(models: Sequence[Model], axes: Mapping[str, int], table: Mapping[str, int]) -> None:
    what = "tokens" if axes.keys() <= table.keys() else "rows"
    raise CheckpointError(
        f"{models[0].spec} and {' and '.join(model.spec for model in models[1:])} differ in {what}, which is refused",
        cause="rows that one model has alone, or has elsewhere: " + shorten(axes),
        remedy=argument("on_difference", "keep"),
    )


def _differing(
    first: Model, shapes: Sequence[Mapping[str, tuple[int, ...]]], table: Mapping[str, int]
) -> dict[str, int] | None:
    """The axis of each parameter along which models differ, in size or in tokens; None where they do in more than one.

    Buffers of other lengths are what the code of each shape computes: tables of positions, masks.
    """
    parameters = {name for name, _ in first.module.named_parameters()}
    axes: dict[str, int] = {name: axis for name, axis in table.items() if name in parameters}
    for name in parameters:
        sizes = {held[name] for held in shapes}
        axis = axis_apart(sizes)
        if len(sizes) > 1 and (axis is None or axes.setdefault(name, axis) != axis):
            return None
    return {name: axes[name] for name in shapes[0] if name in axes}


def _rigid(symmetry: SymmetryGraph, axes: Mapping[str, int]) -> bool:
    """Whether nothing moves along these axes."""
    active = {space.id for space in symmetry.active}
    terms = [symmetry.terms[name][axis] for name, axis in axes.items() if name in symmetry.terms]
    return not any(leaf.space in active for term in terms for leaf in leaves(term))


def _joined(
    models: Sequence[Model],
    like: Model,
    axes: Mapping[str, int],
    named: Named | None,
    *,
    complete: bool,
    files: dict[str, bytes] | None = None,
) -> Overlap:
    target = state_of(like.module)
    rows = [dict(_rows_of(model, like, axes, named, number)) for number, model in enumerate(models)]
    if complete:
        _check_complete(models, like, axes, rows, named)
    common = {name: _common([held[name] for held in rows]) for name in axes}
    matched, whole = [], []
    for model, held in zip(models, rows, strict=True):
        own = state_of(model.module)
        others = {name: tensor for name, tensor in own.items() if name in target and name not in held}
        fitting = {name: tensor for name, tensor in others.items() if tensor.shape == target[name].shape}
        full, seen = State(), State()
        for name, place in held.items():
            full[name] = place.placed(made(own[name]).detach(), target[name].shape[place.axis])
            seen[name] = _seen(full[name], place.axis, common[name])
        matched.append(model_like(like, model, fitting | seen))
        whole.append(fitting | full)
    notes = tuple(_said(models, axes, common, named))
    return Overlap(like, tuple(matched), tuple(whole), tuple(rows), notes, files)


def _common(rows: Sequence[Rows]) -> Tensor:
    """Where rows stand that all models have."""
    first, *others = ({*rows_of_model.there.tolist()} for rows_of_model in rows)
    return torch.tensor(sorted(first.intersection(*others)), dtype=torch.int64)


def _seen(tensor: Tensor, axis: int, common: Tensor) -> Tensor:
    """The tensor with the mean of the common rows in the place of all others."""
    return Rows(axis, common, common).placed(tensor, tensor.shape[axis])


def _rows_of(
    model: Model, like: Model, axes: Mapping[str, int], named: Named | None, number: int
) -> Iterator[tuple[str, Rows]]:
    own, target = state_of(model.module), state_of(like.module)
    for name, axis in axes.items():
        sizes = own[name].shape[axis], target[name].shape[axis]
        by_token = named is not None and name in named.axes
        theirs, there = named.pairs(number, *sizes) if named and by_token else _pairs(model, like, *sizes)
        yield name, Rows(axis, theirs, there)


def _pairs(model: Model, like: Model, size: int, target: int) -> tuple[Tensor, Tensor]:
    """Which of a model's rows are which of another's, where no tokenizers tell: by label, or by number."""
    one, other = labels_of(model), labels_of(like)
    if (len(one), len(other)) == (size, target):
        return matching([(row, other[text]) for text, row in one.items() if text in other])
    counts = tuple(getattr(held.config, "num_labels", None) for held in (model, like))
    # Nobody has said what they mean.
    unknown = counts == (size, target) and size != target
    return matching([(row, row) for row in range(0 if unknown else min(size, target))])


def _check_complete(
    models: Sequence[Model],
    like: Model,
    axes: Mapping[str, int],
    rows_of: Sequence[Mapping[str, Rows]],
    named: Named | None,
) -> None:
    for model, rows in zip(models, rows_of, strict=True):
        for name, axis in axes.items():
            by_number = named is None or name not in named.axes
            size = state_of(model.module)[name].shape[axis]
            if by_number and (missing := size - len(rows[name].theirs)):
                raise _incomplete(model, like, name, missing, size)


def _incomplete(model: Model, like: Model, name: str, missing: int, size: int) -> CheckpointError:
    """What is said where a model has rows that the one with the most rows has no place for."""
    if getattr(model.config, "num_labels", None) == size and not (labels_of(model) and labels_of(like)):
        return CheckpointError(
            f"{name}: nothing says which labels of {model.spec} are which of {like.spec}",
            cause=f"the two have {size} and {like.config.num_labels} labels, which are known by their names alone",
            remedy="name them in `id2label` of each config.json, one name for what means the same",
        )
    return CheckpointError(
        f"{name}: {like.spec} has no place for {missing} of the {size} rows of {model.spec}",
        cause="the result has the rows of the model with the most of them, and each has some that the other lacks",
        remedy=f"give {like.spec} these rows too before, with whatever values",
    )


def _said(
    models: Sequence[Model],
    axes: Mapping[str, int],
    common: Mapping[str, Tensor],
    named: Named | None,
) -> Iterator[str]:
    for name, axis in axes.items():
        sizes = ", ".join(str(state_of(model.module)[name].shape[axis]) for model in models)
        yield f"{name} has {sizes} rows: {len(common[name])} that all have are matched, the others kept as they are"
    if named is None and len({tokens_in(model) for model in models}) > 1:
        yield "not all models bring a tokenizer: tokens of one number are taken to be the same"
    for number, model in enumerate(models):
        if named and (lost := named.missing(number, tokens_in(model) or 0)):
            yield f"{lost} tokens of {model.spec} are left out: the result does not have them"
