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
    for call in applied:
        name, operands = call.node.name, list(call.node.refs())
        for number, content in _pointing(call):
            several[name, number] = content
            if len(call.binding.results) == 1:
                found[name] = content
        if call.rule.structure == "getitem" and (operands[0], call.binding.arguments["index"]) in several:
            found[name] = several[operands[0], int(call.binding.arguments["index"])]
        elif call.rule.structure in KEEPING and len(operands) == 1 and operands[0] in found:
            found[name] = found[operands[0]]
    return found


def _pointing(applied: Applied) -> list[tuple[int, Content]]:
    """What the rule says about the results that hold positions."""
    if not applied.rule.points:
        return []
    ref, tokens = next(iter(applied.binding.operands.values()))
    contents = []
    for number, name in applied.rule.points.items():
        at = [place for place, token in enumerate(tokens) if token.axis == name]
        if len(at) == 1:
            contents.append((int(number), Content(ref.name, at[0], applied.node.name)))
    return contents


def picked_axis(applied: Applied, graph: Graph) -> tuple[int, str] | None:
    """For an index by one tensor: the axis that is picked from, and the value that holds the positions."""
    if applied.rule.structure != "index":
        return None
    given = applied.binding.arguments
    indices = given.get("indices")
    if indices is None:
        index = given.get("index")
        dim = given.get("dim", 0)
        rank = len(graph.by_name[next(iter(applied.node.refs()))].shape)
        return (dim % rank, index.name) if isinstance(index, Ref) and isinstance(dim, int) else None
    indexed = [(place, given) for place, given in enumerate(indices) if given is not None]
    if len(indexed) != 1 or not isinstance(indexed[0][1], Ref):
        return None
    ((place, positions),) = indexed
    return place, positions.name
