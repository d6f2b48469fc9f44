"""Writing results as stock checkpoints, each with a model card that says how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from symgraph import api, checkpoint
from symgraph.align.alignment import Alignment
from symgraph.align.program import MatchStep
from symgraph.align.steps import LearnStep
from symgraph.api import Aligned
from symgraph.cards import Card, Ingredient
from symgraph.errors import UsageError
from symgraph.files import refuse_existing
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.loss_curve import LossBarrier
from symgraph.merge import Merged, saved
from symgraph.models import Model
from symgraph.state import check_finite, state_hash
from symgraph.tied import untie
from symgraph.trace import state_of

Measured = Sequence[tuple[str, LossBarrier]]


@dataclass(frozen=True)
class Applied:
    """A model after an alignment that was made before."""

    model: Model
    state: dict[str, Tensor]
    alignment: Alignment
    file: str
    inverse: bool
    hash: str


def apply(
    file: str | Path,
    source: api.Source,
    *,
    inverse: bool = False,
    task_vector: bool = False,
    rules: api.RuleSources = None,
    tied: str = "keep",
) -> Applied:
    """Applies a saved alignment to a checkpoint of its architecture.

    Args:
        inverse: go from the basis of A to that of B.
        task_vector: the model is a difference of two: constants that the alignment adds are left out.
        tied: "untie" where the alignment was made so.

    Raises:
        CheckpointError: the file is no alignment, or was made for another architecture.
        UsageError: the model has no weights.
    """
    found = api.model(source)
    if not found.has_weights:
        raise UsageError(f"{found.spec} has no weights", remedy="name a checkpoint, not a config")
    found = untie(found).model if tied == "untie" else found
    alignment = Alignment.load(file, api.infer(found, rules=rules))
    state = state_of(found.module)
    check_finite({k: v for k, v in state.items() if k in alignment.symmetry.terms}, where=found.spec)
    chosen = alignment.inverse() if inverse else alignment
    moved = chosen.apply({k: v.detach() for k, v in state.items()}, task_vector=task_vector)
    return Applied(found, saved(found, moved), chosen, str(file), inverse, state_hash(state))


def write_aligned(
    aligned: Aligned,
    out: str | Path,
    *,
    command: str = "",
    loss_barriers: Measured = (),
    untied: bool = False,
    overwrite: bool = False,
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
    state, card = saved(aligned.b, aligned.state), str(_aligned_card(aligned, command, loss_barriers))
    if not (aligned.singular or untied or aligned.moved_a or aligned.embedded == "A"):
        return {"B aligned": checkpoint.write(aligned.b, state, out, overwrite=overwrite, card=card)}
    beside = reference_folder(out)
    refuse_existing(beside, overwrite, folder=True)
    written = checkpoint.write(aligned.b, state, out, overwrite=overwrite, card=card)
    card = str(_reference_card(aligned, command))
    reference = checkpoint.write(aligned.a, aligned.reference, beside, overwrite=overwrite, card=card)
    return {"B aligned": written, "the A to use with it": reference}


def reference_folder(out: Path) -> Path:
    """Where the A to use with a result is written, if A cannot stay as it is."""
    return out.with_name(f"{out.name}-reference")


def write_merged(merged: Merged, out: str | Path, *, command: str = "", overwrite: bool = False) -> Path:
    """Writes a merged model.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    how = (
        f"each aligned to the first by {_method(merged.alignments[0])}, then averaged"
        if merged.alignments
        else "averaged"
    )
    names = ", ".join(Path(i.spec).name for i in merged.ingredients)
    card = Card(
        title=f"Weighted mean of {names}",
        about="The weighted mean of the weights of models of one architecture.",
        model=merged.model,
        ingredients=merged.ingredients,
        method=f"weighted mean of the parameters, {how}",
        command=command,
        symmetry=merged.symmetry,
        spaces=_spaces(merged.alignments[0]) if merged.alignments else (),
        distances=merged.distances,
        notes=merged.notes,
    )
    return checkpoint.write(merged.model, merged.state, out, overwrite=overwrite, card=str(card))


def write_applied(applied: Applied, out: str | Path, *, command: str = "", overwrite: bool = False) -> Path:
    """Writes a model after an alignment.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    direction = "the inverse of the alignment" if applied.inverse else "the alignment"
    ends = f"from the gauge of `{applied.alignment.source}` to that of `{applied.alignment.target}`"
    symmetry = applied.alignment.symmetry
    card = Card(
        title=f"{Path(applied.model.spec).name}, in another basis",
        about="The same function in another basis of the weights.",
        model=applied.model,
        ingredients=(Ingredient("moved", applied.model.spec, applied.hash),),
        method=f"{direction} in `{applied.file}`, {ends}",
        command=command,
        symmetry=symmetry,
        spaces=tuple(s.name for s in symmetry.active if applied.alignment.element(s.name) is not None),
        notes=applied.alignment.notes,
    )
    return checkpoint.write(applied.model, applied.state, out, overwrite=overwrite, card=str(card))


def _aligned_card(aligned: Aligned, command: str, loss_barriers: Measured) -> Card:
    return Card(
        title=f"{Path(aligned.b.spec).name} aligned to {Path(aligned.a.spec).name}",
        about="The same function as the model it was made from, in the basis of another: the two can be averaged.",
        model=aligned.b,
        ingredients=_pair(aligned),
        method=_method(aligned),
        command=command,
        symmetry=aligned.alignment.symmetry,
        spaces=_spaces(aligned),
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
    sweeps = max(len(aligned.alignment.objective) - 1, 0)
    return (
        f"in canonical form, relative to A: {aligned.before:.4f} before, {aligned.after:.4f} after {sweeps} sweeps",
    )


def _step(aligned: Aligned) -> MatchStep | None:
    return next((s for s in aligned.program.steps if isinstance(s, MatchStep)), None)


def _method(aligned: Aligned) -> str:
    step = _step(aligned)
    if step is None:
        return "canonical form"
    weighting = step.weighting if isinstance(step.weighting, str) else "custom"
    options = f"tolerance {step.tolerance:g}, {weighting} weights, seed {step.seed}"
    matched = f"weight matching ({step.sweeps} sweeps at most, {options})"
    learning = next((s for s in aligned.program.steps if isinstance(s, LearnStep)), None)
    if learning is None:
        return matched
    both = ", both models moving" if learning.dual else ""
    how = f"{learning.steps} steps at most of {learning.optimiser} at {learning.lr:g}, seed {learning.seed}{both}"
    return f"{matched}, then learned matching ({how})"


def _spaces(aligned: Aligned) -> tuple[str, ...]:
    symmetry: SymmetryGraph = aligned.alignment.symmetry
    return tuple(s.name for s in symmetry.active if aligned.alignment.element(s.name) is not None)
