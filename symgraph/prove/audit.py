"""Is the inferred group complete? The kernel of the Jacobian against the inferred tangent space (design section 9).

At generic parameters the continuous symmetries are the directions in which no output moves. Their number is the
dimension of the kernel of J = d outputs / d parameters, stacked over enough inputs; it must equal the dimension of the
inferred group. What is missing is described by the parameters that move in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from symgraph.errors import AuditError, UsageError, VerifyError, called
from symgraph.io.shown import Shown
from symgraph.ir import Graph, Kind, Node
from symgraph.orbit.tangents import Tangents, tangents
from symgraph.prove.jacobian import Jacobian, singular
from symgraph.prove.shortfall import Shortfall, Space, describe, solutions
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.arguments import arguments
from symgraph.tracing.lookups import looked_up
from symgraph.tracing.progress import Progress, tell
from symgraph.tracing.sampling import State, generic_state

_log = logging.getLogger(__name__)

LARGEST = 6000
_RMS_NORM = "aten.rms_norm.default"
# Symmetries that only an epsilon breaks: with a large one they are none, without one they are exact. The least one is
# no part of any sum, but keeps zero from dividing zero (a mean over the positions of a mask that is closed).
_RAISED, _NONE = 1e-2, 1e-40
LARGEST_EPSILON = 1e-3
_TOLERANCE = 1e-8
# The kernel ends at the widest gap below this, relative to the largest singular value.
_CEILING = 1e-9
_ENOUGH = 1.15
_ROUNDS = 12
# A point may be special (a unit that no input switches on, or off); the smallest kernel of several is the generic one.
POINTS = 3
# What biases are multiplied by at all points but the first: units of relu then switch as the inputs do.
_BIASES = 0.1


@dataclass(frozen=True, slots=True)
class Family:
    """The directions of one inferred family and how much they move the outputs, relative to the largest direction."""

    kind: str
    name: str
    number: int
    error: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The smallest singular value above the kernel and the largest inside it, relative to the largest of all."""

    above: float
    below: float

    @property
    def clear(self) -> bool:
        """Whether it is at least three decimal places wide."""
        return self.above > 1e3 * self.below

    def __str__(self) -> str:
        return f"{self.above:.0e} above, {self.below:.0e} below"


@dataclass(frozen=True, slots=True, repr=False)
class Audit(Shown):
    """Measured against inferred.

    `numbers` counts parameters (and stored buffers that the group acts on) that some input reads, `unread` the others.
    `missing` describes what the kernel has beyond the inferred group, `approximate` what it would have as well if every
    epsilon were zero, and `made` what is there as long as an epsilon is, which does not count. `rows` of the Jacobian
    were computed. `instance` says how the sizes of a tiny instance differ from those of the model that was given, where
    it was too large. `few` are tables whose rows are all that the model
    reads, where these are so few that more of them may fix what is missing.
    """

    numbers: int
    unread: int
    measured: int
    inferred: int
    gap: Gap
    rows: int
    families: tuple[Family, ...]
    missing: tuple[Shortfall, ...] = ()
    approximate: tuple[Shortfall, ...] = ()
    instance: str = ""
    few: tuple[str, ...] = ()
    made: tuple[Shortfall, ...] = ()

    @property
    def unsound(self) -> tuple[Family, ...]:
        """Families whose directions move the outputs."""
        return tuple(family for family in self.families if not family.error <= _TOLERANCE)

    @property
    def complete(self) -> bool:
        """Whether exactly the inferred directions, and no others, leave the outputs as they are."""
        return not self.unsound and self.measured == self.inferred

    def __str__(self) -> str:
        outcome = "complete" if self.complete else "UNSOUND" if self.unsound else "INCOMPLETE"
        lines = [f"{outcome}: {self.inferred} inferred of {self.measured} measured, in {self.numbers:,} parameters"]
        lines += [f"  of a tiny instance: {self.instance}"] if self.instance else []
        lines.append(f"  spectrum: {self.gap}; {self.rows:,} rows of the Jacobian")
        if self.unread:
            lines.append(f"  left out: {self.unread:,} numbers that no input of this shape reads")
        lines += [
            f"  unsound: {family.name} ({family.kind}) moves the outputs by {family.error:.0e}"
            for family in self.unsound
        ]
        lines += [f"  missing: {shortfall}" for shortfall in self.missing]
        lines += [f"  only an epsilon breaks: {shortfall}" for shortfall in self.approximate]
        lines += [f"  only an epsilon makes: {shortfall}" for shortfall in self.made]
        lines += [f"  perhaps a limit of the measurement: {text}" for text in self.few]
        return "\n".join(lines)

    def raise_if_incomplete(self) -> None:
        """Raises AuditError where the group is incomplete or unsound."""
        if self.complete:
            return
        problems = [f"{family.name} ({family.kind}) moves the outputs" for family in self.unsound] or [
            str(shortfall) for shortfall in self.missing
        ]
        raise AuditError(
            f"{self.inferred} directions are inferred, {self.measured} were measured",
            cause="; ".join(problems),
            remedy="a rule may claim too little: `symgraph explain` shows the evidence on a space",
        )


