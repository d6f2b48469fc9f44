"""One quantity along the segment between two models, or over the simplex of many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


class Measured(ABC):
    """What both have in common: barriers at points, and their standard errors."""

    __slots__ = ()

    standard_errors: tuple[float, ...]

    @property
    @abstractmethod
    def barriers(self) -> tuple[float, ...]:
        """How much worse each point is than the mean of the endpoints, weighted as the models are."""

    @property
    def barrier(self) -> float:
        """The largest of the barriers; the endpoints make it at least zero."""
        return max(self.barriers)

    @property
    def standard_error(self) -> float:
        """The standard error of `barrier`, where it is."""
        return self.standard_errors[self._peak]

    @property
    def _peak(self) -> int:
        return self.barriers.index(self.barrier)


@dataclass(frozen=True, slots=True)
class Curve(Measured):
    """A loss or a metric along the segment from A (lambda 0) to B (lambda 1).

    `standard_errors` are those of `barriers`, over the examples and paired: each example is compared with itself.
    """

    name: str
    lambdas: tuple[float, ...]
    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    higher_is_better: bool = False

    @property
    def barriers(self) -> tuple[float, ...]:
        """How much worse than the chord between the endpoints each point is."""
        first, last = self.values[0], self.values[-1]
        sign = -1.0 if self.higher_is_better else 1.0
        chord = ((1 - x) * first + x * last for x in self.lambdas)
        return tuple(sign * (v - c) + 0.0 for v, c in zip(self.values, chord, strict=True))

    @property
    def argmax(self) -> float:
        """The lambda of the largest barrier."""
        return self.lambdas[self._peak]

    @property
    def interior_min(self) -> float:
        """The smallest barrier strictly between the endpoints; below zero, a mixture beats the chord."""
        return min(self.barriers[1:-1])

    @property
    def midpoint(self) -> float | None:
        """The barrier at lambda one half, or None if that point was not evaluated."""
        return self.barriers[self.lambdas.index(0.5)] if 0.5 in self.lambdas else None


@dataclass(frozen=True, slots=True)
class Surface(Measured):
    """A loss or a metric at mixtures of models; the models themselves come first, in their order.

    `standard_errors` are those of `barriers`, over the examples and paired.
    """

    name: str
    mixtures: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    higher_is_better: bool = False

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.mixtures[0])

    @property
    def barriers(self) -> tuple[float, ...]:
        """How much worse each mixture is than the mean of the models, weighted alike."""
        ends = self.values[: self.models]
        sign = -1.0 if self.higher_is_better else 1.0
        means = (sum(w * v for w, v in zip(weights, ends, strict=True)) for weights in self.mixtures)
        return tuple(sign * (v - c) + 0.0 for v, c in zip(self.values, means, strict=True))

    @property
    def argmax(self) -> tuple[float, ...]:
        """The mixture of the largest barrier."""
        return self.mixtures[self._peak]

    @property
    def interior_min(self) -> float:
        """The smallest barrier of a mixture of two models or more; below zero, it beats the mean of their losses."""
        return min(self.barriers[self.models :])

    @property
    def centroid(self) -> float | None:
        """The barrier of the even mixture, or None if it was not evaluated."""
        even = (1 / self.models,) * self.models
        return self.barriers[self.mixtures.index(even)] if even in self.mixtures else None
