"""A model as the one form of its orbit: all models that differ from it by the group are written as the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symgraph.inference.sources import RuleSources, Source, infer, model, stored, with_example
from symgraph.io import checkpoint
from symgraph.io.checkpoint import module_hash
from symgraph.io.example import Size
from symgraph.io.files import SHARD_SIZE
from symgraph.io.models import Model
from symgraph.match.cards import card_of_one
from symgraph.match.program_run import narrowed
from symgraph.match.restated import Restated
from symgraph.match.unchanged import Endpoint
from symgraph.orbit.alignment import Alignment, norms
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import State
from symgraph.orbit.unique import unique
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64


@dataclass(frozen=True, repr=False)
class OneForm(Restated):
    """A model in canonical form; its function is what it was. Norms are those of all tensors together."""

    model: Model
    state: State
    alignment: Alignment
    before: float
    after: float

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it as a checkpoint of its class, with a model card; see `write_form`.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        return write_form(self, folder, overwrite=overwrite)

    def to_plain(self) -> dict[str, Any]:
        """Figures as plain data."""
        return {"model": self.model.spec, "norm": {"before": self.before, "after": self.after}}

    def __str__(self) -> str:
        return f"norm {self.before:.6g} -> {self.after:.6g}"


def one_form(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    rules: RuleSources = None,
    ordered: bool = True,
) -> OneForm:
    """A model in canonical form, checked in its own module.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        ordered: settle orders, axes and signs too; without it units stay where they are.

    Raises:
        VerifyError: the result does not compute what the model computes.
    """
    found = with_example(model(source), example, input_size)
    symmetry, held = infer(found, rules=rules), state_of(found.module)
    canonical = (unique if ordered else canonicalise)(symmetry, float64(held))
    alignment = Alignment(symmetry, canonical.transform, module_hash(found.module), "")
    Endpoint(found, canonical.state, alignment).check()
    before, after = (sum(size**2 for size in norms(state).values()) ** 0.5 for state in (held, canonical.state))
    return OneForm(found, stored(found.module, narrowed(canonical.state, held)), alignment, before, after)


def write_form(
    found: OneForm, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
    """Writes a model in canonical form.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    card = card_of_one(
        found.model,
        found.alignment,
        "in canonical form",
        about="The same function as the model it was made from, at the weights that all models of its orbit share.",
        method="canonical form",
        command=command,
        notes=(str(found),),
    )
    return checkpoint.write(found.model, found.state, out, card=str(card), overwrite=overwrite, shard_size=shard_size)
