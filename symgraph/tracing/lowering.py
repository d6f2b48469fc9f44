"""From torch's fx graph to `ir.Node`s: higher-order wrappers inlined, asserts left out, constants made plain."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from symgraph.errors import TraceError
from symgraph.ir import Device, DType, Kind, Node, Opaque, Ref, Shape, Tensor
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name
from symgraph.tracing.places import is_user_file
from symgraph.tracing.positions import is_run

# Wrappers that run a submodule on the operands after it: name -> position of the submodule.
_WRAPPERS = {
    "wrap_with_set_grad_enabled": 1,
    "wrap_with_autocast": 4,
    "invoke_subgraph": 0,
    "tag_activation_checkpoint": 0,
}
_DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
_CHECKS = ("_assert", "sym_constrain", "_functional_assert", "_functional_sym_constrain", "_check")
# Where a value lives is the executor's business, and would make a trace on the meta device differ.
_PLACEMENT = frozenset({"pin_memory", "non_blocking"})
# Constants up to this many numbers are written into the graph, larger ones are buffers.
_LITERAL_SIZE = 32

Operands = tuple[Any, ...]
Named = tuple[tuple[str, Any], ...]
Result = Tensor | tuple[Tensor, ...] | None
Locate = Callable[[fx.Node], tuple[str, str]]


class Lowering:
    """Collects the `ir.Node`s of an fx graph.

    Args:
        locate: module path and source of an fx node.
        constant: the value standing for a tensor that the graph holds itself.
        taken: names that values must not have.
    """

    def __init__(
        self,
        locate: Locate,
        constant: Callable[[str, torch.Tensor], Any],
        taken: Iterable[str] = (),
    ) -> None:
        self.nodes: list[Node] = []
        self._locate, self._constant = locate, constant
        self._fresh = numbering(set(taken))

    def run(self, module: fx.GraphModule, operands: Iterable[Any]) -> Any:
        """Appends the calls of `module` on `operands` and returns what it returns, with a `Ref` for every value."""
        env: dict[fx.Node, Any] = {}
        given = iter(operands)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(given)
            elif node.op == "get_attr":
                env[node] = self._attribute(module, node)
            elif node.op == "call_function":
                env[node] = self._call(node, env)
            elif node.op == "output":
                return self._value(node.args[0], env)
        return None

    def emit(
        self, target: str, args: Operands, result: Result, at: tuple[str, str] = ("", ""), kwargs: Named = ()
    ) -> Ref:
        """Appends one call and returns its value."""
        name = self._fresh(short_name(target))
        self.nodes.append(Node(name, Kind.CALL, target, args, kwargs, result, *at))
        return Ref(name)

    def literal(self, value: torch.Tensor) -> Ref | None:
        """Appends the calls that make a constant out of numbers; None if it is large or its numbers are not known."""
        if isinstance(value, FakeTensor) or value.is_meta or not value.numel():
            return None
        if (made := self.constant_of(value) or self.run_of(value)) is not None:
            return made
        numbers, dtype = value.flatten().tolist(), dtype_name(value.dtype)
        if len(numbers) > _LITERAL_SIZE:
            return None
        parts = tuple(self._filled((), number, dtype) for number in numbers)
        row = self.emit("aten.stack.default", (parts,), Tensor((len(parts),), dtype))
        return row if value.dim() == 1 else self.emit("aten.view.default", (row, tuple(value.shape)), describe(value))

    def constant_of(self, value: torch.Tensor) -> Ref | None:
        """Appends the call that makes a tensor of one number; None for all other tensors."""
        first = value.flatten()[0]
        # NaN equals nothing, and stays what it is.
        if not bool((value == first).all()):
            return None
        return self._filled(tuple(value.shape), first.item(), dtype_name(value.dtype))

    def run_of(self, value: torch.Tensor) -> Ref | None:
        """Appends the calls that make integers which count up along the last axis; None for all other tensors."""
        if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool or not is_run(value):
            return None
        start, length, dtype = int(value.flatten()[0]), value.shape[-1], dtype_name(value.dtype)
        kwargs = (("dtype", DType(dtype)),)
        row = self.emit("aten.arange.start", (start, start + length), Tensor((length,), dtype), kwargs=kwargs)
        return row if value.dim() == 1 else self.emit("aten.expand.default", (row, tuple(value.shape)), describe(value))

    def _filled(self, shape: Shape, number: Any, dtype: str) -> Ref:
        return self.emit("aten.full.default", (shape, number), Tensor(shape, dtype), kwargs=(("dtype", DType(dtype)),))

    def _attribute(self, module: fx.GraphModule, node: fx.Node) -> Any:
        value = operator.attrgetter(str(node.target))(module)
        return self._constant(str(node.target), value) if isinstance(value, torch.Tensor) else value

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._opname.startswith(_CHECKS):
            return None
        if _drops_nothing(node):
            return self._value(node.args[0], env)
        number = _static_number(node.meta.get("val"))
        if number is not None:
            return number
        if _computes_numbers(target):
            # An error only where a tensor reads it: most such numbers are compared in a check and then forgotten.
            return self._error(node, f"it calls `{_callable_name(target)}`, which is no tensor operator")
        args = tuple(self._value(argument, env) for argument in node.args)
        if target is operator.getitem:
            return self._getitem(node, args)
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._inline(node, args)
        kwargs = tuple((name, self._value(value, env)) for name, value in node.kwargs.items() if name not in _PLACEMENT)
        return self.emit(str(target), args, self._result(node), self._locate(node), kwargs)

    def _getitem(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        if isinstance(args[0], tuple):
            return args[0][args[1]]
        return self.emit("getitem", args, self._result(node), self._locate(node))

    def _inline(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        name = str(node.target)
        if name not in _WRAPPERS:
            raise self._error(node, f"it uses the control-flow operator `{name}`, which has no straight-line form")
        at = _WRAPPERS[name]
        operands = [argument for argument in args[at + 1 :] if isinstance(argument, Ref | tuple)]
        results = self.run(args[at], operands)
        return tuple(results) if isinstance(results, list | tuple) else results

    def _value(self, value: Any, env: Mapping[fx.Node, Any]) -> Any:
        if isinstance(value, fx.Node):
            if isinstance(env[value], TraceError):
                raise env[value]
            return env[value]
        if isinstance(value, list | tuple):
            return tuple(self._value(item, env) for item in value)
        return plain(value)

    def _result(self, node: fx.Node) -> Result:
        try:
            return describe(node.meta.get("val"))
        except (TypeError, ValueError) as error:
            raise self._error(node, "the shape of its result depends on the values of a tensor") from error

    def _error(self, node: fx.Node, cause: str) -> TraceError:
        module, source = self._locate(node)
        remedy = (
            "write this part with operators whose result shapes follow from the operands' shapes (torch.where, masks)"
        )
        op = _callable_name(node.target)
        return TraceError(
            f"{module or '(top level)'} ({op}, {source or 'unknown line'}) cannot be traced", cause=cause, remedy=remedy
        )


def without_dropout(module: fx.GraphModule) -> None:
    """Passes over, in place, dropout that drops nothing: it hands its operand on, although its schema denies it."""
    for graph in [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]:
        for node in graph.nodes:
            if _drops_nothing(node):
                node.replace_all_uses_with(node.args[0])


def _drops_nothing(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._opname.rstrip("_") not in _DROPOUTS:
        return False
    probability, train = (*node.args[1:], *node.kwargs.values())[:2]
    return train is False or probability in (0, 0.0)


def plain(value: Any) -> Any:
    """A constant of an fx graph as the intermediate representation writes it."""
    if isinstance(value, torch.dtype):
        return DType(dtype_name(value))
    if isinstance(value, torch.device):
        # One name for every device: a trace on the meta device must equal one with weights.
        return Device("any")
    if isinstance(value, torch.layout | torch.memory_format | torch.Generator):
        return Opaque(repr(value))
    if isinstance(value, torch.SymInt):
        return int(value)
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def describe(value: Any) -> Result:
    """Shape and dtype of a (fake) tensor, a tuple of them for several, None for anything else.

    Raises:
        ValueError: a size is not known before the model runs.
    """
    if isinstance(value, torch.Tensor):
        return Tensor(tuple(_size(size) for size in value.shape), dtype_name(value.dtype))
    if isinstance(value, list | tuple):
        parts = tuple(describe(item) for item in value)
        return tuple(part if isinstance(part, Tensor) else Tensor((), "none") for part in parts)
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def innermost_user_line(stack_trace: str | None) -> str:
    """ "file.py:LINE" of the last frame that belongs to the user in a printed stack."""
    for line in reversed((stack_trace or "").splitlines()):
        head = line.strip()
        if head.startswith('File "') and '", line ' in head:
            path, _, rest = head[6:].partition('", line ')
            if is_user_file(path):
                return f"{Path(path).name}:{rest.split(',')[0]}"
    return ""


def _size(size: Any) -> int:
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int()
    if known is None:
        raise ValueError("size unknown")
    return int(known)


def _static_number(value: Any) -> int | float | bool | None:
    if isinstance(value, int | float | bool):
        return value
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) and value.node.maybe_as_int() is not None:
        return int(value.node.maybe_as_int())
    return None


def _computes_numbers(target: Any) -> bool:
    """Whether a call is Python's own, on numbers that a tensor held."""
    return target is not operator.getitem and not isinstance(
        target, torch._ops.OpOverload | torch._ops.HigherOrderOperator
    )


def _callable_name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else str(getattr(target, "__name__", target))
