"""A node and the rule that explains it."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.ir import Node
from symgraph.rules.binding import Binding
from symgraph.rules.schema import Rule


@dataclass(frozen=True, slots=True)
class Applied:
    """A node with the rule that explained it; rule None for an operator that no rule covers."""

    node: Node
    rule: Rule | None
    binding: Binding | None = None
