"""Which of several processes a tensor belongs to: those of one layer to one, as even as their sizes allow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod

from symgraph.symmetry.graph import SymmetryGraph


def owners(symmetry: SymmetryGraph, count: int, whole: Collection[int] = ()) -> dict[str, int]:
    """The process that each tensor belongs to, of so many; those of branches that are stacked have one.

    The tensors of a space are kept together, the smallest spaces first, as long as they are no more than one process
    has room for: those of hidden units, and of heads. A residual stream has tensors everywhere.

    Args:
        whole: spaces whose tensors are kept together in any case.
    """
    sizes = {n: prod(node.shape) for n, node in symmetry.graph.state.items() if n in symmetry.terms}
    parts = {n: frozenset((n,)) for n in sizes}
    for stack in symmetry.stacks:
        _join(parts, stack.members)

    def size(names: Iterable[str]) -> int:
        return sum(sizes[n] for n in {m for name in names for m in parts[name]})

    room = sum(sizes.values()) / count
    spaces = {s.id: [n for n in symmetry.parameters_of[s.id] if n in sizes] for s in symmetry.active}
    for space, names in sorted(spaces.items(), key=lambda found: (size(found[1]), found[0])):
        if space in whole or size(names) <= room:
            _join(parts, names)
    return _packed({min(part): part for part in parts.values()}, sizes, count)


def _join(parts: dict[str, frozenset[str]], names: Iterable[str]) -> None:
    """Makes one part of those that some names are in."""
    joined = frozenset(m for name in names for m in parts[name])
    parts.update(dict.fromkeys(joined, joined))


def _packed(parts: dict[str, frozenset[str]], sizes: dict[str, int], count: int) -> dict[str, int]:
    """The largest part first, each to whichever process has least."""
    held = [0] * count
    found: dict[str, int] = {}
    weights = {name: sum(sizes[n] for n in part) for name, part in parts.items()}
    for name in sorted(parts, key=lambda n: (-weights[n], n)):
        home = min(range(count), key=held.__getitem__)
        held[home] += weights[name]
        found |= dict.fromkeys(parts[name], home)
    return found
