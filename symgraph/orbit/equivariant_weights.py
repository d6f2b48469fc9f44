"""Equivariant weights: the mean of a state over a group that acts on inputs, outputs and the spaces between.

Where a representation of a group is chosen on every space of a model, inside the space's class, the weights that the
group does not move make an equivariant model: f(g x; theta) = g f(x; g^-1 theta) = g f(x; theta). The projection on
them is the mean of g theta over the group, exact for finite groups and, for turns by every angle, by as many equal
angles as the frequencies ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import tau

import torch
from torch import Tensor

from symgraph.errors import UsageError, near
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element
from symgraph.io.shown import Shown
from symgraph.orbit.action import GroupElement
from symgraph.orbit.finite_group import FiniteGroup, generated
from symgraph.orbit.lasting_blocks import blocks, character, longest_lasting
from symgraph.orbit.orbit_means import OrbitMean, gain_mean, orbit_mean
from symgraph.orbit.representation import REGULAR, TRIVIAL, Axes, Representation, smallest_class
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf, Term, leaves


@dataclass(frozen=True, slots=True)
class End:
    """A tensor at an end of the model: under which name the graph has it, its axes, and whether it is the output."""

    tensor: str
    axes: Axes
    output: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The axes one after the other."""
        return tuple(name for axis in self.axes for name in axis)


