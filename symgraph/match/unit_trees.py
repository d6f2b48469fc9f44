"""The units of a descent: a space with everything fibred over it."""

from __future__ import annotations

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
    ids = {s.id for s in chosen}
    below: dict[int, list[Space]] = {}
    for s in chosen:
        outer = [outer for outer in s.fibre if outer in ids]
        below.setdefault(outer[-1] if outer else -1, []).append(s)

    def grow(s: Space) -> Tree:
        return Tree(s, tuple(grow(child) for child in below.get(s.id, ())))

    return [grow(s) for s in below.get(-1, ())]


def positions_of(unit: Tree) -> tuple[int, ...]:
    """The spaces that a whole unit is fibred over and that stay as they are: at each position it is solved by itself.

    There are none where a space of the unit is fibred over anything else.
    """
    outside = unit.space.fibre

    def stands(tree: Tree, path: tuple[int, ...]) -> bool:
        inside = (*path, tree.space.id)
        return tree.space.fibre == path and all(stands(child, inside) for child in tree.children)

    return outside if stands(unit, outside) else ()


def fitted(symmetry: SymmetryGraph, space: int, e: Element) -> Element:
    """An element as its space has it: constant over dimensions of the fibre that its unit does not solve for."""
    want = symmetry.fibre_sizes(symmetry.spaces[space])
    inside = 2 if e.matrix is not None else 1

    def fit(x: Tensor, lead: int) -> Tensor:
        outer, have, tail = x.shape[:lead], x.shape[lead : x.dim() - inside], x.shape[x.dim() - inside :]
        if tuple(have) == want:
            return x
        shaped = x.reshape(*outer, *[1] * (len(want) - len(have)), *have, *tail)
        return shaped.expand(*outer, *want, *tail).contiguous()

    return e.mapped(fit)
