"""Which whole numbers are rows of a table: what verification and audit draw has to be valid there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from symgraph.ir import Graph, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.tracing.interpreter import call
from symgraph.tracing.operators import short_name

# Operators behind which an index is the same index.
_VIEWS = frozenset(
    (
        *("view", "unsafe_view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "clone", "to", "to_copy"),
        *("slice", "select", "transpose", "permute", "t"),
    )
)
# Operators whose results are entries of their first operand.
_PICKS = frozenset({"gather", "index_select"})


def readers(graph: Graph, value: str) -> Iterator[tuple[str, Node]]:
    """What reads a value or a view of it, with the view."""
    todo, seen = [value], {value}
    while todo:
        at = todo.pop()
        for user in graph.users[at]:
            yield at, user
            if _passes_on(user, at) and user.name not in seen:
                seen.add(user.name)
                todo.append(user.name)


def _passes_on(user: Node, value: str) -> bool:
    """Whether a result has the entries of this operand, as they are."""
    name = short_name(user.target)
    return name in _VIEWS or (name in _PICKS and user.args[0] == Ref(value))


def looked_up(user: Node, value: str) -> int | None:
    """The axis of its first operand along which a call picks positions by the numbers in a value; None otherwise."""
    name, others = short_name(user.target), user.args[1:]
    if name == "embedding":
        return 0 if others[0] == Ref(value) else None
    if name == "index_select" and len(others) == 2:
        return int(others[0]) if others[1] == Ref(value) else None
    if name == "index" and others:
        return next((axis for axis, pick in enumerate(others[0]) if pick == Ref(value)), None)
    return None


def table_rows(graph: Graph, value: str) -> Tensor | None:
    """Of each entry, how many rows the smallest table has that it is looked up in, and 0 where it is looked up in none.

    An input may hold numbers of several kinds side by side, those of tables cast to whole numbers (as models of
    recommendations take them). None: no entry is looked up. Shape: that of the value.

    >>> class Columns(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = torch.nn.Embedding(5, 4)
    ...     def forward(self, x):
    ...         return self.table(x[:, 0].long()) * x[:, 1:]
    >>> graph = symgraph.trace(Columns(), torch.ones(2, 2))
    >>> table_rows(graph, graph.inputs[0].name).tolist()
    [[5, 0], [5, 0]]
    """
    found: Tensor | None = graph.answers.once((table_rows, value), lambda: _table_rows(graph, value))
    return found


def _table_rows(graph: Graph, value: str) -> Tensor | None:
    tables = [(at, rows) for at, user in readers(graph, value) if (rows := _table(graph, user, at)) is not None]
    if not tables:
        return None
    entries = _Entries(graph, value)
    found = torch.zeros(entries.shape, dtype=torch.int64)
    for at, rows in tables:
        picked = entries.seen_by(at)
        found[picked & ((found == 0) | (found > rows))] = rows
    return found


def _table(graph: Graph, user: Node, value: str) -> int | None:
    axis, first = looked_up(user, value), user.args[0] if user.args else None
    meta = graph.by_name[first.name].result if isinstance(first, Ref) else None
    masks = graph.by_name[value].dtype == "bool"
    return meta.shape[axis] if isinstance(meta, Meta) and axis is not None and not masks else None


class _Entries:
    """Which entries of a value its views have: a view of the positions of its entries is what it has of them."""

    def __init__(self, graph: Graph, value: str) -> None:
        self.graph, self.shape = graph, tuple(graph.by_name[value].shape)
        count = torch.Size(self.shape).numel()
        self._positions = {value: torch.arange(count, dtype=torch.float64).reshape(self.shape)}
        for at, user in readers(graph, value):
            if _passes_on(user, at) and user.name not in self._positions:
                self._positions[user.name] = self._viewed(user, at)

    def seen_by(self, view: str) -> Tensor:
        """Truth values in the shape of the whole value."""
        found = torch.zeros(self.shape, dtype=torch.bool)
        found.view(-1)[self._positions[view].long().reshape(-1)] = True
        return found

    def _viewed(self, user: Node, at: str) -> Tensor:
        """What a call takes by numbers that are not known here may be anything that it reads."""
        positions = self._positions[at]
        if tuple(positions.shape) != self.graph.by_name[at].shape or list(user.refs()) != [at]:
            return positions.reshape(-1, 1)
        return call(self.graph, user.name, {at: positions})
