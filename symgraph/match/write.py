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
from symgraph.inference.sources import RuleSources, Source, infer, model, stored, with_inputs
from symgraph.io import checkpoint
from symgraph.io.checkpoint import checked_hash
from symgraph.io.companions import folders_of
from symgraph.io.example import Size
from symgraph.io.files import SHARD_SIZE, OutputError, atomic_dir, refuse_existing, write_text
from symgraph.io.models import Model
from symgraph.io.spool import Spool
from symgraph.io.tied import untie
from symgraph.match.cards import Card, Ingredient, element_spaces
from symgraph.match.cost import Cost, cost_of_apply
from symgraph.match.one_basis import Universe
from symgraph.match.restated import Restated
from symgraph.match.unchanged import Endpoint
from symgraph.match.universe import joined, moved_spaces
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.resize.prune import Pruned
from symgraph.tracing import state_of
from symgraph.tracing.deferred import cast, later_in_float64, made

UNIVERSE = "universe.json"


@dataclass(frozen=True, repr=False)
class Applied(Restated):
    """A model after an alignment that was made before."""

    model: Model
    state: dict[str, Tensor]
    alignment: Alignment
    file: str
    inverse: bool
    hash: str
    notes: tuple[str, ...] = ()

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the model as a checkpoint of its class, with a model card; see `write_applied`.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        return write_applied(self, folder, overwrite=overwrite)

    def __str__(self) -> str:
        how = "the inverse of " if self.inverse else ""
        return "\n".join([f"{self.model.spec} after {how}the alignment in {self.file}", *self.notes])


def apply(
    file: str | Path,
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    inverse: bool = False,
    task_vector: bool = False,
    rules: RuleSources = None,
    tied: str = "keep",
    scratch: str | Path | None = None,
) -> Applied:
    """Applies a saved alignment to a checkpoint of its architecture.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        inverse: go from the basis of A to that of B.
        task_vector: the model is a difference of two: constants that the alignment adds are left out.
        tied: "untie" where the alignment was made so.
        scratch: a folder on whose disk the result waits in float64 until it is written, instead of in memory; nothing
            is left there.

    Raises:
        CheckpointError: the file is no alignment, or was made for another architecture.
        UsageError: the model has no weights.
        VerifyError: the model would not compute what it computed.

    >>> a, b = (torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in "ab")
    >>> x = torch.randn(5, 6)
    >>> file = symgraph.align(a, b, x).alignment.save(folder / "ab.safetensors")
    >>> torch.allclose(symgraph.apply(file, b, x).module(x), b(x), atol=1e-5)
    True
    """
    found, alignment = _loaded(file, with_inputs(source, example, input_size), rules, tied)
    state = state_of(found.module)
    read = {name: tensor for name, tensor in state.items() if name in alignment.symmetry.terms}
    own = checked_hash(found.module, read, found.spec)
    chosen = alignment.inverse() if inverse else alignment
    wide = later_in_float64(state)
    size = sum(tensor.numel() * torch.float64.itemsize for tensor in state.values())
    keep = made if scratch is None else Spool(Path(scratch), size).put
    moved = chosen.apply(wide, task_vector=task_vector, keep=keep)
    if not task_vector:
        Endpoint(found, moved, chosen).check()
    moved = {name: cast(tensor, state[name].dtype) for name, tensor in moved.items()}
    return Applied(found, stored(found.module, moved), chosen, str(file), inverse, own, _made_for(chosen, found, own))


def cost_of_application(file: str | Path, source: Source, *, rules: RuleSources = None, tied: str = "keep") -> Cost:
    """What `apply` would take.

    Raises:
        CheckpointError, UsageError: as for `apply`.
    """
    found, _ = _loaded(file, model(source), rules, tied)
    return cost_of_apply(found, Path(file).stat().st_size)


def _loaded(file: str | Path, found: Model, rules: RuleSources, tied: str) -> tuple[Model, Alignment]:
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
    refuse_existing(out, overwrite, folder=True, inputs=folders_of(*(member.model for member in found.members)))
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
    others = ", ".join(Path(member.model.spec).name for i, member in enumerate(found.members) if i != number)
    roles = ["reference" if i == found.reference else "aligned" for i in range(len(found.members))]
    hashes = [member.alignment.source for member in found.members]
    return Card(
        title=f"{Path(found.members[number].model.spec).name}, in one basis with {others}",
        about="The same function as the model it was made from, in a basis in which all of them can be averaged.",
        model=found.members[number].model,
        ingredients=tuple(map(Ingredient, roles, [member.model.spec for member in found.members], hashes)),
        method=joined(found),
        command=command,
        symmetry=found.symmetry,
        spaces=moved_spaces(found),
        distances=found.distances,
        loss_barriers=tuple(simplex),
        notes=found.notes,
    )


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
        spaces=element_spaces(symmetry, applied.alignment),
        notes=(*applied.alignment.notes, *applied.notes),
    )
    how: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    return checkpoint.write(applied.model, applied.state, out, card=str(card), **how)


def write_pruned(
    pruned: Pruned, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
    """Writes a pruned model: a checkpoint of a smaller config, or its weights where there is no such config.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    statistics = f"statistics of norms computed on {pruned.recalibrated}"
    card = Card(
        title=f"{Path(pruned.source).name}, pruned by {pruned.ratio:g}",
        about="A smaller model, made from a larger one by merging or dropping units.",
        model=pruned.model,
        ingredients=(Ingredient("pruned", pruned.source, pruned.hash),),
        method=f"a part of {pruned.ratio:g} of the units goes; {pruned.how}",
        command=command,
        symmetry=pruned.symmetry,
        notes=(
            f"outputs change by {pruned.reduction.error:.2g} on random inputs",
            *map(str, pruned.reduction.spaces),
            *([statistics] if pruned.recalibrated else []),
            *pruned.notes,
        ),
    )
    options: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    return checkpoint.write(pruned.model, pruned.state, out, card=str(card), **options)
