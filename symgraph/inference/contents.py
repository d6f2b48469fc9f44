"""Integers that are positions in a space: which value holds them, and which axes they point along (design section 4).

The experts that a router picks are numbers. If the experts are permuted, the numbers change with them, as long as all
that is done with the numbers is to pick along the same axis. Where anything else reads them, the axis is rigid.
"""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.inference.applied import Applied
from symgraph.inference.structural import KEEPING
from symgraph.ir import Graph, Ref


@dataclass(frozen=True, slots=True)
class Content:
    """The numbers in a value are positions along one axis of `value`, found by the node `origin`."""

    value: str
    axis: int
    origin: str

    def __str__(self) -> str:
        return f"positions along axis {self.axis} of %{self.value}, found by %{self.origin}"


def find_contents(applied: list[Applied]) -> dict[str, Content]:
    """For every value that holds positions, in which axis."""
    found: dict[str, Content] = {}
    several: dict[tuple[str, int], Content] = {}
    for a in applied:
        if a.rule is None or a.binding is None:
            continue
        for number, content in _pointing(a):
            several[a.node.name, number] = content
            if len(a.binding.results) == 1:
                found[a.node.name] = content
        refs = list(a.node.refs())
        if a.rule.structure == "getitem" and (refs[0], a.binding.arguments["index"]) in several:
            found[a.node.name] = several[refs[0], int(a.binding.arguments["index"])]
        elif a.rule.structure in KEEPING and len(refs) == 1 and refs[0] in found:
            found[a.node.name] = found[refs[0]]
    return found


def _pointing(a: Applied) -> list[tuple[int, Content]]:
    """What the rule says about the results that hold positions."""
    if a.rule is None or a.binding is None or not a.rule.points:
        return []
    ref, tokens = next(iter(a.binding.operands.values()))
    found = []
    for number, name in a.rule.points.items():
        at = [i for i, t in enumerate(tokens) if t.axis == name]
        if len(at) == 1:
            found.append((int(number), Content(ref.name, at[0], a.node.name)))
    return found


def picked_axis(a: Applied, graph: Graph) -> tuple[int, str] | None:
    """For an index by one tensor: the axis that is picked from, and the value that holds the positions."""
    if a.rule is None or a.binding is None or a.rule.structure != "index":
        return None
    given = a.binding.arguments
    indices = given.get("indices")
    if indices is None:
        index = given.get("index")
        dim = given.get("dim", 0)
        rank = len(graph.by_name[next(iter(a.node.refs()))].shape)
        return (dim % rank, index.name) if isinstance(index, Ref) and isinstance(dim, int) else None
    at = [i for i, x in enumerate(indices) if x is not None]
    return (at[0], indices[at[0]].name) if len(at) == 1 and isinstance(indices[at[0]], Ref) else None
