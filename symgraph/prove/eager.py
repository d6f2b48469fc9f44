"""What a user's own module computes, called in eager mode with other tensors in the place of its own.

Several states may go through it together, so that weights that have to be read are read once for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from symgraph.errors import TraceError, one_line
from symgraph.io.heap import given_back
from symgraph.io.models import Model
from symgraph.ir import Graph
from symgraph.tracing.deferred import Deferred, made, waiting
from symgraph.tracing.kinds import further_kinds
from symgraph.tracing.sampling import random_inputs
from symgraph.tracing.several import Several, each, several
from symgraph.tracing.wrap import (
    TensorsOnly,
    evaluating,
    example_inputs,
    float_outputs,
    gathered_experts,
    is_pretrained,
)

State = Mapping[str, Tensor]
# Of a tensor under its name, what is computed with in its place.
Variation = Callable[[str, Tensor], Tensor]
Outputs = TypeVar("Outputs")
# Tensors of more entries are made when the module needs them, and not kept.
LARGE = 2**16
# What a call raises that does not fit the module.
_REFUSED = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of input: what it is called, and what the module is called with, if it can be (`optional`)."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


def calls_of(model: Model, graph: Graph | None = None) -> tuple[Call, ...]:
    """The example inputs of a model: those that came with it, or of every kind that its config speaks of.

    Args:
        graph: whose inputs are drawn at random where nothing else says what the module takes.
    """
    label, example = "the example inputs", model.example
    if isinstance(example, Mapping):
        return (Call(label, (), dict(example)),)
    if example is not None:
        return (Call(label, example if isinstance(example, tuple) else (example,)),)
    if is_pretrained(model.module):
        return tuple(_pretrained(model.module))
    return () if graph is None else (_drawn(model.module, graph),)


def _pretrained(module: nn.Module) -> Iterator[Call]:
    fixed, plain = TensorsOnly(module).fixed, example_inputs(module, masks=True)
    yield Call("the example inputs", (), {**plain, **fixed})
    for label, make in further_kinds(module, example_inputs(module)):
        # Not every class takes all that its signature names.
        with suppress(Exception):
            yield Call(label, (), {**make(), **fixed}, optional=True)


def _drawn(module: nn.Module, graph: Graph) -> Call:
    """Random inputs of the traced shapes, by name where they have the names of arguments."""
    inputs = random_inputs(graph, torch.Generator().manual_seed(0))
    named = {node.target: value for node, value in zip(graph.inputs, inputs, strict=True)}
    if named.keys() <= inspect.signature(module.forward).parameters.keys():
        return Call("random inputs", (), named)
    return Call("random inputs", tuple(inputs))


class Eager:
    """A module as a function of its parameters and buffers, on some calls.

    It computes in float64 where its code can, else in its own precision.
    """

    def __init__(self, module: nn.Module, calls: Sequence[Call]) -> None:
        self.module, self.calls = module, tuple(calls)
        self.own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.dtype: torch.dtype | None = torch.float64

    def outputs(self, state: State) -> list[tuple[Tensor, ...]]:
        """What floats among the outputs of every call, with `state` in the place of what the module holds.

        Raises:
            TraceError: the module cannot be called.
        """

        def called() -> list[tuple[Tensor, ...]]:
            return self._on({name: self._lazily(state.get(name, tensor), tensor) for name, tensor in self.own.items()})

        try:
            return self._in_either_precision(called)
        except _REFUSED as error:
            name = type(self.module).__name__
            remedy = "give inputs that it can be called on"
            raise TraceError(f"{name} cannot be called on its inputs", cause=one_line(error), remedy=remedy) from error

    def variants(self, state: State, variations: Sequence[Variation]) -> list[list[tuple[Tensor, ...]]]:
        """The outputs for each variation of a state; where tensors have to be read, each is read once for all of them.

        Raises:
            TraceError: as for `outputs`.
        """
        dtype = self.dtype
        if waiting(state):
            # Not every module can be called with several weights at once: by their values it may do different things.
            with suppress(Exception):
                return self._in_either_precision(lambda: self._together(state, variations))
            self.dtype = dtype
        return [
            self.outputs({name: _varied(variation, name, tensor) for name, tensor in state.items()})
            for variation in variations
        ]

    def _in_either_precision(self, called: Callable[[], Outputs]) -> Outputs:
        try:
            return called()
        except _REFUSED:
            if self.dtype is None:
                raise
        # Code that names its dtypes can be called in them alone.
        self.dtype = None
        return called()

    def _together(self, state: State, variations: Sequence[Variation]) -> list[list[tuple[Tensor, ...]]]:
        def handle(name: str, own: Tensor) -> Tensor:
            given = state.get(name, own)
            if name not in state or not floats(given) or own.device.type != "cpu":
                return self._lazily(given, own)

            def parts() -> Iterator[Tensor]:
                *others, last = variations
                held = given_back(made(given).detach())
                for variation in others:
                    yield self._placed(variation(name, held), own)
                if isinstance(last, Standing) and name in last.tensors:
                    # The tensor itself may be large, and nothing needs it any more.
                    del held
                    yield self._placed(last.tensors[name], own)
                else:
                    yield self._placed(last(name, held), own)

            if given.numel() <= LARGE:
                return several(list(parts()))
            dtype = self._dtype_of(given) if self.dtype is not None else own.dtype
            return Several(parts, torch.empty(given.shape, dtype=dtype, device="meta"), lazy=True)

        results = self._on({name: handle(name, tensor) for name, tensor in self.own.items()})
        count = len(variations)
        apart = [list(zip(*(each(output, count) for output in outputs), strict=True)) for outputs in results]
        return [[outputs[number] if outputs else () for outputs in apart] for number in range(count)]

    def _on(self, tensors: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        with evaluating(self.module), torch.no_grad(), gathered_experts(self.module):
            return [self._called(tensors, call) for call in self.calls]

    def _called(self, tensors: dict[str, Tensor], call: Call) -> tuple[Tensor, ...]:
        args, kwargs = tree_map_only(Tensor, self._computed, (call.args, dict(call.kwargs)))
        output = torch.func.functional_call(self.module, tensors, args, kwargs)
        named = float_outputs(output) if is_pretrained(self.module) else tree_leaves(output)
        return tuple(
            tensor
            for tensor in named
            if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
        )

    def _lazily(self, tensor: Tensor, like: Tensor) -> Tensor:
        """What the module is called with: large tensors are made when an operator asks for them, one at a time."""
        if tensor.numel() <= LARGE or like.device.type != "cpu":
            return self._placed(made(tensor), like)
        dtype = self._dtype_of(tensor) if self.dtype is not None else like.dtype
        return Deferred(lambda: self._placed(made(tensor), like), tensor.shape, dtype)

    def _dtype_of(self, tensor: Tensor) -> torch.dtype:
        """In which dtype a tensor is computed with."""
        if tensor.is_complex():
            return torch.complex128
        return self.dtype or tensor.dtype if tensor.is_floating_point() else tensor.dtype

    def _placed(self, tensor: Tensor, like: Tensor) -> Tensor:
        return self._computed(tensor.detach().to(like.device, like.dtype if self.dtype is None else None))

    def _computed(self, tensor: Tensor) -> Tensor:
        return tensor if self.dtype is None else tensor.to(self._dtype_of(tensor))


@dataclass(frozen=True, slots=True)
class Standing:
    """The variation that puts other tensors in the place of those of the state, and varies what it has none for."""

    tensors: State
    otherwise: Variation

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """What stands in the place of a tensor."""
        return self.tensors[name] if name in self.tensors else self.otherwise(name, tensor)


def as_it_is(name: str, tensor: Tensor) -> Tensor:
    """The variation that changes nothing."""
    return tensor


def _varied(variation: Variation, name: str, tensor: Tensor) -> Tensor:
    """A variation of a tensor, made when the module needs it; in float64, which holds all others."""
    if variation is as_it_is or not floats(tensor):
        return tensor
    wide = torch.complex128 if tensor.is_complex() else torch.float64

    def make() -> Tensor:
        return variation(name, made(tensor).detach()).to(wide)

    return Deferred(make, tensor.shape, wide) if tensor.device.type == "cpu" else make()


def floats(tensor: Tensor) -> bool:
    """Whether a tensor has entries that rounding changes."""
    return tensor.is_floating_point() or tensor.is_complex()
