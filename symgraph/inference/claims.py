"""What is said of an axis, and why."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.groups.lattice import Bound

# An axis of a store: `2 * node + dual`.
Ref = int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a bound was lowered: the value at which it happened, the rule, and a sentence."""

    node: str
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule} at %{self.node}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A bound on an axis, with its evidence."""

    ref: Ref
    bound: Bound
    evidence: Evidence
