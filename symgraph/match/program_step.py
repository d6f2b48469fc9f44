"""What every step of a program can do: run, describe itself, be written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from symgraph.io.decode import brief, decode
from symgraph.match.program_run import Run
from symgraph.symmetry.fold import fold, template


class ProgramStep(ABC):
    """One line of a program; `op` is what files call it, the fields are what it reads, what it makes, and how."""

    __slots__ = ()
    op: ClassVar[str] = ""

    @property
    def reads_data(self) -> bool:
        """Whether it needs training data."""
        return False

    @property
    def reads_symmetry(self) -> bool:
        """Whether it needs the symmetry graph of the models."""
        return True

    @property
    def is_shared(self) -> bool:
        """Whether several processes share what it does."""
        return False

    @property
    def outputs(self) -> Mapping[str, str]:
        """The files and folders that it writes, by the names of its fields; "" for none."""
        return {}

    def writing(self, outputs: Mapping[str, str]) -> Self:
        """The same with other files and folders."""
        return replace(self, **outputs)  # type: ignore[type-var]

    @abstractmethod
    def apply(self, run: Run) -> None:
        """Does what it says, from what the steps before it have left to what those after it read."""

    @abstractmethod
    def __str__(self) -> str:
        """The step as text, on one line or more."""

    def dump(self) -> dict[str, Any]:
        """The step as plain data: what it reads and makes first, options after that; nothing is said of nothing."""
        plain = brief(self)
        ordered = sorted(fields(self), key=lambda field: field.kw_only is True)  # type: ignore[arg-type]
        return {"op": self.op, **{field.name: plain[field.name] for field in ordered if field.name in plain}}

    @classmethod
    def load(cls, plain: Any) -> Self:
        """The step of plain data.

        Raises:
            Malformed: a key or a type is wrong.
            UsageError: an option has a value that makes no sense.
        """
        return decode(cls, plain)


class PlainStep(ProgramStep):
    """A step that runs or writes models as they are, whatever acts on them."""

    @property
    def reads_symmetry(self) -> bool:
        """It takes what there is."""
        return False


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
        return [head, *(line for unit in self.inside for line in unit.lines(indent + 2))]


def folded(units: tuple[UnitPlan, ...]) -> tuple[UnitPlan, ...]:
    """Units that differ in the numbers of their layers only, as one: `layers.{0..11}.mlp.hidden`."""
    alike: dict[object, list[UnitPlan]] = {}
    for unit in units:
        alike.setdefault(_kind(unit), []).append(unit)
    return tuple(found for group in alike.values() for found in _folded(group))


def _kind(unit: UnitPlan) -> object:
    return template(unit.space), unit.group, unit.solver, tuple(map(_kind, unit.inside))


def _folded(alike: list[UnitPlan]) -> list[UnitPlan]:
    """Units of one kind: as one for each pattern of their names, if what is inside has a pattern as well."""
    by_name = {unit.space: unit for unit in alike}
    found = []
    for pattern in fold(by_name):
        members = [by_name[name] for name in pattern.members]
        inside = [_folded(list(inner)) for inner in zip(*(member.inside for member in members), strict=True)]
        if any(len(one) > 1 for one in inside):
            found += members
            continue
        found.append(replace(members[0], space=pattern.pattern, inside=tuple(one[0] for one in inside)))
    return found


def listed(head: str, units: tuple[UnitPlan, ...]) -> str:
    """A step as text: what it does, and each unit."""
    return "\n".join([head, *(line for unit in units for line in unit.lines())])
