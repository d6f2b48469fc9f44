"""Numbers that a model adds to a parameter before any use, so that the group acts on the sum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Offset:
    """What is added to the positions along one axis of a parameter: runs of so many of them, each with its number."""

    axis: int
    runs: tuple[tuple[int, float], ...]

    @property
    def number(self) -> float | None:
        """What is added everywhere, if that is one number."""
        return self.runs[0][1] if len(self.runs) == 1 else None

    def added(self, tensor: Tensor, sign: float = 1.0) -> Tensor:
        """A parameter with the numbers added, or with sign -1 taken off again."""
        if self.number is not None:
            return tensor + sign * self.number
        line = tensor.new_tensor([number for count, number in self.runs for _ in range(count)])
        return tensor + sign * line.reshape(-1, *(1 for _ in tensor.shape[self.axis + 1 :]))

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(f"{number:g}" for _, number in self.runs if number))
