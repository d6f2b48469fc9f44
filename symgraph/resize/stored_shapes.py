"""The shapes that parameters are stored in where some spaces have other sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from symgraph.errors import UsageError, shorten
from symgraph.inference.read_forms import as_read
from symgraph.ir import resized
from symgraph.resize.lifting import length_in
from symgraph.symmetry.forms import Form
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Concat, Leaf, Product, Term

Shapes = dict[str, tuple[int, ...]]


def stored_shapes(symmetry: SymmetryGraph, sizes: Mapping[int, int], gone: Collection[str] = ()) -> Shapes:
    """The shape of every tensor where spaces, by id, have these sizes; of what is read some is gone.

    Raises:
        UsageError: what is read of a tensor would no longer make one, or in which way is not known.
    """
    left = {name: axes for name, axes in symmetry.read_terms.items() if name not in gone}
    shapes = {name: tuple(length_in(term, sizes) for term in axes) for name, axes in left.items()}
    graph = as_read(symmetry).graph
    idle = {name for name, node in graph.parameters.items() if not graph.users[node.name]} if symmetry.forms else set()
    for form in reversed(symmetry.forms):
        before = [tuple(term.size for term in own) for own in form.terms]
        after = [shapes.pop(name, None) for name in form.read]
        after = _with_idle(form, after, idle)
        found = _stored(form, before, after, sizes)
        if found is None:
            cause = f"{shorten(form.stored)} is read as {shorten(form.read)}, of which some would have other sizes"
            raise UsageError("a tensor would have no shape", cause=cause, remedy="name other spaces")
        shapes |= {name: found if after != before else symmetry.shapes[name] for name in form.stored}
    return shapes


def _with_idle(form: Form, shapes: list[tuple[int, ...] | None], idle: Collection[str]) -> list[tuple[int, ...] | None]:
    """The shapes of what is read, in which a part that nothing reads is as wide as one that is read."""
    if not form.parts:
        return shapes
    parts = list(zip(form.read, form.sizes, shapes, strict=True))
    whole = (_with_axis(form, shape, size) for name, size, shape in parts if name not in idle and shape is not None)
    like = next(whole, None)
    if like is None:
        return shapes
    return [form.of_part(like, size) if name in idle else shape for name, size, shape in parts]


def _with_axis(form: Form, part: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The shape of a part of this size with the axis that it is cut along, which one of one entry lacks."""
    return part if size > 1 else (*part[: form.axis], 1, *part[form.axis :])


def _stored(
    form: Form, before: Sequence[tuple[int, ...]], after: Sequence[tuple[int, ...] | None], sizes: Mapping[int, int]
) -> tuple[int, ...] | None:
    """The shape of what is stored; None where it has none, or how long each of several would be is not known."""
    known, axis = [shape for shape in after if shape is not None], form.axis
    if len(known) < len(after):
        return None
    if after == before:
        return known[0]
    if form.parts:
        parts = [_with_axis(form, shape, size) for shape, size in zip(known, form.sizes, strict=True)]
        beside = {resized(shape, axis) for shape in parts}
        return resized(parts[0], axis, sum(shape[axis] for shape in parts)) if len(beside) == 1 else None
    cut = None if form.joins else _cut(form.terms[0][axis], form.sizes, sizes)
    return None if cut is None else resized(known[0], axis, *cut)


def _cut(term: Term, axes: Sequence[int], sizes: Mapping[int, int]) -> tuple[int, ...] | None:
    """How long the axes that are one of this term would be; None where that is not known."""
    length = length_in(term, sizes)
    if length == term.size:
        return tuple(axes)
    if len(axes) == 1:
        return (length,)
    if isinstance(term, Leaf):
        return None
    first = _leading(term, axes[0])
    if first is None:
        return None
    outer, inside = first
    cuts = {_cut(own, axes[1:], sizes) for own in inside}
    rest = cuts.pop() if len(cuts) == 1 else None
    if rest is None:
        return None
    return (axes[0] if outer is None else length_in(outer, sizes), *rest)


def _leading(term: Product | Concat, size: int) -> tuple[Term | None, list[Term]] | None:
    """A term of this size around others, one or one for each position; None where the term is cut elsewhere."""
    if isinstance(term, Product):
        for count in range(1, len(term.factors)):
            outer, inner = Product(term.factors[:count]), Product(term.factors[count:])
            if outer.size == size:
                return outer, [inner]
        return None
    if term.order:
        return None
    width, runs = term.size // size, list[Concat]([Concat(())])
    for part in term.parts:
        if runs[-1].size == width:
            runs.append(Concat(()))
        runs[-1] = Concat((*runs[-1].parts, part))
    fits = len(runs) == size and all(run.size == width for run in runs)
    return (None, [run if len(run.parts) > 1 else run.parts[0] for run in runs]) if fits else None
