"""The shapes that parameters are stored in where some spaces have other sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod

from symgraph.errors import UsageError, shorten
from symgraph.inference.read_forms import as_read
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
    shapes = {
        name: tuple(length_in(term, sizes) for term in axes)
        for name, axes in symmetry.read_terms.items()
        if name not in gone
    }
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
        shapes |= dict.fromkeys(form.stored, found) if after != before else _as_they_are(form, symmetry)
    return shapes


def _with_idle(form: Form, shapes: list[tuple[int, ...] | None], idle: Collection[str]) -> list[tuple[int, ...] | None]:
    """The shapes of what is read, in which a part that nothing reads is as wide as one that is read."""
    axis, pairs = form.axis, [*zip(form.read, form.sizes, shapes, strict=False)]
    seen = next(((size, shape) for name, size, shape in pairs if name not in idle and shape is not None), None)
    if not form.parts or seen is None:
        return shapes
    before, behind = seen[1][:axis], seen[1][axis + (seen[0] > 1) :]
    own = ((*before, *((size,) if size > 1 else ()), *behind) for size in form.sizes)
    return [made if name in idle else shape for name, shape, made in zip(form.read, shapes, own, strict=True)]


def _as_they_are(form: Form, symmetry: SymmetryGraph) -> Shapes:
    return {name: symmetry.shapes[name] for name in form.stored}


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
        pairs = zip(known, form.sizes, strict=True)
        parts = [shape if size > 1 else (*shape[:axis], 1, *shape[axis:]) for shape, size in pairs]
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in parts}
        whole = (*parts[0][:axis], sum(shape[axis] for shape in parts), *parts[0][axis + 1 :])
        return whole if len(others) == 1 else None
    cut = None if form.joins else _cut(form.terms[0][axis], form.sizes, sizes)
    return None if cut is None else (*known[0][:axis], *cut, *known[0][axis + 1 :])


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
    outer, rest = first
    ends = {_cut(own, axes[1:], sizes) for own in rest}
    around = length_in(outer, sizes) if outer is not None else axes[0]
    inside = ends.pop() if len(ends) == 1 else None
    return None if inside is None else (around, *inside)


def _leading(term: Product | Concat, size: int) -> tuple[Term | None, list[Term]] | None:
    """A term of this size around others, one or one for each position; None where the term is cut elsewhere."""
    if isinstance(term, Product):
        for at in range(1, len(term.factors)):
            if prod(factor.size for factor in term.factors[:at]) == size:
                return Product(term.factors[:at]), [Product(term.factors[at:])]
        return None
    width, runs = term.size // size, list[list[Term]]([[]])
    for part in term.parts if not term.order else ():
        if sum(own.size for own in runs[-1]) == width:
            runs.append([])
        runs[-1].append(part)
    fits = all(sum(own.size for own in run) == width for run in runs) and len(runs) == size
    return (None, [Concat(tuple(run)) if len(run) > 1 else run[0] for run in runs]) if fits else None