def audit(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor] | None = None,
    *,
    approximate: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Measures whether any continuous symmetry was missed.

    Parameters are random (generic) ones of the traced shapes, in float64; epsilons are raised to 0.01, so that a
    symmetry that only an epsilon breaks does not count as exact. Where something is missing, what is gone without any
    epsilon does not count either. Where it is still missing or the spectrum is unclear, up to three points are tried
    and the smallest kernel counts.

    Args:
        state: buffers to keep (tables of a rotary embedding, say); its parameters are not used.
        approximate: also list the symmetries that only an epsilon breaks.
        progress: told what is being done.

    Raises:
        UsageError: the model is too large for a dense Jacobian.
        VerifyError: the outputs are not finite.
        AuditError: at every point the spectrum has no gap, or the outputs depend on no parameter.

    Source: design section 9.
    """
    best: _Measured | None = None
    unclear: list[AuditError] = []
    for point in range(POINTS):
        tell(_log, progress, f"measuring at random point {point + 1}")
        try:
            run = _Run(symmetry, _point(symmetry, state, seed, point), seed + point, progress)
            measured = _measured(run, symmetry)
        except AuditError as error:
            unclear.append(error)
            continue
        if best is None or measured.excess < best.excess:
            best = measured
        if best.excess <= 0:
            break
    if best is None:
        raise unclear[-1]
    tell(_log, progress, "describing")
    return _described(symmetry, best, approximate)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Kernel and inferred directions at one point; `made` is the kernel with what only an epsilon makes."""

    run: _Run
    exact: _Kernel
    families: tuple[Family, ...]
    inferred: Tensor
    made: Tensor

    @property
    def excess(self) -> int:
        return len(self.exact.kernel) - len(self.inferred)


def _measured(run: _Run, symmetry: SymmetryGraph) -> _Measured:
    exact = run.kernel(_RAISED)
    raised = replace(symmetry, graph=with_epsilon(symmetry.graph, _RAISED))
    moves = list(tangents(raised, run.state, run.names))
    inferred = _span([tangent.vectors[:, exact.live] for tangent in moves], int(exact.live.sum()))
    measured = _Measured(run, exact, tuple(_family(tangent, exact) for tangent in moves), inferred, inferred[:0])
    return _without_made(measured) if measured.excess > 0 and has_epsilon(symmetry.graph) else measured


def _without_made(measured: _Measured) -> _Measured:
    """The kernel without what is no symmetry any more where all epsilons are zero.

    Behind a norm with an epsilon vectors fill a ball, not a sphere: a table that nothing but a norm reads can make up
    for any small change of what the norm makes of it, in a room as thin as the epsilon is small.
    """
    exact, inferred = measured.exact, measured.inferred
    try:
        plain = measured.run.kernel(_NONE)
    except (AuditError, VerifyError):
        return measured
    if not bool((plain.live == exact.live).all()):
        return measured
    kept = solutions(_span([plain.kernel, inferred], inferred.shape[1]), exact.kernel)
    return replace(measured, exact=replace(exact, kernel=kept), made=exact.kernel)


