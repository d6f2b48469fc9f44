"""How tensors are taken apart by their terms, and what maps do along one dimension: the kernel of every action.

A tensor has one dimension for each term. Its *blocks* have one for each leaf: products are reshaped into their factors,
concatenations cut into their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Concat, Leaf, Product, Term

LeafAction = Callable[[Tensor, tuple[Leaf, ...]], Tensor]
Axes = tuple[Term, ...]
Size = Callable[[Term], int]


def _length(term: Term) -> int:
    return term.size


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a parameter, reshaped so that each dimension is one leaf."""

    parameter: str
    leaves: tuple[Leaf, ...]
    tensors: tuple[Tensor, ...]

    def dim(self, space: int) -> int:
        """First dimension on the given space."""
        return next(dim for dim, leaf in enumerate(self.leaves) if leaf.space == space)

    def dims(self, space: Space) -> list[int]:
        """First dimensions on the spaces that a space is fibred over, and on itself."""
        return [*map(self.dim, space.fibre), self.dim(space.id)]

    def leaf(self, space: Space) -> Leaf:
        """The leaf of the first dimension on a space."""
        return self.leaves[self.dim(space.id)]

    def rows(self, space: Space) -> Tensor:
        """Its first tensor with these dimensions in front, everything else flattened: (..., n, rest)."""
        return unfold(self.tensors[0], self.dims(space))

    def stands(self, space: Space) -> list[tuple[int, ...]]:
        """Every dimension on a space, each behind those on the spaces that it is fibred over."""
        return stands([leaf.space for leaf in self.leaves], space.id, space.fibre)

    def spaces(self) -> set[int]:
        """Spaces of its dimensions."""
        return {leaf.space for leaf in self.leaves}


def stands(axes: Sequence[int], space: int, fibre: Sequence[int]) -> list[tuple[int, ...]]:
    """Every one of some axes that is on a space, each behind those on others: the k-th behind the k-th, or the last."""

    def on(number: int) -> list[int]:
        return [dim for dim, other in enumerate(axes) if other == number]

    around = [on(outer) for outer in fibre]
    return [(*(dims[: count + 1][-1] for dims in around), dim) for count, dim in enumerate(on(space))]


@dataclass(frozen=True, slots=True)
class _Opened:
    """Tensors with their first axis that is no leaf taken apart: the parts, and the terms of each."""

    axis: int
    term: Product | Concat
    parts: list[tuple[list[Tensor], Axes]]

    def joined(self, parts: list[Tensor]) -> Tensor:
        """The parts of one tensor put together."""
        if isinstance(self.term, Product):
            return parts[0].flatten(self.axis, self.axis + len(self.term.factors) - 1)
        whole = torch.cat(parts, dim=self.axis)
        order = self.term.order and self.term.order_of([part.shape[self.axis] for part in parts])
        return whole.index_select(self.axis, torch.tensor(order, device=whole.device)) if order else whole


def _opened(tensors: Sequence[Tensor], axes: Axes, size: Size) -> _Opened | None:
    """One step of taking tensors with the same axes apart; None where all axes are leaves."""
    for axis, term in enumerate(axes):
        before, behind = axes[:axis], axes[axis + 1 :]
        if isinstance(term, Product):
            lengths = [size(factor) for factor in term.factors]
            inner = [torch.unflatten(tensor, axis, lengths) for tensor in tensors]
            return _Opened(axis, term, [(inner, (*before, *term.factors, *behind))])
        if isinstance(term, Concat):
            sizes = [size(part) for part in term.parts]
            order = term.order_of(sizes)
            inside = [_before(tensor, axis, order) for tensor in tensors] if order else tensors
            cuts = zip(*(torch.split(tensor, sizes, dim=axis) for tensor in inside), strict=True)
            parts = zip(cuts, term.parts, strict=True)
            return _Opened(axis, term, [(list(cut), (*before, part, *behind)) for cut, part in parts])
    return None


def _before(tensor: Tensor, dim: int, order: Sequence[int]) -> Tensor:
    """The tensor as it was before its positions were put in an order."""
    return tensor.index_select(dim, torch.tensor(order, device=tensor.device).argsort())


def blocks(name: str, tensors: Sequence[Tensor], axes: Sequence[Term]) -> Iterator[Block]:
    """The blocks of several tensors that have the same axes."""
    opened = _opened(tensors, tuple(axes), _length)
    if opened is None:
        yield Block(name, _leaves(axes), tuple(tensors))
        return
    for part, inner in opened.parts:
        yield from blocks(name, part, inner)


def on_blocks(tensor: Tensor, axes: Sequence[Term], act: LeafAction, size: Size = _length) -> Tensor:
    """The tensor with `act` on every block.

    Args:
        act: given a block and its leaves; it may change the sizes of dimensions.
        size: the length that a term has in the tensor given.
    """
    opened = _opened([tensor], tuple(axes), size)
    if opened is None:
        return act(tensor, _leaves(axes))
    return opened.joined([on_blocks(part, inner, act, size) for (part,), inner in opened.parts])


def _leaves(axes: Sequence[Term]) -> tuple[Leaf, ...]:
    return tuple(term for term in axes if isinstance(term, Leaf))


# -- along one dimension ---------------------------------------------------------------------------------------


def by_index(tensor: Tensor, dim: int, fibre: list[int], index: Tensor) -> Tensor:
    """The tensor with positions along `dim` taken at an index (F, n), one for each position of `fibre`."""
    if not fibre:
        return tensor.index_select(dim, index)
    return torch.gather(tensor, dim, spread(index, tensor.dim(), [*fibre, dim]).expand(tensor.shape))


def by_matrix(tensor: Tensor, dim: int, fibre: list[int], matrix: Tensor) -> Tensor:
    """The tensor with matrices (F, m, n) applied along `dim`, one for each position of the dimensions `fibre`."""
    rest = [other for other in range(tensor.dim()) if other != dim and other not in fibre]
    order = [*fibre, dim, *rest]
    moved = tensor.permute(order)
    lead = moved.shape[: len(fibre) + 1]
    done = (matrix @ moved.reshape(*lead, -1)).reshape(moved.shape)
    return done.permute(ascending(order))


def ascending(dims: Sequence[int]) -> list[int]:
    """The places of some numbers, that of the least first: of a permutation its inverse."""
    return sorted(range(len(dims)), key=dims.__getitem__)


def spread(tensor: Tensor, rank: int, dims: list[int]) -> Tensor:
    """x, whose dimensions stand for `dims`, as a tensor of the given rank that broadcasts over the others."""
    shape = [1] * rank
    for dim, size in zip(dims, tensor.shape, strict=True):
        shape[dim] = size
    return tensor.permute(ascending(dims)).reshape(shape)


def unfold(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """The tensor with `dims` in front and everything else flattened behind them.

    Shapes: (..., ) -> (*sizes of dims, rest).
    """
    rest = [dim for dim in range(tensor.dim()) if dim not in dims]
    moved = tensor.permute([*dims, *rest])
    return moved.reshape(*moved.shape[: len(dims)], -1)
