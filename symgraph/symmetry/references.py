"""Whether the parts of a symmetry graph that was read from a file fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from symgraph.symmetry.families import Piece, Plane, Port
from symgraph.symmetry.structure import Structure
from symgraph.symmetry.terms import Term, leaves


def problems(symmetry: Structure) -> Iterator[str]:
    """Every reference to something that is not there, and every size that disagrees, with its place."""
    yield from _spaces(symmetry)
    yield from _frames(symmetry)
    yield from _terms(symmetry)
    yield from _families(symmetry)


def _spaces(symmetry: Structure) -> Iterator[str]:
    count = len(symmetry.spaces)
    yield from (
        f"spaces: {name!r} occurs twice" for name, n in Counter(s.name for s in symmetry.spaces).items() if n > 1
    )
    for i, s in enumerate(symmetry.spaces):
        at = f"spaces[{i}]"
        if s.id != i:
            yield f"{at}.id: it is {s.id}"
        if s.size < 1 or s.scales < 0 or s.signs < 0:
            yield f"{at}: a size or a count is negative or zero"
        if s.group not in s.bound:
            yield f"{at}.group: {s.group} is not within its bound"
        yield from (f"{at}.fibre: there is no space {f}" for f in s.fibre if not 0 <= f < count or f == i)


def _frames(symmetry: Structure) -> Iterator[str]:
    yield from (f"frames: {i} occurs twice" for i, n in Counter(f.id for f in symmetry.frames).items() if n > 1)
    for i, f in enumerate(symmetry.frames):
        if not -1 <= f.space < len(symmetry.spaces):
            yield f"frames[{i}].space: there is no space {f.space}"
        elif f.space >= 0:
            s = symmetry.spaces[f.space]
            if (len(f.scale), len(f.sign)) != (s.scales, s.signs):
                yield f"frames[{i}]: its scales and signs are not those of {s.name}"


def _terms(symmetry: Structure) -> Iterator[str]:
    state = {name: node.shape for name, node in symmetry.graph.state.items()}
    yield from (f"terms: {name!r} is missing" for name in state if name not in symmetry.terms)
    frames = {f.id for f in symmetry.frames}
    for name, axes in symmetry.terms.items():
        at = f"terms[{name!r}]"
        if name not in state:
            yield f"{at}: there is no such parameter"
        elif tuple(t.size for t in axes) != state[name]:
            yield f"{at}: its sizes are not the shape {list(state[name])}"
        for i, term in enumerate(axes):
            yield from (f"{at}[{i}]: {text}" for text in _leaves(symmetry, term, frames))


def _leaves(symmetry: Structure, term: Term, frames: set[int]) -> Iterator[str]:
    for leaf in leaves(term):
        if not -1 <= leaf.space < len(symmetry.spaces):
            yield f"there is no space {leaf.space}"
        elif leaf.space >= 0 and symmetry.spaces[leaf.space].size != leaf.size:
            yield f"{symmetry.spaces[leaf.space].name} is not of size {leaf.size}"
        if leaf.frame not in frames and leaf.frame != -1:
            yield f"there is no frame {leaf.frame}"


def _families(symmetry: Structure) -> Iterator[str]:
    frames = {f.id for f in symmetry.frames}
    used = [("gains", g.frame) for g in symmetry.gains] + [("centred", c.frame) for c in symmetry.centred]
    used += [("shears", s.frame) for s in symmetry.shears]
    used += [("spectral", f) for s in symmetry.spectral for f in (*s.before, *s.after)]
    yield from (f"{family}: there is no frame {frame}" for family, frame in used if frame not in frames)
    state = symmetry.graph.state
    names = [("gains", g.parameter) for g in symmetry.gains]
    names += [("constants", x.sink) for x in symmetry.constants if x.sink]
    names += [("leans", x.sink) for x in symmetry.leans if x.sink]
    names += [(family, n) for family, p in _planes(symmetry) for n in (p.gain, p.bias) if n]
    names += [("shears", n) for s in symmetry.shears for n in s.gains]
    names += [("spectral", s.gain) for s in symmetry.spectral]
    names += [("radial", n) for r in symmetry.radial for n in r.tensors]
    names += [("statistics", n) for s in symmetry.statistics for n in (*s.tensors, s.gain, s.bias)]
    yield from (f"{family}: there is no parameter {name!r}" for family, name in names if name not in state)
    for port in _ports(symmetry):
        if port.window and not _has_axis(symmetry, port.piece.parameter, port.window[0]):
            yield f"constants: {port.piece.parameter!r} has no axis {port.window[0]}"
    for family, piece in _pieces(symmetry):
        if not _has_axis(symmetry, piece.parameter, piece.axis):
            yield f"{family}: {piece.parameter!r} has no axis {piece.axis}"
        elif not 0 <= piece.start < piece.stop or max(piece.entries()) >= state[piece.parameter].shape[piece.axis]:
            yield f"{family}: {piece.parameter!r} has no part [{piece.start}:{piece.stop}]"
        for leaf in leaves(piece.term):
            if leaf.frame not in frames and leaf.frame != -1:
                yield f"{family}: there is no frame {leaf.frame}"


def _has_axis(symmetry: Structure, parameter: str, axis: int) -> bool:
    node = symmetry.graph.state.get(parameter)
    return node is not None and 0 <= axis < max(len(node.shape), 1)


def _ports(symmetry: Structure) -> Iterator[Port]:
    for c in symmetry.constants:
        yield from (c.source, *(s.port for s in c.shares))


def _planes(symmetry: Structure) -> Iterator[tuple[str, Plane]]:
    found = [*(p.plane for p in _ports(symmetry)), *(c.tied for c in symmetry.constants)]
    yield from (("constants", p) for p in found if p is not None)
    yield from (("leans", x.plane) for x in symmetry.leans)


def _pieces(symmetry: Structure) -> Iterator[tuple[str, Piece]]:
    yield from (("constants", p.piece) for p in _ports(symmetry))
    hops = [h for c in symmetry.constants for s in c.shares for h in s.path]
    hops += [c.through for c in symmetry.constants if c.through is not None]
    yield from (("constants", p) for h in hops for p in (h.reader, h.rows))
    for c in symmetry.centred:
        yield from (("centred", p) for p in c.pieces)
    yield from (("leans", x.rows) for x in symmetry.leans if x.rows is not None)
    yield from ((family, p.reader) for family, p in _planes(symmetry))
