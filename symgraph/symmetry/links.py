"""A symmetry graph as something to draw: spaces inside of modules, and parameters as links between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import Term, leaves


@dataclass(frozen=True, slots=True)
class Link:
    """A parameter or buffer between the spaces of two of its axes, or on those of one.

    `source` and `target` are names of spaces; those that another space of the axis is fibred over are left out, since
    the fibre leads there. With `directed` the first is read and the second written. A gain that is absorbed is on the
    space that it multiplies.
    """

    source: tuple[str, ...]
    target: tuple[str, ...] = ()
    directed: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """The same as it stands in records."""
        return {"source": list(self.source), "target": list(self.target), "directed": self.directed}


@dataclass(frozen=True, slots=True)
class _End:
    """One axis: its spaces, whether it contracts with values, and whether anything moves it."""

    spaces: tuple[Space, ...]
    dual: bool

    @property
    def active(self) -> bool:
        return any(not space.rigid for space in self.spaces)

    @property
    def names(self) -> tuple[str, ...]:
        moved = [space for space in self.spaces if not space.rigid]
        return tuple(dict.fromkeys(space.name for space in moved or self.spaces[-1:]))


def link(symmetry: Structure, name: str) -> Link:
    """Between which spaces a parameter or buffer leads."""
    if name in symmetry.gain_sites:
        spaces = [symmetry.frame(frame).space for gain in symmetry.gain_sites[name] for frame in gain.frames]
        return Link(tuple(dict.fromkeys(symmetry.spaces[space].name for space in spaces if space >= 0)))
    ends = _two(_ends(symmetry, symmetry.terms_of(name)))
    if len(ends) < 2:
        return Link(ends[0].names if ends else ())
    source, target = sorted(ends, key=lambda end: not end.dual)
    return Link(source.names, target.names, source.dual and not target.dual)


def _ends(symmetry: Structure, terms: Sequence[Term]) -> list[_End]:
    """The axes that hold spaces, but for those that another space of the tensor is fibred over."""
    held = [[leaf for leaf in leaves(term) if leaf.space >= 0] for term in terms]
    outer = {number for axis in held for leaf in axis for number in symmetry.spaces[leaf.space].fibre}
    inner = [[leaf for leaf in axis if leaf.space not in outer] for axis in held]
    return [
        _End(tuple(dict.fromkeys(symmetry.spaces[leaf.space] for leaf in kept)), axis[0].dual)
        for axis, kept in zip(held, inner, strict=True)
        if kept
    ]


def _two(ends: Sequence[_End]) -> list[_End]:
    """The two axes that say most: one that moves, then one of the other orientation, as channels before a kernel's."""
    first = next((end for end in ends if end.active), ends[0] if ends else None)
    if first is None:
        return []
    others = [end for end in ends if end is not first]
    others.sort(key=lambda end: (not end.active, end.dual is first.dual))
    second = others[:1]
    # In the order of the axes, so that of two of one orientation the first is the source.
    return [end for end in ends if end is first or end in second]


def home(symmetry: Structure, space: Space) -> str:
    """The module that holds every parameter on a space, by its path; empty where that is the whole model."""
    owners = [name.split(".")[:-1] for name in symmetry.parameters_of[space.id]]
    if not owners:
        return ""
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
    return ".".join(parts[0] for parts in shared)
