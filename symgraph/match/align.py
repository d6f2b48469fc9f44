"""Two models in one basis: the second is brought to the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from symgraph.errors import shorten
from symgraph.inference.sources import Source
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.match.learn_step import LearnStep
from symgraph.match.learned_matching import Learned
from symgraph.match.match_options import LearnOptions, MatchOptions, PairSettings
from symgraph.match.one_basis import Shaped, Universe, Wanted, bring, planned, shaped
from symgraph.match.prepare_steps import Embed, Reduce
from symgraph.match.program import Program
from symgraph.orbit.alignment import Alignment, growth
from symgraph.tracing import state_of

PAIR = ("A", "B")
# Growth of a norm that is worth a word.
SAID = 10.0


@dataclass(frozen=True)
class Aligned:
    """The result of `align`.

    `a`, `b` are the models as aligned (untied copies where asked); `state` is B after alignment, `reference` the A it
    was aligned to: A itself, bit for bit, unless `singular` names gains for which A's gauge has no inverse, or one in
    which norms grow beyond bounds; it is A in canonical form then. `before` and `after` are distances in canonical
    form, as the match weighs it, over |A|. Where A was moved as well (dual learned matching), `reference` is A moved,
    and `moved_a` its alignment. `embedded` names the model that was narrower ("A" or "B"): it is then the one embedded
    into the shape of the other. With `narrowed` B was wider and has been reduced to A's shape, with another function.
    """

    a: Model
    b: Model
    alignment: Alignment
    program: Program
    state: dict[str, Tensor]
    reference: dict[str, Tensor]
    singular: tuple[str, ...]
    before: float
    after: float
    notes: tuple[str, ...] = ()
    learned: Learned | None = None
    moved_a: Alignment | None = None
    embedded: str = ""
    narrowed: bool = False

    @property
    def growth(self) -> dict[str, float]:
        """By how much the norm of each tensor of B has grown, most first; new ones are left out."""
        return growth(self.state, state_of(self.b.module))

    def __str__(self) -> str:
        sweeps = len(self.alignment.objective) - 1
        line = f"distance in canonical form {self.before:.4f} -> {self.after:.4f} (relative to |A|), {sweeps} sweeps"
        grown = [f"{n} {g:.0f} times" for n, g in self.growth.items() if g > SAID]
        return "\n".join([line, *([f"norms of B that grow: {shorten(grown)}"] if grown else []), *self.notes])


def align(
    a: Source,
    b: Source,
    *,
    method: str = "weights",
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    data: Any = None,
    program: Program | None = None,
    **settings: Any,
) -> Aligned:
    """Brings B into the basis and the gauge of A without changing B's function.

    Where one model is narrower, it is embedded exactly into the shape of the other first.

    Args:
        method: "weights"; "activations", alone or mixed with weights (`alpha` of the options); or "learned", trained
            on the task loss at interpolated weights from a match by `start` on.
        options: how to match: sweeps, tolerance, weighting, seed, restarts, patterns of the spaces to align, and more.
        learning: how to train: steps, optimiser, what moves; `spaces` of `options` restrict it as well.
        data: batches of the training split: `symgraph.io.data.Batches`, a list, or a loader; for all but "weights".
        program: run this program instead of planning one.
        settings: fields of `PairSettings`: start, split, soft, narrow, symmetry, rules, tied, strict, device, dtype,
            progress, validation, examples, loss, checkpoint, resume.

    Raises:
        UsageError: an unknown option, method or choice, or a program for another architecture.
        CheckpointError: the architectures differ in more than widths, or a weight is not finite.
        DataError: data is missing, empty, or does not fit the model.
        VerifyError: a model does not compute what it computed, with the space that is to blame.

    Source: Theus et al., arXiv 2506.22712, section 4; both models moving: arXiv 2606.23607; gauge: design section 10.
    """
    how = given(PairSettings, None, settings)
    wanted = _wanted(how, method, options, learning, data, program)
    models = _shaped(a, b, how)
    found = bring(models, program or _planned(models, wanted, how), wanted, network=models.like, called={})
    return _aligned(found)


def plan(
    a: Source,
    b: Source,
    *,
    method: str = "weights",
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Program:
    """The program that `align` would run, with its arguments.

    Raises:
        CheckpointError: the architectures differ in more than widths.
    """
    how = given(PairSettings, None, settings)
    return _planned(_shaped(a, b, how), _wanted(how, method, options, learning, ()), how)


def _wanted(how: PairSettings, method: str, options: Any, learning: Any, data: Any, program: Any = None) -> Wanted:
    return Wanted(
        method=method,
        options=given(MatchOptions, options),
        learning=given(LearnOptions, learning),
        settings=how,
        data=data,
        program=program,
    )


def _shaped(a: Source, b: Source, how: PairSettings) -> Shaped:
    return shaped(dict(zip(PAIR, (a, b), strict=True)), how, PAIR, reduce=how.narrow)


def _planned(models: Shaped, wanted: Wanted, how: PairSettings) -> Program:
    return planned(models, wanted, start=how.start, reference="A", split=how.split, soft=how.soft)


def _aligned(found: Universe) -> Aligned:
    a, b = found.members
    steps = found.program.steps
    moved = any(s.dual or s.gauge for s in steps if isinstance(s, LearnStep))
    return Aligned(
        a.model,
        b.model,
        b.alignment,
        found.program,
        b.state,
        a.state,
        a.singular,
        b.before,
        b.after,
        found.notes,
        found.learned,
        a.alignment if moved else None,
        next((s.model for s in steps if isinstance(s, Embed)), ""),
        any(isinstance(s, Reduce) for s in steps),
    )
