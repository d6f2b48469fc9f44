"""A graph as JSON and back: no code, no numbers of tensors; what comes back equals what was written."""

from __future__ import annotations

from typing import Any

import msgspec

from symgraph.ir import Device, DType, Graph, Kind, Node, Opaque, Ref, Tensor

# Beyond this, numbers of JSON are not those of Python.
_EXACT = 2**53
_WORDS = {"ref": Ref, "dtype": DType, "device": Device, "opaque": Opaque}
_NAMES = {kind: word for word, kind in _WORDS.items()}


def dump(graph: Graph) -> bytes:
    """A graph without what its buffers held, as JSON.

    Raises:
        TypeError: an operand is of a kind that has no text.
    """
    plain = {
        "nodes": [_node(node) for node in graph.nodes],
        "outputs": graph.outputs,
        "tied": graph.tied,
        "transient": sorted(graph.transient),
        "model": graph.model,
        "kinds": graph.kinds,
        "untraced": graph.untraced,
        "idle": sorted(graph.idle),
        "closed": graph.closed,
    }
    return msgspec.json.encode(plain)


def load(text: bytes) -> Graph:
    """The graph that `dump` wrote.

    Raises:
        ValueError, TypeError, KeyError: it did not.
    """
    plain = msgspec.json.decode(text, type=dict[str, Any])
    return Graph(
        tuple(_read_node(*plain_node) for plain_node in plain["nodes"]),
        tuple(plain["outputs"]),
        dict(plain["tied"]),
        frozenset(plain["transient"]),
        str(plain["model"]),
        tuple(plain["kinds"]),
        tuple(plain["untraced"]),
        frozenset(plain["idle"]),
        bool(plain["closed"]),
    )


def _node(node: Node) -> tuple[Any, ...]:
    kwargs = [(name, _plain(value)) for name, value in node.kwargs]
    return node.name, node.kind, node.target, _plain(node.args), kwargs, _result(node.result), node.module, node.source


def _read_node(
    name: str, kind: str, target: str, args: Any, kwargs: Any, result: Any, module: str, source: str
) -> Node:
    named = tuple((name, _read(value)) for name, value in kwargs)
    return Node(name, Kind(kind), target, _read(args), named, _read_result(result), module, source)


def _result(result: Tensor | tuple[Tensor, ...] | None) -> Any:
    if isinstance(result, Tensor):
        return {"shape": result.shape, "dtype": result.dtype}
    return None if result is None else [_result(part) for part in result]


def _read_result(plain: Any) -> Any:
    if isinstance(plain, dict):
        return Tensor(tuple(plain["shape"]), plain["dtype"])
    return None if plain is None else tuple(_read_result(part) for part in plain)


def _plain(value: Any) -> Any:
    """An operand as plain data; what JSON has no word for stands under a name."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else {"int": str(value)}
    if isinstance(value, float | complex):
        return {type(value).__name__: repr(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if type(value) in _NAMES:
        return {_NAMES[type(value)]: value.text if isinstance(value, Opaque) else value.name}
    raise TypeError(f"{type(value).__name__} has no text")


def _read(plain: Any) -> Any:
    if isinstance(plain, list):
        return tuple(_read(item) for item in plain)
    if not isinstance(plain, dict):
        return plain
    ((word, text),) = plain.items()
    if word in _WORDS:
        return _WORDS[word](text)
    return {"int": int, "float": float, "complex": complex}[word](text)
