"""What acts on every value of a traced model, as a table: one row for each axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from symgraph.io.shown import Shown, in_columns
from symgraph.ir import Graph, Kind, Tensor
from symgraph.symmetry.structure import Structure
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves, prime

MOST = 40


@dataclass(frozen=True, slots=True, repr=False)
class Axis(Shown):
    """What acts on one axis: its `term` in the names of spaces, the spaces in it, and the class on each of them.

    A space that is marked by `'` acts by the inverse transpose; a number stands for positions that stay where they are.
    """

    size: int
    term: str
    spaces: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def rigid(self) -> bool:
        """Whether nothing acts on it."""
        return not self.spaces

    def __str__(self) -> str:
        held = ", ".join(f"{space}: {kind}" for space, kind in zip(self.spaces, self.classes, strict=True))
        return f"{self.term} ({held})" if held else self.term


@dataclass(frozen=True, slots=True, repr=False)
class Edge(Shown):
    """A value of the graph, where it comes from ("parameter", "buffer", "input", "call"), and what acts on its axes."""

    name: str
    kind: str
    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"{self.name}: {' | '.join(map(str, self.axes)) or 'a number'}"


class Edges(tuple[Edge, ...], Shown):
    """All edges of a graph, in its order; a table where they are printed."""

    def __str__(self) -> str:
        rows = in_columns([("value", "kind", "axis", "size", "term", "classes"), *_rows(self[:MOST])])
        more = len(self) - MOST
        return f"{rows}\nand {more} more values" if more > 0 else rows

    __repr__ = Shown.__repr__

    def named(self, name: str) -> Edge | None:
        """The edge of that name, or None."""
        return next((edge for edge in self if edge.name == name), None)


def _rows(edges: Sequence[Edge]) -> Iterator[tuple[str, ...]]:
    for edge in edges:
        for number, axis in enumerate(edge.axes):
            first = (edge.name, edge.kind) if number == 0 else ("", "")
            yield (*first, str(number), str(axis.size), axis.term, ", ".join(axis.classes))


def edges(symmetry: Structure, graph: Graph | None = None) -> Edges:
    """What acts on every tensor of a graph that inference knows: parameters, buffers, inputs, results of calls.

    Args:
        graph: whose values are listed, by default the graph that was inferred on.
    """
    listed = symmetry.graph if graph is None else graph
    rows = [
        Edge(node.name, str(node.kind), axes_of(symmetry, terms))
        for node in listed.nodes
        if (terms := terms_of(symmetry, node.name)) is not None and (node.kind is Kind.CALL or _is_tensor(node.result))
    ]
    return Edges(rows)


def terms_of(symmetry: Structure, value: str) -> tuple[Term, ...] | None:
    """The terms of a parameter, a buffer or another value; None where inference has none."""
    return symmetry.terms.get(value, symmetry.values.get(value))


def axes_of(symmetry: Structure, terms: Sequence[Term]) -> tuple[Axis, ...]:
    """Terms in the names of the spaces."""
    return tuple(_axis(symmetry, term) for term in terms)


def _axis(symmetry: Structure, term: Term) -> Axis:
    held = [symmetry.spaces[leaf.space] for leaf in leaves(term) if leaf.space >= 0]
    moved = tuple(dict.fromkeys(space.name for space in held if not space.rigid))
    return Axis(term.size, _text(symmetry, term), moved, tuple(str(symmetry.by_name[name].group) for name in moved))


def _text(symmetry: Structure, term: Term) -> str:
    if all(leaf.space < 0 or symmetry.spaces[leaf.space].rigid for leaf in leaves(term)):
        return str(term.size)
    if isinstance(term, Leaf):
        return f"{symmetry.spaces[term.space].name}{prime(term.dual)}"
    parts = [_text(symmetry, child) for child in term.children]
    moved = " moved" if isinstance(term, Concat) and term.order else ""
    return f"({(' x ' if isinstance(term, Product) else ' + ').join(parts)}){moved}"


def _is_tensor(result: object) -> bool:
    return isinstance(result, Tensor)
