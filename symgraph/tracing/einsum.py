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
        order = tuple(labels.index(x) for x in wanted)
        return self.call("aten.permute.default", (at,), (order,), tuple(self.shapes[at][i] for i in order))

    def shaped(self, at: int, shape: Shape) -> int:
        """The operand with other cuts between axes."""
        if self.shapes[at] == shape:
            return at
        return self.call("aten.reshape.default", (at,), (shape,), shape)

    def size(self, labels: str) -> int:
        return prod(self.sizes[x] for x in labels)

    def of(self, labels: str) -> Shape:
        return tuple(self.sizes[x] for x in labels)


def product_of(equation: str, shapes: list[Shape]) -> tuple[Step, ...] | None:
    """The steps that compute a sum of two tensors; None for any other sum, and where an axis is broadcast."""
    terms = _terms(equation, shapes)
    if terms is None or len(shapes) != 2:
        return None
    (a, b), out = terms
    sizes: dict[str, int] = {}
    for labels, shape in zip((a, b), shapes, strict=True):
        for label, n in zip(labels, shape, strict=True):
            if sizes.setdefault(label, n) != n:
                return None
    if any(len(set(t)) < len(t) for t in (a, b, out)) or not set(out) <= set(a + b):
        return None
    if any(x not in out and (x in a) != (x in b) for x in sizes):
        return None
    plan = _Plan(sizes, list(shapes))
    contracted = [x for x in a if x in b and x not in out]
    if contracted:
        _matrix_product(plan, a, b, out)
    else:
        _entry_by_entry(plan, a, b, out)
    return tuple(plan.steps)


def _terms(equation: str, shapes: list[Shape]) -> tuple[list[str], str] | None:
    """Labels of operands and result, dots spelled out; None where the result is not given."""
    text = equation.replace(" ", "")
    if "->" not in text:
        return None
    left, out = text.split("->")
    operands = left.split(",")
    if len(operands) != len(shapes):
        return None
    spare = [x for x in ascii_letters if x not in text]
    ranks = {len(s) - len(o.replace("...", "")) for o, s in zip(operands, shapes, strict=True) if "..." in o}
    if len(ranks) > 1 or any("..." not in o and len(o) != len(s) for o, s in zip(operands, shapes, strict=True)):
        return None
    dots = "".join(spare[: ranks.pop()]) if ranks else ""
    return [o.replace("...", dots) for o in operands], out.replace("...", dots)


def _matrix_product(plan: _Plan, a: str, b: str, out: str) -> None:
    first, second = 0, 1
    if out and out[-1] in a and out[-1] not in b:
        a, b, first, second = b, a, 1, 0
    batch = "".join(x for x in out if x in a and x in b)
    inner = "".join(x for x in a if x in b and x not in out)
    rows, columns = ("".join(x for x in out if x in t and x not in batch) for t in (a, b))
    left = plan.ordered(first, a, batch + rows + inner)
    # Without a batch all rows may stay axes of their own.
    kept = rows if not batch and rows else ""
    left = plan.shaped(left, (*plan.of(batch), *(plan.of(kept) if kept else (plan.size(rows),)), plan.size(inner)))
    right = _right(plan, second, b, batch, inner, columns)
    lead = (*plan.of(batch), *(plan.of(kept) if kept else (plan.size(rows),)))
    found = plan.call("aten.matmul.default", (left, right), (), (*lead, plan.size(columns)))
    found = plan.shaped(found, plan.of(batch + rows + columns))
    plan.ordered(found, batch + rows + columns, out)


def _right(plan: _Plan, at: int, labels: str, batch: str, inner: str, columns: str) -> int:
    """The right operand; where it holds its columns before what is summed over, as a transpose."""
    turned = bool(columns) and labels.index(columns[0]) < labels.index(inner[0])
    wanted = batch + columns + inner if turned else batch + inner + columns
    found = plan.ordered(at, labels, wanted)
    sizes = (plan.size(columns), plan.size(inner)) if turned else (plan.size(inner), plan.size(columns))
    found = plan.shaped(found, (*plan.of(batch), *sizes))
    if not turned:
        return found
    return plan.call("aten.transpose.int", (found,), (-2, -1), (*plan.of(batch), *sizes[::-1]))


def _entry_by_entry(plan: _Plan, a: str, b: str, out: str) -> None:
    found = []
    for at, labels in enumerate((a, b)):
        value = plan.ordered(at, labels, "".join(x for x in out if x in labels))
        found.append(plan.shaped(value, tuple(plan.sizes[x] if x in labels else 1 for x in out)))
    plan.call("aten.mul.Tensor", tuple(found), (), plan.of(out))
