"""What the producer of an operand says about it: masks, minus infinity, distinct entries, rows with an open place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.binding import Binding
from symgraph.rules.trial import Drawn
from symgraph.tracing.arguments import arguments
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.operators import short_name
from symgraph.tracing.worlds import WORLDS, World, bounded

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
_LINEAR = frozenset(["linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "conv1d", "conv2d", "conv3d"])
_PERMUTING = frozenset({"permute", "transpose", "t", "mT", "numpy_T", "swapaxes", "movedim"})
_VIEWS = frozenset(
    {"view", "unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
)
_SORTED = frozenset({"topk", "sort"})
_SUMS = frozenset({"add", "sub", "rsub", "mul", "div"})
_REDUCED = frozenset({"sum", "mean", "amax", "amin", "logsumexp"})
_PICKED = frozenset({"slice", "narrow", "select", "split", "chunk", "split_with_sizes", "unbind", "getitem"})
# What minus infinity passes through.
_PASSING = frozenset({"where", "masked_fill", "expand", "repeat", "cat", "stack", "full", "full_like", "scalar_tensor"})


class Facts:
    """What is known of the values of one graph; every question is answered once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._infinite: dict[str, bool] = {}
        self._learned: dict[str, bool] = {}
        self._open: dict[str, bool] = {}

    def drawn(self, name: str, limit: str) -> Drawn:
        """What an operand holds; `limit` bounds integers."""
        result = self.graph.by_name[name].result
        dtype = getattr(torch, result.dtype) if isinstance(result, Tensor) else torch.float64
        if dtype == torch.bool:
            return Drawn("bool")
        if dtype.is_complex:
            return Drawn("complex")
        if not dtype.is_floating_point:
            return Drawn("int", limit)
        return Drawn("mask") if self.infinite(name) else Drawn()

    def holds(self, fact: str, binding: Binding, operand: str) -> bool:
        """Whether an operand of a call has a property that its rule assumes."""
        ref, tokens = binding.operands[operand]
        if fact == "open":
            return self.open(ref.name)
        at = [number for number, token in enumerate(tokens) if token.axis in binding.rule.points.values()]
        return len(at) == 1 and self.distinct(ref.name, at[0])

    # -- minus infinity ----------------------------------------------------------------------------------------

    def infinite(self, name: str) -> bool:
        """Whether a mask can bring minus infinity into a value: by a number filled in, an input, or a stored table."""
        if name not in self._infinite:
            self._infinite[name] = False
            self._infinite[name] = self._brings_infinity(self.graph.by_name[name])
        return self._infinite[name]

    def _brings_infinity(self, node: Node) -> bool:
        if node.kind is not Kind.CALL:
            return node.kind is not Kind.PARAMETER and self._is_float(node.name) and len(node.shape) >= 2
        base = short_name(node.target)
        if any(isinstance(constant, float) and math.isinf(constant) for constant in _constants(node)):
            return True
        passing = base in _PASSING | _SUMS | _PERMUTING | _VIEWS | _PICKED or base in ("to", "to_copy")
        return passing and any(self.infinite(ref) for ref in node.refs() if self._is_float(ref))

    def _is_float(self, name: str) -> bool:
        result = self.graph.by_name[name].result
        tensors = result if isinstance(result, tuple) else (result,)
        return any(isinstance(tensor, Tensor) and "float" in tensor.dtype for tensor in tensors)

    # -- open rows ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> bool:
        """Whether every row along the last axis of a mask has a place that is not closed.

        Masks that depend on inputs alone are computed from inputs of every world. Numbers that are learned are finite,
        as long as nothing brings infinity to them.
        """
        if name not in self._open:
            self._open[name] = False
            if self.learned(name):
                self._open[name] = self._is_float(name) and not self.infinite(name)
            else:
                self._open[name] = all(map(_is_open, self._computed(name)))
        return self._open[name]

    def learned(self, name: str) -> bool:
        """Whether a value depends on a parameter or a stored tensor."""
        todo = [name]
        while todo:
            node = self.graph.by_name[todo[-1]]
            if node.name in self._learned:
                todo.pop()
                continue
            refs = list(dict.fromkeys(node.refs()))
            missing = [ref for ref in refs if ref not in self._learned]
            if missing:
                todo += missing
                continue
            own = node.kind in (Kind.PARAMETER, Kind.BUFFER)
            self._learned[node.name] = own or any(self._learned[ref] for ref in refs)
            todo.pop()
        return self._learned[name]

    def _computed(self, name: str) -> Iterator[torch.Tensor]:
        """A value that depends on inputs alone, for inputs of every world."""
        needed = {name}
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(node.refs())
        part = Graph(tuple(node for node in self.graph.nodes if node.name in needed), (name,))
        generator = torch.Generator().manual_seed(0)
        run = Interpreter(part)
        for world in WORLDS:
            for high in (2, 7) if part.inputs else (2,):
                given = [_input(node, world, high, generator) for node in part.inputs]
                with torch.no_grad():
                    yield run.run({}, given)[0]
            if not part.inputs:
                return

    # -- distinct entries --------------------------------------------------------------------------------------

    def distinct(self, name: str, axis: int) -> bool:
        """Whether the entries of a value along an axis are distinct for generic weights."""
        node = self.graph.by_name[name]
        if node.kind is not Kind.CALL:
            return node.kind is Kind.PARAMETER and self._is_float(name)
        base, given = short_name(node.target), arguments(node) or {}
        refs = [value.name for value in given.values() if isinstance(value, Ref)] or list(node.refs())
        rank = len(node.shape)
        if base in _LINEAR:
            return axis == (1 if base.startswith("conv") else rank - 1) and any(map(self.learned, node.refs()))
        if base in _SUMS:
            return self._distinct_sum(node, base, axis)
        if base in _INJECTIVE:
            return self.distinct(refs[0], axis)
        if base in _PERMUTING | _VIEWS | _PICKED | _SORTED | _REDUCED or node.target == "getitem":
            before = self._before(node, base, given, axis)
            return before is not None and self.distinct(refs[0], before)
        return False

    def _distinct_sum(self, node: Node, base: str, axis: int) -> bool:
        """A sum of something distinct with finite numbers, or a product with what is the same along the axis."""
        refs = list(node.refs())
        if len(refs) == 1:
            return base not in ("mul", "div") or 0 not in _constants(node)
        distinct = []
        for mine, other in ((refs[0], refs[1]), (refs[1], refs[0])):
            shape, beside = self.graph.by_name[mine].shape, self.graph.by_name[other].shape
            at = axis - len(node.shape) + len(shape)
            full = 0 <= at < len(shape) and shape[at] == node.shape[axis]
            if not full or not self.distinct(mine, at):
                continue
            constant = self._size_along(beside, axis - len(node.shape)) == 1
            kept = self.graph.by_name[other].kind is Kind.PARAMETER or constant
            distinct.append(
                not self.infinite(other) if base not in ("mul", "div") else kept or self.distinct(other, at)
            )
        return any(distinct)

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
        if base in _PERMUTING:
            order = _order(node, source)
            return None if order is None else order[axis]
        if base in _VIEWS:
            return _inside(node.shape, shape, axis)
        if base == "select":
            dim = given.get("dim")
            return axis + (isinstance(dim, int) and axis >= dim % len(shape))
        return axis


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


def _constants(node: Node) -> Iterator[object]:
    for value in (*node.args, *(value for _, value in node.kwargs)):
        if not isinstance(value, Ref):
            yield value


def _input(node: Node, world: World, high: int, generator: torch.Generator) -> torch.Tensor:
    """An input: a mask, whole numbers below `high`, or numbers that are added as a mask."""
    dtype: torch.dtype = getattr(torch, node.result.dtype)  # type: ignore[union-attr]
    shape = list(node.shape)
    if not dtype.is_floating_point and dtype != torch.bool and high > 2:
        return torch.randint(0, high, shape, generator=generator).to(dtype)
    if dtype.is_floating_point and high > 2:
        return bounded(world.floats(shape, generator, ()), world, generator)
    return world.masks(shape, generator).to(torch.float64 if dtype.is_floating_point else dtype)


def _is_open(mask: torch.Tensor) -> bool:
    if not mask.dim() or not mask.numel():
        return True
    seen = mask if mask.dtype == torch.bool else mask != -torch.inf
    return bool(seen.any(-1).all())
