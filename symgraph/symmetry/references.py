"""Whether the parts of a symmetry graph that was read from a file fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from symgraph.symmetry.families import Piece
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
    used += [("spectral", f) for s in symmetry.spectral for f in (*s.before, *s.after)]
    yield from (f"{family}: there is no frame {frame}" for family, frame in used if frame not in frames)
    state = symmetry.graph.state
    names = [("gains", g.parameter) for g in symmetry.gains]
    names += [("moves", s.bias) for m in symmetry.moves for s in m.sinks]
    names += [("leans", n) for x in symmetry.leans for n in (x.gain, x.bias, x.sink, *(s.bias for s in x.sinks)) if n]
    names += [("spectral", s.gain) for s in symmetry.spectral]
    names += [("tilts", t.bias) for t in symmetry.tilts]
    names += [("radial", n) for r in symmetry.radial for n in r.tensors]
    names += [("statistics", n) for s in symmetry.statistics for n in (*s.tensors, s.gain, s.bias)]
    yield from (f"{family}: there is no parameter {name!r}" for family, name in names if name not in state)
    if not all(t.sets and all(t.sets) for t in symmetry.translations):
        yield "translations: an empty set"
    places = [("translations", p) for t in symmetry.translations for s in t.sets for p in s]
    for family, p in places + [("leans", p) for x in symmetry.leans for p in x.givers]:
        if not all(_has_axis(symmetry, p.parameter, a) for a in (p.axis, *p.window[:1])):
            yield f"{family}: {p.parameter!r} has no axis {p.axis}"
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
    return node is not None and 0 <= axis < len(node.shape)


def _pieces(symmetry: Structure) -> Iterator[tuple[str, Piece]]:
    for m in symmetry.moves:
        yield "moves", m.source
        yield from (("moves", s.reader) for s in m.sinks if s.reader is not None)
    for c in symmetry.centred:
        yield from (("centred", p) for p in c.pieces)
    yield from (("leans", p) for x in symmetry.leans for p in (x.reader, x.rows) if p is not None)
    yield from (("leans", s.reader) for x in symmetry.leans for s in x.sinks if s.reader is not None)
    yield from (("tilts", p) for t in symmetry.tilts for p in t.readers)
