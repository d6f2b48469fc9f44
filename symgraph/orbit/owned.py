"""Which of several processes a tensor belongs to: those of one layer to one, as even as their sizes allow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

from symgraph.symmetry.graph import SymmetryGraph


def owners(symmetry: SymmetryGraph, count: int, whole: Collection[int] = ()) -> dict[str, int]:
    """The process that each tensor belongs to, of so many, and what is read of it; those acted on together have one.

    The tensors of a space are kept together, the smallest spaces first, as long as they are no more than one process
    has room for: those of hidden units, and of heads. A residual stream has tensors everywhere.

    Args:
        whole: spaces whose tensors are kept together in any case.
    """
    sizes = {name: prod(node.shape) for name, node in symmetry.graph.state.items() if name in symmetry.terms}
    parts = _Parts(sizes)
    for name in sizes:
        parts.join(symmetry.beside(name))
    on = {space.id: list(filter(sizes.__contains__, symmetry.parameters_of[space.id])) for space in symmetry.active}
    room = sum(sizes.values()) / count
    for space in sorted(on, key=lambda space: (parts.size(on[space]), space)):
        if space in whole or parts.size(on[space]) <= room:
            parts.join(on[space])
    homes = parts.packed(count)
    return homes | {read: homes[name] for name in sizes for read in symmetry.reading.read(name)}


class _Parts:
    """Tensors that belong to one process each: at first every tensor is a part by itself."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.part_of = {name: frozenset((name,)) for name in sizes}

    def together(self, names: Iterable[str]) -> frozenset[str]:
        """All tensors of the parts that some are in."""
        return frozenset().union(*{self.part_of[name] for name in names})

    def size(self, names: Iterable[str]) -> int:
        """How many numbers they have."""
        return sum(self.sizes[member] for member in self.together(names))

    def join(self, names: Iterable[str]) -> None:
        """Makes one part of those that some are in."""
        joined = self.together(names)
        self.part_of.update(dict.fromkeys(joined, joined))

    def packed(self, count: int) -> dict[str, int]:
        """The process of each tensor: the largest part first, to whichever has least."""
        held = [0] * count
        homes: dict[str, int] = {}
        for part in sorted(set(self.part_of.values()), key=lambda part: (-self.size(part), min(part))):
            home = min(range(count), key=held.__getitem__)
            held[home] += self.size(part)
            homes |= dict.fromkeys(part, home)
        return homes
