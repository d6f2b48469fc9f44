"""The data of a symmetry graph and what can be asked of it: spaces, frames, the terms of every parameter, families."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor

from symgraph.errors import UsageError, near, shorten
from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import TOP, Bound, SymmetryClass, down, group_of, maps, named
from symgraph.groups.lattice import classes as known_classes
from symgraph.groups.map_class import MapClass
from symgraph.io.shown import Shown
from symgraph.ir import Graph
from symgraph.symmetry.forms import Form, Reading
from symgraph.symmetry.found_families import Families
from symgraph.symmetry.offsets import Offset, Raised
from symgraph.symmetry.terms import Leaf, Term, leaves


@dataclass(frozen=True, slots=True)
class Reason:
    """One piece of evidence: a rule lowered the bound at a place in the user's model."""

    bound: Bound
    rule: str
    where: str
    reason: str


def meet(evidence: Iterable[Reason]) -> Bound:
    """What all of the evidence admits."""
    bound = TOP
    for reason in evidence:
        bound = bound & reason.bound
    return bound


@dataclass(frozen=True, slots=True, repr=False)
class Space(Shown):
    """An index set with one basis, and the group that acts on it.

    `fibre` lists the spaces by whose position the element may differ (heads, for a query-key space); `scales` and
    `signs` count the free scale and sign vectors next to the permutation.
    """

    id: int
    name: str
    size: int
    group: SymmetryClass
    bound: Bound
    fibre: tuple[int, ...] = ()
    scales: int = 0
    signs: int = 0
    layout: str = ""
    evidence: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.size}, {self.group}"

    @property
    def rigid(self) -> bool:
        """Whether only the identity acts."""
        return self.group is SymmetryClass.IDENTITY

    @property
    def maps(self) -> MapClass:
        """What is known about its class."""
        return maps(self.group)

    @property
    def is_matrix(self) -> bool:
        """Whether elements are dense matrices rather than index vectors with scales and signs."""
        return self.maps.dense


