"""What every step of a program can do: run, describe itself, be written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from symgraph.io.decode import decode, encode
from symgraph.match.program_run import Run


class ProgramStep(ABC):
    """One line of a program; `op` is what files call it, the fields are what it reads, what it makes, and how."""

    __slots__ = ()
    op: ClassVar[str] = ""

    @property
    def reads_data(self) -> bool:
        """Whether it needs training data."""
        return False

    @abstractmethod
    def apply(self, run: Run) -> None:
        """Does what it says, from what the steps before it have left to what those after it read."""

    @abstractmethod
    def __str__(self) -> str:
        """The step as text, on one line or more."""

    def dump(self) -> dict[str, Any]:
        """The step as plain data: what it reads and makes first, options after that."""
        names = sorted((f for f in fields(self) if f.init), key=lambda f: f.kw_only is True)  # type: ignore[arg-type]
        plain = encode(self)
        return {"op": self.op, **{f.name: plain[f.name] for f in names}}

    @classmethod
    def load(cls, plain: Any) -> Self:
        """The step of plain data.

        Raises:
            Malformed: a key or a type is wrong.
            UsageError: an option has a value that makes no sense.
        """
        return decode(cls, plain)


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of the descent: a space, its group and solver, and what is fibred over it."""

    space: str
    group: str
    solver: str
    inside: tuple[UnitPlan, ...] = ()

    def lines(self, indent: int = 6) -> list[str]:
        """The unit as text, inner spaces indented."""
        head = f"{' ' * indent}{self.space:<{max(44 - indent, 1)}} {self.group:<24} {self.solver}"
        return [head, *(line for u in self.inside for line in u.lines(indent + 2))]


def listed(head: str, units: tuple[UnitPlan, ...]) -> str:
    """A step as text: what it does, and each unit."""
    return "\n".join([head, *(line for u in units for line in u.lines())])
