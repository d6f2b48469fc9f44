"""Embedding a model exactly into a larger shape of its architecture: the same function, a wider stock model.

Source: Theus et al., arXiv 2506.22712, on unequal widths (there epsilons of norms change; here the
isometry carries the factor, so that the wide model is the stock one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, shorten
from symgraph.groups.ways import Way
from symgraph.inference.read_forms import as_read
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import TOLERANCE, difference
from symgraph.resize.factors import Factors
from symgraph.resize.lifting import Copies, Lifted
from symgraph.resize.maps import Widening, Widenings, touches
from symgraph.resize.pairing import is_idle, pair, untied_hint, widenings
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64, random_inputs

State = dict[str, Tensor]


@dataclass(frozen=True)
class Embedding:
    """A state of the wide model that computes what the narrow model computes.

    `state` is float64, in canonical form up to the factors that sizes call for; `spaces` says how each one was
    embedded; `error` is the largest relative difference of the outputs of both models, on random inputs; `unread` are
    tensors of other shapes that the traced graph does not read, which are the wide model's own; `copies` are groups of
    which every one was copied, as they hold more than a group of the wide model has room for.
    """

    state: State
    spaces: tuple[Widening, ...]
    error: float
    unread: tuple[str, ...] = ()
    copies: tuple[Copies, ...] = ()

    def __str__(self) -> str:
        head = f"embedded into a larger shape, outputs equal up to {self.error:.0e}"
        tail = [f"nothing reads {shorten(self.unread)}: taken from the wider model"] if self.unread else []
        return "\n  ".join([head, *map(str, self.spaces), *map(str, self.copies), *tail])


def embed(
    wide: SymmetryGraph, narrow: SymmetryGraph, state: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> Embedding:
    """The narrow model's state as one of the wide model, with the same function.

    Args:
        state: parameters and buffers of the narrow model.
        like: those of the wide model; of these only what its code computes (tables of positions) is used.

    Raises:
        CheckpointError: the models do not correspond, a space admits no embedding into that size, or the outputs
            would differ, with the place.
    """
    reading = wide.reading
    plain, given = narrow.reading.of(float64(state)), reading.of(like)
    wide, narrow = as_read(wide), as_read(narrow)
    pairs = pair(wide, narrow)
    maps, lifted = widenings(pairs), pairs.lifted
    kept = {
        name: tensor
        for name, tensor in plain.items()
        if name in given and given[name].shape == tensor.shape and name not in wide.graph.transient
    }
    own = {**float64(given), **kept}
    unread = tuple(
        name for name in plain if name not in kept and name in wide.graph.parameters and is_idle(wide.graph, name)
    )
    factors = factors_between(wide, lifted, maps, narrow, plain, own)
    grown = tuple(map for map in maps.values() if map.way is not Way.CONSTANT)
    with torch.no_grad():
        embedded = reading.back({**own, **factors.wide_state()})
        return Embedding(embedded, grown, factors.error, unread, lifted.copies)


def factors_between(
    wide: SymmetryGraph, lifted: Lifted, maps: Widenings, narrow: SymmetryGraph, state: State, own: State
) -> Factors:
    """The factors with which a narrow model is embedded, checked on its outputs.

    Args:
        own: the wide model's state, for what has no counterpart.

    Raises:
        CheckpointError: the outputs would differ, with the place.
    """
    inputs = random_inputs(narrow.graph, torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = Interpreter(narrow.graph).run(state, inputs)
        start = canonicalise(narrow, state).state
        for gains in (False, True):
            factors = Factors(wide.graph, lifted, maps, start, own, inputs, _free(lifted.symmetry, maps, gains=gains))
            factors.solve()
            factors.error = _error(outputs, Interpreter(wide.graph).run({**own, **factors.wide_state()}, inputs))
            if factors.error <= TOLERANCE:
                return factors
    raise _refused(factors)


def _error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    same = all(old.shape == new.shape for old, new in zip(before, after, strict=True))
    return difference(before, after) if same else float("inf")


def _free(narrow: SymmetryGraph, maps: Widenings, *, gains: bool) -> set[str]:
    """Parameters that may take factors: those on spaces that grow; gains that were absorbed only where asked for."""
    touched = {name for name in narrow.graph.parameters if any(touches(term, maps) for term in narrow.terms[name])}
    return touched if gains else touched - narrow.gain_sites.keys()


def _refused(factors: Factors) -> CheckpointError:
    node, wrong = factors.worst()
    grown = "; ".join(str(widening) for widening in factors.maps.values() if widening.way is not Way.CONSTANT)
    return CheckpointError(
        f"the narrower model cannot be embedded exactly: its outputs would change by {factors.error:.1e}",
        cause=f"{node.where} depends on a size that differs, by {wrong:.1e} ({grown})",
        remedy="choose models that agree in what this operator reads" + untied_hint(factors.narrow, factors.maps),
    )
