"""Parameters that a model reads in another form than they are stored in; the group acts on what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.ir import resized
from symgraph.symmetry.terms import Term


@dataclass(frozen=True, slots=True)
class Form:
    """What is `read` of parameters that are `stored`, before anything else is done with them.

    Several that are stored are put together along an `axis`, each as long as `sizes` says. One that is read as several
    is cut along it into parts of these sizes, those of size one without it. One that is read as one has neighbouring
    axes of these sizes, from this one on, as one axis. `terms` are those of what is read.
    """

    stored: tuple[str, ...]
    read: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]
    terms: tuple[tuple[Term, ...], ...] = ()

    @property
    def parts(self) -> bool:
        """Whether one parameter is read as several."""
        return len(self.read) > 1

    @property
    def joins(self) -> bool:
        """Whether several parameters are read as one."""
        return len(self.stored) > 1

    def of(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What is read, of what is stored."""
        first, axis = tensors[0], self.axis
        if self.joins:
            return (torch.cat(list(tensors), axis),)
        if not self.parts:
            return (first.flatten(axis, axis + len(self.sizes) - 1),)
        # One entry long, it is no axis.
        return [part.squeeze(axis) for part in torch.split(first, list(self.sizes), axis)]

    def back(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What is stored, of what is read."""
        first, axis = tensors[0], self.axis
        if self.joins:
            return torch.split(first, list(self.sizes), axis)
        if not self.parts:
            return (first.reshape(resized(first.shape, axis, *self.sizes)),)
        parts = (part.unsqueeze(axis) if size == 1 else part for part, size in zip(tensors, self.sizes, strict=True))
        return (torch.cat(list(parts), axis),)

    def shapes(self, stored: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shapes of what is read, of that of the first that is stored."""
        if self.joins:
            return [resized(stored, self.axis, sum(self.sizes))]
        if not self.parts:
            return [(*stored[: self.axis], prod(self.sizes), *stored[self.axis + len(self.sizes) :])]
        return [self.of_part(stored, size) for size in self.sizes]

    def of_part(self, stored: tuple[int, ...], size: int) -> tuple[int, ...]:
        """The shape of a part of this size, cut from one of this shape: without the axis where it is one entry long."""
        return resized(stored, self.axis, size) if size > 1 else resized(stored, self.axis)

    def fits(self, stored: Sequence[tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes can be read so."""
        first, end = stored[0], self.axis + len(self.sizes)
        if not 0 <= self.axis < len(first):
            return False
        if self.joins:
            return [*stored] == [resized(first, self.axis, size) for size in self.sizes]
        return sum(self.sizes) == first[self.axis] if self.parts else first[self.axis : end] == self.sizes

    def axis_read(self, axis: int, part: int = 0) -> int | None:
        """Where an axis of what is stored is in a part of what is read; None for one that is another there."""
        if not self.joins and not self.parts:
            inside = range(self.axis, self.axis + len(self.sizes))
            return None if axis in inside else axis - (len(inside) - 1) * (axis > self.axis)
        dropped = self.parts and self.sizes[part] == 1
        return None if axis == self.axis else axis - (dropped and axis > self.axis)


@dataclass(frozen=True)
class Reading:
    """The forms of all parameters, each of what those before it read."""

    forms: tuple[Form, ...]

    @cached_property
    def form_of(self) -> dict[str, Form]:
        """The form that a tensor is read in."""
        return {name: form for form in self.forms for name in form.stored}

    @cached_property
    def source_of(self) -> dict[str, Form]:
        """The form by which something is read."""
        return {name: form for form in self.forms for name in form.read}

    def stored(self, read: str) -> tuple[str, ...]:
        """The tensors that something which is read is made of."""
        form = self.source_of.get(read)
        return (read,) if form is None else tuple(own for name in form.stored for own in self.stored(name))

    def read(self, stored: str) -> tuple[str, ...]:
        """What is read of a tensor."""
        form = self.form_of.get(stored)
        return (stored,) if form is None else tuple(own for name in form.read for own in self.read(name))

    def of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state with what is read in the place of what is stored.

        Raises:
            UsageError: some that are read as one are there, and others of them are not.
        """
        found = dict(state)
        for form in self.forms:
            missing = [name for name in form.stored if name not in found]
            if len(missing) == len(form.stored):
                continue
            if missing:
                there = next(name for name in form.stored if name in found)
                remedy = "give all tensors that the group acts on together"
                raise UsageError(f"`{missing[0]}` is missing beside `{there}`", remedy=remedy)
            found.update(zip(form.read, form.of([found.pop(name) for name in form.stored]), strict=True))
        return found

    def back(self, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of which this is read."""
        found = dict(read)
        for form in reversed(self.forms):
            if form.read[0] in found:
                found.update(zip(form.stored, form.back([found.pop(name) for name in form.read]), strict=True))
        return found

    def one(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """Something that is read of a state."""
        form = self.source_of.get(name)
        if form is None:
            return state[name]
        return form.of([self.one(stored, state) for stored in form.stored])[form.read.index(name)]

    def changed(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of what is read, with all that is made of what is stored beside it, that which is no longer the same."""
        moved = {self.stored(name) for name, tensor in after.items() if tensor is not before.get(name)}
        touched = {name for names in moved for name in names}
        return {name: tensor for name, tensor in after.items() if not touched.isdisjoint(self.stored(name))}

    def terms(self, stored: Mapping[str, tuple[Term, ...]]) -> dict[str, tuple[Term, ...]]:
        """Terms of what is read, with those of what is read as it is stored."""
        read = {name: own for form in self.forms for name, own in zip(form.read, form.terms, strict=True)}
        every = {**stored, **read}
        return {name: own for name, own in every.items() if name not in self.form_of}

    def shapes(self, stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of what is stored, and of what is read of that."""
        found = dict(stored)
        for form in self.forms:
            found.update(zip(form.read, form.shapes(found[form.stored[0]]), strict=True))
        return found
