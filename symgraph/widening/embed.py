"""Embedding a model exactly into a larger shape of its architecture: the same function, a wider stock model.

Source: design section 11; Theus et al., arXiv 2506.22712, on unequal widths (there epsilons of norms change; here the
isometry carries the factor, so that the wide model is the stock one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.canonical import canonicalise
from symgraph.errors import CheckpointError
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.interpret import Interpreter
from symgraph.ir import Graph
from symgraph.sampling import float64, random_inputs
from symgraph.verify import TOLERANCE, difference
from symgraph.widening.factors import Factors
from symgraph.widening.maps import Way, Widening, Widenings, touches
from symgraph.widening.pairing import pair, untied_hint, widenings

State = dict[str, Tensor]


@dataclass(frozen=True)
class Embedded:
    """A state of the wide model that computes what the narrow model computes.

    `state` is float64, in the wide model's canonical gauge; `spaces` says how each one was embedded; `error` is the
    largest relative difference of the outputs of both models, on random inputs.
    """

    state: State
    spaces: tuple[Widening, ...]
    error: float

    def __str__(self) -> str:
        lines = [f"embedded into a larger shape, outputs equal up to {self.error:.0e}", *map(str, self.spaces)]
        return "\n  ".join(lines)


def embed(
    wide: SymmetryGraph, narrow: SymmetryGraph, state: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> Embedded:
    """The narrow model's state as one of the wide model, with the same function.

    Args:
        state: parameters and buffers of the narrow model.
        like: those of the wide model; of these only what its code computes (tables of positions) is used.

    Raises:
        CheckpointError: the models do not correspond, a space admits no embedding into that size, or the outputs
            would differ, with the place.
    """
    maps = widenings(pair(wide, narrow))
    inputs = random_inputs(narrow.graph, torch.Generator().manual_seed(0))
    plain = float64(state)
    own = {**float64(like), **_unread(wide.graph, plain, like)}
    with torch.no_grad():
        outputs = Interpreter(narrow.graph).run(plain, inputs)
        start = canonicalise(narrow, plain).state
        _, values = Interpreter(narrow.graph).run(start, inputs, [n.name for n in narrow.graph.nodes])
        for gains in (False, True):
            factors = Factors(wide.graph, narrow, maps, values, own, _free(narrow, maps, gains=gains))
            factors.solve()
            found = {**own, **factors.state()}
            error = _error(outputs, Interpreter(wide.graph).run(found, inputs))
            if error <= TOLERANCE:
                return Embedded(found, tuple(m for m in maps.values() if m.way is not Way.CONSTANT), error)
    raise _refused(factors, error)


def _error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    same = all(x.shape == y.shape for x, y in zip(before, after, strict=True))
    return difference(before, after) if same else float("inf")


def _free(narrow: SymmetryGraph, maps: Widenings, *, gains: bool) -> set[str]:
    """Parameters that may take factors: those on spaces that grow; gains that were absorbed only where asked for."""
    touched = {n for n in narrow.graph.parameters if any(touches(t, maps) for t in narrow.terms[n])}
    return touched if gains else touched - narrow.gain_sites.keys()


def _unread(wide: Graph, state: State, like: Mapping[str, Tensor]) -> State:
    """What the graph does not read and both models hold in one shape."""
    return {n: t for n, t in state.items() if n not in wide.state and n in like and like[n].shape == t.shape}


def _refused(factors: Factors, error: float) -> CheckpointError:
    node, wrong = factors.worst()
    grown = "; ".join(str(m) for m in factors.maps.values() if m.way is not Way.CONSTANT)
    return CheckpointError(
        f"B cannot be embedded exactly into the shape of A: its outputs would change by {error:.1e}",
        cause=f"{node.where} depends on a size that differs, by {wrong:.1e} ({grown})",
        remedy="choose models that agree in what this operator reads" + untied_hint(factors.narrow, factors.maps),
    )
