"""Whether two states of a graph are one function, by its outputs: for where no gauge was found between them.

A space of invertible maps that is wider than what is written into it has no point of least norm, so that a canonical
form says nothing of what stands on it. Equal outputs do, if every entry of every parameter shows in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.ir import Graph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_inputs

# More than this share of how much outputs vary is more than rounding to float32 makes of weights.
EQUAL = 1e-5


def is_one_function(graph: Graph, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether outputs are equal on random inputs, beside how much they vary, and each entry of B changes them.

    Args:
        a, b: states in float64.

    >>> from symgraph.match.one_function import is_one_function
    >>> net = torch.nn.Linear(3, 2).double()
    >>> state = dict(net.state_dict())
    >>> graph = symgraph.trace(net, torch.randn(4, 3, dtype=torch.float64))
    >>> is_one_function(graph, state, state), is_one_function(graph, state, {**state, "bias": state["bias"] + 1e-3})
    (True, False)
    """
    inputs, run = random_inputs(graph, torch.Generator().manual_seed(0)), Interpreter(graph).run
    leaves = {name: b[name].detach().clone().requires_grad_() for name in graph.parameters}
    ends = [end for end in run({**b, **leaves}, inputs) if end.requires_grad]
    with torch.no_grad():
        expected = [end for end in run(a, inputs) if end.is_floating_point()]
        if len(ends) != len(expected) or not _apart(expected, ends) <= EQUAL:
            return False
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(end.shape, generator=generator, dtype=end.dtype) for end in ends]
    slopes = torch.autograd.grad(ends, list(leaves.values()), weights, allow_unused=True)
    return all(slope is not None and bool((slope != 0).all()) for slope in slopes)


def _apart(one: list[Tensor], other: list[Tensor]) -> float:
    """How far outputs are apart, over how much those of one model vary from place to place; both root mean squares."""
    change = sum(float((x - y).square().sum()) for x, y in zip(one, other, strict=True))
    spread = sum(float((rows - rows.mean(0)).square().sum()) for rows in map(_rows, one))
    return math.sqrt(change / spread) if spread else math.inf


def _rows(output: Tensor) -> Tensor:
    return output.reshape(-1, output.shape[-1]) if output.dim() > 1 else output.reshape(-1, 1)
