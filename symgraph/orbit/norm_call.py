"""A call that normalises by stored statistics, made by itself: what it makes of each channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.symmetry.families import Statistics
from symgraph.tracing.interpreter import Interpreter, alone


class NormCall:
    """What a call makes of each channel before gain and bias. It is affine there, so two points say all.

    It is made ready once, for fits ask for it thousands of times.
    """

    def __init__(self, graph: Graph, statistics: Statistics) -> None:
        self.statistics = statistics
        self._operands = {graph.state[name].name: name for name in statistics.tensors}
        self._levels = [self._constant(graph, level) for level in (0.0, 1.0)]
        self._run = Interpreter(alone(graph, statistics.node, self._levels[0])).run

    def _constant(self, graph: Graph, level: float) -> dict[str, Tensor]:
        """Inputs that are constant in each channel, unit gain and no bias; statistics are put in their place."""
        tail = dict(zip(self.statistics.ends, (1.0, 0.0), strict=True))
        refs = dict.fromkeys(graph.by_name[self.statistics.node].refs())
        return {ref: torch.full(graph.by_name[ref].shape, tail.get(ref, level), dtype=torch.float64) for ref in refs}

    def affine(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Slope and shift of each channel with the statistics of a state."""
        # The call is made on the host, wherever the state is.
        given = {operand: state[name].cpu() for operand, name in self._operands.items()}
        there = state[self.statistics.gain].device
        zero, one = (self._channels({**level, **given}).to(there) for level in self._levels)
        return one - zero, zero

    def _channels(self, given: dict[str, Tensor]) -> Tensor:
        (result,) = self._run({}, given)
        axis = self.statistics.axis
        return result.movedim(axis, -1).reshape(-1, result.shape[axis])[0]
