"""The graph that every later stage reads: immutable, printable, free of torch objects.

A `Graph` is a straight-line program over ATen operators. Operands are `Ref`s to earlier values or plain Python
constants; a dtype is its name ("float32"). Parameters, buffers and inputs are nodes as well, so that every value has
exactly one producer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, wraps
from math import prod
from typing import Any, Concatenate, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
Asked = TypeVar("Asked", bound="Answers")
Shape = tuple[int, ...]
Form = tuple[Any, ...]


def resized(shape: Shape, axis: int, *sizes: int) -> Shape:
    """A shape with another size along one axis; without a size the axis is gone, of several each is an axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


class Answers:
    """What has been asked of something that never changes, and what was found."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[Any, Any] = {}

    def once(self, question: Any, find: Callable[[], T]) -> T:
        """The answer to a question; it is looked for once."""
        if question not in self._answers:
            self._answers[question] = find()
        found: T = self._answers[question]
        return found


def kept(ask: Callable[Concatenate[Asked, P], T]) -> Callable[Concatenate[Asked, P], T]:
    """A function of something that never changes, of which the results are kept with that."""

    @wraps(ask)
    def answer(of: Asked, /, *given: P.args, **named: P.kwargs) -> T:
        return of.once((ask, *given, *named.items()), lambda: ask(of, *given, **named))

    return answer


class Kind(StrEnum):
    """What produces a value."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    INPUT = "input"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of the value that the node called `name` produces."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class DType:
    """A dtype constant among the arguments of a call."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Device:
    """A device constant among the arguments of a call; the executor substitutes its own device."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A constant without meaning for symmetry (a layout, a memory format), kept by its repr."""

    text: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape and dtype of one value."""

    shape: Shape
    dtype: str

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the graph and how it is produced.

    `result` is a `Tensor`, a tuple of them for operators with several results, or None for those with none.
    `target` is the operator ("aten.linear.default"), or the fully qualified name of a parameter or buffer.
    `module` is the path of the user's module that made the call, `source` its file and line.
    """

    name: str
    kind: Kind
    target: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    result: Tensor | tuple[Tensor, ...] | None = None
    module: str = ""
    source: str = ""
    _read: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _form: Form | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def shape(self) -> Shape:
        """Shape of a single-tensor result; () for every other result."""
        return self.result.shape if isinstance(self.result, Tensor) else ()

    @property
    def dtype(self) -> str:
        """Name of the dtype of a single-tensor result; "" for every other result."""
        return self.result.dtype if isinstance(self.result, Tensor) else ""

    @property
    def is_floating(self) -> bool:
        """Whether the result is one tensor of real numbers."""
        return "float" in self.dtype

    def call(self, name: str, target: str, args: tuple[Any, ...], shape: Shape, dtype: str = "") -> Node:
        """Another call at the same place in the code, with a result of this dtype, by default of the same."""
        # Spelled out: `dataclasses.replace` takes three times as long.
        result = Tensor(shape, dtype or self.dtype)
        return Node(name, Kind.CALL, target, args, (), result, self.module, self.source)

    def as_input(self, result: Tensor | None = None) -> Node:
        """The value as one that is given, of this shape and dtype, by default of the same."""
        return Node(self.name, Kind.INPUT, self.name, (), (), result or self.result, self.module, self.source)

    @property
    def where(self) -> str:
        """The user's place: `layers.3.mlp.act (aten.silu, modeling.py:171)`."""
        op = self.target.rsplit(".", 1)[0] if self.kind is Kind.CALL else self.target
        inner = f"{op}, {self.source}" if self.source else op
        return f"{self.module or '(top level)'} ({inner})"

    def refs(self) -> Iterator[str]:
        """Names of the values this node reads, in order, with repetition."""
        # Kept: every stage asks every node.
        if self._read is None:
            object.__setattr__(self, "_read", (*_refs(self.args), *_refs(tuple(value for _, value in self.kwargs))))
        return iter(self._read or ())

    @property
    def form(self) -> Form:
        """Operator, constants, roles of the operands, and result: what a node is, whatever its values are called."""
        if self._form is None:
            roles = {name: role for role, name in enumerate(dict.fromkeys(self.refs()))}
            plain = (self.kind, self.target, _plain(self.args, roles), _plain(self.kwargs, roles), self.result)
            object.__setattr__(self, "_form", plain)
        return self._form or ()

    def __str__(self) -> str:
        if self.kind is not Kind.CALL:
            return f"%{self.name}: {self.result!r} = {self.kind} {self.target}"
        args = [repr(argument) for argument in self.args] + [f"{name}={value!r}" for name, value in self.kwargs]
        return f"%{self.name}: {self.result!r} = {self.target}({', '.join(args)})"


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _refs(item)


