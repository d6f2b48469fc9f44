"""Writing results as stock checkpoints, each with a model card that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.inference.sources import RuleSources, Source, infer, model
from symgraph.io import checkpoint
from symgraph.io.checkpoint import module_hash
from symgraph.io.files import SHARD_SIZE, OutputError, atomic_dir, refuse_existing, write_text
from symgraph.io.models import Model
from symgraph.io.spool import Spool
from symgraph.io.state import check_finite
from symgraph.io.tied import untie
from symgraph.match.align import Aligned
from symgraph.match.cards import Card, Ingredient
from symgraph.match.cost import Cost, cost_of_apply
from symgraph.match.learn_step import LearnStep
from symgraph.match.match_step import MatchStep
from symgraph.match.merge import Merged, saved
from symgraph.match.one_basis import Universe
from symgraph.match.unchanged import Endpoint
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.deferred import cast, later, made

UNIVERSE = "universe.json"
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
    notes: tuple[str, ...] = ()


def apply(
    file: str | Path,
    source: Source,
    *,
    inverse: bool = False,
    task_vector: bool = False,
    rules: RuleSources = None,
    tied: str = "keep",
    scratch: str | Path | None = None,
) -> Applied:
    """Applies a saved alignment to a checkpoint of its architecture.

    Args:
        inverse: go from the basis of A to that of B.
        task_vector: the model is a difference of two: constants that the alignment adds are left out.
        tied: "untie" where the alignment was made so.
        scratch: a folder on whose disk the result waits in float64 until it is written, instead of in memory; nothing
            is left there.

    Raises:
        CheckpointError: the file is no alignment, or was made for another architecture.
        UsageError: the model has no weights.
        VerifyError: the model would not compute what it computed.
    """
    found, alignment = _loaded(file, source, rules, tied)
    state = state_of(found.module)
    check_finite({k: v for k, v in state.items() if k in alignment.symmetry.terms}, where=found.spec)
    chosen = alignment.inverse() if inverse else alignment
    wide = {n: later(t, torch.float64) if t.is_floating_point() else t for n, t in state.items()}
    size = sum(t.numel() * torch.float64.itemsize for t in state.values())
    keep = made if scratch is None else Spool(Path(scratch), size).put
    moved = chosen.apply(wide, task_vector=task_vector, keep=keep)
    if not task_vector:
        Endpoint(found, moved, chosen).check()
    moved, own = {n: cast(t, state[n].dtype) for n, t in moved.items()}, module_hash(found.module)
    return Applied(found, saved(found, moved), chosen, str(file), inverse, own, _made_for(chosen, found, own))


def cost_of_application(file: str | Path, source: Source, *, rules: RuleSources = None, tied: str = "keep") -> Cost:
    """What `apply` would take.

    Raises:
        CheckpointError, UsageError: as for `apply`.
    """
    found, _ = _loaded(file, source, rules, tied)
    return cost_of_apply(found, Path(file).stat().st_size)


def _loaded(file: str | Path, source: Source, rules: RuleSources, tied: str) -> tuple[Model, Alignment]:
    found = model(source)
    if not found.has_weights:
        raise UsageError(f"{found.spec} has no weights", remedy="name a checkpoint, not a config")
    found = untie(found).model if tied == "untie" else found
    return found, Alignment.load(file, infer(found, rules=rules))


def _made_for(alignment: Alignment, model: Model, own: str) -> tuple[str, ...]:
    """A word where an alignment was made for another model than it is applied to."""
    if not alignment.source or alignment.source == own:
        return ()
    hashes = f"SHA-256 {own[:12]}... and {alignment.source[:12]}..."
    return (f"{model.spec} is not the model that the alignment was made for ({hashes}): its own gains are taken",)


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
    state, card = saved(aligned.b, aligned.state), str(_aligned_card(aligned, command, loss_barriers))
    if not (aligned.singular or untied or aligned.moved_a or aligned.embedded == "A"):
        return {"B aligned": checkpoint.write(aligned.b, state, out, card=card, **how)}
    beside = reference_folder(out)
    sources = checkpoint.folders_of(aligned.a, aligned.b)
    for folder in (out, beside):
        refuse_existing(folder, overwrite, folder=True, inputs=sources)
    written = checkpoint.write(aligned.b, state, out, card=card, **how)
    card = str(_reference_card(aligned, command))
    reference = checkpoint.write(aligned.a, aligned.reference, beside, card=card, **how)
    return {"B aligned": written, "the A to use with it": reference}


def reference_folder(out: Path) -> Path:
    """Where the A to use with a result is written, if A cannot stay as it is."""
    return out.with_name(f"{out.name}-reference")


def write_merged(
    merged: Merged, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
    """Writes a merged model.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    found = merged.universe
    how = f"all brought into one basis by {_joined(found)}, then averaged" if found else "averaged"
    how += f", statistics of norms computed on {merged.recalibrated}" if merged.recalibrated else ""
    names = ", ".join(Path(i.spec).name for i in merged.ingredients)
    card = Card(
        title=f"Weighted mean of {names}",
        about="The weighted mean of the weights of models of one architecture.",
        model=merged.model,
        ingredients=merged.ingredients,
        method=f"weighted mean of the parameters, {how}",
        command=command,
        symmetry=found.symmetry if found else None,
        spaces=_moved_spaces(found) if found else (),
        distances=found.distances if found else (),
        notes=merged.notes,
    )
    stored = {n: t.dtype for n, t in merged.state.items()}
    options: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    return checkpoint.write(merged.model, merged.state, out, card=str(card), stored=stored, **options)