def _described(symmetry: SymmetryGraph, measured: _Measured, approximate: bool) -> Audit:
    run, exact = measured.run, measured.exact
    space = Space(symmetry, run.state, run.names, exact.live)
    missing = describe(space, exact.kernel, measured.inferred)
    near: tuple[Shortfall, ...] = ()
    if approximate and has_epsilon(symmetry.graph):
        other = run.kernel(_NONE)
        if bool((other.live == exact.live).all()):
            near = describe(space, other.kernel, _span([exact.kernel, measured.inferred], measured.inferred.shape[1]))
    live = int(exact.live.sum())
    counted = (live, run.size - live, len(exact.kernel), len(measured.inferred))
    few = tuple(_few_rows(symmetry.graph)) if missing else ()
    made = describe(space, measured.made, exact.kernel)
    return Audit(*counted, exact.gap, len(exact.rows), measured.families, missing, near, few=few, made=made)


def _few_rows(graph: Graph) -> Iterator[str]:
    """Tables that are looked up with fewer rows than a quadratic form of one of them has coefficients.

    A function of so few vectors, as the norm of what a matrix makes of each, may be kept by changes of that matrix
    which are symmetries of no other inputs.
    """
    for node in graph.parameters.values():
        by_rows = any(_reads_rows(user, node.name) for user in graph.users[node.name])
        if by_rows and len(node.shape) == 2 and node.shape[0] < node.shape[1] * (node.shape[1] + 1) // 2:
            rows, width = node.shape
            yield f"{node.target} has {rows} rows of {width} entries; measure with more of them"


