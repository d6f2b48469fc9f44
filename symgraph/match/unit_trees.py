"""The units of a descent: a space with everything fibred over it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch

from torch import Tensor

from symgraph.errors import UsageError, near
from symgraph.groups.elements import Element
from symgraph.orbit.wreath import Tree
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space


def units(symmetry: SymmetryGraph, patterns: Sequence[str] = ("*",)) -> list[Tree]:
    """The trees of active spaces: each space hangs below the innermost active space of its fibre.

    Raises:
        UsageError: a pattern matches no space.
    """
    for pattern in patterns:
        if pattern != "*" and not any(fnmatch(space.name, pattern) for space in symmetry.active):
            names = [space.name for space in symmetry.active]
            such = f"patterns are matched against names such as {', '.join(names[:3])}"
            raise UsageError(f"no space that can be aligned matches {pattern!r}", remedy=near(pattern, names, such))
    chosen = [space for space in symmetry.active if any(fnmatch(space.name, pattern) for pattern in patterns)]
    ids = {space.id for space in chosen}
    below = defaultdict[int, list[Space]](list)
    for space in chosen:
        outer = [number for number in space.fibre if number in ids]
        below[outer[-1] if outer else -1].append(space)

    def grow(space: Space) -> Tree:
        return Tree(space, tuple(map(grow, below[space.id])))

    return list(map(grow, below[-1]))


def positions_of(unit: Tree) -> tuple[int, ...]:
    """The spaces that a whole unit is fibred over and that stay as they are: at each position it is solved by itself.

    There are none where a space of the unit is fibred over anything else.
    """
    outside = unit.space.fibre

    def stands(tree: Tree, path: tuple[int, ...]) -> bool:
        inside = (*path, tree.space.id)
        return tree.space.fibre == path and all(stands(child, inside) for child in tree.children)

    return outside if stands(unit, outside) else ()


def fitted(symmetry: SymmetryGraph, space: int, element: Element) -> Element:
    """An element as its space has it: constant over dimensions of the fibre that its unit does not solve for."""
    fibre = symmetry.fibre_sizes(symmetry.spaces[space])
    inside = 2 if element.matrix is not None else 1

    def fit(part: Tensor, lead: int) -> Tensor:
        end = part.dim() - inside
        outer, solved, tail = part.shape[:lead], part.shape[lead:end], part.shape[end:]
        if tuple(solved) == fibre:
            return part
        shaped = part.reshape(*outer, *[1] * (len(fibre) - len(solved)), *solved, *tail)
        return shaped.expand(*outer, *fibre, *tail).contiguous()

    return element.mapped(fit)
