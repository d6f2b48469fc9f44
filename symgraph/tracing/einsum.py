"""Einstein sums of two tensors as permutations and one matrix product, or one product entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from string import ascii_letters
from typing import Any

from symgraph.ir import Shape


@dataclass(frozen=True, slots=True)
class Step:
    """One call: operands by number (those of the sum first, then the results of earlier steps), further arguments."""

    target: str
    operands: tuple[int, ...]
    args: tuple[Any, ...]
    shape: Shape


# An operand by its number, with a label for each of its axes.
_Labelled = tuple[int, str]


@dataclass
class _Plan:
    sizes: dict[str, int]
    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)

    def call(self, target: str, operands: tuple[int, ...], args: tuple[Any, ...], shape: Shape) -> int:
        self.steps.append(Step(target, operands, args, shape))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def ordered(self, at: int, labels: str, wanted: str) -> int:
        """The operand with its axes in another order."""
        if labels == wanted:
            return at
        order = tuple(labels.index(label) for label in wanted)
        return self.call("aten.permute.default", (at,), (order,), tuple(self.shapes[at][place] for place in order))

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
    """The steps that compute a sum of two tensors; None for any other sum.

    Args:
        one: both are one tensor, so that a product without rows and columns is a sum of squares.
        matrix_first: the first is a stored matrix, which reads the second: it stands on the right.
    """
    terms = _terms(equation, shapes)
    if terms is None or len(shapes) != 2:
        return None
    (left, right), out = terms
    sizes: dict[str, int] = {}
    for label, size in zip(left + right, (*shapes[0], *shapes[1]), strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    plan = _Plan(sizes, list(shapes))
    spread = [_without_ones(plan, at, labels) for at, labels in enumerate((left, right))]
    if None in spread:
        return None
    (first, left), (second, right) = (found for found in spread if found is not None)
    repeated = any(len(set(term)) < len(term) for term in (left, right, out))
    if repeated or not set(out) <= set(left + right):
        return None
    # A label of one operand alone would be summed by itself.
    if any(label not in out and (label in left) != (label in right) for label in sizes):
        return None
    contracted = [label for label in left if label in right and label not in out]
    if one and left == right and set(out) <= set(left) and contracted:
        _sum_of_squares(plan, first, left, out)
    elif contracted:
        _matrix_product(plan, *_in_order(((first, left), (second, right)), out, matrix_first), out)
    else:
        _entry_by_entry(plan, ((first, left), (second, right)), out)
    return tuple(plan.steps)


def _without_ones(plan: _Plan, at: int, labels: str) -> _Labelled | None:
    """An operand without the axes that are spread over those of the other one; None where sizes do not agree."""
    shape = plan.shapes[at]
    kept = [place for place, label in enumerate(labels) if shape[place] > 1 or plan.sizes[label] == 1]
    if any(shape[place] != plan.sizes[labels[place]] for place in kept):
        return None
    return plan.shaped(at, tuple(shape[place] for place in kept)), "".join(labels[place] for place in kept)


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
    ranks = [len(shape) - len(operand.replace("...", "")) for operand, shape in zip(operands, shapes, strict=True)]
    if any(rank < 0 or (rank > 0 and "..." not in operand) for operand, rank in zip(operands, ranks, strict=True)):
        return None
    dots = "".join(spare[: max(ranks)])
    spelled = [op.replace("...", dots[len(dots) - rank :]) for op, rank in zip(operands, ranks, strict=True)]
    return spelled, out.replace("...", dots)


def _in_order(operands: tuple[_Labelled, _Labelled], out: str, matrix_first: bool) -> tuple[_Labelled, _Labelled]:
    """Which operand stands on the left: a value before a stored matrix, or else what does not end the result."""
    left, right = operands
    ends = bool(out) and out[-1] in left[1] and out[-1] not in right[1]
    shared = any(label in left[1] and label in right[1] for label in out)
    return (right, left) if ends or (matrix_first and not shared) else (left, right)


def _matrix_product(plan: _Plan, left: _Labelled, right: _Labelled, out: str) -> None:
    (first, a), (second, b) = left, right
    batch = "".join(label for label in out if label in a and label in b)
    inner = "".join(label for label in a if label in b and label not in out)
    own = [label for label in out if label not in batch]
    rows, columns = ("".join(label for label in own if label in term) for term in (a, b))
    rows_first = plan.ordered(first, a, batch + rows + inner)
    # Without a batch all rows may stay axes of their own.
    row_sizes = plan.of(rows) if not batch and rows else (plan.size(rows),)
    lead = (*plan.of(batch), *row_sizes)
    rows_first = plan.shaped(rows_first, (*lead, plan.size(inner)))
    columns_last = _right(plan, second, b, batch, inner, columns)
    product = plan.call("aten.matmul.default", (rows_first, columns_last), (), (*lead, plan.size(columns)))
    product = plan.shaped(product, plan.of(batch + rows + columns))
    plan.ordered(product, batch + rows + columns, out)


def _right(plan: _Plan, at: int, labels: str, batch: str, inner: str, columns: str) -> int:
    """The right operand; where it holds its columns before what is summed over, as a transpose."""
    turned = bool(columns) and labels.index(columns[0]) < labels.index(inner[0])
    wanted = batch + columns + inner if turned else batch + inner + columns
    moved = plan.ordered(at, labels, wanted)
    sizes = (plan.size(columns), plan.size(inner)) if turned else (plan.size(inner), plan.size(columns))
    moved = plan.shaped(moved, (*plan.of(batch), *sizes))
    if not turned:
        return moved
    return plan.call("aten.transpose.int", (moved,), (-2, -1), (*plan.of(batch), *sizes[::-1]))


def _sum_of_squares(plan: _Plan, at: int, labels: str, out: str) -> None:
    kept = "".join(label for label in labels if label in out)
    summed = tuple(place - len(labels) for place, label in enumerate(labels) if label not in out)
    squares = plan.call("aten.pow.Tensor_Scalar", (at,), (2,), plan.of(labels))
    total = plan.call("aten.sum.dim_IntList", (squares,), (summed,), plan.of(kept))
    plan.ordered(total, kept, out)


def _entry_by_entry(plan: _Plan, operands: tuple[_Labelled, _Labelled], out: str) -> None:
    factors = []
    for at, labels in operands:
        value = plan.ordered(at, labels, "".join(label for label in out if label in labels))
        factors.append(plan.shaped(value, tuple(plan.sizes[label] if label in labels else 1 for label in out)))
    plan.call("aten.mul.Tensor", tuple(factors), (), plan.of(out))
