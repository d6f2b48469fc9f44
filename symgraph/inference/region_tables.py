"""What the regions of a graph read beside data: masks, positions and tables, in every world that tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_inputs, random_state
from symgraph.tracing.thresholds import Side, deciding, drawn, fed, looks_up
from symgraph.tracing.worlds import PLAIN, SHUT, WORLDS, World

# Masks at random, with closed rows and columns, all open and all closed.
_TABLE_WORLDS = (
    PLAIN,
    PLAIN,
    *(world for world in WORLDS if world.name in ("zeros", "entries of size 1e-3")),
    SHUT,
)
# Values that differ by less, beside one, are the same number.
STILL = 1e-6
# In how many worlds what never varied is drawn at random.
AGAIN = 2


def tables_of(graph: Graph, names: Iterable[str], seed: int, world: World = PLAIN) -> dict[str, Tensor]:
    """What values that carry no data are: buffers as they were traced where that is known, all else drawn at random."""
    return _tables(graph, _computing(graph, names), seed, world)


def tables_in_worlds(graph: Graph, names: Iterable[str]) -> tuple[dict[str, Tensor], ...]:
    """The same in every world that can tell them apart: masks open and closed, numbers of either sign, thresholds met.

    Only once, where they are the same in all of them.
    """
    part = _computing(graph, names)
    if not part.inputs and part.state.keys() <= graph.known.keys():
        return (_tables(graph, part, 0, PLAIN),)
    worlds = [_tables(graph, part, seed, world) for seed, world in enumerate(_TABLE_WORLDS)]
    return (*worlds, *further_tables(graph, part.outputs, worlds))


def further_tables(
    graph: Graph, names: Iterable[str], worlds: Sequence[dict[str, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """The same where values that decide stand on either side of their numbers, and where what never varied does.

    Args:
        worlds: the tables as they were drawn; what depends on inputs and was one number in all of them has been beyond
            some threshold, or saturated, and may be anything.
    """
    part = _computing(graph, names)
    found = deciding(replace(part, known=graph.known))
    freed = [node.as_input() if node.name in found else node for node in part.nodes]
    for seed, side in enumerate(Side if found else ()):
        values = drawn(found, graph, torch.Generator().manual_seed(seed), side)
        yield _tables(graph, _computing(replace(part, nodes=tuple(freed)), part.outputs), seed, PLAIN, values)
    varied = fed(part)
    still = [
        name
        for name in part.outputs
        if name in varied and _is_still([world[name] for world in worlds]) and not looks_up(graph, name)
    ]
    for seed, world in enumerate(worlds[:AGAIN] if still else ()):
        generator = torch.Generator().manual_seed(seed)
        yield world | {name: _loosened(world[name], generator) for name in still}


def _is_still(drawn_before: Sequence[Tensor]) -> bool:
    """Whether truth values or numbers are all one, as far as can be told."""
    flat = torch.cat([values.reshape(-1) for values in drawn_before])
    first = flat[:1]
    if not flat.is_floating_point():
        return not flat.is_complex() and bool((flat == first).all())
    return bool(((flat == first) | ((flat - first).abs() <= STILL * first.abs().clamp_min(1.0))).all())


def _loosened(table: Tensor, generator: torch.Generator) -> Tensor:
    """Truth values at random, whole numbers of 0 and 1, or others beside those of a table."""
    chosen = torch.rand(table.shape, generator=generator) < 0.5
    if not table.is_floating_point():
        return chosen.to(table.dtype)
    return torch.where(chosen, table, torch.randn(table.shape, generator=generator, dtype=torch.float64))


def _computing(graph: Graph, names: Iterable[str]) -> Graph:
    """The part of a graph that computes these values."""
    by, wanted, todo = graph.by_name, dict[str, None](), list(dict.fromkeys(names))
    ends = tuple(todo)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted[name] = None
            todo += by[name].refs()
    return Graph(tuple(node for node in graph.nodes if node.name in wanted), ends)


def _tables(
    graph: Graph, part: Graph, seed: int, world: World, chosen: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = random_state(part, generator)
    if world is not PLAIN:
        state = {name: _of_either_sign(value, generator) for name, value in state.items()}
    state |= {k: v for k, v in graph.known.items() if k in part.state}
    inputs = dict(zip([n.target for n in graph.inputs], random_inputs(graph, generator, world), strict=True))
    given = inputs | dict(chosen or {})
    given = {n.target: given[n.target] for n in part.inputs}
    found = Interpreter(part).run(state, given, keep=set(part.outputs))[1]
    return dict(found)


def _of_either_sign(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    negative = torch.rand(value.shape, generator=generator) < 0.5
    return torch.where(negative, -value, value)
