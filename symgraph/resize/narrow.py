"""A model reduced to a narrower shape of its architecture: embedding backwards, with as little lost as can be.

Embedding says where the tensors of the narrow model go in the wide one, and by which factors (`symgraph.widening`). A
wide model whose other positions are empty is therefore read back exactly. So the wide model is brought into canonical
form, every space that is to shrink is folded onto those positions (`symgraph.resize.narrow_fold`), and it is read
back. What was an embedded model comes out as it was, up to its symmetries; every other result is approximate.

Source: the reverse of Theus et al., arXiv 2506.22712, on unequal widths; merging as in Intra-Fusion, arXiv 2402.07839;
leading directions of the residual stream as in SliceGPT, arXiv 2401.15024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.ways import Way
from symgraph.inference.read_forms import as_read
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import State
from symgraph.prove.verify import TOLERANCE
from symgraph.resize.embed import factors_between
from symgraph.resize.narrow_fold import Fold, Folding, Keep
from symgraph.resize.narrow_slopes import Slopes
from symgraph.resize.pairing import pair, widenings
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64, random_inputs, random_state

Flows = Callable[[State], Mapping[int, Tensor]]


@dataclass(frozen=True)
class Reduction:
    """A state of the narrow shape, float64, in canonical form; what every space lost, and what the outputs did.

    `error` is the change of the outputs on random inputs, the root mean square over that of the outputs.
    """

    state: State
    spaces: tuple[Fold, ...]
    error: float

    @property
    def exact(self) -> bool:
        """Whether nothing was lost."""
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        how = "with the same function" if self.exact else "APPROXIMATE"
        head = f"reduced to a narrower shape ({how}): outputs change by {self.error:.2g} on random inputs"
        return "\n  ".join([head, *map(str, self.spaces)])


def reduce(
    wide: SymmetryGraph,
    narrow: SymmetryGraph,
    state: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    keep: Keep | None = None,
    flows: Flows | None = None,
) -> Reduction:
    """The wide model's state in the shape of the narrow one, with as little of it lost as can be.

    Args:
        state: parameters and buffers of the wide model.
        like: those of a narrow model; of these only what its code computes (tables of positions) is used.
        keep: which units stay; without it they are merged where they are nearest to one another.
        flows: second moments (m, m), by the id of a stream, of what flows on it in a canonical state; without it
            streams keep the leading directions of their weights.

    Raises:
        CheckpointError: the models do not correspond, or a space admits no embedding between these sizes.
        UsageError: groups would have to be taken apart.
    """
    reading, small = wide.reading, narrow.reading
    wide, narrow = as_read(wide), as_read(narrow)
    pairs = pair(wide, narrow)
    maps, lifted = widenings(pairs), pairs.lifted
    if lifted.copies:
        raise UsageError(
            "the model cannot be reduced to that shape: groups would have to be merged and what is in them moved",
            cause="; ".join(map(str, lifted.copies)),
            remedy="choose a shape with as many positions in each group",
        )
    generator = torch.Generator().manual_seed(0)
    own, plain = small.of(float64(like)), reading.of(float64(state))
    # Factors follow from sizes alone: any parameters tell them, if none of them is zero.
    computed = {name: own[name] for name in own if name not in narrow.graph.parameters}
    generic = {**random_state(narrow.graph, generator), **computed}
    factors = factors_between(wide, lifted, maps, narrow, generic, plain)
    with torch.no_grad():
        known = {name: plain[name] for name in wide.terms if name in plain}
        canonical = canonical_form(wide, known)
        moments = flows(reading.back({**plain, **canonical})) if flows is not None else {}
        folding = Folding(wide, canonical, keep, moments)
        shrunk = [space for space in wide.active if space.id in maps and maps[space.id].way is not Way.CONSTANT]
        folds = tuple(folding.fold(space, maps[space.id]) for space in shrunk)
        done = {**own, **factors.narrow_state(folding.result())}
        inputs = random_inputs(narrow.graph, generator)
        before = Interpreter(wide.graph).run(plain, inputs)
        after = Interpreter(narrow.graph).run(done, inputs)
    return Reduction(small.back(done), folds, changed(before, after))


def canonical_form(wide: SymmetryGraph, state: State) -> State:
    """The canonical form, in which stored statistics have the sizes of what they are statistics of."""
    canonical = canonicalise(wide, state)
    resized = dict(canonical.state)
    for space in wide.active if wide.statistics else ():
        Slopes(wide, space, resized).sizes(state, canonical.state, canonical.transform)
    return resized


def changed(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> float:
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.is_floating_point()]
    finite = [(old.isfinite() & new.isfinite(), old, new) for old, new in pairs]
    top = sum(float(torch.where(ok, old - new, 0.0).square().sum()) for ok, old, new in finite)
    whole = sum(float(torch.where(ok, old, 0.0).square().sum()) for ok, old, new in finite)
    return math.sqrt(top / max(whole, 1e-300))
