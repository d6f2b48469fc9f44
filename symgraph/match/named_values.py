"""A value of the graph by its own name, or by the module whose result it is."""

from __future__ import annotations

from symgraph.errors import UsageError, near
from symgraph.ir import Graph
from symgraph.ir import Tensor as Shape


def named_value(graph: Graph, at: str) -> str:
    """The name of the value.

    Raises:
        UsageError: there is none; near names are suggested.
    """
    calls = [n for n in graph.calls if isinstance(n.result, Shape)]
    if any(n.name == at for n in calls):
        return at
    inside = [n for n in calls if n.module == at or n.module.startswith(f"{at}.")]
    if inside:
        return inside[-1].name
    known = [n.name for n in calls] + list(dict.fromkeys(n.module for n in calls if n.module))
    remedy = near(at, known, "`graph.edges()` lists the values; a module's path names its result")
    raise UsageError(f"no value and no module is called {at!r}", remedy=remedy)
