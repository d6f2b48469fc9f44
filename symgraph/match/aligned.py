"""Two models in one basis: the result, and its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from symgraph.errors import UsageError, shorten
from symgraph.inference.sources import stored, with_state
from symgraph.io import checkpoint
from symgraph.io.companions import folders_of
from symgraph.io.files import SHARD_SIZE, refuse_existing, write_text
from symgraph.io.models import Model
from symgraph.io.programs import with_weights
from symgraph.io.shown import Shown
from symgraph.match.aligned_page import ShownAlignment, aligned_html
from symgraph.match.analysis import Analysis, figures
from symgraph.match.barrier_by_space import barrier_by_space
from symgraph.match.cards import Card, Ingredient, element_spaces
from symgraph.match.helped import Helped, helped
from symgraph.match.learn_step import LearnStep
from symgraph.match.learned_matching import Learned
from symgraph.match.match_step import MatchStep
from symgraph.match.pair_basis import PairBasis, require_basis
from symgraph.match.program import Program
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.batches import counted
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment, growth
from symgraph.tracing import state_of

Measured = Sequence[tuple[str, LossBarrier]]
# Growth of a norm that is worth a word.
SAID = 10.0


@dataclass(frozen=True, repr=False)
class Aligned(Shown):
    """The result of `align`.

    `a`, `b` are the models as aligned (untied copies where asked); `state` is B after alignment, `reference` the A it
    was aligned to: A itself, bit for bit, unless `singular` names gains for which A's gauge has no inverse, or one in
    which norms grow beyond bounds; it is A in canonical form then. `before` and `after` are distances in canonical
    form, as the match weighs it, over |A|. Where A was moved as well (dual learned matching), `reference` is A moved,
    and `moved_a` its alignment. `embedded` names the model that was narrower ("A" or "B"): it is then the one embedded
    into the shape of the other. With `narrowed` B was wider and has been reduced to A's shape, with another function.
    `basis`: how the two came into one basis, for `analysis`.
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
    basis: PairBasis | None = None

    @cached_property
    def growth(self) -> dict[str, float]:
        """By how much the norm of each tensor of B has grown, most first; new ones are left out."""
        return growth(self.state, state_of(self.b.module))

    @cached_property
    def module(self) -> nn.Module:
        """B aligned, as a module like the one that was given; that one stays as it is."""
        return with_state(self.b.module, self.state)

    @property
    def exported(self) -> ExportedProgram:
        """B aligned, as an exported program like the one that was given.

        Raises:
            UsageError: B was given as something else.
        """
        if self.b.program is None:
            raise UsageError(f"{self.b.spec} is no exported program", remedy="take .module")
        return with_weights(self.b.program, self.state)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
        """Writes B aligned as a checkpoint of its class, with a model card; see `write_aligned`.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        return write_aligned(self, folder, overwrite=overwrite)

    def barrier(self, batches: Iterable[Any], *, before: bool = False, **how: Any) -> LossBarrier:
        """The loss barrier between A and B aligned, or `before` that; `how` as for `loss_barrier`."""
        if before:
            return loss_barrier(self.a, self.b, batches, **how)
        return loss_barrier(self.reference, self.state, batches, module=self.b, **how)

    def plot(self, path: str | Path, batches: Iterable[Any], *, overwrite: bool = False, **how: Any) -> Path:
        """Draws the loss between A and B, before and after, as PNG, SVG or PDF; `how` as for `loss_barrier`."""
        held = counted(batches, "to draw")
        how = {"names": _names(self), **how}
        curves = {"before": self.barrier(held, before=True, **how), "after": self.barrier(held, **how)}
        return barrier_plot(curves, path, overwrite=overwrite)

    def helped(self, before: LossBarrier, after: LossBarrier) -> Helped:
        """Whether the alignment lowered the loss barrier, in one sentence, and what to try if it did not."""
        return helped(before, after, _matching(self))

    def analysis(
        self,
        batches: Iterable[Any] | None = None,
        *,
        measured: Mapping[str, LossBarrier] | None = None,
        **how: Any,
    ) -> Analysis:
        """What the alignment did: distances per parameter and per space, confidence, angles; what carries the barrier.

        Args:
            batches: what the loss barrier is measured on, before, after, and with each space left as it was.
            measured: the loss barriers "before" and "after", where they are known already.
            how: as for `loss_barrier`.

        Raises:
            UsageError: the alignment was not found by `align`.
        """
        basis = require_basis(self.basis)
        parameters, spaces = figures(basis, self.growth)
        if batches is None:
            return Analysis(parameters, spaces, measured or {})
        held = counted(batches, "to measure on")
        found = measured or {"before": self.barrier(held, before=True, **how), "after": self.barrier(held, **how)}
        known = {name: how[name] for name in ("loss", "device", "recalibrate", "progress") if name in how}
        own = basis.own_states(self.reference, self.state)
        return Analysis(parameters, spaces, found, barrier_by_space(basis, own, held, **known))

    def save_html(
        self, path: str | Path, batches: Iterable[Any] | None = None, *, overwrite: bool = False, **how: Any
    ) -> Path:
        """Writes a page that opens from disk: what `analysis` gives, as pictures and tables; `how` as there.

        Raises:
            OutputError: something is there and `overwrite` is not set, or it cannot be written.
            UsageError: the alignment was not found by `align`.
        """
        refuse_existing(path, overwrite, folder=False)
        return write_text(path, aligned_html(self._shown(), self.analysis(batches, **how)), overwrite)

    def _shown(self) -> ShownAlignment:
        return ShownAlignment(
            models=_names(self),
            before=self.before,
            after=self.after,
            objective=self.alignment.objective,
            learned=self.learned,
            growth=self.growth,
            method=_method(self),
            matching=_matching(self),
            program=str(self.program),
            notes=self.notes,
        )

    def report(self) -> str:
        """How it was made, in Markdown, as the model card of the checkpoint says it."""
        return str(_aligned_card(self, "", ()))

    def __str__(self) -> str:
        line = f"distance in canonical form {self.before:.4f} -> {self.after:.4f} (relative to |A|), {_swept(self)}"
        grown = [f"{name} {growth:.0f} times" for name, growth in self.growth.items() if growth > SAID]
        return "\n".join([line, *([f"norms of B that grow: {shorten(grown)}"] if grown else []), *self.notes])


def write_aligned(
    aligned: Aligned,
    out: str | Path,
    *,
    command: str = "",
    loss_barriers: Measured = (),
    untied: bool = False,
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
) -> dict[str, Path]:
    """Writes B aligned, and where A could not stay as it is, the A to use with it to a folder beside.

    Args:
        command: what the user typed, for the model card.
        loss_barriers: what was measured, under labels, for the model card.
        untied: whether shared tensors were cut apart, so that A on disk is of another architecture than the result.

    Raises:
        CheckpointError: a folder exists or cannot be written.
    """
    out = Path(out)
    how: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    state, card = stored(aligned.b.module, aligned.state), str(_aligned_card(aligned, command, loss_barriers))
    if not (aligned.singular or untied or aligned.moved_a or aligned.embedded == "A"):
        return {"B aligned": checkpoint.write(aligned.b, state, out, card=card, **how)}
    beside = reference_folder(out)
    sources = folders_of(aligned.a, aligned.b)
    for folder in (out, beside):
        refuse_existing(folder, overwrite, folder=not checkpoint.is_file(folder), inputs=sources)
    written = checkpoint.write(aligned.b, state, out, card=card, **how)
    card = str(_reference_card(aligned, command))
    reference = checkpoint.write(aligned.a, aligned.reference, beside, card=card, **how)
    return {"B aligned": written, "the A to use with it": reference}


def reference_folder(out: Path) -> Path:
    """Where the A to use with a result is written, if A cannot stay as it is."""
    suffix = out.suffix if checkpoint.is_file(out) else ""
    return out.with_name(f"{out.name.removesuffix(suffix)}-reference{suffix}")


def _aligned_card(aligned: Aligned, command: str, loss_barriers: Measured) -> Card:
    about = "The same function as the model it was made from, in the basis of another: the two can be averaged."
    if aligned.narrowed:
        about = "APPROXIMATE: a wider model reduced to the shape of another, in its basis: the two can be averaged."
    return Card(
        title=f"{Path(aligned.b.spec).name} aligned to {Path(aligned.a.spec).name}",
        about=about,
        model=aligned.b,
        ingredients=_pair(aligned),
        method=_method(aligned),
        command=command,
        symmetry=aligned.alignment.symmetry,
        spaces=element_spaces(aligned.alignment.symmetry, aligned.alignment),
        distances=_distances(aligned),
        loss_barriers=tuple(loss_barriers),
        notes=aligned.notes,
    )


def _reference_card(aligned: Aligned, command: str) -> Card:
    about, method = "The same model with its shared tensors cut apart.", "untied"
    if aligned.embedded == "A":
        about, method = "The same function as the model it was made from, in the shape of a wider one.", "embedded"
    if aligned.singular:
        about = "The same function as the model it was made from, in canonical form: some gains of that model are zero."
        method = "canonical form"
    if aligned.moved_a:
        about, method = "The same function as the model it was made from, moved towards another.", _method(aligned)
    return Card(
        title=f"{Path(aligned.a.spec).name}, to be used with {Path(aligned.b.spec).name} aligned",
        about=about,
        model=aligned.a,
        ingredients=_pair(aligned),
        method=method,
        command=command,
        symmetry=aligned.alignment.symmetry,
        notes=aligned.notes,
    )


def _pair(aligned: Aligned) -> tuple[Ingredient, ...]:
    a, b = aligned.alignment.target, aligned.alignment.source
    return Ingredient("A (reference)", aligned.a.spec, a), Ingredient("B (aligned)", aligned.b.spec, b)


def _distances(aligned: Aligned) -> tuple[str, ...]:
    ends = f"{aligned.before:.4f} before, {aligned.after:.4f} after {_swept(aligned)}"
    return (f"in canonical form, relative to A: {ends}",)


def _swept(aligned: Aligned) -> str:
    """How many sweeps were done, in words."""
    sweeps = max(len(aligned.alignment.objective) - 1, 0)
    return "1 sweep" if sweeps == 1 else f"{sweeps} sweeps"


def _names(aligned: Aligned) -> tuple[str, str]:
    """The names of the files of both models, where these tell them apart."""
    first, second = (Path(model.spec).name or model.spec for model in (aligned.a, aligned.b))
    return ("A", "B") if first == second else (first, second)


def _matching(aligned: Aligned) -> str:
    """By which method it was found."""
    if aligned.learned is not None:
        return "learned"
    step = _step(aligned)
    return "weights" if step is None else step.method


def _step(aligned: Aligned) -> MatchStep | None:
    return next((step for step in aligned.program.steps if isinstance(step, MatchStep)), None)


def _method(aligned: Aligned) -> str:
    step = _step(aligned)
    if step is None:
        return "canonical form"
    weighting = step.weighting if isinstance(step.weighting, str) else "custom"
    options = f"tolerance {step.tolerance:g}, {weighting} weights, seed {step.seed}"
    what = "activation matching" if step.method == "activations" else "weight matching"
    matched = f"{what} ({step.sweeps} sweeps at most, {options})"
    learning = next((step for step in aligned.program.steps if isinstance(step, LearnStep)), None)
    if learning is None:
        return matched
    both = ", both models moving" if learning.dual else ""
    how = f"{learning.steps} steps at most of {learning.optimiser} at {learning.lr:g}, seed {learning.seed}{both}"
    return f"{matched}, then learned matching ({how})"
