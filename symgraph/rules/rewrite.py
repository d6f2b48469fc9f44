"""Idioms of several operators made one node each, wherever a pattern rule describes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from symgraph.ir import Graph, Kind, Node
from symgraph.rules.binding import bind
from symgraph.rules.pattern import Pattern, base
from symgraph.rules.schema import Rule
from symgraph.tracing.arguments import PATTERN


def rewrite(graph: Graph, rules: Iterable[Rule]) -> Graph:
    """The graph with each idiom that a pattern rule describes as one node `pattern:NAME`, dead nodes removed.

    Larger patterns go first; where a rule would not apply to the node it makes, nothing is replaced.
    """
    spellings = sorted(((r, p) for r in rules for p in r.pattern), key=lambda s: (-s[1].size, s[0].rule, str(s[1])))
    nodes = {n.name: n for n in graph.nodes}
    by_base: dict[str, list[str]] = {}
    for node in graph.calls:
        by_base.setdefault(base(node), []).append(node.name)
    current = graph
    for rule, spelling in spellings:
        made = [_node(rule, spelling, current, nodes[n]) for n in by_base.get(spelling.root, ()) if n in nodes]
        found = {n.name: n for n in made if n is not None}
        if found:
            nodes.update(found)
            current = replace(current, nodes=tuple(nodes.values()))
    return graph if current is graph else _without_dead(graph, current)


def _node(rule: Rule, spelling: Pattern, graph: Graph, root: Node) -> Node | None:
    bindings = spelling.match(graph, root)
    if bindings is None:
        return None
    kwargs = tuple((v, bindings[v]) for v in spelling.variables)
    node = replace(root, target=PATTERN + rule.rule, args=(), kwargs=kwargs)
    return node if bind(rule, node, graph) is not None else None


def _without_dead(before: Graph, after: Graph) -> Graph:
    """`after` without the calls that something read in `before` and nothing reads any more."""
    users = before.users
    live = set(after.outputs)
    kept: list[Node] = []
    for node in reversed(after.nodes):
        if node.kind is Kind.CALL and node.name not in live and users[node.name]:
            continue
        live.update(node.refs())
        kept.append(node)
    return replace(after, nodes=tuple(reversed(kept)))
