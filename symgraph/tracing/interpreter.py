"""Runs a graph on tensors, with everything that floats in one dtype.

Models compute their norms and rotary tables in float32 whatever their dtype. Here such casts are lifted: a graph is
evaluated in float64 throughout, so that an error of 1e-9 can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from symgraph.errors import SymgraphError, UsageError
from symgraph.ir import Device, DType, Graph, Kind, Node, Opaque, Ref
from symgraph.ir import Tensor as Meta
from symgraph.tracing.arguments import operator
from symgraph.tracing.operators import is_wide

# In the order of a graph's inputs, or by name.
Inputs = Sequence[Tensor] | Mapping[str, Tensor]
_OPAQUE = {
    repr(constant): constant
    for constant in (
        torch.strided,
        torch.contiguous_format,
        torch.channels_last,
        torch.channels_last_3d,
        torch.preserve_format,
    )
}


@dataclass(frozen=True, slots=True)
class _Step:
    """One call, ready to run: constants resolved, and the values that nothing reads afterwards."""

    node: Node
    run: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    last: tuple[str, ...]
    lift: bool


class Interpreter:
    """Executes a graph; differentiable, and usable under `torch.func`.

    Args:
        graph: a traced graph.
        dtype: the dtype of every floating tensor, constant and cast. Integers and booleans stay as they are.
        device: where everything is computed.

    Raises:
        UsageError: the graph has an operator that torch does not have.
    """

    def __init__(self, graph: Graph, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> None:
        self.graph, self.dtype, self.device = graph, dtype, torch.device(device)
        last = {ref: call.name for call in graph.calls for ref in (call.name, *call.refs())}
        self._outputs = frozenset(graph.outputs)
        self._read = {*last, *graph.outputs}
        freed: dict[str, list[str]] = {}
        for name, at in last.items():
            if name not in graph.outputs:
                freed.setdefault(at, []).append(name)
        self._steps = [self._step(call, tuple(freed.get(call.name, ()))) for call in graph.calls]

    @overload
    def run(self, state: Mapping[str, Tensor], inputs: Inputs) -> tuple[Tensor, ...]: ...

    @overload
    def run(
        self,
        state: Mapping[str, Tensor],
        inputs: Inputs,
        keep: Collection[str],
        reduce: Callable[[str, Any], Any] | None = None,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]: ...

    def run(
        self,
        state: Mapping[str, Tensor],
        inputs: Inputs,
        keep: Collection[str] | None = None,
        reduce: Callable[[str, Any], Any] | None = None,
    ) -> Any:
        """The outputs of the graph; with `keep`, also the values of these names, or what `reduce` makes of each.

        Args:
            state: parameters and buffers by their qualified names; others are ignored.
            inputs: tensors in the order of the graph's inputs, or by name.

        Raises:
            UsageError: a parameter, buffer or input is missing.
        """
        ends, kept = {}, {}
        for name, value in self.values(state, inputs):
            if keep and name in keep:
                kept[name] = value if reduce is None else reduce(name, value)
            if name in self._outputs:
                ends[name] = value
        outputs = tuple(ends[output] for output in self.graph.outputs)
        return outputs if keep is None else (outputs, kept)

    def values(self, state: Mapping[str, Tensor], inputs: Inputs) -> Iterator[tuple[str, Any]]:
        """Every value by its name as it is made; what no later one needs is forgotten here.

        Args, Raises: as for `run`.
        """
        env = self._start(state, inputs)
        yield from list(env.items())
        for step in self._steps:
            env[step.node.name] = self._call(step, env)
            yield step.node.name, env[step.node.name]
            for name in step.last:
                del env[name]

    def _start(self, state: Mapping[str, Tensor], inputs: Inputs) -> dict[str, Any]:
        names = [input_node.target for input_node in self.graph.inputs]
        if not isinstance(inputs, Mapping) and len(inputs) != len(names):
            cause = f"the graph of {self.graph.model} takes {len(names)}: {', '.join(names)}"
            raise UsageError(f"{len(inputs)} inputs given", cause=cause, remedy="give them in this order, or by name")
        given = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        env: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node.kind is Kind.CALL or node.name not in self._read:
                continue
            source = given if node.kind is Kind.INPUT else state
            if node.target not in source:
                raise UsageError(
                    f"{node.kind} `{node.target}` is missing",
                    cause=f"the graph of {self.graph.model} reads it",
                    remedy="give the state of the whole model (symgraph.tracing.state_of) and every input",
                )
            # In order, as checkpoints have them: some operators take nothing else (`kron`).
            env[node.name] = self._lifted(source[node.target].to(self.device)).contiguous()
        return env

    def _step(self, node: Node, last: tuple[str, ...]) -> _Step:
        run = _LOCAL.get(node.target) or operator(node.target)
        if run is None:
            raise UsageError(
                f"{node.where} cannot be run",
                cause=f"torch has no operator `{node.target}`",
                remedy="import the library that registers it first",
            )
        kwargs = {name: self._constant(value) for name, value in node.kwargs}
        if self._defaults_to_float32(node, run):
            kwargs["dtype"] = self.dtype
        return _Step(
            node, run, [self._constant(argument) for argument in node.args], kwargs, last, self._reads_integers(node)
        )

    def _call(self, step: _Step, env: Mapping[str, Any]) -> Any:
        def value(argument: Any) -> Any:
            if isinstance(argument, Ref):
                operand = env[argument.name]
                return operand.to(self.dtype) if step.lift and _is_integer(operand) else operand
            return [value(item) for item in argument] if isinstance(argument, list) else argument

        try:
            result = step.run(
                *map(value, step.args), **{name: value(argument) for name, argument in step.kwargs.items()}
            )
        except SymgraphError:
            raise
        except (RuntimeError, IndexError) as error:
            raise UsageError(
                f"{step.node.where} cannot be run",
                cause=str(error).splitlines()[0],
                remedy="check the shapes of state and inputs",
            ) from error
        return self._lifted(result)

    def _lifted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._raised(value.dtype))
        return type(value)(self._lifted(item) for item in value) if isinstance(value, list | tuple) else value

    def _raised(self, dtype: torch.dtype) -> torch.dtype:
        if dtype.is_complex:
            return self.dtype.to_complex()
        return self.dtype if is_wide(dtype) else dtype

    def _constant(self, value: Any) -> Any:
        """A constant of the graph as torch takes it; lists stay open, since they may hold operands."""
        if isinstance(value, DType):
            return self._raised(getattr(torch, value.name))
        if isinstance(value, Device):
            return self.device
        if isinstance(value, Opaque):
            return _OPAQUE.get(value.text)
        return [self._constant(item) for item in value] if isinstance(value, list | tuple) else value

    def _defaults_to_float32(self, node: Node, run: Any) -> bool:
        """Whether a call makes floats out of nothing, with no dtype given."""
        says_dtype = any(name == "dtype" for name, _ in node.kwargs)
        if not node.is_floating or says_dtype or any(node.refs()):
            return False
        return any(argument.name == "dtype" for argument in getattr(run, "_schema", _NONE).arguments)

    def _reads_integers(self, node: Node) -> bool:
        """Whether a call turns integers into floats by itself, as a division does: torch would compute in float32."""
        return node.is_floating and not any(self.graph.by_name[ref].is_floating for ref in node.refs())


def evaluate(
    graph: Graph,
    state: Mapping[str, Tensor],
    inputs: Inputs,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, ...]:
    """The outputs of a graph once; build an `Interpreter` to run it often."""
    return Interpreter(graph, dtype=dtype).run(state, inputs)


def call(graph: Graph, name: str, given: Mapping[str, Tensor]) -> Tensor:
    """The result of one node on tensors of one's own, by the names of the values that it reads; in float64."""
    return Interpreter(alone(graph, name, given)).run({}, dict(given))[0]


