"""What must hold for every model, whatever it is made of."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import chain, product
from math import prod

import torch
from torch import Tensor

from symgraph.errors import SymgraphError
from symgraph.groups.lattice import SymmetryClass, down
from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.tangents import tangents
from symgraph.prove.audit import with_epsilon
from symgraph.prove.jacobian import Jacobian
from symgraph.prove.verify import family_names, verify
from symgraph.symmetry.families import Constant
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf, Product, Term, leaves
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64, generic_state, perturbed, random_inputs

from .net import Description, build

EXACT = 1e-9
# The canonical form ends an iteration where nothing moves by more than a small part of this.
SETTLED = 1e-6
# Symmetries that only an epsilon breaks are none.
RAISED = 1e-2
MORE = 60
UNMOVED = 1e-8
VANISHING = 1e-9
# Rows of a Jacobian that are shorter, beside the longest, are rounding errors (a softmax of equal scores).
SHORT = 1e-6
# So are those that are as short as outputs are exact (a mean over positions of what is a softmax along them).
ROUNDING = 1e-13


@dataclass(frozen=True)
class Failure:
    """One law that a model breaks: which, on which families, and how it shows."""

    law: str
    families: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.law}: {'; '.join(self.families) or self.text}"


def check(description: Description) -> Failure | None:
    """The first law that a described model breaks."""
    model = build(description)
    graph = trace(model, description.inputs())
    symmetry = infer(graph)
    state = perturbed(graph, state_of(model), torch.Generator().manual_seed(3), 0.3)
    if _vanishes(symmetry, state):
        return None
    return (
        _deterministic(graph, symmetry, state)
        or _verified(symmetry, None)
        or _verified(symmetry, state)
        or moves_nothing(symmetry, state)
        or _canonical(symmetry, state)
    )


def _vanishes(symmetry: SymmetryGraph, state: dict[str, Tensor]) -> bool:
    """Whether some output is nothing but rounding errors (the mean of what was centred): no ratio means much there."""
    inputs = random_inputs(symmetry.graph, torch.Generator().manual_seed(5))
    return any(float(x.abs().max()) < VANISHING for x in Interpreter(symmetry.graph).run(state, inputs))


def said(symmetry: SymmetryGraph) -> tuple[object, ...]:
    """All that inference says, less how rigid axes are cut and which way round a frame was noted first."""
    s = symmetry
    active = [(x.name, x.size, str(x.group), [s.spaces[f].name for f in x.fibre], x.scales, x.signs) for x in s.active]
    return (
        active,
        {name: [_shape(s, t) for t in axes] for name, axes in s.terms.items()},
        {(g.parameter, g.forward) for g in s.gains},
        {(c.place, _shares(c), c.tied is not None, c.sink) for c in s.constants},
        {(p.place, c.written) for c in s.centred for p in c.pieces},
        {(x.place, x.plane.gain, x.plane.bias, x.sink) for x in s.leans},
        {x.gain for x in s.spectral},
        {*s.statistics, *s.radial},
    )


def _shares(constant: Constant) -> frozenset[object]:
    return frozenset(
        (s.port.place, round(s.factor, 9), tuple((h.reader.place, h.rows.place) for h in s.path))
        for s in constant.shares
    )


def _shape(symmetry: SymmetryGraph, term: Term) -> list[object]:
    """The blocks of an axis, with neighbours that are rigid in one piece."""

    def seen(leaf: Leaf) -> object:
        if leaf.space < 0 or symmetry.spaces[leaf.space].rigid:
            return leaf.size
        space = symmetry.spaces[leaf.space]
        # What is its own inverse transpose acts on a value and on its dual alike.
        alike = space.group in down(SymmetryClass.ORTHOGONAL) and not space.scales
        return space.name, leaf.dual and not alike

    found: list[object] = []
    for block in (tuple(map(seen, b)) for b in _blocks(term)):
        size = prod(n for n in block if isinstance(n, int))
        if any(not isinstance(x, int) for x in block):
            found.append(block)
        elif found and isinstance(found[-1], int):
            found[-1] += size
        else:
            found.append(size)
    return found


def _blocks(term: Term) -> list[tuple[Leaf, ...]]:
    if isinstance(term, Leaf):
        return [(term,) if term.size != 1 else ()]
    if isinstance(term, Product):
        return [tuple(chain(*several)) for several in product(*map(_blocks, term.factors))]
    return [b for t in term.parts for b in _blocks(t)]


def _shuffled(count: int) -> list[int]:
    return random.Random(count).sample(range(count), count)


def _deterministic(graph: Graph, symmetry: SymmetryGraph, state: dict[str, Tensor]) -> Failure | None:
    if said(infer(graph)) != said(symmetry):
        return Failure("twice the same", (), "inference says something else")
    other = infer(graph, order=_shuffled)
    alike = said(other) == said(symmetry) or _acts_alike(symmetry, other, state)
    return None if alike else Failure("any order", (), "inference says something else")


def _acts_alike(one: SymmetryGraph, other: SymmetryGraph, state: dict[str, Tensor]) -> bool:
    """Whether two groups are one, in other words where views overlap: spaces of one kind, and the same directions."""
    kinds = [sorted((x.size, str(x.group), x.scales, x.signs) for x in s.active) for s in (one, other)]
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    spans = [torch.cat([t.vectors for t in tangents(s, state, names)] or [torch.zeros(1, 1)]) for s in (one, other)]
    ranks = {int(torch.linalg.matrix_rank(span)) for span in (*spans, torch.cat(spans))} if kinds[0] == kinds[1] else ()
    return len(ranks) == 1


def _verified(symmetry: SymmetryGraph, state: dict[str, Tensor] | None) -> Failure | None:
    together = verify(symmetry, state, each=False, samples=1)
    if together.passed:
        return None
    alone = verify(symmetry, state)
    families = tuple(f"{c.name} ({c.group}) {c.error:.0e}" for c in alone.failures)
    return Failure("verify", families, f"only together: {together.together:.0e} of {list(family_names(symmetry))}")


def moves_nothing(symmetry: SymmetryGraph, state: dict[str, Tensor]) -> Failure | None:
    """Directions of the families in the kernel of the Jacobian, as an audit asks, which is not itself measured."""
    graph = with_epsilon(symmetry.graph, RAISED)
    stored = graph.state.keys() - graph.transient
    point = generic_state(graph, state, torch.Generator().manual_seed(0), stored)
    names = [n for n in graph.state if n not in graph.transient and point[n].is_floating_point()]
    rows = _rows(graph, point, names)
    largest = float(rows.norm(dim=0).max())
    if not largest:
        return None
    found = list(tangents(replace(symmetry, graph=graph), point, names))
    errors = [_felt(rows, t.vectors) / largest for t in found]
    told = zip(found, errors, strict=True)
    families = tuple(f"{t.name} ({t.family}) {error:.0e}" for t, error in told if not error <= UNMOVED)
    return Failure("tangents", families, "") if families else None


def _rows(graph: Graph, point: dict[str, Tensor], names: list[str]) -> Tensor:
    """More rows of the Jacobian than there are numbers, each of length one."""
    batches = Jacobian(graph, point, names, seed=1).batches()
    wanted, found = sum(point[n].numel() for n in names) + MORE, [next(batches)]
    while sum(map(len, found)) < wanted:
        found.append(next(batches))
    rows = torch.cat(found)
    lengths = rows.norm(dim=1, keepdim=True)
    alike: Tensor = rows / lengths.clamp_min(max(SHORT * float(lengths.max()), ROUNDING))
    return torch.where(lengths > ROUNDING, alike, 0.0)


def _felt(rows: Tensor, directions: Tensor) -> float:
    """How much the directions of a family move the outputs, at most, for their lengths."""
    lengths = directions.norm(dim=1)
    kept = lengths > UNMOVED
    moved = (rows @ directions[kept].T).norm(dim=0) / lengths[kept]
    return float(moved.max()) if bool(kept.any()) else 0.0


def _canonical(symmetry: SymmetryGraph, state: dict[str, Tensor]) -> Failure | None:
    run = Interpreter(symmetry.graph, dtype=torch.float64)
    inputs = random_inputs(symmetry.graph, torch.Generator().manual_seed(4))
    try:
        found = canonicalise(symmetry, float64(state))
    except SymgraphError as e:
        return Failure("canonical", (), f"{type(e).__name__}: {e}")
    error = max(_relative(a, b) for a, b in zip(run.run(state, inputs), run.run(found.state, inputs), strict=True))
    if not error <= EXACT:
        return Failure("canonical", (), f"the function changes by {error:.0e}")
    if not _settles(symmetry):
        return None
    again = canonicalise(symmetry, found.state).state
    moved = {n: _relative(t, again[n]) for n, t in found.state.items() if t.is_floating_point() and t.numel()}
    worst = max(moved, key=lambda n: moved[n], default="")
    if moved and moved[worst] > SETTLED:
        return Failure("idempotent", (), f"{worst} moves by {moved[worst]:.0e}")
    return None


def _settles(symmetry: SymmetryGraph) -> bool:
    """Whether no element mixes the rows whose mean a translation settles (one weight that is a sum of two)."""
    matrices = {s.id for s in symmetry.active if s.is_matrix or s.scales}
    settled = [c for c in symmetry.constants if c.settled]
    for piece in {p.piece for c in settled for p in (c.source, *(s.port for s in c.shares))}:
        others = [t for i, t in enumerate(symmetry.terms[piece.parameter]) if i != piece.axis]
        if any(leaf.space in matrices for t in others for leaf in leaves(t)):
            return False
    return True


def _relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max() / x.abs().max().clamp_min(1e-9))