def write_universe(
    found: Universe,
    out: str | Path,
    *,
    command: str = "",
    simplex: Sequence[tuple[str, LossBarrier]] = (),
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
) -> Path:
    """Writes every model of a universe, and what led it there.

    The folder holds 0, 1, ... (checkpoints in the order in which the models were given), `alignments/0.safetensors` and
    so on, and `universe.json` with all figures.

    Args:
        command: what the user typed, for the model cards.
        simplex: what was measured, under labels.

    Raises:
        OutputError: the folder exists and no universe is in it, or it cannot be written.
    """
    out = Path(out)
    refuse_existing(out, overwrite, folder=True, inputs=checkpoint.folders_of(*(m.model for m in found.members)))
    if out.exists() and any(out.iterdir()) and not (out / UNIVERSE).exists():
        cause = f"it has no {UNIVERSE}, so it is not the folder of an earlier universe"
        raise OutputError(f"{out} is not replaced", cause=cause, remedy="choose another path")
    with atomic_dir(out, overwrite) as folder:
        for i, member in enumerate(found.members):
            card = str(_member_card(found, i, command, simplex))
            checkpoint.write(member.model, member.state, folder / str(i), card=card, shard_size=shard_size)
            member.alignment.save(folder / "alignments" / f"{i}.safetensors")
        measured = {label: b.to_plain() for label, b in simplex}
        plain = {**found.to_plain(), "loss_barrier": measured}
        write_text(folder / UNIVERSE, json.dumps(plain, indent=2))
    return out


def _member_card(found: Universe, number: int, command: str, simplex: Sequence[tuple[str, LossBarrier]]) -> Card:
    others = ", ".join(Path(m.model.spec).name for i, m in enumerate(found.members) if i != number)
    roles = ["reference" if i == found.reference else "aligned" for i in range(len(found.members))]
    hashes = [m.alignment.source for m in found.members]
    return Card(
        title=f"{Path(found.members[number].model.spec).name}, in one basis with {others}",
        about="The same function as the model it was made from, in a basis in which all of them can be averaged.",
        model=found.members[number].model,
        ingredients=tuple(map(Ingredient, roles, [m.model.spec for m in found.members], hashes)),
        method=_joined(found),
        command=command,
        symmetry=found.symmetry,
        spaces=_moved_spaces(found),
        distances=found.distances,
        loss_barriers=tuple(simplex),
        notes=found.notes,
    )


def _joined(found: Universe) -> str:
    rounds = f"{len(found.objective) - 1} rounds" if len(found.objective) > 2 else "one round"
    learned = ", then learned matching of all of them" if found.learned else ""
    step = next((s for s in found.program.steps if isinstance(s, MatchStep)), None)
    what = "activation" if step is not None and step.method == "activations" else "weight"
    return f"{what} matching of each to the mean of the others ({rounds}){learned}"


def _moved_spaces(found: Universe) -> tuple[str, ...]:
    moved = {n for m in found.members for n in _element_spaces(found.symmetry, m.alignment)}
    return tuple(s.name for s in found.symmetry.active if s.name in moved)


def _element_spaces(symmetry: SymmetryGraph, alignment: Alignment) -> tuple[str, ...]:
    return tuple(s.name for s in symmetry.active if alignment.element(s.name) is not None)


def write_applied(
    applied: Applied, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
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
        spaces=_element_spaces(symmetry, applied.alignment),
        notes=(*applied.alignment.notes, *applied.notes),
    )
    how: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    return checkpoint.write(applied.model, applied.state, out, card=str(card), **how)


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
    what = "activation matching" if step.method == "activations" else "weight matching"
    matched = f"{what} ({step.sweeps} sweeps at most, {options})"
    learning = next((s for s in aligned.program.steps if isinstance(s, LearnStep)), None)
    if learning is None:
        return matched
    both = ", both models moving" if learning.dual else ""
    how = f"{learning.steps} steps at most of {learning.optimiser} at {learning.lr:g}, seed {learning.seed}{both}"
    return f"{matched}, then learned matching ({how})"


def _spaces(aligned: Aligned) -> tuple[str, ...]:
    return _element_spaces(aligned.alignment.symmetry, aligned.alignment)
