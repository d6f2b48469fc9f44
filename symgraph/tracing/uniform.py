"""Values that are one number throughout, whatever the parameters and inputs are: zeros of states, masks of ones."""

from __future__ import annotations

from symgraph.ir import Graph, Node
from symgraph.tracing.operators import short_name

_MADE: dict[int, frozenset[str]] = {
    0: frozenset({"zeros", "zeros_like", "new_zeros", "zero"}),
    1: frozenset({"ones", "ones_like", "new_ones"}),
}
_FILLED = {"aten.full.default": 1, "aten.full_like.default": 1, "aten.new_full.default": 2}
# What is made of one number alone is that number, whatever the other arguments are.
_KEEPING = frozenset(
    (
        *("view", "unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "repeat"),
        *("permute", "transpose", "movedim", "t", "flip", "roll", "clone", "contiguous", "alias", "detach", "to"),
        *("slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind", "getitem", "stack", "cat"),
    )
)
_SHAPED = frozenset({"expand", "expand_as", "view_as"})


def uniform(graph: Graph, number: int) -> frozenset[str]:
    """The values of a graph that are nothing but a number, zero or one, of any type."""
    values: set[str] = set()
    for node in graph.calls:
        if _is_made(node, number) or _is_kept(node, number, values):
            values.add(node.name)
    return frozenset(values)


def _is_made(node: Node, number: int) -> bool:
    if short_name(node.target) in _MADE[number]:
        return True
    at = _FILLED.get(node.target)
    filled = node.args[at] if at is not None and len(node.args) > at else None
    return isinstance(filled, int | float) and filled == number


def _is_kept(node: Node, number: int, values: set[str]) -> bool:
    """Whether a call makes the number of nothing but values that are that number."""
    refs, name = tuple(node.refs()), short_name(node.target)
    # The second operand of these says of what shape the first one becomes.
    refs = refs[:1] if name in _SHAPED else refs
    keeps = name in _KEEPING or name in _SHAPED or (name == "neg" and number == 0)
    return keeps and bool(refs) and all(ref in values for ref in refs)