def _plain(value: Any, roles: Mapping[str, int]) -> Any:
    """An argument that can be hashed, with the roles of operands; numbers that are equal, but not the same, differ."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item, roles) for item in value)
    if isinstance(value, Ref):
        return Ref, roles[value.name]
    return repr(value) if isinstance(value, _CONSTANTS) else _Itself(value)


@dataclass(frozen=True, slots=True)
class _Itself:
    """A value that is equal to itself alone."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value


_CONSTANTS = (int, float, complex, str, type(None), DType, Device, Opaque)


def map_refs(value: Any, change: Callable[[Ref], Any]) -> Any:
    """`value` with every `Ref` r replaced by f(r); lists and tuples are rebuilt."""
    if isinstance(value, Ref):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([map_refs(item, change) for item in value])
    return value


def rewired(node: Node, change: Callable[[Ref], Ref], *, name: str, module: str) -> Node:
    """`node` under another name and in another module, with every `Ref` r that it reads replaced by `change(r)`."""
    args, kwargs = map_refs(node.args, change), map_refs(node.kwargs, change)
    # Spelled out: `dataclasses.replace` takes three times as long, and deep models have thousands of calls.
    return Node(name, node.kind, node.target, args, kwargs, node.result, module, node.source)


@dataclass(frozen=True, repr=False)
class Graph:
    """A traced model.

    `outputs` are names of values; `tied` maps each further name of a shared parameter to the name the graph uses;
    `transient` holds the buffers that checkpoints do not store. `kinds` names the kinds of input that were traced
    beside the plain one, and `untraced` those that could not be, with the reason. `idle` holds the parameters that the
    model's code reads without any effect on an output. Of a `closed` one every call gives the inputs that were traced,
    so that what these do not reach is reached by none. `known` is what buffers held when they were traced.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    tied: dict[str, str] = field(default_factory=dict)
    transient: frozenset[str] = frozenset()
    model: str = ""
    kinds: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()
    idle: frozenset[str] = frozenset()
    closed: bool = False
    known: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Every node under its value's name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def answers(self) -> Answers:
        """What later stages have asked of the graph."""
        return Answers()

    @cached_property
    def users(self) -> dict[str, tuple[Node, ...]]:
        """For every value, the nodes that read it (once each, in order)."""
        users: dict[str, dict[str, Node]] = {node.name: {} for node in self.nodes}
        for node in self.nodes:
            for ref in node.refs():
                users[ref][node.name] = node
        return {name: tuple(readers.values()) for name, readers in users.items()}

    def form(self, node: Node) -> Form:
        """What a node of the graph computes, whatever values are called, and which of several results are picked.

        Nodes of equal forms are the same to every rule.
        """
        operands = (self.by_name[ref].result for ref in dict.fromkeys(node.refs()))
        several = self.users[node.name] if isinstance(node.result, tuple) else ()
        return node.form, *operands, *(user.form for user in several)

    @cached_property
    def state(self) -> dict[str, Node]:
        """Parameters and buffers under their fully qualified names."""
        return {node.target: node for node in self.nodes if node.kind in (Kind.PARAMETER, Kind.BUFFER)}

    @property
    def parameters(self) -> dict[str, Node]:
        """Parameters under their fully qualified names."""
        return {name: node for name, node in self.state.items() if node.kind is Kind.PARAMETER}

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """Parameters that no trace has read, so that nothing is known of them."""
        if self.closed:
            return ()
        read = {*self.idle, *self.outputs}
        return tuple(
            name for name, node in self.parameters.items() if not self.users[node.name] and node.name not in read
        )

    @property
    def size(self) -> int:
        """Number of parameters, each counted entry by entry."""
        return sum(prod(parameter.shape) for parameter in self.parameters.values())

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes in the order of the model's signature."""
        return tuple(node for node in self.nodes if node.kind is Kind.INPUT)

    @property
    def calls(self) -> tuple[Node, ...]:
        """The operator nodes in program order."""
        return tuple(node for node in self.nodes if node.kind is Kind.CALL)

    def __str__(self) -> str:
        body = "\n".join(f"  {node}" for node in self.nodes)
        return f"graph {self.model}\n{body}\n  return {', '.join('%' + output for output in self.outputs)}"

    def __repr__(self) -> str:
        inputs = ", ".join(f"{input_node.target} {input_node.shape}" for input_node in self.inputs) or "none"
        return f"graph {self.model}: {len(self.calls)} calls, {self.size:,} parameters, inputs {inputs}"
