"""Whether the parts of a symmetry graph that was read from a file fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TypeVar

from symgraph.errors import shorten
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Port, Statistics, nested
from symgraph.symmetry.forms import Form
from symgraph.symmetry.found_families import Families
from symgraph.symmetry.structure import Structure
from symgraph.symmetry.terms import Term, leaves
from symgraph.symmetry.updates import Update

Name = TypeVar("Name", str, int)


def problems(symmetry: Structure) -> Iterator[str]:
    """Every reference to something that is not there, and every size that disagrees, with its place."""
    yield from _spaces(symmetry)
    yield from _frames(symmetry)
    yield from _terms(symmetry)
    yield from (wrong := list(_forms(symmetry)))
    if not wrong:
        yield from _families(symmetry)


def _spaces(symmetry: Structure) -> Iterator[str]:
    count = len(symmetry.spaces)
    yield from (f"spaces: {name!r} occurs twice" for name in _twice(space.name for space in symmetry.spaces))
    for number, space in enumerate(symmetry.spaces):
        at = f"spaces[{number}]"
        if space.id != number:
            yield f"{at}.id: it is {space.id}"
        if space.size < 1 or space.scales < 0 or space.signs < 0:
            yield f"{at}: a size or a count is negative or zero"
        if space.group not in space.bound:
            yield f"{at}.group: {space.group} is not within its bound"
        wrong = (outer for outer in space.fibre if not 0 <= outer < count or outer == number)
        yield from (f"{at}.fibre: there is no space {outer}" for outer in wrong)


def _twice(names: Iterable[Name]) -> list[Name]:
    """Those that occur more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def _frames(symmetry: Structure) -> Iterator[str]:
    yield from (f"frames: {number} occurs twice" for number in _twice(frame.id for frame in symmetry.frames))
    for number, frame in enumerate(symmetry.frames):
        if not -1 <= frame.space < len(symmetry.spaces):
            yield f"frames[{number}].space: there is no space {frame.space}"
        elif frame.space >= 0:
            space = symmetry.spaces[frame.space]
            if (len(frame.scale), len(frame.sign)) != (space.scales, space.signs):
                yield f"frames[{number}]: its scales and signs are not those of {space.name}"


def _terms(symmetry: Structure) -> Iterator[str]:
    state = {name: node.shape for name, node in symmetry.graph.state.items()}
    yield from (f"terms: {name!r} is missing" for name in state if name not in symmetry.terms)
    frames = {frame.id for frame in symmetry.frames}
    for name, axes in symmetry.terms.items():
        at = f"terms[{name!r}]"
        if name not in state:
            yield f"{at}: there is no such parameter"
        elif tuple(term.size for term in axes) != state[name]:
            yield f"{at}: its sizes are not the shape {list(state[name])}"
        for dim, term in enumerate(axes):
            yield from (f"{at}[{dim}]: {text}" for text in _leaves(symmetry, term, frames))


def _forms(symmetry: Structure) -> Iterator[str]:
    """Forms of what is no parameter, and those that parameters of such shapes cannot be read in."""
    known = {name: node.shape for name, node in symmetry.graph.state.items()}
    frames = {frame.id for frame in symmetry.frames}
    for form in symmetry.forms:
        missing = [name for name in form.stored if name not in known]
        yield from (f"forms: there is no parameter {name!r}" for name in missing)
        if missing or not _fits(form, [known[name] for name in form.stored]):
            yield f"forms: the sizes of what is read are not those of {shorten(form.stored)}"
            return
        known |= zip(form.read, form.shapes(known[form.stored[0]]), strict=True)
        yield from (f"forms: {text}" for own in form.terms for term in own for text in _leaves(symmetry, term, frames))


def _fits(form: Form, stored: Sequence[tuple[int, ...]]) -> bool:
    """Whether tensors of these shapes can be read so, as tensors of the sizes that the terms have."""
    if len(form.stored) == 0 or len(form.terms) != len(form.read) or not form.fits(stored):
        return False
    return [tuple(term.size for term in own) for own in form.terms] == form.shapes(stored[0])


def _leaves(symmetry: Structure, term: Term, frames: set[int]) -> Iterator[str]:
    for leaf in leaves(term):
        if not -1 <= leaf.space < len(symmetry.spaces):
            yield f"there is no space {leaf.space}"
        elif leaf.space >= 0 and symmetry.spaces[leaf.space].size != leaf.size:
            yield f"{symmetry.spaces[leaf.space].name} is not of size {leaf.size}"
        if leaf.frame not in frames and leaf.frame != -1:
            yield f"there is no frame {leaf.frame}"


def _families(symmetry: Structure) -> Iterator[str]:
    state, frames = symmetry.shapes, {frame.id for frame in symmetry.frames}
    members = [(family.name, member) for family in fields(Families) for member in getattr(symmetry, family.name)]
    used = [("gains", frame) for gain in symmetry.gains for frame in gain.frames]
    used += [("centred", centred.frame) for centred in symmetry.centred]
    used += [("shears", shear.frame) for shear in symmetry.shears]
    used += [("spectral", frame) for spectral in symmetry.spectral for frame in (*spectral.before, *spectral.after)]
    used += [("spectral", spectral.stream) for spectral in symmetry.spectral if spectral.stream >= 0]
    yield from (f"{family}: there is no frame {frame}" for family, frame in used if frame not in frames)
    names = [("gains", gain.parameter) for gain in symmetry.gains]
    names += [(family, name) for family, member in members for name in _named(member) if name]
    yield from (f"{family}: there is no parameter {name!r}" for family, name in names if name not in state)
    for family, member in members:
        for port in nested(member, Port):
            if port.window and not _has_axis(symmetry, port.piece.parameter, port.window[0]):
                yield f"{family}: {port.piece.parameter!r} has no axis {port.window[0]}"
        for piece in nested(member, Piece):
            yield from (f"{family}: {text}" for text in _misplaced(symmetry, piece, frames))


def _named(member: object) -> Iterable[str]:
    """The parameters that a family speaks of; statistics and updates name calls as well."""
    if isinstance(member, Statistics):
        return (*member.tensors, member.gain, member.bias)
    return member.named if isinstance(member, Update) else nested(member, str)


def _misplaced(symmetry: Structure, piece: Piece, frames: set[int]) -> Iterator[str]:
    if missing := [axis for axis in piece.axes if not _has_axis(symmetry, piece.parameter, axis)]:
        yield f"{piece.parameter!r} has no axis {missing[0]}"
    else:
        size = piece.length(symmetry.shapes[piece.parameter] or (1,))
        if not 0 <= piece.start < piece.stop or max(piece.entries()) >= size:
            yield f"{piece.parameter!r} has no part [{piece.start}:{piece.stop}]"
    for leaf in leaves(piece.term):
        if leaf.frame not in frames and leaf.frame != -1:
            yield f"there is no frame {leaf.frame}"


def _has_axis(symmetry: Structure, parameter: str, axis: int) -> bool:
    shape = symmetry.shapes.get(parameter)
    return shape is not None and 0 <= axis < max(len(shape), 1)
