"""One operator (or one spelling of a pattern) at one example: random operands, transformed and run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from symgraph.groups.elements import IndexSet
from symgraph.groups.index_maps import IndexMaps, scaled
from symgraph.groups.lattice import SymmetryClass, maps
from symgraph.groups.map_class import Sample
from symgraph.ir import DType, Tensor
from symgraph.rules.arrange import arrange
from symgraph.rules.joined import cut_shape, joined_shape, positions
from symgraph.rules.pattern import Pattern
from symgraph.rules.schema import Example, Rule
from symgraph.rules.signature import AxisToken, Operand, Tokens
from symgraph.tracing import arguments as operators

POINTWISE = (3, 4)
UNCLAIMED = 5
SMALLEST = 4
NUMBER = 0.37
# Pointwise operands span magnitudes on both sides of the limits of hardshrink (0.5) and relu6 (6).
SPREAD = 8.0

Values = dict[str, torch.Tensor]
Elements = dict[str, Sample]


@dataclass(frozen=True)
class Trial:
    """A rule, the operator or spelling it is tried on, and the example."""

    rule: Rule
    target: str | Pattern
    example: Example

    def __str__(self) -> str:
        return str(self.target) if isinstance(self.target, str) else self.target.text

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers that depend on the rule and the operator alone."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.rule.rule}:{self}".encode()))

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """The operands of the signature that are tensors here."""
        found = self.rule.signature.operands if self.rule.signature else ()
        return tuple(o for o in found if o.name in self._tensors and o.name not in self.example.omit)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The operands of the signature for which this operator takes a number."""
        found = self.rule.signature.operands if self.rule.signature else ()
        return tuple(o.name for o in found if o.name in self._accepted and o.name not in self._tensors)

    @property
    def _accepted(self) -> tuple[str, ...]:
        if isinstance(self.target, Pattern):
            return self.target.variables
        return tuple(a.name for a in operators.parameters(self.target) or ())

    @property
    def _tensors(self) -> tuple[str, ...]:
        if isinstance(self.target, Pattern):
            return self.target.variables
        return tuple(a.name for a in operators.parameters(self.target) or () if a.tensor)

    # -- axes --------------------------------------------------------------------------------------------------

    @cached_property
    def tokens(self) -> tuple[dict[str, Tokens], tuple[Tokens, ...]] | None:
        """Tokens of operands and results, or None if the example does not fit the signature."""
        return arrange(self.rule, self.arguments({}), {o.name: self._rank(o) for o in self.operands})

    def _rank(self, operand: Operand) -> int:
        ranks = {"...": len(self.example.batch), "*": len(POINTWISE)}
        dims = {a: self.example.args.get(n) for a, n in self.rule.at.items()}
        several = {a: len(d) for a, d in dims.items() if isinstance(d, list | tuple)}
        return sum(ranks.get(t.name, several.get(t.name, 1)) for t in operand.axes)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of every token of the operands."""
        found: dict[str, int] = {}
        named = [t for t in (self.rule.signature.axes if self.rule.signature else ()) if t not in ("...", "*")]
        for i, name in enumerate(named):
            found[name] = self.example.sizes.get(name, SMALLEST + i)
        for operand, tokens in (self.tokens or ({}, ()))[0].items():
            for token in tokens:
                found.setdefault(token.name, self._size(operand, token))
        return found

    def _size(self, operand: str, token: AxisToken) -> int:
        if token.batch:
            lead = POINTWISE if token.axis == "*" else self.example.batch
            return int(lead[-1 - int(token.name[len(token.axis) :])])
        if token.axis == "_":
            return self.example.sizes.get(f"{operand}._", UNCLAIMED)
        return 1 if token.name == "1" else SMALLEST + len(token.name)

    @property
    def claimed(self) -> tuple[str, ...]:
        """Every token that a class is claimed for."""
        return tuple(n for n in self.sizes if AxisToken(n).claimed and self.present(n))

    def present(self, name: str) -> bool:
        """Whether an operand has this axis."""
        return self.tokens is not None and any(t.name == name for ts in self.tokens[0].values() for t in ts)

    # -- values ------------------------------------------------------------------------------------------------

    @cached_property
    def values(self) -> Values:
        """Random operands."""
        tokens = (self.tokens or ({}, ()))[0]
        return {o.name: self._random(o.name, [self.sizes[t.name] for t in tokens[o.name]]) for o in self.operands}

    def _random(self, name: str, shape: list[int]) -> torch.Tensor:
        if name in self.example.integers:
            bound = self.example.integers[name]
            high = int(bound) if bound.isdigit() else self.sizes[bound]
            return torch.randint(0, high, shape, generator=self.generator)
        if name in self.example.booleans:
            return _mask(torch.rand(shape, generator=self.generator) < 0.6)
        if name in self.example.positive:
            return 0.5 + 1.5 * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if name in self.example.complex:
            return torch.randn(shape, generator=self.generator, dtype=torch.complex128)
        operand = next(o for o in self.operands if o.name == name)
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return _spread(values, self.generator) if operand.scalar else values

    def arguments(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """The example's further arguments; the name of an axis stands for its size."""
        many = positions(str(self)) or 1
        given = {k: _filled(v, sizes, many) for k, v in self.example.args.items() if k in self._accepted}
        return {**given, **{k: given.get(k, NUMBER) for k in self.numbers}}

    @property
    def meant(self) -> bool:
        """Whether the example is about this spelling: nothing that the spelling needs is left out."""
        return not (isinstance(self.target, Pattern) and set(self.target.variables) & set(self.example.omit))

    def applies(self) -> bool:
        """Whether the rule's condition holds for this example."""
        if self.rule.when is None:
            return True
        defaults: dict[str, Any] = {}
        if isinstance(self.target, str):
            defaults = {a.name: a.default for a in operators.parameters(self.target) or ()}
        shapes = {k: Tensor(tuple(v.shape), "float64") for k, v in self._joined(self.values).items()}
        return self.rule.when.evaluate({**defaults, **self.arguments(self.sizes), **shapes})

    # -- running -----------------------------------------------------------------------------------------------

    def run(self, values: Mapping[str, torch.Tensor], sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
        """Results in float64."""
        sizes = self.sizes if sizes is None else sizes
        given = {k: _typed(k, v) for k, v in self.arguments(sizes).items()}
        with torch.no_grad():
            if isinstance(self.target, Pattern):
                result = self.target.evaluate({**self._ones, **given, **values})
            else:
                result = operators.call(self.target, {**given, **self._joined(values)})
        results = result if isinstance(result, list | tuple) else [result]
        return list(self._cut([r if r.is_complex() else r.double() for r in results], sizes))

    def _joined(self, values: Mapping[str, torch.Tensor]) -> Values:
        """The operands with the axes that the operator reads."""
        of = {o.name: o for o in self.operands}
        return {k: v.reshape(joined_shape(of[k], tuple(v.shape))) for k, v in values.items() if k in of}

    def _cut(self, results: list[torch.Tensor], sizes: Mapping[str, int]) -> Iterator[torch.Tensor]:
        """The results that the signature speaks about, with an axis for every token."""
        signature = self.rule.signature
        for i, tokens in enumerate(signature.results if signature else ()):
            joins = signature.result_joins(i) if signature else ()
            shape = cut_shape(tokens, joins, tuple(results[i].shape), sizes) if joins else results[i].shape
            yield results[i].reshape(shape or results[i].shape)

    @property
    def _ones(self) -> Values:
        """What stands for a gain that is left out of a pattern."""
        return {self.rule.gain: torch.ones((), dtype=torch.float64)} if self.rule.gain else {}

    def sample(self, classes: Mapping[str, SymmetryClass]) -> Iterator[tuple[str, Elements]]:
        """Per operand (and "" for the result) the elements of its axes: one and the same, but under a product law."""
        on = {n: IndexSet(self.sizes[n], self.rule.layout or "halves") for n in classes}
        kinds = {n: maps(c) for n, c in classes.items()}
        drawn = {n: kind.sample(on[n], self.generator) for n, kind in kinds.items()}
        if not self.rule.product:
            for name in ("", *self.values):
                yield name, drawn
            return
        own_scales = {n for n, kind in kinds.items() if kind.scales or kind.signs}
        result = {n: torch.ones(e.co.shape[0], dtype=torch.float64) for n, e in drawn.items()}
        # What is added at the end is in the frame of the result.
        for name in (n for n in self.values if n != self.rule.adds):
            own = dict(drawn)
            for axis, kind in kinds.items():
                if axis in own_scales and isinstance(kind, IndexMaps) and self._has(name, axis):
                    scales = kind.random_scales(on[axis], self.generator)
                    own[axis] = scaled(drawn[axis].bare, scales)
                    result[axis] = result[axis] * scales ** self.rule.product.get(name, 0)
            yield name, own
        for name in ("", *(n for n in self.values if n == self.rule.adds)):
            yield name, {n: scaled(e.bare, result[n]) if n in own_scales else e for n, e in drawn.items()}

    def _has(self, operand: str, axis: str) -> bool:
        tokens = self.tokens[0].get(operand, ()) if self.tokens else ()
        i = next((i for i, t in enumerate(tokens) if t.name == axis), None)
        return i is not None and self.values[operand].shape[i] == self.sizes[axis]


def act(value: torch.Tensor, tokens: Tokens, elements: Elements) -> torch.Tensor:
    """`value` with the element of each of its axes applied; an axis of size one that stands for more is left alone."""
    moved = value if value.is_complex() else value.double()
    for i, token in enumerate(tokens):
        if token.name in elements:
            matrix = elements[token.name].by(token.mark).to(moved.dtype)
            if moved.shape[i] == matrix.shape[1]:
                moved = torch.tensordot(matrix, moved, dims=([1], [i])).movedim(0, i)
    if value.dtype == torch.bool:
        return moved != 0
    moved = moved.contiguous()
    return moved if value.is_floating_point() or value.is_complex() else moved.round().to(value.dtype)


def renumbered(positions: torch.Tensor, axis: str, elements: Elements) -> torch.Tensor:
    """Positions along an axis after its element has acted.

    Raises:
        ValueError: the element is no permutation, so that there are no positions to speak of.
    """
    if axis not in elements:
        return positions
    matrix = elements[axis].bare
    square = matrix.shape[0] == matrix.shape[1]
    if not square or not bool(((matrix != 0).sum(0) == 1).all() and ((matrix != 0).sum(1) == 1).all()):
        raise ValueError(f"positions along {axis} cannot be renumbered")
    return matrix.argmax(0)[positions.long()].to(positions.dtype)


def _mask(mask: torch.Tensor) -> torch.Tensor:
    """The mask with at least one entry of either kind."""
    mask.view(-1)[0], mask.view(-1)[-1] = True, False
    return mask


def _spread(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return values * SPREAD * torch.rand(values.shape, generator=generator, dtype=torch.float64) ** 2


def _filled(value: Any, sizes: Mapping[str, int], many: int) -> Any:
    if isinstance(value, list | tuple):
        # A number before "..." stands for each of the operator's axes of positions.
        listed = [*value[:-2], *value[-2:-1] * many] if value and value[-1] == "..." else value
        return [_filled(v, sizes, many) for v in listed]
    return sizes.get(value, value) if isinstance(value, str) else value


def _typed(name: str, value: Any) -> Any:
    if isinstance(value, DType):
        value = value.name
    return getattr(torch, value) if name == "dtype" and isinstance(value, str) else value
