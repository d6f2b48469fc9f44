"""Random parameters and inputs of a traced graph, in float64: what verification and audit evaluate it at."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from symgraph.ir import Graph, Node, Ref
from symgraph.tracing.arguments import parameters as arguments
from symgraph.tracing.lookups import readers, table_rows
from symgraph.tracing.operators import short_name
from symgraph.tracing.thresholds import COMPARISONS, ORDERS, Numbers, numbers_of
from symgraph.tracing.worlds import PLAIN, WORLDS, World

State = dict[str, Tensor]


def random_inputs(graph: Graph, generator: torch.Generator, world: World = PLAIN) -> list[Tensor]:
    """Inputs of the traced shapes, as a world draws them.

    Numbers are rows where they index a table; whole ones at least one where they are lengths, else a mask of 0 and 1.
    What
    is compared with numbers is drawn around these where a world draws so.
    """
    numbers = () if world.plain else numbers_of(graph)
    return [_input(graph, node, generator, world, numbers) for node in graph.inputs]


def input_worlds(graph: Graph) -> tuple[World, ...]:
    """The worlds in which inputs differ, the plainest first and then one that closes rows of masks."""
    drawn = [node for node in graph.inputs if node.is_floating or table_rows(graph, node.name) is None]
    others = [world for world in WORLDS if world is not PLAIN]
    return (PLAIN, *sorted(others, key=lambda world: world.name != "zeros")) if drawn else (PLAIN, WORLDS[-1])


def _input(graph: Graph, node: Node, generator: torch.Generator, world: World, numbers: Numbers) -> Tensor:
    rows = table_rows(graph, node.name)
    if rows is None:
        return _numbers(graph, node, generator, world, numbers)
    drawn = _indices(graph, node, generator, world, rows)
    if bool(rows.all()):
        return drawn
    return torch.where(rows > 0, drawn, _numbers(graph, node, generator, world, numbers))


def _numbers(graph: Graph, node: Node, generator: torch.Generator, world: World, numbers: Numbers) -> Tensor:
    """Entries that are looked up in no table."""
    dtype, shape = _dtype(node), list(node.shape)
    if dtype.is_floating_point:
        return world.floats(shape, generator, numbers)
    if longest := _longest(graph, node.name):
        return torch.randint(1, longest + 1, shape, generator=generator).to(dtype)
    mask = world.masks(shape, generator).to(dtype)
    return mask if world.plain else _beside(mask, _compared(graph, node.name), generator)


def _indices(graph: Graph, node: Node, generator: torch.Generator, world: World, rows: Tensor) -> Tensor:
    """Rows of tables; those with which entries are compared are among them."""
    shape = list(node.shape)
    drawn = world.integers(shape, generator, int(rows.max())) % rows.clamp(min=1)
    for special in _compared(graph, node.name):
        if 0 <= special < int(rows.max()):
            chosen = torch.rand(shape, generator=generator) < 0.15
            drawn[chosen & (special < rows)] = special
    return drawn.to(torch.float64 if _dtype(node).is_floating_point else _dtype(node))


def _beside(mask: Tensor, specials: list[int], generator: torch.Generator) -> Tensor:
    """A mask, with whole numbers that it is compared with, and their neighbours, in the place of some entries."""
    near = torch.tensor([special + side for special in specials if special not in (0, 1) for side in (-1, 0, 1)])
    if not len(near) or mask.dtype is torch.bool:
        return mask
    chosen = near[torch.randint(0, len(near), mask.shape, generator=generator)].to(mask.dtype)
    return torch.where(torch.rand(mask.shape, generator=generator) < 0.7, chosen, mask)


def _longest(graph: Graph, value: str) -> int:
    """The number of positions that a value is a length of, if positions are compared with it; else 0."""
    users = [user for _, user in readers(graph, value) if short_name(user.target) in ORDERS]
    return max((user.shape[-1] for user in users if user.shape), default=0)


def random_state(graph: Graph, generator: torch.Generator) -> State:
    """Parameters and buffers of the traced shapes: vectors near one, matrices scaled by their columns."""
    state: State = {}
    for name, node in graph.state.items():
        if not node.is_floating:
            state[name] = _counted(graph, node)
            continue
        noise = torch.randn(node.shape, generator=generator, dtype=torch.float64)
        if len(node.shape) < 2:
            state[name] = 1.0 + 0.2 * noise.abs()
        else:
            state[name] = noise * max(*node.shape[1:], 1) ** -0.5
    return state


def _counted(graph: Graph, node: Node) -> Tensor:
    """Whole numbers in their order along the last axis, begun anew where a table that they index ends."""
    numbers = torch.arange(node.shape[-1] if node.shape else 1).expand(node.shape or (1,)).reshape(node.shape)
    rows = table_rows(graph, node.name)
    return (numbers if rows is None else numbers % rows.clamp(min=1)).to(_dtype(node))


def generic_state(
    graph: Graph,
    buffers: Mapping[str, Tensor] | None,
    generator: torch.Generator,
    moved: Collection[str],
    biases: float = 1.0,
) -> State:
    """Random parameters at which nothing holds by accident; buffers as given, but those that a group acts on moved.

    Args:
        buffers: parameters and buffers of the model, of which the buffers are used; random ones when left out.
        moved: the tensors that a group acts on. What else is stored may be what a symmetry was measured by.
        biases: what vectors that are only ever added are multiplied by. Small ones leave no unit of a piecewise linear
            activation on one side of its kink for every input, where it would be linear, or off.
    """
    state = random_state(graph, generator)
    kept = float64({name: tensor for name, tensor in (buffers or {}).items() if name not in graph.parameters})
    for name, node in graph.state.items():
        if name in graph.parameters and node.is_floating and len(node.shape) < 2:
            scale = biases if _is_bias(graph, node) else 1.0
            state[name] = scale * (0.3 + torch.rand(node.shape, generator=generator, dtype=torch.float64))
        elif name in kept:
            state[name] = kept[name]
            if kept[name].is_floating_point() and name in moved:
                state[name] = kept[name] + 0.5 * torch.rand(node.shape, generator=generator, dtype=torch.float64)
    return state


def _is_bias(graph: Graph, parameter: Node) -> bool:
    """Whether every reader of a parameter adds it."""
    return all(_adds(user, parameter.name) for user in graph.users[parameter.name])


def _adds(user: Node, value: str) -> bool:
    """Whether a call adds this operand: it is one of a sum, or the bias by the operator's own schema."""
    name, names = short_name(user.target), [argument.name for argument in arguments(user.target) or ()]
    given = [*zip(names, user.args, strict=False), *user.kwargs]
    roles = {role for role, operand in given if operand == Ref(value)}
    return name == "add" or roles == {"bias"} or (name == "addmm" and roles == {"self"})


