"""What torch is asked to do, written down while it does it: straight-line code that gives the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from symgraph.errors import SymgraphError
from symgraph.tracing.deferred import Deferred

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "eq": "==", "pow": "**"}
_REFLECTED = {"__rsub__": "-", "__rpow__": "**", "__rtruediv__": "/", "__rdiv__": "/", "__radd__": "+", "__rmul__": "*"}
_ALIASES = {"__matmul__": "matmul", "__add__": "add", "__sub__": "sub", "__mul__": "mul", "__truediv__": "div"}
_ALIASES |= {"__eq__": "eq", "__pow__": "pow"}
_SIGNS = {*_INFIX.values(), *_REFLECTED.values()}
# Methods that give a number of Python.
_NUMBERS = ("item", "__float__", "__int__", "tolist", "__index__")


@dataclass(frozen=True, slots=True)
class Operand:
    """What a statement reads.

    By `kind`: "made" by another, a tensor of the "state", an "element" of the alignment, or a "number": whole numbers
    that depend on nothing, as they are written.
    """

    kind: str
    name: str


Text = tuple["str | Operand", ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One line: `makes` are the variables that it makes, `writes` the one that it writes to."""

    text: Text
    makes: tuple[Operand, ...]
    writes: Operand | None = None

    @property
    def infix(self) -> bool:
        """Whether it is an operator between operands."""
        return any(isinstance(part, str) and part.strip() in _SIGNS for part in self.text)

    @property
    def reads(self) -> Iterator[Operand]:
        """The operands in its text."""
        return (part for part in self.text if isinstance(part, Operand))


