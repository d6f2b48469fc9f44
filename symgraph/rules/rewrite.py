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
    spellings = sorted(
        ((rule, pattern) for rule in rules for pattern in rule.pattern),
        key=lambda pair: (-pair[1].size, pair[0].rule, str(pair[1])),
    )
    nodes = {node.name: node for node in graph.nodes}
    by_base: dict[str, list[str]] = {}
    for node in graph.calls:
        by_base.setdefault(base(node), []).append(node.name)
    current = graph
    for rule, spelling in spellings:
        made = [_node(rule, spelling, current, nodes[name]) for name in by_base.get(spelling.root, ()) if name in nodes]
        rewritten = {node.name: node for node in made if node is not None}
        if rewritten:
            nodes.update(rewritten)
            current = replace(current, nodes=tuple(nodes.values()))
    return graph if current is graph else _without_dead(graph, current)


def _node(rule: Rule, spelling: Pattern, graph: Graph, root: Node) -> Node | None:
    bindings = spelling.match(graph, root)
    if bindings is None:
        return None
    kwargs = tuple((variable, bindings[variable]) for variable in spelling.variables)
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
