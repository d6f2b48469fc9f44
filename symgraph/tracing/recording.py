"""What a model calls, without a trace: one run on tensors without numbers, each call noted with what it reads.

Ten times as fast as a trace, and of a deep model: enough to see which of its blocks do the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from symgraph.ir import Kind, Node, Ref
from symgraph.tracing.lowering import describe, plain
from symgraph.tracing.meta import without_numbers

# Numbers of the code that are compared; more of them are not looked at, and end the recording.
_LITERAL_SIZE = 32


@dataclass(frozen=True, slots=True)
class Recording:
    """The calls of one run in their order, `module` being the block that made them, and the values that it gave."""

    calls: tuple[Node, ...]
    outputs: tuple[str, ...]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every call.

    Args:
        names: names of the tensors that are there before the run, by their identity.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Node] = []
        self.place = ""
        self.names = dict(names)
        self._alive: list[Any] = []
        self._made: dict[Any, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = tuple((name, self.read(value)) for name, value in (kwargs or {}).items())
        operands = self.read(args), named
        result = self._result(func, args, kwargs or {})
        name = f"%{len(self.calls)}"
        self.calls.append(Node(name, Kind.CALL, str(func), *operands, describe(result), self.place))
        self._alive.append(result)
        if isinstance(result, torch.Tensor):
            self.names[id(result)] = name
        elif isinstance(result, list | tuple):
            self.names |= {
                id(tensor): f"{name}#{number}"
                for number, tensor in enumerate(result)
                if isinstance(tensor, torch.Tensor)
            }
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What a call makes; calls that differ in nothing but what they read make the same, which is quick to make."""
        key = (func, _outline(args), _outline(tuple(kwargs.items())))
        if key in self._made:
            shape, stride, dtype = self._made[key]
            return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.is_meta and not func._schema.is_mutable and not _is_made(args):
            self._made[key] = result.shape, result.stride(), result.dtype
        return result

    def read(self, value: Any) -> Any:
        """An operand as nodes have it.

        Raises:
            ValueError: it is a tensor that nothing is known of.
        """
        if isinstance(value, torch.Tensor):
            name = self.names.get(id(value))
            return _numbers(value) if name is None else Ref(name)
        return tuple(map(self.read, value)) if isinstance(value, list | tuple) else plain(value)


def _is_made(args: Any) -> bool:
    """Whether a call reads no tensor."""
    return not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(args))


def _outline(value: Any) -> Any:
    """An operand by all that decides about shapes."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return tuple(map(_outline, value)) if isinstance(value, list | tuple) else (type(value), value)


def _numbers(value: torch.Tensor) -> tuple[Any, ...]:
    """A tensor that the code made of numbers, by these."""
    if isinstance(value, FakeTensor) or value.is_meta or value.numel() > _LITERAL_SIZE:
        raise ValueError("a tensor from nowhere")
    return "numbers", describe(value), repr(value.tolist())


def recorded(
    model: nn.Module, wrapper: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any], blocks: Iterable[str]
) -> Recording:
    """One run of a model (in its wrapper) on example inputs, by the blocks of these names.

    Raises:
        Exception: whatever the model raises on tensors without numbers.
    """
    with without_numbers(wrapper, args, inputs) as (given, named), _compiling_state_context():
        recorder = _Recorder(_named(model, given, named))
        with recorder, _placed(model, blocks, recorder):
            output = wrapper(*given, **named)
    outputs = (recorder.names[id(leaf)] for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
    return Recording(tuple(recorder.calls), tuple(outputs))


def _named(model: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> dict[int, str]:
    """Names of all that a module holds and is given; of several for one tensor the first."""
    names: dict[int, str] = {}
    for name, tensor in _held(model):
        names.setdefault(id(tensor), name)
    given = [*enumerate(tree_leaves(args)), *inputs.items()]
    return names | {id(leaf): f"input {name}" for name, value in given for leaf in tree_leaves(value)}


def _held(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for path, module in model.named_modules():
        yield from (
            (f"{path}.{name}", value) for name, value in vars(module).items() if isinstance(value, torch.Tensor)
        )


@contextmanager
def _placed(model: nn.Module, blocks: Iterable[str], recorder: _Recorder) -> Iterator[None]:
    """Inside the block calls are noted with the block of the model that makes them."""

    def enter(name: str) -> Any:
        return lambda *_: setattr(recorder, "place", name)

    modules = [(name, model.get_submodule(name)) for name in blocks]
    hooks = [module.register_forward_pre_hook(enter(name)) for name, module in modules]
    hooks += [module.register_forward_hook(enter("")) for _, module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
