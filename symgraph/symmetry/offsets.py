"""What a model reads in the place of a parameter, so that the group acts on that: a sum, or an exponential."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from symgraph.symmetry.forms import Reading


@dataclass(frozen=True, slots=True)
class Offset:
    """What is added to the positions along one axis of a parameter: runs of so many of them, each with its number.

    With `logarithm` nothing is, but the parameter is the logarithm of what is read.
    """

    axis: int
    runs: tuple[tuple[int, float], ...]
    logarithm: bool = False

    @classmethod
    def of(cls, axis: int, line: Tensor) -> Offset:
        """These numbers along an axis; shapes: line (size of the axis,)."""
        return cls(axis, tuple((len(list(run)), number) for number, run in groupby(line.tolist())))

    @classmethod
    def exponential(cls) -> Offset:
        """Nothing is added, but the exponential is read."""
        return cls(0, ((1, 0.0),), logarithm=True)

    @property
    def numbers(self) -> list[float]:
        """The number of each position along the axis."""
        return [number for count, number in self.runs for _ in range(count)]

    @property
    def number(self) -> float | None:
        """What is added everywhere, if that is one number."""
        return self.runs[0][1] if len(self.runs) == 1 else None

    def added(self, tensor: Tensor, sign: float = 1.0) -> Tensor:
        """A parameter as it is read, with the numbers added, or with sign -1 as it is stored."""
        if self.logarithm:
            return tensor.exp() if sign > 0 else tensor.log()
        if self.number is not None:
            return tensor + sign * self.number
        line = tensor.new_tensor(self.numbers)
        return tensor + sign * line.reshape(-1, *(1 for _ in tensor.shape[self.axis + 1 :]))

    def read(self, symbol: str) -> str:
        """What is read, in the words of formulas: `(v + 1)`, `exp(v)`."""
        return f"exp({symbol})" if self.logarithm else f"({symbol} + {self})"

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(f"{number:g}" for _, number in self.runs if number))


@dataclass(frozen=True, slots=True)
class Raised(Mapping[str, Tensor]):
    """A state, and what is read of it with every offset added, each tensor made when it is asked for."""

    state: Mapping[str, Tensor]
    offsets: Mapping[str, Offset]
    reading: Reading

    def __getitem__(self, name: str) -> Tensor:
        tensor, offset = self.reading.one(name, self.state), self.offsets.get(name)
        return tensor if offset is None else offset.added(tensor)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and all(stored in self.state for stored in self.reading.stored(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)
