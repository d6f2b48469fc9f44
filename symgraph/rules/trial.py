"""One operator, or one spelling of a pattern, with constants and operands of a world, transformed and run."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any

import torch

from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps, scaled
from symgraph.groups.lattice import TOP, Bound, SymmetryClass, down, maps
from symgraph.groups.map_class import Sample
from symgraph.ir import Device, DType, Opaque
from symgraph.rules.arrange import Arrangement
from symgraph.rules.joined import cut_shape, joined_shape, positions
from symgraph.rules.pattern import Pattern
from symgraph.rules.schema import Rule
from symgraph.rules.signature import FIXES_ONES, AxisToken, Operand, Tokens
from symgraph.tracing.arguments import call
from symgraph.tracing.operators import is_wide
from symgraph.tracing.worlds import GUARD, PLAIN, World, bounded, opened

# What torch raises where an operator does not take the operands it is given.
REFUSALS = (RuntimeError, IndexError, TypeError, ValueError, KeyError, OverflowError, AssertionError)

_WHOLE = {
    "bool": down(SymmetryClass.SEMI_PERMUTATION),
    "int": down(SymmetryClass.SEMI_PERMUTATION, SymmetryClass.SIGNED),
}

Values = dict[str, torch.Tensor]
Elements = dict[str, Sample]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an operand holds: "float", "mask" (numbers, or minus infinity), "bool", "complex" or "int".

    `limit` bounds integers from above: the name of an axis, or a number; none where it is empty.
    """

    kind: str = "float"
    limit: str = ""


