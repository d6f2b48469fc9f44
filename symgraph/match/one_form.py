"""A model as the one form of its orbit: all models that differ from it by the group are written as the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from symgraph.inference.sources import RuleSources, Source, infer, stored, with_inputs
from symgraph.io.checkpoint import module_hash
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.match.program_run import narrowed
from symgraph.match.restated import Reformed
from symgraph.match.unchanged import Endpoint
from symgraph.orbit.alignment import Alignment, norms
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import State
from symgraph.orbit.unique import unique as point_of_orbit
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64


@dataclass(frozen=True, repr=False)
class OneForm(Reformed):
    """A model in canonical form; its function is what it was. Norms are those of all tensors together."""

    what: ClassVar[str] = "in canonical form"
    about: ClassVar[str] = (
        "The same function as the model it was made from, at the weights that all models of its orbit share."
    )

    model: Model
    state: State
    alignment: Alignment
    before: float
    after: float

    def made(self) -> tuple[str, tuple[str, ...]]:
        """The canonical form, and what became of the norm."""
        return "canonical form", (str(self),)

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
    unique: bool = True,
) -> OneForm:
    """A model in canonical form, checked in its own module.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        unique: settle orders, axes and signs too; without it units stay where they are.

    Raises:
        VerifyError: the result does not compute what the model computes.
    """
    found = with_inputs(source, example, input_size)
    symmetry, held = infer(found, rules=rules), state_of(found.module)
    canonical = (point_of_orbit if unique else canonicalise)(symmetry, float64(held))
    alignment = Alignment(symmetry, canonical.transform, module_hash(found.module), "")
    Endpoint(found, canonical.state, alignment).check()
    before, after = (sum(size**2 for size in norms(state).values()) ** 0.5 for state in (held, canonical.state))
    return OneForm(found, stored(found.module, narrowed(canonical.state, held)), alignment, before, after)
