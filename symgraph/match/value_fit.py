"""Two models aligned by one value alone: as near there as their class admits, and with where the value lies in each.

A rotation of a stream is one for all of its values, though each of them has another one that would be best. What
belongs to one value wants that one. Text that the models write themselves shows it nearly as well as what they were
trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import DataError, UsageError, shorten
from symgraph.inference.sources import RuleSources, infer
from symgraph.io.data import NoData
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.ir import Graph
from symgraph.match.align import align
from symgraph.match.match_options import MatchOptions
from symgraph.match.named_values import named_value
from symgraph.match.suitable import ACTIVATIONS
from symgraph.match.value_map import axis_at
from symgraph.measure.alike_batches import alike
from symgraph.measure.batches import held
from symgraph.measure.synthetic import longest, synthetic
from symgraph.orbit.alignment import Alignment
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter

# So many values are seen for every number that one has, in at least so many examples.
ROWS, EXAMPLES, BATCH = 128, 64, 32


@dataclass(frozen=True, slots=True)
class ValueFit:
    """An alignment of `to` to `base` by one value, and the mean of the value in both. Shapes: means (d,), float64."""

    alignment: Alignment
    means: tuple[Tensor, Tensor]
    notes: tuple[str, ...]


def made_up(ends: Mapping[str, Model], at: str, rules: RuleSources) -> Any:
    """Inputs that the models make up, to see a value on; None where they cannot.

    Raises:
        UsageError: there is no such value, or it moves along no axis or along several.
    """
    symmetry = infer(ends["base"], rules=rules)
    modules = [ends[name].module for name in ("base", "to")]
    node, _, term = axis_at(symmetry, at)
    rows = max(_rows(symmetry.graph, node, longest(modules[0])) // term.size, 1)
    examples = max(EXAMPLES, -(-ROWS * term.size // rows))
    try:
        return synthetic(modules, symmetry.graph, NoData(examples=examples, batch_size=BATCH))
    except DataError:
        return None


def _rows(graph: Graph, node: str, length: int) -> int:
    """How many numbers a value has for one example; of text for a window, which is longer than what was traced."""
    shape, given = graph.by_name[node].shape, graph.inputs[0]
    numbers = prod(shape[1:])
    return numbers if given.is_floating else numbers * length // given.shape[-1]


def fitted_at(
    ends: Mapping[str, Model],
    at: str,
    data: Any,
    rules: RuleSources,
    scratch: str | Path | None,
    how: Mapping[str, Any],
) -> ValueFit:
    """The alignment that is best at a value, on batches of data.

    Args:
        how: further arguments of `align`; those of its options that make it so are set here.

    Raises:
        DataError: there are no batches, or they do not fit the models.
        UsageError: no unit can be seen at the value, or an option says what else is seen.
    """
    data = held(data)
    how = {**how, "method": ACTIVATIONS, "options": _options(given(MatchOptions, how.get("options")), at), "data": data}
    found = align(ends["base"], ends["to"], rules=rules, scratch=scratch, **how)
    said = f"aligned by this value alone, on {getattr(data, 'source', '') or 'the data'}"
    return ValueFit(found.alignment, _means(ends, at, data, rules), (str(found).splitlines()[0], *found.notes, said))


def _options(asked: MatchOptions, at: str) -> MatchOptions:
    """What is asked for, with the value alone as what is seen, in all examples."""
    usual = MatchOptions()
    stated = [
        name for name in ("alpha", "observed_at", "batches", "rows") if getattr(asked, name) != getattr(usual, name)
    ]
    if stated:
        remedy = "leave it out, or name a method of alignment"
        raise UsageError(f"{shorten(stated)}: the models are aligned by one value alone", remedy=remedy)
    return replace(asked, alpha=1.0, observed_at=(at,), batches=0, rows=0)


@torch.no_grad()
def _means(ends: Mapping[str, Model], at: str, data: Any, rules: RuleSources) -> tuple[Tensor, Tensor]:
    """The mean of the value in both models."""
    axis = axis_at(infer(ends["base"], rules=rules), at)[1]
    batches = alike(ends["base"].module, data, "see values on")
    node, run = named_value(batches.graph, at), Interpreter(batches.graph, dtype=torch.float32)
    states = [state_of(ends[name].module) for name in ("base", "to")]
    sums, count = [torch.zeros(()), torch.zeros(())], 0
    for inputs in batches:
        for side, state in enumerate(states):
            value = run.run(state, inputs, [node])[1][node].movedim(axis, -1).double()
            rows = value.reshape(-1, value.shape[-1])
            sums[side] = sums[side] + rows.sum(0)
        count += len(rows)
    first, second = (total / count for total in sums)
    return first, second