@dataclass(frozen=True, repr=False)
class Equivariance(Shown):
    """A representation on every space: `carried` says what each space carries that the group moves.

    `means` has, for every tensor that the group moves, the projection on what it does not move.
    """

    symmetry: SymmetryGraph
    group: FiniteGroup
    carried: Mapping[str, str]
    means: Mapping[str, OrbitMean]

    def project(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The nearest state that the group does not move; what it does not reach is passed through."""
        return {name: self.means[name](tensor) if name in self.means else tensor for name, tensor in state.items()}

    def __str__(self) -> str:
        spaces = "; ".join(f"{name}: {carries}" for name, carries in self.carried.items())
        return f"{len(self.group)} elements act on {len(self.means)} tensors ({spaces})"


def equivariance(symmetry: SymmetryGraph, ends: Sequence[End], representation: Representation) -> Equivariance:
    """Chooses what every space carries, and makes the projection.

    Raises:
        UsageError: the class of a space does not admit what an axis on it asks for, two axes are one space and are
            acted on in two ways, or a pattern of `hidden` names no space.
    """
    at_ends = dict(_at_ends(symmetry, ends, representation))
    classes = {axis: _class_of(representation, axis) for axis in representation.acting}
    _check_ends(symmetry, at_ends, classes)
    free = _free(symmetry, ends, at_ends)
    hidden = _chosen(symmetry, ends, representation, at_ends, _choices_of(free, representation, classes))
    group = generated(representation.generators(tau / _steps(symmetry, representation, at_ends, hidden)))
    carried = {space: _elements(group.on(axis), dual) for space, (axis, dual) in at_ends.items()}
    carried |= {space: _hidden_elements(symmetry.spaces[space], group, what) for space, what in hidden.items()}
    elements = [
        GroupElement(symmetry, {space: _in_fibres(symmetry, space, each[number]) for space, each in carried.items()})
        for number in range(len(group))
    ]
    averaged = ((name, _mean(symmetry, name, elements, group.generators)) for name in symmetry.terms)
    means = {name: mean for name, mean in averaged if mean is not None}
    words = {space: axis for space, (axis, _) in at_ends.items()} | hidden
    return Equivariance(
        symmetry, group, {symmetry.spaces[space].name: word for space, word in sorted(words.items())}, means
    )


# -- what each space carries ---------------------------------------------------------------------------------------


def _at_ends(
    symmetry: SymmetryGraph, ends: Sequence[End], representation: Representation
) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Spaces at the ends, each with the axis that says what it carries, and whether as its inverse transpose."""
    seen: dict[int, tuple[str, bool, str]] = {}
    for end in ends:
        for name, term in zip(end.names, symmetry.terms[end.tensor], strict=True):
            if name not in representation.acting:
                continue
            where = f"the axis {name!r} of {end.tensor}"
            if not isinstance(term, Leaf):
                what = f"{where} is made of several spaces ({term})"
                raise UsageError(what, remedy="name its parts in parentheses, or act on an axis that is one space")
            # The pairing's tensor moves by the inverse transpose of what the output does.
            dual = term.dual != end.output
            known = seen.setdefault(term.space, (name, dual, where))
            if known[0] != name or (known[1] != dual and not _orthogonal(representation, name)):
                what = f"{where} and {known[2]} are one space, and the group acts on them in two ways"
                raise UsageError(what, remedy="give both the same action, or one name")
            yield term.space, known[:2]


def _class_of(representation: Representation, axis: str) -> SymmetryClass:
    return smallest_class(torch.stack([generator[axis] for generator in representation.generators(1.0)]))


def _orthogonal(representation: Representation, axis: str) -> bool:
    return _class_of(representation, axis) in _ORTHOGONAL


_ORTHOGONAL = (
    SymmetryClass.PERMUTATION,
    SymmetryClass.SIGNED,
    SymmetryClass.ORTHOGONAL_ONES,
    SymmetryClass.ORTHOGONAL,
)


def _check_ends(
    symmetry: SymmetryGraph, at_ends: Mapping[int, tuple[str, bool]], classes: Mapping[str, SymmetryClass]
) -> None:
    for space, (axis, _) in at_ends.items():
        end = symmetry.spaces[space]
        if not _admits(end, classes[axis]):
            raise UsageError(
                f"the group acts on {axis!r} by {classes[axis]} maps, and the model admits {end.group} there",
                cause="; ".join(dict.fromkeys(f"{reason.reason} ({reason.where})" for reason in end.evidence[:2])),
                remedy="act on another axis, or choose a model whose operators commute with the action",
            )


def _admits(space: Space, asked: SymmetryClass) -> bool:
    # Signs and scales of a space with several free ones are not one matrix.
    plain = space.is_matrix or asked is SymmetryClass.PERMUTATION
    return asked in space.bound and plain


def _free(symmetry: SymmetryGraph, ends: Sequence[End], at_ends: Collection[int]) -> list[Space]:
    """The spaces between the ends."""
    still = {leaf.space for end in ends for term in symmetry.terms[end.tensor] for leaf in leaves(term)}
    still |= {stack.space for stack in symmetry.stacks} | {*at_ends}
    still |= {leaf.space for form in symmetry.forms for own in form.terms for term in own for leaf in leaves(term)}
    return [space for space in symmetry.active if space.id not in still]


def _choices_of(
    free: Sequence[Space], representation: Representation, classes: Mapping[str, SymmetryClass]
) -> dict[int, list[str]]:
    """What each space between can carry, what has every other one inside first; without those where nothing moves."""
    asked = _asked(representation, free)
    order = 0 if representation.continuous else len(generated(representation.generators(1.0)))
    choices_of = {}
    for space in free:
        choices = [asked[space.id]] if space.id in asked else _choices(representation)
        fits = [choice for choice in choices if _fits(space, choice, representation, classes, order)]
        if not fits and space.id in asked and asked[space.id] != TRIVIAL:
            what = f"{space} cannot carry {asked[space.id]}"
            raise UsageError(what, cause=_why_not(space, asked[space.id]), remedy=f"leave it {TRIVIAL}")
        if fits:
            choices_of[space.id] = fits if space.id in asked else [*fits, TRIVIAL]
    return choices_of


def _chosen(
    symmetry: SymmetryGraph,
    ends: Sequence[End],
    representation: Representation,
    at_ends: Mapping[int, tuple[str, bool]],
    choices_of: Mapping[int, Sequence[str]],
) -> dict[int, str]:
    """Of what spaces can carry that which leaves the most blocks of weights alive, space by space.

    Numbers that the group does not move reach no vectors: scalars that carried vectors would be dead.
    """
    fastest = {space: max(choices, key=representation.frequency) for space, choices in choices_of.items()}
    group = generated(representation.generators(tau / _steps(symmetry, representation, at_ends, fastest)))
    fixed = {space: character(_elements(group.on(axis), dual)) for space, (axis, dual) in at_ends.items()}
    possible = {
        space: {what: character(_hidden_elements(symmetry.spaces[space], group, what)) for what in choices}
        for space, choices in choices_of.items()
    }
    given = {end.tensor for end in ends}
    weights = (axes for name, axes in symmetry.terms.items() if name not in given)
    chosen = longest_lasting(blocks(weights), fixed, possible)
    return {space: what for space, what in chosen.items() if what != TRIVIAL}


def _asked(representation: Representation, free: Sequence[Space]) -> dict[int, str]:
    asked: dict[int, str] = {}
    for pattern, what in representation.hidden.items():
        known = (REGULAR, TRIVIAL, *representation.acting)
        if what not in known:
            raise UsageError(f"{what!r} is nothing that a space carries", remedy=near(what, known))
        matching = [space for space in free if fnmatchcase(space.name, pattern)]
        if not matching:
            names = [space.name for space in free]
            raise UsageError(f"{pattern!r} names no space between the ends", remedy=near(pattern, names))
        asked |= {space.id: what for space in matching}
    return asked


def _choices(representation: Representation) -> tuple[str, ...]:
    """What a space carries if nobody says: the regular representation has every other one of a finite group inside."""
    return tuple(representation.acting) if representation.continuous else (REGULAR, *representation.acting)


def _fits(
    space: Space, what: str, representation: Representation, classes: Mapping[str, SymmetryClass], order: int
) -> bool:
    """Whether a space can carry that; `order` is that of a finite group, else 0."""
    if what == TRIVIAL:
        return False
    if what == REGULAR:
        return bool(order) and space.size >= order and SymmetryClass.PERMUTATION in space.bound and not space.fibre
    return space.size % representation.acting[what] == 0 and _admits(space, classes[what])


def _why_not(space: Space, what: str) -> str:
    return f"its class is {space.group}, its size {space.size}" + (", it differs by position" if space.fibre else "")


# -- elements ------------------------------------------------------------------------------------------------------


def _steps(
    symmetry: SymmetryGraph,
    representation: Representation,
    at_ends: Mapping[int, tuple[str, bool]],
    hidden: Mapping[int, str],
) -> int:
    """By how many equal angles the mean over a circle is exact: more than the frequencies of any tensor add up to."""
    speed = {space: representation.frequency(axis) for space, (axis, _) in at_ends.items()}
    speed |= {space: representation.frequency(what) for space, what in hidden.items()}
    return (
        max((sum(speed.get(leaf.space, 0) for leaf in _all(axes)) for axes in symmetry.terms.values()), default=0) + 1
    )


def _all(axes: Sequence[Term]) -> Iterator[Leaf]:
    for term in axes:
        yield from leaves(term)


def _hidden_elements(space: Space, group: FiniteGroup, what: str) -> list[Element]:
    if what == REGULAR:
        return [Element(index=index) for index in group.regular(space.size)]
    if what == TRIVIAL:
        return [Element(index=torch.arange(space.size))] * len(group)
    matrices = group.on(what)
    copies = space.size // matrices.shape[-1]
    return _elements(torch.stack([torch.kron(torch.eye(copies).double(), matrix) for matrix in matrices]), dual=False)


def _elements(matrices: Tensor, dual: bool) -> list[Element]:
    if smallest_class(matrices) is SymmetryClass.PERMUTATION:
        return [Element(index=index) for index in matrices.argmax(-1)]
    chosen = torch.linalg.inv(matrices).mT if dual else matrices
    orthogonal = smallest_class(matrices) in _ORTHOGONAL
    return [Element.rotation(matrix) if orthogonal else Element(matrix=matrix) for matrix in chosen]


def _mean(
    symmetry: SymmetryGraph, name: str, elements: Sequence[GroupElement], generators: Sequence[int]
) -> OrbitMean | None:
    if name in symmetry.gain_sites:
        return gain_mean(symmetry, name, elements, generators)
    return orbit_mean(symmetry.terms[name], elements, generators)


def _in_fibres(symmetry: SymmetryGraph, space: int, element: Element) -> Element:
    """The same element at every position of the fibre."""
    sizes = symmetry.fibre_sizes(symmetry.spaces[space])
    return (
        element.mapped(lambda part, lead: part.expand(*part.shape[:lead], *sizes, *part.shape[lead:]))
        if sizes
        else element
    )