class Recorder(TorchFunctionMode):
    """Writes down every call that makes tensors, or writes to one.

    Args:
        known: what is there already; a tensor that is not among it, and that no call has made, is an error.
    """

    def __init__(self, known: Mapping[Operand, Tensor]) -> None:
        super().__init__()
        self.operands = {id(tensor): operand for operand, tensor in known.items()}
        self.statements: list[Statement] = []
        # Their identities are looked up, so that they have to stay.
        self.kept: list[Any] = []
        self.storage: dict[Operand, int] = {}
        # Of these it is looked at whether a call has given anything but the same view.
        self.tensors = {operand: tensor for operand, tensor in known.items() if not isinstance(tensor, Deferred)}
        self.numbers = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        name = getattr(func, "__name__", "")
        if name in _NUMBERS:
            self.numbers = True
        if name == "__setitem__" or _is_in_place(name):
            self._written(name, args, named, result)
        elif isinstance(result, Tensor):
            self._made((result,), self._call(func, args, named))
        elif isinstance(result, tuple | list) and result and all(isinstance(part, Tensor) for part in result):
            self._made(tuple(result), self._call(func, args, named))
        return result

    def result(self, tensor: Tensor) -> tuple[Operand, tuple[Statement, ...]]:
        """A tensor, and the statements that it takes, in their order."""
        end = self.operands[id(tensor)]
        needed, roots, statements = {end}, {self.storage.get(end)}, []
        for statement in reversed(self.statements):
            writes = statement.writes is not None and self.storage.get(statement.writes) in roots
            if not writes and not needed & set(statement.makes):
                continue
            statements.append(statement)
            read = [
                operand
                for operand in (*statement.reads, *([statement.writes] if statement.writes else ()))
                if operand.kind == "made"
            ]
            needed |= set(read)
            roots |= {self.storage[operand] for operand in read}
        return end, tuple(reversed(statements))

    def _made(self, tensors: tuple[Tensor, ...], text: Text) -> None:
        if all(id(tensor) in self.operands for tensor in tensors):
            # A call that gave back what it was given, such as `to` of what is there already.
            return
        reads = [part for part in text if isinstance(part, Operand)]
        if len(tensors) == 1 and (same := self._same(tensors[0], reads)) is not None:
            self._call_it(tensors[0], same)
            return
        if (
            len(tensors) == 1
            and all(operand.kind == "number" for operand in reads)
            and not tensors[0].is_floating_point()
        ):
            self._call_it(tensors[0], Operand("number", _literal(tensors[0])))
            return
        makes = []
        for tensor in tensors:
            made = Operand("made", str(len(self.storage)))
            self.operands[id(tensor)], self.storage[made] = made, tensor.untyped_storage()._cdata
            self.tensors[made] = tensor
            makes.append(made)
        self.kept.append(tensors)
        self.statements.append(Statement(text, tuple(makes)))

    def _call_it(self, tensor: Tensor, operand: Operand) -> None:
        self.operands[id(tensor)] = operand
        self.tensors.setdefault(operand, tensor)
        self.kept.append(tensor)

    def _same(self, tensor: Tensor, reads: list[Operand]) -> Operand | None:
        """The operand of which a call has given nothing but the same view."""
        for operand in reads:
            other = self.tensors.get(operand)
            if other is not None and _view(other) == _view(tensor):
                return operand
        return None

    def _written(self, name: str, args: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
        target, *rest = args
        operand = self.operands[id(target)]
        if operand.kind != "made":
            raise SymgraphError(f"{name} writes to what it is given", remedy="leave out the code, use `symgraph apply`")
        if isinstance(result, Tensor):
            self.operands[id(result)] = operand
            self.kept.append(result)
        if name == "__setitem__":
            text: Text = (operand, "[", *self._text(rest[0]), "] = ", *self._text(rest[1]))
        else:
            text = (operand, f".{name}(", *self._arguments(tuple(rest), named), ")")
        self.statements.append(Statement(text, (), operand))

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> Text:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return (*self._text(args[0]), f".{func.__self__.__name__}")  # type: ignore[attr-defined]
        if name == "__getitem__":
            return (*self._text(args[0]), "[", *self._text(args[1]), "]")
        plain = _ALIASES.get(name, name)
        if plain in _INFIX and len(args) == 2 and not named:
            return (*self._text(args[0]), f" {_INFIX[plain]} ", *self._text(args[1]))
        if name in _REFLECTED:
            return (*self._text(args[1]), f" {_REFLECTED[name]} ", *self._text(args[0]))
        if getattr(torch.Tensor, name, None) == func:
            return (*self._text(args[0]), f".{name}(", *self._arguments(args[1:], named), ")")
        return (f"{_path(func, name)}(", *self._arguments(args, named), ")")

    def _arguments(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Text:
        parts = [self._text(argument) for argument in args] + [
            (f"{name}=", *self._text(value)) for name, value in named.items() if value is not None
        ]
        return _joined(parts)

    def _text(self, value: Any) -> Text:
        if isinstance(value, Tensor):
            if id(value) not in self.operands:
                raise SymgraphError(
                    f"a tensor of shape {tuple(value.shape)} is neither of the checkpoint nor of the alignment",
                    remedy="leave out the code, and use `symgraph apply`",
                )
            return (self.operands[id(value)],)
        if isinstance(value, tuple | list):
            ends = "[]" if isinstance(value, list) else "()"
            inside = _joined([self._text(item) for item in value])
            return (ends[0], *inside, "," if ends == "()" and len(value) == 1 else "", ends[1])
        if isinstance(value, slice):
            return (f"slice({value.start}, {value.stop}, {value.step})",)
        if isinstance(value, torch.device):
            return (repr(str(value)),)
        if value is None or isinstance(value, bool | int | float | str | torch.dtype) or value is Ellipsis:
            return ("..." if value is Ellipsis else repr(value),)
        raise SymgraphError(f"{type(value).__name__} has no place in code", remedy="use `symgraph apply`")


def _view(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _literal(tensor: Tensor) -> str:
    """Whole numbers as code: a range where they are one."""
    if tensor.dtype is torch.int64 and tensor.dim() == 1 and len(tensor) > 1:
        first, step = int(tensor[0]), int(tensor[1] - tensor[0])
        if step > 0 and torch.equal(tensor, torch.arange(first, first + step * len(tensor), step)):
            steps = f", {step}" if step > 1 else ""
            return f"torch.arange({first}, {int(tensor[-1]) + 1}{steps})"
    return f"torch.tensor({tensor.tolist()}, dtype={tensor.dtype})"


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _joined(parts: list[Text]) -> Text:
    text: list[str | Operand] = []
    for number, part in enumerate(parts):
        text += ([", "] if number else []) + list(part)
    return tuple(text)


def _path(func: Callable[..., Any], name: str) -> str:
    short = name.removeprefix("linalg_")
    for place, module, called in (("torch", torch, name), ("torch.linalg", torch.linalg, short)):
        if getattr(module, called, None) == func:
            return f"{place}.{called}"
    raise SymgraphError(f"the function {name} has no public name", remedy="use `symgraph apply`")