def _reads_rows(user: Node, table: str) -> bool:
    """Whether a call reads rows of a table by numbers."""
    first, *others = user.refs()
    return first == table and any(looked_up(user, number) == 0 for number in others)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Rows of the Jacobian by the numbers that anything reads, an orthonormal basis of its kernel, and the gap."""

    rows: Tensor
    live: Tensor
    kernel: Tensor
    gap: Gap


def _point(symmetry: SymmetryGraph, state: Mapping[str, Tensor] | None, seed: int, number: int) -> State:
    """One of the random points, that of a seed being the first."""
    generator = torch.Generator().manual_seed(seed + number)
    return generic_state(symmetry.graph, state, generator, _moved(symmetry), _BIASES if number else 1.0)


class _Run:
    def __init__(self, symmetry: SymmetryGraph, state: State, seed: int, progress: Progress | None) -> None:
        graph = symmetry.graph
        self.graph, self.seed, self.progress, self.state = graph, seed, progress, state
        self._kernels: dict[float, _Kernel] = {}
        held = [name for name in graph.state if name not in graph.transient and self.state[name].is_floating_point()]
        self.names = [name for name in held if name in graph.parameters or name in _moved(symmetry)]
        self.size = sum(prod(graph.state[name].shape) for name in self.names)
        if self.size > LARGEST:
            raise UsageError(
                f"{graph.model} has {self.size:,} parameters",
                cause=f"a dense Jacobian is decomposed, of at most {LARGEST:,}",
                remedy="audit a tiny instance: the same architecture with a small config has the same symmetries",
            )

    def kernel(self, epsilon: float) -> _Kernel:
        """What moves no output where epsilons have this value; found once."""
        if epsilon not in self._kernels:
            self._kernels[epsilon] = self._found(epsilon)
        return self._kernels[epsilon]

    def _found(self, epsilon: float) -> _Kernel:
        graph = with_epsilon(self.graph, epsilon)
        jacobian = Jacobian(graph, self.state, self.names, self.seed + 1)
        blocks: list[Tensor] = []
        wanted = int(_ENOUGH * self.size) + 60
        batches = jacobian.batches()
        for _ in range(_ROUNDS):
            done = sum(map(len, blocks))
            while done < wanted:
                blocks.append(next(batches))
                done = min(done + len(blocks[-1]), wanted)
                tell(_log, self.progress, f"rows of the Jacobian: {done} of {wanted}", done, wanted)
            tell(_log, self.progress, f"decomposing {wanted} rows of {self.size} numbers")
            kernel = _decomposed(torch.cat(blocks))
            fresh = next(batches)
            unmoved = not kernel.live.all() and bool(fresh[:, ~kernel.live].any())
            if not unmoved and _still(fresh[:, kernel.live], kernel.kernel):
                return kernel
            blocks.append(fresh)
            wanted += max(len(kernel.kernel), 60)
        return kernel


def _moved(symmetry: SymmetryGraph) -> set[str]:
    """Tensors on which some inferred symmetry acts."""
    spaces = {name for space in symmetry.active for name in symmetry.parameters_of[space.id]}
    return spaces | {name for statistics in symmetry.statistics for name in statistics.tensors}


def _decomposed(rows: Tensor) -> _Kernel:
    live = (rows != 0).any(0)
    if not live.any():
        raise AuditError(
            "the outputs depend on no parameter at these random parameters",
            cause="every path through the model is cut, as where all units of a layer of relu are off",
            remedy=f"try another {called('seed')}, or an instance with wider layers",
        )
    kept = rows[:, live]
    kept = kept / kept.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, values, vectors = torch.linalg.svd(kept, full_matrices=False)
    values = values / values[0].clamp_min(1e-300)
    at, gap = _cut(values)
    return _Kernel(kept, live, vectors[at:], gap)


def _cut(values: Tensor) -> tuple[int, Gap]:
    """Where the kernel begins: the widest gap whose lower side is below the ceiling."""
    floor = torch.finfo(torch.float64).eps / 4
    ratios = values[:-1] / values[1:].clamp_min(floor)
    low = [place for place in range(len(ratios)) if values[place + 1] < _CEILING]
    if not low:
        return len(values), Gap(float(values[-1]), 0.0)
    at = max(low, key=lambda place: float(ratios[place]))
    gap = Gap(float(values[at]), max(float(values[at + 1]), floor))
    if not gap.clear:
        raise AuditError(
            f"the spectrum of the Jacobian has no gap ({gap})",
            cause="the model is badly conditioned at these random parameters",
            remedy=f"try another {called('seed')}, or an instance with fewer layers",
        )
    return at + 1, gap


def _still(rows: Tensor, kernel: Tensor) -> bool:
    moved = (rows @ kernel.T).norm() if len(kernel) else rows.new_zeros(())
    return bool(moved <= _TOLERANCE * rows.norm())


def _family(tangents: Tangents, exact: _Kernel) -> Family:
    rows = tangents.vectors[:, exact.live]
    lengths = rows.norm(dim=1)
    moved = (exact.rows @ rows.T).norm(dim=0) / exact.rows.norm(dim=0).max()
    felt = lengths > _TOLERANCE
    error = float((moved[felt] / lengths[felt]).max()) if bool(felt.any()) else 0.0
    return Family(str(tangents.family), tangents.name, int(felt.sum()), error)


def _span(blocks: list[Tensor], width: int) -> Tensor:
    """An orthonormal basis of everything that the rows span."""
    rows = torch.cat(blocks) if blocks else torch.zeros(0, width, dtype=torch.float64)
    lengths = rows.norm(dim=1)
    rows = rows[lengths > _TOLERANCE] / lengths[lengths > _TOLERANCE, None]
    if len(rows):
        _, values, vectors = singular(rows)
        rows = vectors[values > _TOLERANCE * values[0]]
    spanned: Tensor = rows
    return spanned


def with_epsilon(graph: Graph, value: float) -> Graph:
    """The graph with every small positive constant replaced, so that what it breaks is broken visibly or not at all."""
    nodes = tuple(node if node.kind is not Kind.CALL else _replaced(_with_own(node), value) for node in graph.nodes)
    return replace(graph, nodes=nodes)


def has_epsilon(graph: Graph) -> bool:
    """Whether there is such a constant."""
    calls = map(_with_own, graph.calls)
    return any(
        _is_epsilon(argument) for call in calls for argument in (*call.args, *(value for _, value in call.kwargs))
    )


def _with_own(node: Node) -> Node:
    """A call with the constant that it takes where the model gives none: the rounding of its dtype."""
    given = arguments(node) if node.target == _RMS_NORM else None
    if given is None or given.get("eps") is not None:
        return node
    own = torch.finfo(torch.float32).eps
    return replace(node, args=(given["input"], given["normalized_shape"], given.get("weight"), own), kwargs=())


def _replaced(node: Node, value: float) -> Node:
    args = tuple(value if _is_epsilon(argument) else argument for argument in node.args)
    return replace(
        node,
        args=args,
        kwargs=tuple((name, value if _is_epsilon(argument) else argument) for name, argument in node.kwargs),
    )


def _is_epsilon(value: object) -> bool:
    return isinstance(value, float) and 0 < value <= LARGEST_EPSILON