def alone(graph: Graph, name: str, given: Mapping[str, Tensor]) -> Graph:
    """One node as a graph of its own, whose inputs are such tensors, by the names of the values that it reads."""
    node = graph.by_name[name]
    inputs = [graph.by_name[ref].as_input(_meta(given[ref])) for ref in dict.fromkeys(node.refs())]
    return Graph((*inputs, node), (name,))


def _meta(tensor: Tensor) -> Meta:
    return Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


class _NONE:
    arguments = ()


def _is_integer(value: Any) -> bool:
    floats = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    return isinstance(value, Tensor) and not floats and value.dtype is not torch.bool


def _getitem(value: Any, index: int) -> Any:
    return value[index]


def _tuple(*values: Any) -> tuple[Any, ...]:
    return values


def _embedding(weight: Tensor, indices: Tensor, *options: Any, **more: Any) -> Tensor:
    """Without the options: they change gradients alone, those of the padding row to zero."""
    rows: Tensor = torch.nn.functional.embedding(indices, weight)
    return rows


def _imag(value: Tensor) -> Tensor:
    """Zero for what is real: torch has no such part."""
    return torch.imag(value) if value.is_complex() else torch.zeros_like(value)


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, cudnn: bool
) -> Tensor:
    """In evaluation written out, so that the statistics have derivatives as well."""
    if training or mean is None:
        trained: Tensor = torch.ops.aten.batch_norm.default(x, weight, bias, mean, var, training, momentum, eps, cudnn)
        return trained
    shape = [1, -1] + [1] * (x.dim() - 2)
    slope = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * slope if bias is None else bias - mean * slope
    scaled: Tensor = x * slope.reshape(shape) + shift.reshape(shape)
    return scaled


# Views ask for a layout that a graph without copies does not promise; a reshape has the same values.
_LOCAL: dict[str, Callable[..., Any]] = {
    "getitem": _getitem,
    "tuple": _tuple,
    "aten.embedding.default": _embedding,
    "aten.imag.default": _imag,
    "aten.batch_norm.default": _batch_norm,
    "aten.view.default": torch.ops.aten.reshape.default,
    "aten._unsafe_view.default": torch.ops.aten.reshape.default,
    "aten.view_as.default": torch.ops.aten.reshape_as.default,
}
