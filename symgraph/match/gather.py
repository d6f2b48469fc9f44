"""What lies side by side inside one model, experts or heads, brought into one basis: each to the mean of all.

    min over g of  sum_i |g_i . T_i - mean_j g_j . T_j|^2

where T_i is all that belongs to the i-th expert, and g_i an element of what acts inside of it. Afterwards their mean is
that of units that do the same, and a mixture can be averaged into a dense model.

Source: generalised Procrustes analysis, Gower 1975; experts of one model, MC-SMoE, arXiv 2310.01334.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from symgraph.errors import UsageError, argument, shorten
from symgraph.inference.sources import RuleSources, Source, infer, stored, with_inputs
from symgraph.io.checkpoint import module_hash
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.io.options import given, several
from symgraph.match.match_models import nearest
from symgraph.match.match_options import MatchOptions
from symgraph.match.program_run import narrowed
from symgraph.match.restated import Reformed
from symgraph.match.unchanged import Endpoint
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import Act, State, Transform
from symgraph.orbit.tensor_blocks import on_blocks
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Leaf, leaves
from symgraph.tracing import state_of
from symgraph.tracing.progress import Progress, tell
from symgraph.tracing.sampling import float64

_log = logging.getLogger(__name__)
Merge = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Spread:
    """How far apart the positions of a space are: the distance from their mean over the norm, before and after."""

    space: str
    size: int
    inside: tuple[str, ...]
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.space} ({self.size}, by {shorten(self.inside)}): spread {self.before:.4f} -> {self.after:.4f}"


@dataclass(frozen=True, repr=False)
class Gathered(Reformed):
    """A model, in canonical form, of which experts or heads are in one basis; its function is what it was."""

    what: ClassVar[str] = "gathered"
    about: ClassVar[str] = (
        "The same function as the model it was made from; what lies side by side inside of it is in one basis."
    )

    model: Model
    state: State
    alignment: Alignment
    spreads: tuple[Spread, ...]

    def made(self) -> tuple[str, tuple[str, ...]]:
        """How, and how far apart all were before and after."""
        return "each position matched to the mean of all, by what acts inside of it", tuple(map(str, self.spreads))

    def to_plain(self) -> dict[str, Any]:
        """Names and figures as plain data."""
        spreads = [{"space": s.space, "size": s.size, "before": s.before, "after": s.after} for s in self.spreads]
        return {"model": self.model.spec, "spreads": spreads}

    def __str__(self) -> str:
        return "\n".join(map(str, self.spreads))


def gather(
    source: Source,
    example: Any = None,
    *,
    over: str | Sequence[str] = ("*",),
    rounds: int = 10,
    options: MatchOptions | Mapping[str, Any] | None = None,
    input_size: Size | None = None,
    rules: RuleSources = None,
    progress: Progress | None = None,
) -> Gathered:
    """Brings experts, or heads, of one model into one basis: each to the mean of all, by what acts inside of them.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        over: patterns of the outer spaces whose positions are gathered, such as "*heads"; * stands for any text.
        rounds: at most so many times all are matched to their mean, after they were matched to the first.
        options: how to match.

    Raises:
        UsageError: nothing acts inside of any such space.
        VerifyError: the result does not compute what the model computes.

    >>> import transformers
    >>> small = dict(hidden_size=8, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    >>> config = transformers.MixtralConfig(**small, num_key_value_heads=1, num_local_experts=3)
    >>> found = symgraph.gather(transformers.MixtralForCausalLM(config), over=["*mlp.hidden"])
    >>> all(s.after <= s.before for s in found.spreads)
    True
    """
    found = with_inputs(source, example, input_size)
    if rounds < 1:
        raise UsageError(f"there are {rounds} rounds", remedy=f"give 1 or more, {argument('rounds', 10)}")
    over = several(over)
    symmetry = infer(found, rules=rules)
    outer = _outer(symmetry, over)
    if not outer:
        held = [s.name for s in _holding(symmetry)]
        within = over if held else [space.name for space in symmetry.active]
        cause = f"nothing acts inside of {shorten(within) or 'anything'}"
        such = f"name one of {shorten(held)}" if held else "gathering is for mixtures of experts and for attention"
        raise UsageError(f"{found.spec} has nothing to gather", cause=cause, remedy=such)
    canonical = canonicalise(symmetry, float64(state_of(found.module)))
    how = given(MatchOptions, options)
    run = _Gathering(symmetry, canonical.state, how, rounds, progress)
    spreads = tuple(run.over(space) for space in outer)
    alignment = Alignment(symmetry, canonical.transform.then(run.transform), module_hash(found.module), "")
    Endpoint(found, run.state, alignment).check()
    return Gathered(found, stored(found.module, narrowed(run.state, state_of(found.module))), alignment, spreads)


def _outer(symmetry: SymmetryGraph, patterns: Sequence[str]) -> list[Space]:
    wanted = {space.id for pattern in patterns if pattern != "*" for space in symmetry.matching(pattern)}
    return [s for s in _holding(symmetry) if s.id in wanted or "*" in patterns]


def _holding(symmetry: SymmetryGraph) -> list[Space]:
    """The spaces that others are inside of."""
    held = {outer for space in symmetry.active for outer in space.fibre}
    return [space for space in symmetry.active if space.id in held]


class _Gathering:
    """A canonical state on its way; `transform` is what has led there."""

    def __init__(
        self, symmetry: SymmetryGraph, state: State, options: MatchOptions, rounds: int, progress: Progress | None
    ) -> None:
        self.symmetry, self.state, self.transform = symmetry, state, Transform()
        self.options, self.rounds, self.progress = options, rounds, progress

    def over(self, space: Space) -> Spread:
        """The positions of one space to their mean."""
        inside = tuple(s.name for s in self.symmetry.active if space.id in s.fibre)
        how = replace(self.options, spaces=(space.name, *inside), outer="fixed")
        before = after = self._spread(space)
        self._match(space, self._everywhere(space, _first), how)
        for number in range(self.rounds):
            self._match(space, self._everywhere(space, _mean), how)
            last, after = after, self._spread(space)
            said = f"{space.name}, round {number + 1}: spread {after:.6g}"
            tell(_log, self.progress, said, number + 1, self.rounds)
            if not last - after > self.options.tolerance:
                break
        return Spread(space.name, space.size, inside, before, after)

    def _match(self, space: Space, target: State, how: MatchOptions) -> None:
        element = nearest(self.symmetry, target, self.state, how).element
        outer = element.elements.get(space.id)
        if outer is not None and not outer.is_neutral:
            # What stands twice on a tensor is solved together with the order, which has to stay here.
            return
        act = Act(element)
        self.state, self.transform = act.apply(self.state), self.transform.then(Transform((act,)))

    def _everywhere(self, space: Space, merge: Merge) -> State:
        """The state with every position of a space as one of them, or as their mean."""
        symmetry = self.symmetry
        held = symmetry.acting(self.state)

        def same(tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
            for dim, leaf in enumerate(block):
                if leaf.space == space.id:
                    tensor = merge(tensor, dim).expand_as(tensor)
            return tensor

        for name in symmetry.acting_on[space.id]:
            held[name] = on_blocks(held[name], symmetry.acting_terms[name], same)
        return symmetry.of_acting(held)

    def _spread(self, space: Space) -> float:
        """The distance of all that is inside from its mean over the positions, over its norm."""
        mean = self._everywhere(space, _mean)
        inner = {s.id for s in self.symmetry.active if space.id in s.fibre}
        names = [
            name
            for read, axes in self.symmetry.read_terms.items()
            if {leaf.space for a in axes for leaf in leaves(a)} & inner
            for name in self.symmetry.reading.stored(read)
        ]
        names = [name for name in names if name in self.state]
        apart = sum(float((self.state[name] - mean[name]).square().sum()) for name in names)
        whole = sum(float(self.state[name].square().sum()) for name in names)
        return float((apart / whole) ** 0.5) if whole else 0.0


def _first(tensor: Tensor, dim: int) -> Tensor:
    return tensor.narrow(dim, 0, 1)


def _mean(tensor: Tensor, dim: int) -> Tensor:
    return tensor.mean(dim, keepdim=True)
