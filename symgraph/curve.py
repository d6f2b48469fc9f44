"""One quantity along the segment between two models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
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
    def barrier(self) -> float:
        """The largest of the barriers; the endpoints make it at least zero."""
        return max(self.barriers)

    @property
    def argmax(self) -> float:
        """The lambda of the largest barrier."""
        return self.lambdas[self._peak]

    @property
    def standard_error(self) -> float:
        """The standard error of `barrier`, at its lambda."""
        return self.standard_errors[self._peak]

    @property
    def interior_min(self) -> float:
        """The smallest barrier strictly between the endpoints; below zero, a mixture beats the chord."""
        return min(self.barriers[1:-1])

    @property
    def midpoint(self) -> float | None:
        """The barrier at lambda one half, or None if that point was not evaluated."""
        return self.barriers[self.lambdas.index(0.5)] if 0.5 in self.lambdas else None

    @property
    def _peak(self) -> int:
        return self.barriers.index(self.barrier)
