"""One quantity at mixtures of models: its values, and how much worse each is than the models themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from symgraph.errors import UsageError
from symgraph.measure.grid import even
from symgraph.measure.mixture import Mixture, vertex


@dataclass(frozen=True, slots=True)
class Measured:
    """A loss or a metric at mixtures of models, the models themselves among them.

    Of two models these are points of a segment in its order; of more the models come first. `standard_errors` are those
    of `barriers`, over the examples and paired: each example is compared with itself. `value_errors` are those of
    `values` alone; of results that were saved without them there are none.
    """

    name: str
    mixtures: tuple[Mixture, ...]
    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    higher_is_better: bool = False
    value_errors: tuple[float, ...] = ()

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.mixtures[0])

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The points between two models, 0 at A and 1 at B.

        Raises:
            UsageError: there are more than two models.
        """
        if self.models != 2:
            raise UsageError(f"mixtures of {self.models} models have no lambda", remedy="use `mixtures`")
        return tuple(mixture[1] for mixture in self.mixtures)

    @property
    def places(self) -> tuple[Any, ...]:
        """Where the mixtures are: lambdas of two models, weights of more."""
        return self.lambdas if self.models == 2 else self.mixtures

    @property
    def ends(self) -> tuple[float, ...]:
        """What the models themselves have, in their order."""
        return tuple(self.values[self.mixtures.index(vertex(model, self.models))] for model in range(self.models))

    @property
    def barriers(self) -> tuple[float, ...]:
        """How much worse each mixture is than the mean of the models, weighted alike."""
        ends, sign = self.ends, -1.0 if self.higher_is_better else 1.0
        means = (sum(weight * end for weight, end in zip(weights, ends, strict=True)) for weights in self.mixtures)
        return tuple(sign * (value - mean) + 0.0 for value, mean in zip(self.values, means, strict=True))

    @property
    def barrier(self) -> float:
        """The largest of the barriers; the models themselves make it at least zero."""
        return max(self.barriers)

    @property
    def argmax(self) -> Any:
        """Where the largest barrier is: a lambda of two models, a mixture of more."""
        return self.places[self._peak]

    @property
    def standard_error(self) -> float:
        """The standard error of `barrier`, where it is."""
        return self.standard_errors[self._peak]

    @property
    def interior_min(self) -> float:
        """The smallest barrier of a mixture of two models or more; below zero, it beats the mean of their losses."""
        inside = (barrier for barrier, mixture in zip(self.barriers, self.mixtures, strict=True) if max(mixture) < 1.0)
        return min(inside)

    @property
    def midpoint(self) -> float | None:
        """The barrier of the even mixture, or None if it was not evaluated."""
        middle = even(self.models)
        return self.barriers[self.mixtures.index(middle)] if middle in self.mixtures else None

    @property
    def _peak(self) -> int:
        return self.barriers.index(self.barrier)

    @property
    def height(self) -> str:
        """The barrier and its standard error, as text."""
        return f"{self.barrier:.4f} \u00b1 {self.standard_error:.4f}"

    @property
    def inside(self) -> str:
        """What mixtures that are none of the models have, as text."""
        name = "midpoint" if self.models == 2 else "even mixture"
        middle = "" if self.midpoint is None else f", {name} {self.midpoint:.4f}"
        return f"(interior minimum {self.interior_min:.4f}{middle})"

    def __str__(self) -> str:
        at = f"lambda {self.argmax:.3f}" if self.models == 2 else mixture_text(self.argmax)
        return f"{self.name} barrier {self.height} at {at} {self.inside}"


def mixture_text(weights: Mixture) -> str:
    """The weights of a mixture, as text."""
    return " ".join(f"{weight:.3g}" for weight in weights)
