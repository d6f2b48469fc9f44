"""What a model reads in the place of a parameter, so that the group acts on that: a sum, or a positive function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor
from torch.nn import functional

from symgraph.symmetry.forms import Reading


@dataclass(frozen=True, slots=True)
class Chart:
    """A function that takes each of its values once: f(rate x) / over with f exp or softplus, the `kind`; or rate x.

    The first two are positive, and take every positive value.
    """

    kind: str
    rate: float = 1.0
    over: float = 1.0

    def of(self, tensor: Tensor) -> Tensor:
        """What is read."""
        multiple = self.rate * tensor
        if not self.kind:
            return multiple
        return (multiple.exp() if self.kind == "exp" else functional.softplus(multiple)) / self.over

    def back(self, tensor: Tensor) -> Tensor:
        """What is stored."""
        if not self.kind:
            return tensor / self.rate
        value = tensor * self.over
        return (value.log() if self.kind == "exp" else value + (-(-value).expm1()).log()) / self.rate

    def text(self, symbol: str) -> str:
        """The function in the words of formulas."""
        inner = symbol if self.rate == 1 else f"-{symbol}" if self.rate == -1 else f"{self.rate:.3g} {symbol}"
        if not self.kind:
            return inner
        return f"{self.kind}({inner})" if self.over == 1 else f"{self.kind}({inner}) / {self.over:.3g}"


@dataclass(frozen=True, slots=True)
class Offset:
    """What is added to the positions along one axis of a parameter: runs of so many of them, each with its number.

    With a `chart` a function of the sum is read.
    """

    axis: int
    runs: tuple[tuple[int, float], ...]
    chart: Chart | None = None

    @classmethod
    def of(cls, axis: int, line: Tensor) -> Offset:
        """These numbers along an axis; shapes: line (size of the axis,)."""
        return cls(axis, tuple((len(list(run)), number) for number, run in groupby(line.tolist())))

    @property
    def numbers(self) -> list[float]:
        """The number of each position along the axis."""
        return [number for count, number in self.runs for _ in range(count)]

    @property
    def number(self) -> float | None:
        """What is added everywhere, if that is one number."""
        return self.runs[0][1] if len(self.runs) == 1 else None

    @property
    def is_positive(self) -> bool:
        """Whether what is read is positive."""
        return self.chart is not None and bool(self.chart.kind)

    @property
    def rate(self) -> float:
        """The multiple that is read, where what is read is a multiple of what is stored, and numbers."""
        return 1.0 if self.chart is None or self.chart.kind else self.chart.rate

    def of_multiple(self, multiple: Offset) -> Offset:
        """The same numbers added to a multiple of what is stored: added to that, they are others."""
        runs = tuple((count, number / multiple.rate) for count, number in self.runs)
        return Offset(self.axis, runs, multiple.chart)

    @property
    def curved(self) -> bool:
        """Whether a factor of what is read changes what is stored by more or less where that is larger."""
        return self.chart is not None and self.chart.kind == "softplus"

    def added(self, tensor: Tensor, sign: float = 1.0) -> Tensor:
        """A parameter as it is read, with the numbers added, or with sign -1 as it is stored."""
        if self.chart is None:
            return tensor + sign * self._line(tensor)
        if sign > 0:
            return self.chart.of(tensor + self._line(tensor))
        return self.chart.back(tensor) - self._line(tensor)

    def _line(self, like: Tensor) -> Tensor | float:
        if self.number is not None:
            return self.number
        return like.new_tensor(self.numbers).reshape(-1, *(1 for _ in like.shape[self.axis + 1 :]))

    def read(self, symbol: str) -> str:
        """What is read, in the words of formulas: `(v + 1)`, `exp(v)`."""
        inner = f"({symbol} + {self})" if str(self) else symbol
        return inner if self.chart is None else self.chart.text(inner)

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
