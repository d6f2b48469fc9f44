"""Correlations of parameters along one space: the only thing that solvers look at (design section 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from symgraph.orbit.tensor_blocks import Block, blocks, unfold
from symgraph.symmetry.graph import SymmetryGraph

Key = TypeVar("Key")


def blocks_on(
    symmetry: SymmetryGraph, space: int, states: Sequence[Mapping[str, Tensor]], keep: Callable[[str], bool]
) -> Iterator[Block]:
    """Blocks of the parameters on a space, for several states side by side, branches stacked in each."""
    for name in symmetry.acting_on[space]:
        if keep(name) and all(name in state for state in states):
            for block in blocks(name, [state[name] for state in states], symmetry.acting_terms[name]):
                if space in block.spaces():
                    yield block


def gram(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """Second moments along the last of some dimensions for each position of the others: (F, n, n)."""
    rows = unfold(tensor, dims)
    return rows @ rows.transpose(-1, -2)


def add_to(table: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    """Adds to the entry of a table, which may not be there yet."""
    table[key] = table[key] + value if key in table else value
