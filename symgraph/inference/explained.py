"""Which rule explains each call, before there are axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from symgraph.inference.applied import Applied
from symgraph.inference.branches import Branches, find_branches
from symgraph.inference.contents import Content, find_contents
from symgraph.inference.moved import structure_failure
from symgraph.inference.prepared import Prepared
from symgraph.inference.unproven import Unproven
from symgraph.ir import Graph, Kind, Node
from symgraph.rules.binding import Binding
from symgraph.rules.facts import Facts


@dataclass(frozen=True)
class Explained:
    """The calls of a graph with their rules, and what follows from these alone.

    `learned` are the values that depend on a parameter; `writers` has for each value the call that wrote it, through
    views and pointwise operators. `contents` says which values hold positions along which axis.
    `branches` may change places (stage `branches`). `unproven` are claims that do not hold at a call and are not used.
    """

    prepared: Prepared
    applied: tuple[Applied, ...]
    learned: frozenset[str]
    writers: dict[str, str]
    contents: dict[str, Content]
    branches: tuple[Branches, ...]
    unproven: tuple[Unproven, ...]

    @property
    def graph(self) -> Graph:
        """The graph that the rules read."""
        return self.prepared.graph

    @cached_property
    def by_node(self) -> dict[str, Applied]:
        """Calls that a rule explains, under their names."""
        return {applied.node.name: applied for applied in self.applied}

    @property
    def uncovered(self) -> list[Node]:
        """Operators without a rule that something learned flows through."""
        return [node for node in self.graph.calls if node.name in self.learned and node.name not in self.by_node]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for node in self.graph.calls:
            explained = self.by_node.get(node.name)
            yield f"%{node.name}: no rule covers {node.target}" if explained is None else str(explained)
        yield from (f"%{name} holds {content}" for name, content in self.contents.items())
        yield from (f"{name} is read as {offset.read(name)}" for name, offset in self.prepared.offsets.items())
        yield from map(str, self.branches)


def explain_calls(given: Prepared) -> Explained:
    """Finds the rule of every call, and what of its claims holds there."""
    graph, book = given.graph, given.book
    applied, writers = [], {node.name: node.name for node in graph.nodes}
    learned: set[str] = set()
    facts, unproven = Facts(graph), list[Unproven]()
    for node in graph.nodes:
        if node.kind is Kind.PARAMETER or any(name in learned for name in node.refs()):
            learned.add(node.name)
        if node.kind is not Kind.CALL:
            continue
        binding = book.binding(node, graph)
        if binding is not None and node.name in learned and binding.rule.structure:
            failure = structure_failure(binding, node, graph, book.proofs.structures)
            if failure is not None:
                book.refuse_own(binding.rule, (failure,), node.where)
                unproven.append(Unproven(binding.rule.rule, node.where, failure))
                binding = None
        elif binding is not None and node.name in learned:
            proof = book.proof(binding, node, graph, facts)
            unproven += [Unproven(binding.rule.rule, node.where, failure, proof.lacking) for failure in proof.failures]
            binding = replace(binding, rule=proof.rule)
        if binding is None:
            continue
        applied.append(Applied(node, binding))
        sources = {writers[name] for name in node.refs() if name in learned}
        if len(sources) == 1 and (binding.rule.structure or _is_pointwise(binding)):
            writers[node.name] = sources.pop()
    contents = find_contents(applied)
    known = frozenset(learned)
    return Explained(given, tuple(applied), known, writers, contents, (), tuple(unproven))


def suppose_branches(given: Explained) -> Explained:
    """Finds the subgraphs that may change places; stage `exchanges` tells whether they can."""
    return replace(given, branches=tuple(find_branches(given.graph)))


def _is_pointwise(binding: Binding) -> bool:
    return all(token.name.startswith("*") for tokens in binding.results for token in tokens)
