"""One operator at a time, taken apart by torch's own decompositions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from symgraph.ir import Device, DType, Graph, Kind, Node, Opaque, Ref, Tensor
from symgraph.tracing.arguments import operator
from symgraph.tracing.lowering import Lowering
from symgraph.tracing.normalize import without_dead_calls, without_identities
from symgraph.tracing.writes import reading, without_writes

_DEPTH = 3

Result = Tensor | tuple[Tensor, ...] | None
IsCovered = Callable[[Node, Graph], bool]


def decompose(node: Node, operands: Mapping[str, Result]) -> tuple[Node, ...] | None:
    """The calls that one call consists of, or None if torch does not take it apart.

    The last node has the name of the original and stands for it; the others are named `NAME.op`. Several results end
    in a node `tuple`. Module and source are the original's.

    Args:
        node: a call.
        operands: shape and dtype of every value that it reads.
    """
    op = operator(node.target)
    names = tuple(dict.fromkeys(node.refs()))
    tensors = {name: tensor for name in names if isinstance(tensor := operands.get(name), Tensor)}
    if op is None or len(tensors) < len(names):
        return None
    traced = _traced(op, node, tensors)
    if traced is None:
        return None
    parts = _lowered(traced, node, [Node(name, Kind.INPUT, name, result=tensor) for name, tensor in tensors.items()])
    # What torch writes in its own primitives is no simpler than the operator itself.
    if parts is None or any(part.target == node.target or part.target.startswith("prims.") for part in parts):
        return None
    return parts


def expand(graph: Graph, is_covered: IsCovered) -> Graph:
    """The graph with uncovered calls taken apart, wherever that leaves covered calls only.

    Args:
        is_covered: whether a rule applies to a call; the graph holds the values that the call reads.
    """
    outputs = set(graph.outputs)
    parts: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        if is_covered(node, graph):
            continue
        parts_here = _covered_parts(node, graph, is_covered, _DEPTH)
        # Several results are read through getitem alone, unless the graph returns them.
        if parts_here is not None and not (parts_here[-1].target == "tuple" and node.name in outputs):
            parts[node.name] = parts_here
    return replace(graph, nodes=tuple(_spliced(graph, parts))) if parts else graph


def _spliced(graph: Graph, parts: Mapping[str, tuple[Node, ...]]) -> Iterator[Node]:
    """The nodes with the parts in place; a getitem of a tuple of parts becomes an alias that vanishes."""
    same: dict[str, str] = {}
    tuples: dict[str, tuple[Any, ...]] = {}
    for raw in graph.nodes:
        for node in parts.get(raw.name, (raw,)):
            node = reading(node, same)
            if node.target == "tuple":
                tuples[node.name] = node.args
            elif node.target == "getitem" and node.args[0].name in tuples:
                yield from _picked(graph, node, tuples[node.args[0].name][node.args[1]], same)
            else:
                yield node


def _picked(graph: Graph, node: Node, part: Ref, same: dict[str, str]) -> Iterator[Node]:
    if node.name in graph.outputs:
        yield replace(node, target="aten.alias.default", args=(part,))
    else:
        same[node.name] = part.name


def _covered_parts(node: Node, graph: Graph, is_covered: IsCovered, depth: int) -> tuple[Node, ...] | None:
    # Where the operands come from is not a part of what this call computes.
    operands = {
        operand: Node(operand, Kind.INPUT, operand, result=graph.by_name[operand].result) for operand in node.refs()
    }
    inner_parts = decompose(node, {ref: operand.result for ref, operand in operands.items()}) if depth else None
    if inner_parts is None:
        return None
    inner = Graph((*operands.values(), *inner_parts), (node.name,))
    whole: list[Node] = []
    for part in inner_parts:
        if part.target == "tuple" or is_covered(part, inner):
            whole.append(part)
            continue
        nested = _covered_parts(part, inner, is_covered, depth - 1)
        if nested is None:
            return None
        whole.extend(nested)
    return _flat(whole)


def _flat(nodes: list[Node]) -> tuple[Node, ...]:
    """Nested tuples resolved, so that at most the last node is one."""
    same: dict[str, str] = {}
    tuples: dict[str, tuple[Any, ...]] = {}
    kept = []
    for raw in nodes[:-1]:
        node = reading(raw, same)
        if node.target == "tuple":
            tuples[node.name] = node.args
        elif node.target == "getitem" and node.args[0].name in tuples:
            same[node.name] = tuples[node.args[0].name][node.args[1]].name
        else:
            kept.append(node)
    last = reading(nodes[-1], same)
    if last.target == "getitem" and last.args[0].name in tuples:
        last = replace(last, target="aten.alias.default", args=(tuples[last.args[0].name][last.args[1]],))
    return (*kept, last)


def _traced(op: Any, node: Node, operands: Mapping[str, Tensor]) -> fx.GraphModule | None:
    """The operator run on tensors without content, with every decomposition torch has for it alone."""
    table = {op: decomposition_table[op]} if op in decomposition_table else {}

    def call(*tensors: torch.Tensor) -> Any:
        env = dict(zip(operands, tensors, strict=True))
        args = _arguments(node.args, env)
        return op(*args, **{name: _arguments(value, env) for name, value in node.kwargs})

    try:
        with FakeTensorMode(), torch.no_grad(), _no_kernels():
            empty = [torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in operands.values()]
            return make_fx(call, decomposition_table=table, tracing_mode="real")(*empty)
    # A decomposition that fails on these operands is one that torch does not have for them.
    except Exception:
        return None


@contextmanager
def _no_kernels() -> Iterator[None]:
    """What one device has a kernel of its own for is written in operators that every device has."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _arguments(value: Any, env: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, Ref):
        return env[value.name]
    if isinstance(value, DType):
        return getattr(torch, value.name)
    if isinstance(value, Device):
        return torch.device("cpu")
    if isinstance(value, Opaque):
        return getattr(torch, value.text.removeprefix("torch."), None)
    return [_arguments(item, env) for item in value] if isinstance(value, list | tuple) else value


def _lowered(module: fx.GraphModule, node: Node, operands: list[Node]) -> tuple[Node, ...] | None:
    failed: list[str] = []

    def constant(name: str, value: torch.Tensor) -> Ref | None:
        made = lowering.literal(value)
        if made is None:
            failed.append(name)
        return made

    lowering = Lowering(lambda _: (node.module, node.source), constant, [operand.name for operand in operands])
    outputs = lowering.run(module, [Ref(operand.name) for operand in operands])
    if failed or not lowering.nodes:
        return None
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    if not all(isinstance(result, Ref) for result in results):
        return None
    graph = Graph((*operands, *lowering.nodes), tuple(result.name for result in results))
    plain = without_writes(graph)
    return None if plain is None else _standing_for(node, without_dead_calls(without_identities(plain)))


def _standing_for(node: Node, graph: Graph) -> tuple[Node, ...] | None:
    """The calls under names of their own, the last under the name of `node`."""
    calls = list(graph.calls)
    if isinstance(node.result, tuple):
        calls.append(Node(node.name, Kind.CALL, "tuple", tuple(map(Ref, graph.outputs)), (), node.result))
    elif not calls or calls[-1].name != graph.outputs[0]:
        return None
    names = {call.name: f"{node.name}.{call.name}" for call in calls[:-1]}
    names[calls[-1].name] = node.name
    at, line = node.module, node.source
    return tuple(replace(reading(call, names), name=names[call.name], module=at, source=line) for call in calls)
