"""Whether the entries of a value are distinct, for generic weights: only then an order among them is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.carried import measured_rule
from symgraph.rules.magnitude import (
    PERMUTING,
    PICKED,
    SUMS,
    VIEWS,
    is_float,
    moderate_values,
    plain_arguments,
    vanishing_values,
)
from symgraph.tracing.arguments import arguments
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.operators import short_name

# Different entries stay different, each by itself.
_INJECTIVE = frozenset(
    [
        "sigmoid",
        "tanh",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "log2",
        "log10",
        "logit",
        "erf",
        "atan",
        "asinh",
        "sinh",
        "softplus",
        "log_sigmoid",
        "neg",
        "reciprocal",
        "sqrt",
        "rsqrt",
        "softmax",
        "log_softmax",
        "to",
        "to_copy",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "dropout",
        "gelu",
        "silu",
        "mish",
        "elu",
        "celu",
        "leaky_relu",
    ]
)
# They are so on paper alone: far out they are constant up to rounding, or beyond all numbers.
# fmt: off
_SATURATING = frozenset({
    "sigmoid", "tanh", "exp", "exp2", "expm1", "erf", "sinh", "softplus", "log_sigmoid", "gelu", "silu", "mish", "elu",
    "celu",
})
# fmt: on
# The smallest of what it makes along an axis may all be zero, in any spelling.
_MEASURED = "pattern:measured-softmax"
_VANISHING = frozenset({"softmax", _MEASURED})
_LINEAR = frozenset(["linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "conv1d", "conv2d", "conv3d"])
_SORTED = frozenset({"topk", "sort"})
_REDUCED = frozenset({"sum", "mean", "amax", "amin", "logsumexp"})


def _is_along(node: Node, axis: int) -> bool:
    """Whether a measured call keeps the order of entries along this axis."""
    rule = measured_rule(node)
    return (
        rule is not None and rule.signature is not None and rule.signature.results[0][axis].name in rule.blind.values()
    )


class Distinct:
    """Which values of one graph have distinct entries.

    Args:
        learned: whether a value depends on a parameter or a stored tensor.
        infinite: whether a mask can bring minus infinity into a value.
    """

    def __init__(self, graph: Graph, learned: Callable[[str], bool], infinite: Callable[[str], bool]) -> None:
        self.graph, self._learned, self._infinite = graph, learned, infinite

    @cached_property
    def moderate(self) -> frozenset[str]:
        """The values that stay of moderate size."""
        return moderate_values(self.graph)

    @cached_property
    def vanishing(self) -> frozenset[str]:
        """The values of which whole rows may be zero."""
        return vanishing_values(self.graph)

    def for_order(self, node: Node, name: str, axis: int) -> bool:
        """Whether a call that orders a value along an axis finds one order.

        Of what softmax makes, the smallest may all be zero: where values are read as well, these weigh nothing.
        """
        if not self.distinct(name, axis):
            return False
        last = self.graph.by_name[name]
        if short_name(last.target) not in _VANISHING or next(last.refs()) in self.moderate:
            return True
        return isinstance(node.result, tuple) and any(user.args[1] == 0 for user in self.graph.users[node.name])

    def distinct(self, name: str, axis: int) -> bool:
        """Whether the entries of a value along an axis are distinct for generic weights."""
        node = self.graph.by_name[name]
        if node.kind is not Kind.CALL:
            return node.kind is Kind.PARAMETER and is_float(node)
        base, given = short_name(node.target), arguments(node) or {}
        refs = [value.name for value in given.values() if isinstance(value, Ref)] or list(node.refs())
        rank = len(node.shape)
        if base == _MEASURED:
            return _is_along(node, axis) and self.distinct(refs[0], axis)
        if base in _LINEAR:
            return axis == (1 if base.startswith("conv") else rank - 1) and self._distinct_map(node, base, given)
        if base in SUMS:
            return self._distinct_sum(node, base, axis)
        if base in _INJECTIVE:
            kept = refs[0] in self.moderate if base in _SATURATING else not _is_coarse(node)
            return kept and self.distinct(refs[0], axis)
        if base in PERMUTING | VIEWS | PICKED | _SORTED | _REDUCED or node.target == "getitem":
            before = self._before(node, base, given, axis)
            return before is not None and self.distinct(refs[0], before)
        return False

    def _distinct_sum(self, node: Node, base: str, axis: int) -> bool:
        """A sum of something distinct with finite numbers, or a product with what is the same along the axis."""
        refs, given = list(node.refs()), list(plain_arguments(node))
        if (arguments(node) or {}).get("rounding_mode") is not None:
            return False
        if len(refs) == 1:
            return _keeps_apart(base, given) and self.distinct(refs[0], axis)
        distinct = []
        for mine, other in ((refs[0], refs[1]), (refs[1], refs[0])):
            shape, beside = self.graph.by_name[mine].shape, self.graph.by_name[other].shape
            at = axis - len(node.shape) + len(shape)
            full = 0 <= at < len(shape) and shape[at] == node.shape[axis]
            if not full or not self.distinct(mine, at):
                continue
            constant = self._size_along(beside, axis - len(node.shape)) == 1
            if base not in ("mul", "div") and not constant and self._comes_from(other, mine):
                continue
            kept = self.graph.by_name[other].kind is Kind.PARAMETER or (constant and other not in self.vanishing)
            distinct.append(
                not self._infinite(other) if base not in ("mul", "div") else kept or self.distinct(other, at)
            )
        return any(distinct)

    def _comes_from(self, value: str, entries: str) -> bool:
        """Whether a value is computed from what has the same distinct entries: the two may cancel each other."""
        node = self.graph.by_name[entries]
        while node.kind is Kind.CALL and short_name(node.target) in _INJECTIVE | PERMUTING | VIEWS | PICKED:
            node = self.graph.by_name[next(node.refs())]
        seen, todo = set[str](), [value]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += self.graph.by_name[name].refs()
        return node.name in seen

    def _distinct_map(self, node: Node, base: str, given: Mapping[str, object]) -> bool:
        """A linear map whose rows are distinct, of something that is not zero, or with a bias of distinct entries."""
        at = 0 if base == "linear" or base.startswith("conv") else -1
        bias = given.get("bias") or given.get("self" if base == "addmm" else "")
        if isinstance(bias, Ref) and self._distinct_weight(bias.name, -1):
            return True
        refs = [ref for ref in node.refs() if not isinstance(bias, Ref) or ref != bias.name]
        return len(refs) == 2 and self._distinct_weight(refs[1], at) and refs[0] not in self.vanishing

    def _distinct_weight(self, name: str, axis: int) -> bool:
        rank = len(self.graph.by_name[name].shape)
        return rank > 0 and self._learned(name) and self.distinct(name, axis % rank)

    def _size_along(self, shape: Sequence[int], axis: int) -> int:
        return shape[axis] if -axis <= len(shape) else 1

    def _before(self, node: Node, base: str, given: dict[str, object], axis: int) -> int | None:
        """The axis of the first operand that an axis of the result is, or lies in."""
        source = self.graph.by_name[next(node.refs())]
        shape = source.shape
        if base == "getitem" or node.target == "getitem":
            return axis if isinstance(source.result, tuple) else None
        if base in _SORTED:
            return axis
        if base in _REDUCED:
            dims = given.get("dim")
            gone = {
                dim % len(shape) for dim in (dims if isinstance(dims, list | tuple) else [dims]) if isinstance(dim, int)
            }
            kept = [axis for axis in range(len(shape)) if axis not in gone or given.get("keepdim")]
            return kept[axis] if axis < len(kept) and kept[axis] not in gone else None
        if base in PERMUTING:
            order = _order(node, source)
            return None if order is None else order[axis]
        if base in VIEWS:
            return _inside(node.shape, shape, axis)
        if base == "select":
            dim = given.get("dim")
            return axis + (isinstance(dim, int) and axis >= dim % len(shape))
        return axis


def _is_coarse(node: Node) -> bool:
    """Whether a cast leaves so few numbers that different ones become equal: whole ones, and floats of eight bits."""
    return not is_float(node) or "float8" in repr(node.result)


def _keeps_apart(base: str, given: Sequence[object]) -> bool:
    """Whether a sum with these numbers, or a product, keeps different entries different."""
    real = [number for number in given if isinstance(number, int | float)]
    return all(map(math.isfinite, real)) and (base not in ("mul", "div") or 0 not in real)


def _order(node: Node, source: Node) -> list[int] | None:
    """Which axis of the source each axis of the result is, found by what the operator makes of the shape."""
    whole = torch.empty([axis + 2 for axis in range(len(source.shape))], device="meta")
    if len(source.shape) > 8:
        return None
    held = Node(source.name, Kind.INPUT, source.name, result=Tensor(tuple(whole.shape), "float32"))
    moved = Interpreter(Graph((held, node), (node.name,)), device="meta").run({}, [whole])[0]
    return [size - 2 for size in moved.shape]


def _inside(after: Sequence[int], before: Sequence[int], axis: int) -> int | None:
    """The axis of a tensor that an axis of its view lies within."""
    step = math.prod(after[axis + 1 :])
    for place in range(len(before)):
        inner = math.prod(before[place + 1 :])
        if inner <= step and step * after[axis] <= inner * before[place]:
            return place
    return None
