"""The gate that every result passes: each endpoint computes what it computed, by its own module in eager mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from symgraph.io.models import Model
from symgraph.measure.batches import batch_tensors
from symgraph.measure.forward import accepted_names, arguments
from symgraph.orbit.alignment import Alignment
from symgraph.prove.eager import Call
from symgraph.prove.same_function import check_unchanged, culprit
from symgraph.resize.shapes import model_like
from symgraph.tracing import state_of
from symgraph.tracing.deferred import later_in_float64

# So many examples of a batch tell whether a function has changed.
EXAMPLES = 8


def calls_on(network: nn.Module, *data: Any) -> tuple[Call, ...]:
    """A call on the first examples of each of the data that is there; what can be read only once is left alone."""
    found = []
    for batches in (d for d in data if isinstance(d, Iterable) and not isinstance(d, Iterator)):
        for raw in islice(batches, 1):
            inputs = {name: t[:EXAMPLES] if t.dim() else t for name, t in batch_tensors(raw).items()}
            found.append(Call("a batch of the data", *arguments(inputs, accepted_names(network))))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model that has become a state `after`, as it was computed.

    `start` is the state that an alignment took there, in the shape of `model`; `source` the model that it was made
    from, where that is of another shape and the function the same.
    """

    model: Model
    after: Mapping[str, Tensor]
    alignment: Alignment | None = None
    start: Mapping[str, Tensor] | None = None
    source: Model | None = None

    def check(self, calls: tuple[Call, ...] = ()) -> float:
        """By how much the outputs have changed.

        Raises:
            VerifyError: by more than rounding explains, naming the space.
        """
        blame, graph = None, None
        if self.alignment is not None:
            graph = self.alignment.symmetry.graph
            held = self.start if self.start is not None else state_of(self.model.module)
            start = later_in_float64(held)
            blame = culprit(self.alignment.symmetry, self.alignment.transform, start)
        before = self.start if self.source is None else None
        what = f"{self.model.spec} in its new basis"
        return check_unchanged(
            self.model, self.after, what, source=self.source, before=before, graph=graph, calls=calls, blame=blame
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """What the endpoints of a program have to pass, by the names that it has for them.

    `like` is the model whose shape all come to; `reshaped` has the models that come to it from another one, by their
    names there, and whether they compute the same then. `calls` are made beside those on random inputs.
    """

    models: Mapping[str, Model]
    like: Model
    reshaped: Mapping[str, tuple[Model, bool]]
    calls: tuple[Call, ...]

    def check(
        self, name: str, after: Mapping[str, Tensor], alignment: Alignment | None, start: Mapping[str, Tensor] | None
    ) -> None:
        """Raises if a model that has become another state does not compute what it computed.

        Raises:
            VerifyError: naming the space.
        """
        model, exact = self.reshaped[name] if name in self.reshaped else (self.models[name], False)
        found = model if start is None else model_like(self.like, model, start)
        Endpoint(found, after, alignment, start, model if exact else None).check(self.calls)
