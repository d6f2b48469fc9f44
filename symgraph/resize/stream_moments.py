"""Which directions of a stream what flows on it has: second moments of all that is read from it, over data.

Source: SliceGPT, Ashkboos et al., arXiv 2401.15024, section 3, with one rotation for the whole stream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.inference.pipeline import infer
from symgraph.measure.alike_batches import alike
from symgraph.orbit.grams import add_to
from symgraph.orbit.readings import readings
from symgraph.orbit.steps import State
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import in_dtype

BATCHES = 16


def moments_of_flow(
    network: nn.Module, book: RuleBook, state: State, data: Any, spaces: Collection[Space]
) -> dict[int, Tensor]:
    """Second moments (m, m), by the id of each stream, of the values that parameters read from it.

    Every place where it is read counts as much as every other.

    Args:
        state: the network's tensors in canonical form, in which gains have gone into what reads.
        data: batches; as many as `BATCHES` of the shape of the first one are read.

    Raises:
        DataError: there are no batches.
        UsageError: a stream is not found in the graph of a batch.
    """
    batches = alike(network, data, "see what flows on a stream")
    seen = infer(batches.graph, book)
    places = {space.id: _places(seen, space) for space in spaces}
    if missing := [space.name for space in spaces if not places[space.id]]:
        remedy = "leave the data out: directions are those of the weights then"
        raise UsageError(f"nothing is read from {missing[0]} when the model is traced with a batch", remedy=remedy)
    along = {value: dim for dims in places.values() for value, dim in dims.items()}

    def moment(name: str, value: Tensor) -> Tensor:
        rows = value.movedim(along[name], -1).flatten(0, -2).double()
        return rows.T @ rows

    run, sums = Interpreter(seen.graph, dtype=torch.float32), dict[str, Tensor]()
    small = in_dtype(state, torch.float32)
    with torch.no_grad():
        for batch in islice(batches, BATCHES):
            for name, moments in run.run(small, batch, keep=along, reduce=moment)[1].items():
                add_to(sums, name, moments)
    return {space: torch.stack([_scaled(sums[value]) for value in values]).sum(0) for space, values in places.items()}


def _places(seen: SymmetryGraph, space: Space) -> Mapping[str, int]:
    """The values that parameters read along a stream, and the dimension of the stream in each."""
    dims = {
        reading.value: reading.along
        for reading in readings(seen)
        if isinstance(seen.values[reading.value][reading.along], Leaf)
    }
    at = seen.by_name.get(space.name)
    return {value: dim for value, dim in dims.items() if at is not None and _leaf(seen, value, dim).space == at.id}


def _leaf(seen: SymmetryGraph, value: str, dim: int) -> Leaf:
    (leaf,) = [term for term in [seen.values[value][dim]] if isinstance(term, Leaf)]
    return leaf


def _scaled(moment: Tensor) -> Tensor:
    return moment / moment.diagonal().sum().clamp_min(torch.finfo(moment.dtype).tiny)