@dataclass(frozen=True)
class Trial:
    """A rule, the operator or spelling it is tried on, shapes, further arguments, and the world of the operands.

    `same` names for a repeated operand the first one that is the same value, and `merged` the axes of the rule that one
    token stands for on that account; `assumed` has facts about operands; `positive` are those that the operator may
    need above zero, and `bounded` those between -1 and 1; `keep` are axes whose size it reads by itself. `literal` asks
    for all that the rule says, else for what inference makes of it at this call.
    """

    rule: Rule
    target: str | Pattern
    operands: tuple[Operand, ...]
    tokens: Arrangement
    sizes: Mapping[str, int]
    given: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Drawn] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    keep: frozenset[str] = frozenset()
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    literal: bool = False
    world: World = PLAIN

    def __str__(self) -> str:
        return str(self.target) if isinstance(self.target, str) else self.target.text

    def at(self, world: World) -> Trial:
        """The same trial in another world."""
        return replace(self, world=world)

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers that depend on the rule, the operator and the world alone."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.rule.rule}:{self}:{self.world.name}".encode()))

    # -- claims ------------------------------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The operands of the signature for which a number stands."""
        operands = self.rule.signature.operands if self.rule.signature else ()
        held = {operand.name for operand in self.operands}
        return tuple(
            operand.name
            for operand in operands
            if operand.scalar and operand.name not in held and self._number(operand.name) is not None
        )

    def _number(self, name: str) -> float | None:
        value = self.given.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def core(self) -> tuple[str, ...]:
        """The operands less those that gain and bias of the rule are."""
        return tuple(operand.name for operand in self.operands if operand.name not in (self.rule.gain, self.rule.adds))

    @cached_property
    def claims(self) -> dict[str, Bound]:
        """The bound of every axis that the rule makes a claim about."""
        marks: dict[str, set[str]] = {}
        for name, tokens in self.tokens[0].items():
            for token in tokens:
                if token.claimed:
                    marks.setdefault(token.name, set()).update({token.mark} if self._repeated(name) else ())
        kept = {token.name for ts in self.tokens[1] for token in ts}
        used = (name for name in marks if self.literal or name in kept or not AxisToken(name).batch)
        named = {name: self._bound(name, marks[name]) for name in used}
        return {name: bound for name, bound in named.items() if self.sizes[name] > 1}

    def _repeated(self, name: str) -> bool:
        return name in self.same or name in self.same.values()

    def axes(self, name: str) -> tuple[str, ...]:
        """The axes of the rule that a token stands for."""
        return self.merged.get(name, (AxisToken(name).axis,))

    def _bound(self, name: str, marks: set[str]) -> Bound:
        bound = reduce(operator.and_, (self.rule.admits[axis] for axis in self.axes(name)))
        if name[0] in ".*":
            bound = self._batch_bound(name, bound)
        for operand in (holder for holder in self.tokens[0] if self._has(holder, name) and not self.literal):
            # What is no number cannot be mixed; of whole numbers only the signs can change.
            bound &= _WHOLE.get(self.drawn.get(operand, Drawn()).kind, bound)
        if len(marks) > 1:
            # One tensor carries the axis in several ways, which must agree.
            bound &= down(SymmetryClass.SEMI_PERMUTATION) if "~" in marks else down(SymmetryClass.ORTHOGONAL)
        return bound

    def _batch_bound(self, name: str, bound: Bound) -> Bound:
        """What inference makes of a pointwise or batch axis: see `SignatureEquations`."""
        holding = [operand for operand in self.core if self._has(operand, name)]
        missing = len(holding) < len(self.core) and not self.literal
        if not self.literal and self.rule.product and len(holding) == 1 and self.rule.product.get(holding[0], 1) == 1:
            bound = TOP
        ones = missing or (name[0] == "*" and any(self._number(number) for number in self.numbers))
        return bound & FIXES_ONES if ones and self.rule.broadcast == "ones" else bound

    def holds(self, axis: str) -> bool:
        """Whether some operand has this axis."""
        return any(self._has(operand.name, axis) for operand in self.operands)

    def _has(self, operand: str, axis: str) -> bool:
        return any(token.name == axis for token in self.tokens[0].get(operand, ()))

    # -- values ------------------------------------------------------------------------------------------------

    @cached_property
    def values(self) -> Values:
        """Operands of the world; no infinity that comes out again, and those for which there is a value."""
        values: Values = {}
        for operand in self.operands:
            first = self.same.get(operand.name, operand.name)
            if first not in values:
                shape = [self.sizes[token.name] for token in self.tokens[0][operand.name]]
                values[first] = self._assuming(first, self._random(first, shape))
            values[operand.name] = values[first]
        infinite = [name for name, value in values.items() if value.is_floating_point() and bool(value.isinf().any())]
        if infinite and not all(bool(result.isfinite().all()) for result in self._tried(values)):
            values |= {name: values[name].nan_to_num(0.0, 0.0, 0.0) for name in infinite}
        if self.positive and any(bool(result.isnan().any()) for result in self._tried(values)):
            values |= {name: values[name].abs() + GUARD for name in self.positive if name in values}
        if self.bounded and any(bool(result.isnan().any()) for result in self._tried(values)):
            values |= {name: values[name] / (1.0 + values[name].abs()) for name in self.bounded if name in values}
        return values

    def _tried(self, values: Values) -> list[torch.Tensor]:
        try:
            return self.run(values)
        except REFUSALS:
            return []

    def _random(self, name: str, shape: list[int]) -> torch.Tensor:
        drawn, generator = self.drawn.get(name, Drawn()), self.generator
        if drawn.kind == "bool":
            return self.world.masks(shape, generator)
        if drawn.kind == "int":
            limit = int(drawn.limit) if drawn.limit.isdigit() else self.sizes.get(drawn.limit, 0)
            return self.world.integers(shape, generator, limit)
        values = self.world.floats(shape, generator, self._limits)
        if drawn.kind == "complex":
            return torch.complex(values, self.world.floats(shape, generator, self._limits))
        return bounded(values, self.world, generator) if drawn.kind == "mask" else values

    def _assuming(self, name: str, values: torch.Tensor) -> torch.Tensor:
        fact = self.assumed.get(name)
        if fact == "distinct" and not self.world.plain:
            return torch.randn(values.shape, generator=self.generator, dtype=torch.float64)
        return opened(values) if fact == "open" else values

    @cached_property
    def _limits(self) -> list[float]:
        """The numbers of the call that operands can be below and above."""
        numbers = [self._number(name) for name in self.given]
        return [number for number in numbers if number is not None and GUARD < abs(number) < 1 / GUARD]

    # -- running -----------------------------------------------------------------------------------------------

    def arguments(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """The further arguments; the name of an axis stands for its size."""
        many = positions(str(self)) or 1
        return {name: filled(value, sizes, many) for name, value in self.given.items()}

    def run(self, values: Mapping[str, torch.Tensor], sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
        """Results in float64."""
        sizes = self.sizes if sizes is None else sizes
        given = {name: typed(name, value) for name, value in self.arguments(sizes).items()}
        if isinstance(self.target, Pattern):
            result = self.target.evaluate({**self._ones, **given, **values})
        else:
            result = call(self.target, {**given, **self.joined(values)})
        results = result if isinstance(result, list | tuple) else [result]
        return list(self._cut([result if result.is_complex() else result.double() for result in results], sizes))

    def joined(self, values: Mapping[str, torch.Tensor]) -> Values:
        """The operands with the axes that the operator reads."""
        of = {operand.name: operand for operand in self.operands}
        return {
            name: value.reshape(joined_shape(of[name], tuple(value.shape)))
            for name, value in values.items()
            if name in of
        }

    def _cut(self, results: list[torch.Tensor], sizes: Mapping[str, int]) -> Iterator[torch.Tensor]:
        """The results that the signature speaks about, with an axis for every token."""
        signature = self.rule.signature
        for number, tokens in enumerate(signature.results if signature else ()):
            joins = signature.result_joins(number) if signature else ()
            shape = cut_shape(tokens, joins, tuple(results[number].shape), sizes) if joins else results[number].shape
            yield results[number].reshape(shape or results[number].shape)

    @property
    def _ones(self) -> Values:
        """What stands for a gain that is left out of a pattern."""
        return {self.rule.gain: torch.ones((), dtype=torch.float64)} if self.rule.gain else {}

    @cached_property
    def fits(self) -> bool:
        """Whether the operator takes these operands and returns what the signature says."""
        results = self._tried(self.values)
        return len(results) == len(self.tokens[1]) and all(
            result.dim() == len(ts)
            and all(self.sizes.get(token.name, size) == size for token, size in zip(ts, result.shape, strict=True))
            for result, ts in zip(results, self.tokens[1], strict=True)
        )

    # -- elements ----------------------------------------------------------------------------------------------

    def sample(self, classes: Mapping[str, SymmetryClass]) -> dict[str, Elements]:
        """Per operand (and "" for the result) the elements of its axes: one and the same, but under a product law."""
        on = {name: IndexSet(self.sizes[name], self.rule.layout or "halves") for name in classes}
        kinds = {name: maps(symmetry_class) for name, symmetry_class in classes.items()}
        drawn = {name: kind.sample(on[name], self.generator) for name, kind in kinds.items()}
        if not self.rule.product:
            return dict.fromkeys(("", *self.values), drawn)
        own_scales = {
            name: kind for name, kind in kinds.items() if (kind.scales or kind.signs) and isinstance(kind, IndexMaps)
        }
        result = {name: torch.ones(element.co.shape[0], dtype=torch.float64) for name, element in drawn.items()}
        elements: dict[str, Elements] = {}
        # Where the result is only permuted, the last operand undoes what the others do.
        closing = {name: [o for o in self.core if self._has(o, name)][-1] for name in self._only_permuted}
        # What is added at the end is in the frame of the result.
        for name in (operand for operand in self.values if operand != self.rule.adds):
            own = dict(drawn)
            for axis, kind in own_scales.items():
                if not self._has(name, axis):
                    continue
                if name in self.same:
                    own[axis] = elements[self.same[name]][axis]
                else:
                    closes = closing.get(axis) == name
                    scale = 1.0 / result[axis] if closes else kind.random_scales(on[axis], self.generator)
                    own[axis] = scaled(drawn[axis].bare, scale)
                power = self.rule.product.get(name, 0)
                result[axis] = result[axis] * own[axis].co.sum(1) ** power
            elements[name] = own
        after = {
            name: scaled(element.bare, result[name]) if name in own_scales else element
            for name, element in drawn.items()
        }
        return elements | dict.fromkeys(("", *(operand for operand in self.values if operand == self.rule.adds)), after)

    @property
    def _only_permuted(self) -> set[str]:
        """The axes of which the result has the permutation alone."""
        return {token.name for tokens in self.tokens[1] for token in tokens if token.mark == "~"}


def act(value: torch.Tensor, tokens: Tokens, elements: Elements) -> torch.Tensor:
    """`value` with the element of each of its axes applied; an axis of size one that stands for more is left alone."""
    moved = value
    for axis, token in enumerate(tokens):
        if token.name in elements:
            matrix = elements[token.name].by(token.mark)
            if moved.shape[axis] == matrix.shape[1]:
                moved = _along(moved, matrix, axis)
    return moved.contiguous()


def _along(value: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """A matrix on one axis; infinite entries stay apart from the others where the matrix only moves and scales."""
    if bool((matrix.ne(0).sum(1) == 1).all()):
        source = matrix.abs().argmax(1)
        moved = value.index_select(axis, source)
        behind = value.dim() - 1 - axis
        factor = matrix.gather(1, source.unsqueeze(1)).reshape([-1] + [1] * behind)
        if value.dtype == torch.bool or bool((factor == 1).all()):
            return moved
        product: torch.Tensor = moved * factor
        return product if value.is_floating_point() or value.is_complex() else product.round().to(value.dtype)
    wide = value if value.is_complex() else value.double()
    mixed: torch.Tensor = torch.tensordot(matrix.to(wide.dtype), wide, dims=([1], [axis])).movedim(0, axis)
    if value.is_floating_point() or value.is_complex():
        return mixed
    return mixed != 0 if value.dtype == torch.bool else mixed.round().to(value.dtype)


def renumbered(places: torch.Tensor, axis: str, elements: Elements) -> torch.Tensor:
    """Positions along an axis after its element has acted.

    Raises:
        ValueError: the element is no permutation, so that there are no positions to speak of.
    """
    if axis not in elements:
        return places
    matrix = elements[axis].bare
    square = matrix.shape[0] == matrix.shape[1]
    entries = matrix != 0
    if not square or not all(bool((entries.sum(dim) == 1).all()) for dim in (0, 1)):
        raise ValueError(f"positions along {axis} cannot be renumbered")
    return matrix.argmax(0)[places.long()].to(places.dtype)


def filled(value: Any, sizes: Mapping[str, int], many: int) -> Any:
    """An argument with the size of an axis in the place of its name."""
    if isinstance(value, list | tuple):
        # A number before "..." stands for each of the operator's axes of positions.
        repeats = bool(value) and value[-1] == "..."
        listed = [*value[:-2], *value[-2:-1] * many] if repeats else value
        return [filled(item, sizes, many) for item in listed]
    return sizes.get(value, value) if isinstance(value, str) else value


def typed(name: str, value: Any) -> Any:
    """A constant as torch takes it; what floats is as wide as the operands."""
    if isinstance(value, DType):
        dtype = getattr(torch, value.name)
        return torch.float64 if is_wide(dtype) else dtype
    if isinstance(value, Device | Opaque):
        return torch.device("cpu") if isinstance(value, Device) else None
    return getattr(torch, value) if name == "dtype" and isinstance(value, str) else value
