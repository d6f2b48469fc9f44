"""Which of several processes a tensor belongs to: those of one layer to one, as even as their sizes allow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
    parts = {name: frozenset((name,)) for name in sizes}
    for name in sizes:
        _join(parts, symmetry.beside(name))

    def size(names: Iterable[str]) -> int:
        return sum(sizes[name] for name in {member for name in names for member in parts[name]})

    room = sum(sizes.values()) / count
    spaces = {
        space.id: [name for name in symmetry.parameters_of[space.id] if name in sizes] for space in symmetry.active
    }
    for space, names in sorted(spaces.items(), key=lambda item: (size(item[1]), item[0])):
        if space in whole or size(names) <= room:
            _join(parts, names)
    homes = _packed({min(part): part for part in parts.values()}, sizes, count)
    return homes | {read: homes[name] for name in sizes for read in symmetry.reading.read(name)}


def _join(parts: dict[str, frozenset[str]], names: Iterable[str]) -> None:
    """Makes one part of those that some names are in."""
    joined = frozenset(member for name in names for member in parts[name])
    parts.update(dict.fromkeys(joined, joined))


def _packed(parts: dict[str, frozenset[str]], sizes: dict[str, int], count: int) -> dict[str, int]:
    """The largest part first, each to whichever process has least."""
    held = [0] * count
    homes: dict[str, int] = {}
    weights = {name: sum(sizes[member] for member in part) for name, part in parts.items()}
    for name in sorted(parts, key=lambda name: (-weights[name], name)):
        home = min(range(count), key=held.__getitem__)
        held[home] += weights[name]
        homes |= dict.fromkeys(parts[name], home)
    return homes
