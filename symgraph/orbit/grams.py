"""Correlations of parameters along one space: the only thing that solvers look at (design section 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Concat, Leaf, Product, Term


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a parameter, reshaped so that each dimension is one leaf."""

    parameter: str
    leaves: tuple[Leaf, ...]
    tensors: tuple[Tensor, ...]

    def dim(self, space: int) -> int:
        """First dimension on the given space."""
        return next(i for i, x in enumerate(self.leaves) if x.space == space)

    def spaces(self) -> set[int]:
        """Spaces of its dimensions."""
        return {x.space for x in self.leaves}


def blocks(name: str, tensors: Sequence[Tensor], axes: Sequence[Term]) -> Iterator[Block]:
    """The blocks of several tensors that have the same axes."""
    for i, term in enumerate(axes):
        if isinstance(term, Product):
            sizes = [f.size for f in term.factors]
            inner = [t.reshape(*t.shape[:i], *sizes, *t.shape[i + 1 :]) for t in tensors]
            yield from blocks(name, inner, (*axes[:i], *term.factors, *axes[i + 1 :]))
            return
        if isinstance(term, Concat):
            cuts = [torch.split(t, [p.size for p in term.parts], dim=i) for t in tensors]
            for k, part in enumerate(term.parts):
                yield from blocks(name, [c[k] for c in cuts], (*axes[:i], part, *axes[i + 1 :]))
            return
    yield Block(name, tuple(t for t in axes if isinstance(t, Leaf)), tuple(tensors))


def blocks_on(
    symmetry: SymmetryGraph, space: int, states: Sequence[Mapping[str, Tensor]], keep: Callable[[str], bool]
) -> Iterator[Block]:
    """Blocks of the parameters on a space, for several states side by side, branches stacked in each."""
    for name in symmetry.acting_on[space]:
        if keep(name) and all(name in s for s in states):
            for block in blocks(name, [s[name] for s in states], symmetry.acting_terms[name]):
                if space in block.spaces():
                    yield block


def unfold(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """The tensor with `dims` in front and everything else flattened behind them.

    Shapes: (..., ) -> (*sizes of dims, rest).
    """
    rest = [d for d in range(tensor.dim()) if d not in dims]
    moved = tensor.permute([*dims, *rest])
    return moved.reshape(*moved.shape[: len(dims)], -1)


def gram(x: Tensor, dim: int, fibre: Sequence[int]) -> Tensor:
    """Second moments along `dim` for each position of the fibre: (F, n, n)."""
    u = unfold(x, [*fibre, dim])
    return u @ u.transpose(-1, -2)


def norms(x: Tensor, dim: int, fibre: Sequence[int]) -> Tensor:
    """Squared norm of every slice along `dim` for each position of the fibre: (F, n)."""
    return unfold(x, [*fibre, dim]).square().sum(-1)
