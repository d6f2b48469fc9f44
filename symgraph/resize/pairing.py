"""Which spaces of two models of one architecture correspond, and how the smaller ones can be embedded.

Two symmetry graphs correspond if their operators and parameters do and the terms of every parameter are alike up to
sizes. Spaces are paired by where they stand, never by their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from symgraph.errors import CheckpointError, argument, shorten
from symgraph.groups.lattice import RIGID, SymmetryClass, describe, group_of, maps
from symgraph.groups.ways import Way
from symgraph.inference.read_forms import as_read
from symgraph.ir import Graph
from symgraph.resize.lifting import Copies, Lifted, leaf_pairs, lift
from symgraph.resize.maps import Widening
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf

_C = SymmetryClass
# What messages call two models.
Names = tuple[str, str]
AB: Names = ("A", "B")


@dataclass(frozen=True, slots=True)
class Pairing:
    """Spaces of B and the corresponding ones of A, by the ids of B.

    A rigid space among those whose sizes differ is that of a gain that is one in canonical form. `longer` is the model
    of which no parameter is shorter on any axis, and some are longer; the other one is in its terms, with `copies`.
    `names` is what messages call A and B.
    """

    a: SymmetryGraph
    b: SymmetryGraph
    spaces: dict[int, int]
    longer: str = ""
    copies: tuple[Copies, ...] = ()
    names: Names = AB

    @property
    def lifted(self) -> Lifted:
        """B in the terms of A, where A is the wider one."""
        return Lifted(self.b, self.copies)

    def grown(self) -> list[tuple[Space, Space]]:
        """Corresponding spaces (of B, of A) whose sizes differ."""
        pairs = ((self.b.spaces[narrow], self.a.spaces[wide]) for narrow, wide in self.spaces.items())
        return [(narrow, wide) for narrow, wide in pairs if narrow.size != wide.size]

    @property
    def wider(self) -> str:
        """The model whose spaces are the larger ones: "A", "B", or "" where no size differs.

        Raises:
            CheckpointError: each model is wider than the other somewhere.
        """
        larger = [pair for pair in self.grown() if pair[1].size > pair[0].size]
        smaller = [pair for pair in self.grown() if pair[1].size < pair[0].size]
        if larger and smaller:
            a, b = self.names
            sizes = "; ".join(
                f"{wide.name} is {wide.size} in {a} and {narrow.size} in {b}"
                for narrow, wide in (larger[0], smaller[0])
            )
            raise CheckpointError(
                f"{a} and {b} cannot be brought into one shape: each is wider somewhere",
                cause=sizes,
                remedy="embed both into a third shape that is at least as wide everywhere (symgraph.embed)",
            )
        return self.longer or ("A" if larger else "B" if smaller else "")


def pair(a: SymmetryGraph, b: SymmetryGraph, names: Names = AB) -> Pairing:
    """The correspondence of two symmetry graphs, on what they read; messages call them by these names.

    Raises:
        CheckpointError: other parameters, other operators, or other sizes where nothing may change; all are named.
    """
    a, b = as_read(a), as_read(b)
    _same_parameters(a.graph, b.graph, names)
    _same_operators(a.graph, b.graph, names)
    copies: tuple[Copies, ...] = ()
    problems: dict[object, str] = {}
    if (wider := _wider(a.graph, b.graph)) != "":
        lifted = lift(a, b) if wider == "A" else lift(b, a)
        a, b = (a, lifted.symmetry) if wider == "A" else (lifted.symmetry, b)
        copies, problems = lifted.copies, dict(lifted.problems)
    pairs = _Pairs(a, b, names, problems=problems)
    for name in b.terms:
        if name in a.terms and name not in b.graph.transient and not is_idle(b.graph, name):
            pairs.tensor(name)
    if pairs.problems:
        raise CheckpointError(
            f"{names[0]} and {names[1]} cannot be brought into one shape: sizes differ where no symmetry acts",
            cause=shorten(pairs.problems.values(), "; "),
            remedy="only widths can differ: residual, hidden units, heads and their sizes",
        )
    return Pairing(a, b, pairs.spaces, wider, copies, names)


def _wider(a: Graph, b: Graph) -> str:
    """The graph of which no parameter is shorter on any axis, and some are longer; "" where there is none."""
    pairs = (zip(a.parameters[name].shape, b.parameters[name].shape, strict=False) for name in a.parameters)
    sizes = list(chain.from_iterable(pairs))
    larger = any(size > other for size, other in sizes)
    smaller = any(size < other for size, other in sizes)
    return ("A" if larger else "B") if larger != smaller else ""


def is_idle(graph: Graph, name: str) -> bool:
    """Whether nothing reads a parameter or buffer."""
    return not graph.users[graph.state[name].name]


def _same_parameters(a: Graph, b: Graph, names: Names) -> None:
    apart = f"{names[0]} and {names[1]} cannot be brought into one shape"
    if a.tied != b.tied:
        tied = sorted(a.tied.keys() | b.tied.keys())
        some = [name for name in tied if a.tied.get(name) != b.tied.get(name)]
        raise CheckpointError(
            f"{apart}: they share different parameters",
            cause=f"{shorten(some)} tied in one of them only",
            remedy=f"untie both: {argument('tied', 'untie')}",
        )
    alone = {
        names[0]: sorted(a.parameters.keys() - b.parameters.keys()),
        names[1]: sorted(b.parameters.keys() - a.parameters.keys()),
    }
    if any(alone.values()):
        raise CheckpointError(
            f"{apart}: they read different parameters",
            cause="; ".join(f"only {name} reads {shorten(own)}" for name, own in alone.items() if own),
            remedy="name two models of the same depth and with the same parts; only widths can differ",
        )


def _same_operators(a: Graph, b: Graph, names: Names) -> None:
    places = [{node.name: place for place, node in enumerate(graph.nodes)} for graph in (a, b)]
    for one, other in zip(a.nodes, b.nodes, strict=False):
        reads = [[at[ref] for ref in node.refs()] for node, at in zip((one, other), places, strict=True)]
        if (one.kind, one.target) != (other.kind, other.target) or reads[0] != reads[1]:
            break
    else:
        if len(a.nodes) == len(b.nodes):
            return
        one, other = a.nodes[-1], b.nodes[-1]
    raise CheckpointError(
        f"{names[0]} and {names[1]} cannot be brought into one shape: they run different operators",
        cause=f"{one.where} in {names[0]}, {other.where} in {names[1]}, where they first differ",
        remedy="name two models of the same depth and with the same parts; only widths can differ",
    )


@dataclass
class _Pairs:
    """Collects the pairs of spaces, and what does not fit, by the narrow space or the tensor."""

    a: SymmetryGraph
    b: SymmetryGraph
    names: Names
    spaces: dict[int, int] = field(default_factory=dict)
    problems: dict[object, str] = field(default_factory=dict)

    def tensor(self, name: str) -> None:
        absorbed = name in self.b.gain_sites and name in self.a.gain_sites
        for axis, (term, other_term) in enumerate(zip(self.a.terms[name], self.b.terms[name], strict=True)):
            for pair in leaf_pairs(term, other_term):
                if pair is None:
                    sizes = f"{term.size} in {self.names[0]}, {other_term.size} in {self.names[1]}"
                    self.problems[name] = f"axis {axis} of {name} is built differently ({sizes})"
                else:
                    self._leaf(name, axis, *pair, absorbed)

    def _leaf(self, name: str, axis: int, a: Leaf, b: Leaf, absorbed: bool) -> None:
        one, other = self.names
        known = self.spaces.setdefault(b.space, a.space) if b.space >= 0 else a.space
        if known != a.space or a.size == b.size:
            if known != a.space:
                self.problems[b.space] = f"axis {axis} of {name} belongs to other spaces in {one} than in {other}"
            return
        rigid = b.space < 0 or self.a.spaces[a.space].rigid or self.b.spaces[b.space].rigid
        if rigid and not absorbed:
            because = _reason(self.a, a.space) or _reason(self.b, b.space)
            self.problems[b.space] = f"axis {axis} of {name} is {a.size} in {one} and {b.size} in {other}{because}"


def _reason(symmetry: SymmetryGraph, space: int) -> str:
    """Why a space is rigid, if something says so."""
    evidence = () if space < 0 else symmetry.spaces[space].evidence
    strict = next((reason for reason in evidence if reason.bound == RIGID), None)
    return "" if strict is None else f", rigid because of {strict.rule} at {strict.where}"


def widenings(pairs: Pairing) -> dict[int, Widening]:
    """How each space of B that is smaller than its counterpart in A is embedded, by the ids of B.

    Raises:
        CheckpointError: the class of a space admits no embedding into that size.
    """
    widened = {
        narrow.id: Widening(narrow, wide, way)
        for narrow, wide in pairs.grown()
        if (way := _way(narrow, wide)) is not None
    }
    refused = [(narrow, wide) for narrow, wide in pairs.grown() if narrow.id not in widened]
    if refused:
        raise CheckpointError(
            f"{pairs.names[1]} is narrower than {pairs.names[0]}, and cannot be brought into its shape",
            cause="; ".join(_why(narrow, wide) for narrow, wide in refused[:4]),
            remedy="choose models that agree in these sizes"
            + untied_hint(pairs.b, [narrow.id for narrow, _ in refused]),
        )
    return widened


def _way(b: Space, a: Space) -> Way | None:
    """The embedding that the classes of both spaces admit."""
    bound = a.bound & b.bound
    if b.rigid:
        return Way.CONSTANT
    ways = {maps(symmetry_class).widening(b.size, a.size) for symmetry_class in bound}
    return next((way for way in Way if way in ways), None)


def _why(b: Space, a: Space) -> str:
    bound = a.bound & b.bound
    sizes = f"{b.name} is {b.size} in one and {a.size} in the other"
    strict = next((reason for reason in b.evidence if _C.SEMI_PERMUTATION not in reason.bound), None)
    because = "" if strict is None else f" because of {strict.rule} at {strict.where}"
    if _C.PERMUTATION in bound:
        return f"{sizes}, no multiple, and admits {describe(bound)} only{because}"
    if maps(group_of(bound)).paired:
        return f"{sizes}, and its rotary frequencies depend on the size"
    return f"{sizes}, and admits {describe(bound)} only{because}"


def untied_hint(narrow: SymmetryGraph, spaces: Iterable[int]) -> str:
    """What untying could do about a refusal, if a shared parameter stands on one of the spaces."""
    tied = set(narrow.graph.tied.values())
    hit = any(name in tied for space in spaces for name in narrow.parameters_of[space])
    return f", or untie what is shared: {argument('tied', 'untie')}" if hit else ""
