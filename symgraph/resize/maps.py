"""Maps from a space of size n into the corresponding one of size m > n, and what they make of whole tensors.

A map P (m, n) acts on axes that transform like values, its left inverse on those that read them. P is an isometry up
to a factor, so that both directions use one matrix; the factors are kept apart, one for each block of each tensor,
because they follow from the operators (`symgraph.resize.factors`).

Source: Theus et al., arXiv 2506.22712, section 3 and appendix on unequal widths; the maps that keep means are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.rotations import ones_complement
from symgraph.groups.ways import Way
from symgraph.orbit.tensor_blocks import on_blocks
from symgraph.symmetry.offsets import Offset
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Concat, Leaf, Product, Term


@dataclass(frozen=True, slots=True)
class Widening:
    """One space of the narrow model, and how it is embedded into the corresponding space of the wide one."""

    narrow: Space
    wide: Space
    way: Way

    @property
    def scale(self) -> float:
        """The factor of P over an isometry, as far as the way alone tells: norms keep the mean square."""
        ratio = self.wide.size / self.narrow.size
        return math.sqrt(ratio) if self.way in (Way.ISOMETRIC, Way.CENTRED) else 1.0

    def guess(self, dual: bool) -> float:
        """The logarithm of the factor that an axis starts with."""
        if self.way is Way.REPEATED:
            return -math.log(self.wide.size / self.narrow.size) if dual else 0.0
        return -math.log(self.scale) if dual else math.log(self.scale)

    def forward(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensor with P along `dim`, its factor left out."""
        if self.way is Way.REPEATED:
            return tensor.repeat_interleave(self.wide.size // self.narrow.size, dim)
        if self.way is Way.CENTRED:
            return _along(tensor, dim, self._centred(tensor))
        if self.way is Way.CONSTANT:
            return _level(tensor, dim, self.wide.size)
        missing = list(tensor.shape)
        missing[dim] = self.wide.size - self.narrow.size
        return torch.cat([tensor, tensor.new_zeros(missing)], dim)

    def back(self, tensor: Tensor, dim: int) -> Tensor:
        """The left inverse of `forward`."""
        if self.way is Way.REPEATED:
            return torch.unflatten(tensor, dim, (self.narrow.size, -1)).mean(dim + 1)
        if self.way is Way.CENTRED:
            return _along(tensor, dim, self._centred(tensor).T)
        if self.way is Way.CONSTANT:
            return _level(tensor, dim, self.narrow.size)
        return tensor.narrow(dim, 0, self.narrow.size)

    def _centred(self, like: Tensor) -> Tensor:
        """Orthonormal columns that take the ones direction to the ones direction: (m, n)."""
        rows, columns = self.wide.size, self.narrow.size
        wide, narrow = (ones_complement(size, like.dtype, like.device) for size in (rows, columns))
        mean_to_mean = like.new_full((rows, columns), (rows * columns) ** -0.5)
        return wide[:, : columns - 1] @ narrow.T + mean_to_mean

    @property
    def reverse(self) -> str:
        """The other way round as text."""
        return f"{self.wide.name}  {self.wide.size} -> {self.narrow.size}"

    def __str__(self) -> str:
        return f"{self.wide.name}  {self.narrow.size} -> {self.wide.size}  {self.way}"


def _along(tensor: Tensor, dim: int, matrix: Tensor) -> Tensor:
    moved: Tensor = torch.tensordot(tensor, matrix, dims=([dim], [1])).movedim(-1, dim)
    return moved


def _level(tensor: Tensor, dim: int, size: int) -> Tensor:
    """A tensor that is constant along `dim`, in another length."""
    return tensor.narrow(dim, 0, 1).repeat_interleave(size, dim)


Widenings = Mapping[int, Widening]
Act = Callable[[Tensor, int, Sequence[Term]], Tensor]


def touches(term: Term, maps: Container[int]) -> bool:
    """Whether one of these spaces stands in the term."""
    if isinstance(term, Leaf):
        return term.space in maps
    return any(touches(child, maps) for child in term.children)


def wide_size(term: Term, maps: Widenings) -> int:
    """The length of an axis once its spaces have grown."""
    if isinstance(term, Leaf):
        return maps[term.space].wide.size if term.space in maps else term.size
    sizes = [wide_size(child, maps) for child in term.children]
    return math.prod(sizes) if isinstance(term, Product) else sum(sizes)


def widen(tensor: Tensor, axes: Sequence[Term], maps: Widenings) -> Tensor:
    """The tensor of the narrow model in the shape of the wide one, factors left out."""
    return rebuild(tensor, axes, maps, lambda term: term.size, _each(maps, Widening.forward))


def widened(offset: Offset, axes: Sequence[Term], maps: Widenings) -> Offset:
    """What the wide model adds to a parameter: a part of an axis has the number that it has in the narrow one.

    Raises:
        UsageError: a part has several.
    """
    if offset.number is not None:
        return offset
    term, line = axes[offset.axis], offset.numbers
    runs, start = list[tuple[int, float]](), 0
    for part in term.parts if isinstance(term, Concat) and not term.order else (term,):
        numbers = {*line[start : start + part.size]}
        if len(numbers) > 1:
            raise UsageError(
                "a parameter cannot be made wider",
                cause=f"{offset} is added to entries that stand in one part of its axis",
                remedy="choose models of one width",
            )
        runs.append((wide_size(part, maps), numbers.pop()))
        start += part.size
    return replace(offset, runs=tuple(runs))


def narrowed(tensor: Tensor, axes: Sequence[Term], maps: Widenings) -> Tensor:
    """What a tensor of the wide model says about the narrow one: the left inverse of `widen`."""
    return rebuild(tensor, axes, maps, lambda term: wide_size(term, maps), _each(maps, Widening.back))


def _each(maps: Widenings, act: Callable[[Widening, Tensor, int], Tensor]) -> Act:
    def on(tensor: Tensor, dim: int, axes: Sequence[Term]) -> Tensor:
        leaf = axes[dim]
        return act(maps[leaf.space], tensor, dim) if isinstance(leaf, Leaf) else tensor

    return on


def rebuild(
    tensor: Tensor, axes: Sequence[Term], spaces: Container[int], size: Callable[[Term], int], act: Act
) -> Tensor:
    """The tensor with `act` along every axis of some spaces.

    Args:
        size: the length that a term has in the tensor given; `act` may change it.
        act: given the block, the dimension, and the terms of all dimensions.
    """

    def on_block(block: Tensor, leaves: tuple[Leaf, ...]) -> Tensor:
        for dim, leaf in enumerate(leaves):
            block = act(block, dim, leaves) if leaf.space in spaces else block
        return block

    return on_blocks(tensor, [_closed(term, spaces) for term in axes], on_block, size)


def _closed(term: Term, spaces: Container[int]) -> Term:
    """The term with every part that no space of these stands in as one leaf."""
    if not touches(term, spaces):
        return Leaf(-1, -1, False, term.size)
    if isinstance(term, Leaf):
        return term
    if isinstance(term, Product):
        return Product(tuple(_closed(factor, spaces) for factor in term.factors))
    return replace(term, parts=tuple(_closed(part, spaces) for part in term.parts))


# -- blocks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a tensor, each with a factor of its own: one for each part of a concatenation that grows.

    Shapes: narrow, wide: the block of every entry, as tensors that broadcast against the two tensors; guess (count,).
    """

    count: int
    narrow: Tensor
    wide: Tensor
    guess: Tensor


def blocks_of(axes: Sequence[Term], maps: Widenings) -> Blocks:
    """The blocks of a tensor with these axes."""
    guess, count = torch.zeros(1, dtype=torch.float64), 1
    narrow = wide = torch.zeros([1] * len(axes), dtype=torch.int64)
    for axis, term in enumerate(axes):
        one, other, more = _parts(term, maps)
        shape = [-1 if dim == axis else 1 for dim in range(len(axes))]
        narrow = narrow * len(more) + one.view(shape)
        wide = wide * len(more) + other.view(shape)
        guess, count = (guess.unsqueeze(1) + more).reshape(-1), count * len(more)
    return Blocks(count, narrow, wide, guess)


def _parts(term: Term, maps: Widenings) -> tuple[Tensor, Tensor, Tensor]:
    """For every entry of an axis its part, in both sizes (one entry stands for one part), and the parts' guesses."""
    one = torch.zeros(1, dtype=torch.int64)
    if isinstance(term, Leaf):
        start = maps[term.space].guess(term.dual) if term.space in maps else 0.0
        return one, one, torch.tensor([start], dtype=torch.float64)
    if not touches(term, maps):
        return one, one, torch.zeros(1, dtype=torch.float64)
    inner = [_parts(child, maps) for child in term.children]
    guess = torch.zeros(1, dtype=torch.float64)
    if isinstance(term, Concat):
        guesses = [more for _, _, more in inner]
        offsets = [sum(map(len, guesses[:number])) for number in range(len(inner))]

        def joined(side: int, sizes: Sequence[int]) -> Tensor:
            pieces = zip(inner, offsets, sizes, strict=True)
            numbers = torch.cat([(part[side] + offset).expand(size) for part, offset, size in pieces])
            order = term.order_of(sizes)
            return numbers[list(order)] if order else numbers

        first = joined(0, [part.size for part in term.parts])
        second = joined(1, [wide_size(part, maps) for part in term.parts])
        return first, second, torch.cat(guesses)
    narrow = wide = one
    several = any(len(more) > 1 for _, _, more in inner)
    for factor, (own, other, more) in zip(term.factors, inner, strict=True):
        if several:
            own, other = own.expand(factor.size), other.expand(wide_size(factor, maps))
        narrow, wide = (
            (outer.unsqueeze(1) * len(more) + inner_numbers).reshape(-1)
            for outer, inner_numbers in ((narrow, own), (wide, other))
        )
        guess = (guess.unsqueeze(1) + more).reshape(-1)
    return narrow, wide, guess
