"""Einstein sums as sums of single tensors, permutations, and one matrix product or one product entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from math import prod
from string import ascii_letters
from typing import Any, NamedTuple

from symgraph.ir import Shape


@dataclass(frozen=True, slots=True)
class Step:
    """One call: operands by number (those of the sum first, then the results of earlier steps), further arguments."""

    target: str
    operands: tuple[int, ...]
    args: tuple[Any, ...]
    shape: Shape


class _Operand(NamedTuple):
    """An operand by its number, with a label for each of its axes."""

    number: int
    labels: str


@dataclass
class _Plan:
    """The steps so far: the size of each label, and the shapes of the operands and of all results."""

    sizes: dict[str, int]
    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)

    def call(self, target: str, operands: tuple[int, ...], args: tuple[Any, ...], shape: Shape) -> int:
        self.steps.append(Step(target, operands, args, shape))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def ordered(self, operand: _Operand, wanted: str) -> int:
        """The operand with its axes in another order."""
        number, labels = operand
        if labels == wanted:
            return number
        order = tuple(labels.index(label) for label in wanted)
        shape = tuple(self.shapes[number][axis] for axis in order)
        return self.call("aten.permute.default", (number,), (order,), shape)

    def shaped(self, at: int, shape: Shape) -> int:
        """The operand with other cuts between axes."""
        if self.shapes[at] == shape:
            return at
        return self.call("aten.reshape.default", (at,), (shape,), shape)

    def size(self, labels: str) -> int:
        return prod(self.sizes[label] for label in labels)

    def of(self, labels: str) -> Shape:
        return tuple(self.sizes[label] for label in labels)


def product_of(
    equation: str, shapes: list[Shape], one: bool = False, matrix_first: bool = False
) -> tuple[Step, ...] | None:
    """The steps that compute a sum of one tensor or two; None for any other sum, and for what sums and moves nothing.

    Args:
        one: both are one tensor, so that a product without rows and columns is a sum of squares.
        matrix_first: the first is a stored matrix, which reads the second: it stands on the right.
    """
    terms = _terms(equation, shapes)
    if terms is None or not 1 <= len(shapes) <= 2:
        return None
    operands, out = terms
    sizes: dict[str, int] = {}
    for label, size in zip("".join(operands), chain(*shapes), strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    plan = _Plan(sizes, list(shapes))
    spread = [_without_ones(plan, _Operand(number, labels)) for number, labels in enumerate(operands)]
    found = [operand for operand in spread if operand is not None]
    repeated = any(len(set(labels)) < len(labels) for labels in (*(operand.labels for operand in found), out))
    if len(found) < len(spread) or repeated or not set(out) <= set("".join(operands)):
        return None
    if len(found) == 1:
        plan.ordered(_summed_alone(plan, found[0], None, out), out)
        return tuple(plan.steps) or None
    first, second = found
    left, right = (_summed_alone(plan, *both, out) for both in ((first, second), (second, first)))
    contracted = {label for label in left.labels if label in right.labels}.difference(out)
    if one and left.labels == right.labels and contracted:
        _sum_of_squares(plan, left, out)
    elif contracted:
        _matrix_product(plan, *_in_order(left, right, out, matrix_first), out)
    else:
        _entry_by_entry(plan, (left, right), out)
    return tuple(plan.steps)


def _summed_alone(plan: _Plan, operand: _Operand, other: _Operand | None, out: str) -> _Operand:
    """An operand summed along what neither the result nor the other operand has."""
    read = out if other is None else other.labels + out
    kept = "".join(label for label in operand.labels if label in read)
    if kept == operand.labels:
        return operand
    rank = len(operand.labels)
    summed = tuple(place - rank for place, label in enumerate(operand.labels) if label not in kept)
    return _Operand(plan.call("aten.sum.dim_IntList", (operand.number,), (summed,), plan.of(kept)), kept)


def _without_ones(plan: _Plan, operand: _Operand) -> _Operand | None:
    """An operand without the axes that are spread over those of the other one; None where sizes do not agree."""
    axes = zip(operand.labels, plan.shapes[operand.number], strict=True)
    kept = [(label, size) for label, size in axes if size > 1 or plan.sizes[label] == 1]
    if any(size != plan.sizes[label] for label, size in kept):
        return None
    number = plan.shaped(operand.number, tuple(size for _, size in kept))
    return _Operand(number, "".join(label for label, _ in kept))


def _terms(equation: str, shapes: list[Shape]) -> tuple[list[str], str] | None:
    """Labels of operands and result, dots spelled out from the right; None where the result is not given."""
    text = equation.replace(" ", "")
    if "->" not in text:
        return None
    left, out = text.split("->")
    operands = left.split(",")
    if len(operands) != len(shapes):
        return None
    spare = [letter for letter in ascii_letters if letter not in text]
    dotted = [len(shape) - len(operand.replace("...", "")) for operand, shape in zip(operands, shapes, strict=True)]
    if any(axes < 0 or (axes > 0 and "..." not in operand) for operand, axes in zip(operands, dotted, strict=True)):
        return None
    dots = "".join(spare[: max(dotted)])
    spelled = [operand.replace("...", dots[len(dots) - axes :]) for operand, axes in zip(operands, dotted, strict=True)]
    return spelled, out.replace("...", dots)


def _among(labels: str, *terms: str) -> str:
    """Those labels that all of these have."""
    return "".join(label for label in labels if all(label in term for term in terms))


def _beside(labels: str, out: str) -> str:
    """Those labels that this has not."""
    return "".join(label for label in labels if label not in out)


def _in_order(left: _Operand, right: _Operand, out: str, matrix_first: bool) -> tuple[_Operand, _Operand]:
    """Which operand stands on the left: a value before a stored matrix, or else what does not end the result."""
    ends = out[-1:] in left.labels and out[-1:] not in right.labels
    batch = _among(out, left.labels, right.labels)
    return (right, left) if ends or (matrix_first and not batch) else (left, right)


def _matrix_product(plan: _Plan, left: _Operand, right: _Operand, out: str) -> None:
    batch = _among(out, left.labels, right.labels)
    inner = _beside(_among(left.labels, right.labels), out)
    rows, columns = (_beside(_among(out, operand.labels), batch) for operand in (left, right))
    rows_first = plan.ordered(left, batch + rows + inner)
    # Without a batch all rows may stay axes of their own.
    row_sizes = plan.of(rows) if not batch and rows else (plan.size(rows),)
    lead = (*plan.of(batch), *row_sizes)
    rows_first = plan.shaped(rows_first, (*lead, plan.size(inner)))
    columns_last = _right(plan, right, batch, inner, columns)
    product = plan.call("aten.matmul.default", (rows_first, columns_last), (), (*lead, plan.size(columns)))
    product = plan.shaped(product, plan.of(batch + rows + columns))
    plan.ordered(_Operand(product, batch + rows + columns), out)


def _right(plan: _Plan, right: _Operand, batch: str, inner: str, columns: str) -> int:
    """The right operand; where it holds its columns before what is summed over, as a transpose."""
    turned = bool(columns) and right.labels.index(columns[0]) < right.labels.index(inner[0])
    first, last = (columns, inner) if turned else (inner, columns)
    matrix = plan.ordered(right, batch + first + last)
    matrix = plan.shaped(matrix, (*plan.of(batch), plan.size(first), plan.size(last)))
    if not turned:
        return matrix
    return plan.call("aten.transpose.int", (matrix,), (-2, -1), (*plan.of(batch), plan.size(last), plan.size(first)))


def _sum_of_squares(plan: _Plan, operand: _Operand, out: str) -> None:
    number, labels = operand
    kept = _among(labels, out)
    summed = tuple(axis - len(labels) for axis, label in enumerate(labels) if label not in out)
    squares = plan.call("aten.pow.Tensor_Scalar", (number,), (2,), plan.of(labels))
    total = plan.call("aten.sum.dim_IntList", (squares,), (summed,), plan.of(kept))
    plan.ordered(_Operand(total, kept), out)


def _entry_by_entry(plan: _Plan, operands: tuple[_Operand, _Operand], out: str) -> None:
    factors = []
    for operand in operands:
        value = plan.ordered(operand, _among(out, operand.labels))
        factors.append(plan.shaped(value, tuple(plan.sizes[label] if label in operand.labels else 1 for label in out)))
    plan.call("aten.mul.Tensor", tuple(factors), (), plan.of(out))
