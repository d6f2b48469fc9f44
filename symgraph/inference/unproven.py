"""Claims of rules that do not hold at a call of the user's model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from symgraph.rules.equivariance import Failure


@dataclass(frozen=True, slots=True)
class Unproven:
    """A claim of a rule that does not hold at a place in the user's model, with its counterexample.

    `lacking` are assumptions of the rule that nothing shows there.
    """

    rule: str
    where: str
    failure: Failure
    lacking: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((str(self.failure), *self.lacking))


def unproven_notes(found: Iterable[Unproven]) -> tuple[str, ...]:
    """One line for every claim that fails somewhere, with the first place and its counterexample."""
    places: dict[tuple[str, str, str, str], list[Unproven]] = {}
    for u in found:
        places.setdefault((u.rule, u.failure.law, u.failure.axis, u.failure.cls), []).append(u)
    return tuple(f"rule {us[0].rule}, not used in full at {us[0].where}{_more(us)}: {us[0]}" for us in places.values())


def _more(found: list[Unproven]) -> str:
    others = len({u.where for u in found}) - 1
    return f" and {others} other place{'s' * (others > 1)}" if others else ""