def perturbed(graph: Graph, state: Mapping[str, Tensor], generator: torch.Generator, spread: float) -> State:
    """The state with normal noise on every parameter: initial values (zero biases, unit gains) would hide errors."""
    changed = float64(state)
    for name in graph.parameters:
        if spread and name in changed and changed[name].is_floating_point():
            noise = torch.randn(changed[name].shape, generator=generator, dtype=torch.float64)
            changed[name] = changed[name] + spread * noise
    return changed


def first_floating(state: Mapping[str, Tensor]) -> Tensor:
    """The tensor that says in which dtype and where a state is, of those that can say it."""
    return next(tensor for tensor in state.values() if tensor.is_floating_point())


def float64(state: Mapping[str, Tensor]) -> State:
    """Every floating tensor in float64, detached."""
    return in_dtype({name: tensor.detach() for name, tensor in state.items()}, torch.float64)


def in_dtype(state: Mapping[str, Tensor], dtype: torch.dtype) -> State:
    """Every floating tensor in a dtype; the others as they are."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def in_float64(output: Tensor) -> Tensor:
    """Numbers that can be compared: truth values are 0 and 1, complex numbers two each."""
    return (torch.view_as_real(output.resolve_conj()) if output.is_complex() else output).double()


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, node.dtype)
    return dtype


def _compared(graph: Graph, value: str) -> list[int]:
    """Integers that a value is compared with (the end of a text, padding): without them whole branches stay dark."""
    compared = [user.args for _, user in readers(graph, value) if short_name(user.target) in COMPARISONS]
    return sorted({args[1] for args in compared if len(args) == 2 and type(args[1]) is int})