@dataclass(frozen=True, slots=True)
class Frame:
    """A family of axes that carry the same element: `scale` and `sign` are exponents over the space's generators.

    `flip` says that the frame's orientation is dual to its space's.
    """

    id: int
    space: int
    flip: bool
    scale: tuple[int, ...] = ()
    sign: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AbsorbedGain:
    """A gain that is one in the canonical gauge; `forward` means absorbed into readers, else into writers.

    `flip` says that the value it multiplies has the frame's dual orientation, `start` with which of its entries the
    part begins that multiplies this frame, the parts being one after the other. With frames `inside` an entry is for a
    position on this frame and on those, which stand beside it wherever it stands: heads and the inside of each.
    """

    parameter: str
    frame: int
    flip: bool
    forward: bool
    start: int = 0
    inside: tuple[int, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """All frames that it multiplies together."""
        return (self.frame, *self.inside)


@dataclass(frozen=True, slots=True)
class Uncovered:
    """An operator that no rule covers, and where.

    `idle` says that everything it reads is rigid for other reasons, so that no rule would change anything.
    """

    operator: str
    where: str
    shapes: tuple[str, ...]
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Tensors of branches that can change places: the i-th belongs to position i of a space.

    The group acts on them side by side, along that space in front of their own axes.
    """

    space: int
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the tensors are called together."""
        return f"{self.members[0]} and {len(self.members) - 1} like it"

    def whole(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensors side by side."""
        return torch.stack(list(tensors))

    def apart(self, whole: Tensor) -> Sequence[Tensor]:
        """The tensors of such a whole."""
        return whole.unbind(0)


@dataclass(frozen=True)
class Structure(Families):
    """Spaces, the terms of every parameter and buffer, and the families without a space.

    `values` has the terms of every other value of the graph (of its first result), for whoever reads activations; it
    is no part of the fingerprint, and JSON leaves it out.
    `offsets` are numbers that the model adds to a parameter before any use: the group acts on the sum.
    `stacks` are parameters and buffers of exchangeable branches, `twins` the same of all their values, `partial`
    the values that are sums of some branches alone (both no part of the fingerprint); spaces on stacks are fibred over
    the branches. `forms` say what is read of parameters that the model reads in another form: the group acts on
    that, and families speak of it.
    """

    graph: Graph
    spaces: tuple[Space, ...]
    frames: tuple[Frame, ...]
    terms: dict[str, tuple[Term, ...]]
    gains: tuple[AbsorbedGain, ...] = ()
    values: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    offsets: dict[str, Offset] = field(default_factory=dict)
    stacks: tuple[Stack, ...] = ()
    twins: tuple[Stack, ...] = ()
    partial: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()
    uncovered: tuple[Uncovered, ...] = ()
    notes: tuple[str, ...] = ()
    rules_hash: str = ""

    @cached_property
    def by_name(self) -> dict[str, Space]:
        """Spaces under their names."""
        return {space.name: space for space in self.spaces}

    def space(self, name: str) -> Space:
        """The space of that name.

        Raises:
            UsageError: there is none; near names are suggested.
        """
        if name in self.by_name:
            return self.by_name[name]
        active = f"there is {shorten(space.name for space in self.active)}"
        raise UsageError(f"no space is called {name!r}", remedy=near(name, self.by_name, active, count=3, cutoff=0.4))

    def matching(self, pattern: str) -> tuple[Space, ...]:
        """The spaces whose names fit a pattern: * stands for any text.

        Raises:
            UsageError: there are none; near names are suggested.
        """
        return tuple(space for space in self.spaces if fnmatchcase(space.name, pattern)) or (self.space(pattern),)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of spaces, frames and terms: equal for models between which alignments can be exchanged."""
        parts = (self.spaces_plain(), self.frames, sorted(self.terms.items()), self.gains, self.constants, self.offsets)
        return sha256(repr((*parts, *(some for some in (self.stacks, self.forms) if some))).encode()).hexdigest()

    def spaces_plain(self) -> tuple[tuple[object, ...], ...]:
        """Spaces without their evidence, as plain tuples."""
        return tuple(
            (space.name, space.size, str(space.group), space.fibre, space.scales, space.signs, space.layout)
            for space in self.spaces
        )

    @cached_property
    def _frames(self) -> dict[int, Frame]:
        return {frame.id: frame for frame in self.frames}

    def frame(self, id: int) -> Frame:
        """The frame with this number."""
        return self._frames[id]

    @cached_property
    def active(self) -> tuple[Space, ...]:
        """Spaces on which more than the identity acts, outer ones before those fibred over them."""
        order: list[Space] = []
        done: set[int] = set()

        def visit(space: Space) -> None:
            if space.id in done:
                return
            done.add(space.id)
            for outer in space.fibre:
                visit(self.spaces[outer])
            if not space.rigid:
                order.append(space)

        for space in self.spaces:
            visit(space)
        return tuple(order)

    @cached_property
    def parameters_of(self) -> dict[int, tuple[str, ...]]:
        """For every space, the parameters and buffers with an axis on it, by the names that they are stored under."""
        return {
            space: tuple(dict.fromkeys(name for read in names for name in self.reading.stored(read)))
            for space, names in self.read_on.items()
        }

    @cached_property
    def read_on(self) -> dict[int, tuple[str, ...]]:
        """For every space, what is read with an axis on it."""
        holders = _holders(self.read_terms, lambda leaf: leaf.space)
        for stack in self.stacks:
            holders[stack.space].update(dict.fromkeys(stack.members))
        return {space.id: tuple(holders[space.id]) for space in self.spaces}

    @cached_property
    def stack_of(self) -> dict[str, Stack]:
        """The stack that a tensor belongs to, if it belongs to one."""
        return {name: stack for stack in self.stacks for name in stack.members}

    @cached_property
    def reading(self) -> Reading:
        """What is read of the parameters that are read in another form."""
        return Reading(self.forms)

    @cached_property
    def read_terms(self) -> dict[str, tuple[Term, ...]]:
        """Terms of what is read: of tensors as they are stored, or of what is read in their place."""
        return self.reading.terms(self.terms)

    def terms_of(self, name: str) -> tuple[Term, ...]:
        """Terms of something that is read, or of a tensor: those of what is read of it, where that is one."""
        read = self.reading.read(name)
        return self.read_terms[read[0]] if len(read) == 1 else self.terms[name]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of parameters and buffers, and of what is read of them."""
        return self.reading.shapes({name: node.shape for name, node in self.graph.state.items()})

    def acting_names(self, stored: str) -> tuple[str, ...]:
        """The names among `acting_terms` of what the group acts on of a tensor."""
        names = ((name, self.stack_of.get(name)) for name in self.reading.read(stored))
        return tuple(name if stack is None else stack.name for name, stack in names)

    def members_of(self, acting: str) -> tuple[str, ...]:
        """The tensors that one of `acting_terms` is made of."""
        stack = next((stack for stack in self.stacks if stack.name == acting), None)
        names = (acting,) if stack is None else stack.members
        return tuple(dict.fromkeys(own for name in names for own in self.reading.stored(name)))

    def beside(self, stored: str) -> tuple[str, ...]:
        """The tensors that the group acts on together with one, with it."""
        found = dict.fromkeys(own for name in self.acting_names(stored) for own in self.members_of(name))
        return tuple(found)

    @cached_property
    def acting_terms(self) -> dict[str, tuple[Term, ...]]:
        """Terms of what the group acts on: what is read by its names, branches together by a common one."""
        terms = {name: axes for name, axes in self.read_terms.items() if name not in self.stack_of}
        for stack in self.stacks:
            terms[stack.name] = (self.branches(stack), *self.read_terms[stack.members[0]])
        return terms

    @cached_property
    def acting_parameters(self) -> frozenset[str]:
        """The names among `acting_terms` that are parameters, or several of them together."""
        return frozenset(own for name in self.graph.parameters for own in self.acting_names(name))

    def branches(self, stack: Stack) -> Leaf:
        """The axis along which the tensors or values of branches stand side by side."""
        return Leaf(stack.space, self._first_frame[stack.space], False, len(stack.members))

    @cached_property
    def _first_frame(self) -> dict[int, int]:
        """One frame of each space, for axes that no tensor has."""
        return {frame.space: frame.id for frame in reversed(self.frames)}

    @cached_property
    def acting_on(self) -> dict[int, tuple[str, ...]]:
        """For every space, the names among `acting_terms` with an axis on it."""
        holders = _holders(self.acting_terms, lambda leaf: leaf.space)
        return {space.id: tuple(holders[space.id]) for space in self.spaces}

    def stacked(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is read, with tensors of branches as one, under their common name."""
        tensors = {name: tensor for name, tensor in state.items() if name not in self.stack_of}
        for stack in self.stacks:
            if all(name in state for name in stack.members):
                tensors[stack.name] = stack.whole([state[name] for name in stack.members])
        return tensors

    def unstacked(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is read, with every tensor under its own name again."""
        tensors = dict(state)
        for stack in self.stacks:
            if stack.name in tensors:
                tensors.update(zip(stack.members, stack.apart(tensors.pop(stack.name)), strict=True))
        return tensors

    @cached_property
    def _by_frame(self) -> dict[int, dict[str, None]]:
        return _holders(self.read_terms, lambda leaf: leaf.frame)

    def parameters_of_frames(self, frames: Iterable[int]) -> tuple[str, ...]:
        """What is read with an axis in one of the frames."""
        return tuple(dict.fromkeys(name for frame in frames for name in self._by_frame.get(frame, {})))

    def absorbed_on(self, space: Space) -> list[AbsorbedGain]:
        """The absorbed gains that stand on a space."""
        return [gain for gain in self.gains if space.id in {self.frame(frame).space for frame in gain.frames}]

    @cached_property
    def gain_sites(self) -> dict[str, tuple[AbsorbedGain, ...]]:
        """Absorbed gains by parameter (one parameter may multiply at several places)."""
        sites: dict[str, tuple[AbsorbedGain, ...]] = {}
        for gain in self.gains:
            sites[gain.parameter] = (*sites.get(gain.parameter, ()), gain)
        return sites

    def is_positive(self, name: str) -> bool:
        """Whether a positive function is read of a parameter."""
        return name in self.offsets and self.offsets[name].is_positive

    @property
    def is_plain(self) -> bool:
        """Whether the group acts on parameters as they are stored."""
        return not (self.offsets or self.forms)

    def shifted(self, state: Mapping[str, Tensor], sign: float = 1.0) -> dict[str, Tensor]:
        """What is read of a state, on which the group acts linearly; with sign -1 the state again."""
        given = self.reading.of(state) if sign > 0 else state
        found = {
            name: self.offsets[name].added(tensor, sign) if name in self.offsets else tensor
            for name, tensor in given.items()
        }
        return found if sign > 0 else self.reading.back(found)

    def raised(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state, and what `shifted` gives of it, each tensor made when it is asked for."""
        return state if self.is_plain else Raised(state, self.offsets, self.reading)

    def fibre_sizes(self, space: Space) -> tuple[int, ...]:
        """Sizes of the spaces in the fibre, in order."""
        return tuple(self.spaces[outer].size for outer in space.fibre)

    def index_set(self, space: Space) -> IndexSet:
        """What the class of a space has to know of it."""
        return IndexSet(space.size, space.layout or "halves", self.fibre_sizes(space), space.scales, space.signs)

    def within(self, *classes: SymmetryClass | str) -> Self:
        """The same graph with a smaller group: every space admits no more than what lies inside one of the classes.

        For comparisons, such as permutations alone where rotations would be admitted. Families without a space stay.

        Raises:
            UsageError: there is no class of that name.
        """
        inside = down(*map(_named, classes))
        spaces = tuple(map(partial(_restricted, bound=inside), self.spaces))
        frames = tuple(_exponents(frame, self.spaces[frame.space], spaces[frame.space]) for frame in self.frames)
        return replace(self, spaces=spaces, frames=frames)


def _named(name: str) -> SymmetryClass:
    known = named(name)
    if known is None:
        raise UsageError(
            f"there is no class {name!r}", remedy=near(name, known_classes(), f"one of {', '.join(known_classes())}")
        )
    return known


def _restricted(space: Space, bound: Bound) -> Space:
    group = group_of(down(space.group) & bound)
    scales, signs = maps(group).scales, maps(group).signs
    if not space.is_matrix:
        scales, signs = min(scales, 1) * space.scales, min(signs, 1) * space.signs
    return replace(space, bound=space.bound & bound, group=group, scales=scales, signs=signs)


def _exponents(frame: Frame, before: Space, after: Space) -> Frame:
    """All frames of a space of matrices carry one element, so also its scales and signs where matrices are no more."""
    if not before.is_matrix:
        return frame
    return replace(frame, scale=(1,) * after.scales, sign=(1,) * after.signs)


def _holders(terms: Mapping[str, tuple[Term, ...]], key: Callable[[Leaf], int]) -> dict[int, dict[str, None]]:
    """The names of tensors by their leaves, each once and in order."""
    holders: dict[int, dict[str, None]] = defaultdict(dict)
    for name, axes in terms.items():
        for leaf in (leaf for term in axes for leaf in leaves(term)):
            holders[key(leaf)][name] = None
    return holders
