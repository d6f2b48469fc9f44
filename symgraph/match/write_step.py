"""The step that writes a model as an ordinary checkpoint, and what led there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from symgraph.io import checkpoint
from symgraph.io.companions import folders_of
from symgraph.io.files import refuse_existing
from symgraph.match.cards import Card, Ingredient, element_spaces
from symgraph.match.program_run import Run, held
from symgraph.match.program_step import PlainStep


@dataclass(frozen=True, slots=True)
class Write(PlainStep):
    """Write a model as a checkpoint of its class, and its alignment to a file where one is named."""

    model: str
    out: str
    alignment: str = field(default="", kw_only=True)
    op: ClassVar[str] = "write"

    @property
    def outputs(self) -> Mapping[str, str]:
        """A folder, and a file."""
        return {"out": self.out, "alignment": self.alignment}

    def apply(self, run: Run) -> None:
        """The checkpoint, with a card that says how it was made."""
        model, state = run.finished(self.model, self.op)
        refuse_existing(self.out, run.overwrite, folder=True, inputs=folders_of(*run.models.values()))
        how: dict[str, Any] = {"overwrite": run.overwrite, **run.writing}
        checkpoint.write(model, state, self.out, card=str(self._card(run)), **how)
        run.written[self.model] = self.out
        if self.alignment:
            found = held(run.alignments, self.model, self.op)
            run.written[f"alignment of {self.model}"] = str(found.save(self.alignment, overwrite=run.overwrite))

    def _card(self, run: Run) -> Card:
        found, origin = run.alignments.get(self.model), run.origin(self.model, self.op)
        model = run.models[origin]
        moved = found is not None and bool(found.transform.steps)
        approximate = any(origin in t.approximate for t in run.together.values())
        about = "The same function in a basis in which models of the program can be averaged."
        return Card(
            title=f"{Path(model.spec).name}, {self.model} of a program",
            about="APPROXIMATE: the function has changed." if approximate else about,
            model=model,
            ingredients=tuple(
                Ingredient(name, model.spec, run.hashes.get(name, "")) for name, model in run.models.items()
            ),
            method="a program of symgraph",
            command=run.command,
            symmetry=run.symmetry if moved else None,
            spaces=element_spaces(run.symmetry, found) if found is not None and moved else (),
            loss_barriers=tuple((name, m.found) for name, m in run.measured.items()),
            notes=tuple(run.notes),
        )

    def __str__(self) -> str:
        return f"{self.op:<13} {self.model} -> {self.out}{f', {self.alignment}' if self.alignment else ''}"
