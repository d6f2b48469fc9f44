"""A symmetry graph in the languages of other tools: DOT, Mermaid and GraphML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from symgraph.groups.lattice import maps
from symgraph.symmetry.fold import fold
from symgraph.symmetry.links import home, link
from symgraph.symmetry.present import kind
from symgraph.symmetry.repeated import Repeated, repeated
from symgraph.symmetry.serialise import to_networkx
from symgraph.symmetry.structure import Structure

# By the kind of a class: the shape of DOT, what stands around a label of Mermaid, and a colour (Okabe and Ito's hues).
SHAPES = {
    "rigid": ("box", "[]", "#e4e7eb"),
    "permutation": ("box", "()", "#a9d3f2"),
    "monomial": ("octagon", "{{}}", "#7fd1ae"),
    "diagonal": ("parallelogram", "[//]", "#e9dcae"),
    "rotation": ("hexagon", "{{}}", "#f5bd5a"),
    "orthogonal": ("ellipse", "([])", "#dea0c4"),
    "invertible": ("cylinder", "[()]", "#f4a582"),
}
# A dot of a name, and none of a range.
_DOT = re.compile(r"\.(?![^{]*\})")


@dataclass(frozen=True, slots=True)
class Node:
    """One space, or several that are alike."""

    name: str
    size: int
    group: str
    kind: str
    count: int

    @property
    def label(self) -> tuple[str, ...]:
        """Its name, how often it is there, its size and its class, as lines."""
        times = f" \N{MULTIPLICATION SIGN}{self.count}" if self.count > 1 else ""
        return f"{self.name}{times}", f"{self.size:,}, {self.group}"


@dataclass(frozen=True, slots=True)
class Edge:
    """Parameters between two spaces, or the space that another one is fibred over (without a label)."""

    source: str
    target: str
    label: str = ""
    directed: bool = False


@dataclass
class Module:
    """A module with the spaces in it, and the modules inside."""

    nodes: list[Node] = field(default_factory=list)
    inside: dict[str, Module] = field(default_factory=dict)

    def add(self, path: Sequence[str], node: Node) -> None:
        """A space at a path of modules."""
        if path:
            self.inside.setdefault(path[0], Module()).add(path[1:], node)
        else:
            self.nodes.append(node)

    def parts(self) -> Iterator[tuple[str, Module]]:
        """The modules inside that hold more than one thing; of others what they hold."""
        for name, module in self.inside.items():
            while not module.nodes and len(module.inside) == 1:
                (inner, module), *_ = module.inside.items()
                name = f"{name}.{inner}"
            yield name, module


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a symmetry graph."""

    title: str
    whole: Module
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def drawing(symmetry: Structure, folded: bool = True) -> Drawing:
    """Spaces on which something acts, those that a parameter leads to from there, and the parameters between them."""
    spaces = _alike([_space(symmetry, number) for number in range(len(symmetry.spaces))], folded)
    named = {one.filled(row)["name"]: one for one in spaces for row in one.rows}
    edges = [*_links(symmetry, named, folded), *_fibres(spaces, named)]
    ends = {end for edge in edges for end in (edge.source, edge.target)}
    moving = {one.name for one in spaces if one.record["kind"] != "rigid"}
    shown = [edge for edge in edges if not moving or moving & {edge.source, edge.target}]
    kept = moving | {end for edge in shown for end in (edge.source, edge.target)} if moving else ends
    whole, nodes = Module(), []
    for one in (one for one in spaces if one.name in kept):
        node = _node(one)
        nodes.append(node)
        whole.add(_path(one), node)
    return Drawing(symmetry.graph.model or "model", whole, tuple(nodes), tuple(shown))


def _space(symmetry: Structure, number: int) -> dict[str, Any]:
    space = symmetry.spaces[number]
    return {
        "name": space.name,
        "size": space.size,
        "group": str(space.group),
        "kind": kind(maps(space.group)),
        "home": home(symmetry, space),
        "fibre": [symmetry.spaces[outer].name for outer in space.fibre],
    }


def _alike(records: list[dict[str, Any]], folded: bool) -> list[Repeated]:
    return repeated(records) if folded else [Repeated(record["name"], ((),), record) for record in records]


def _node(one: Repeated) -> Node:
    record = one.record
    return Node(one.name, record["size"], record["group"], record["kind"], len(one.rows))


def _path(one: Repeated) -> list[str]:
    homes = dict.fromkeys(one.filled(row)["home"] for row in one.rows)
    words = [word for pattern in fold(homes) for word in _DOT.split(pattern.pattern) if word]
    path: list[str] = []
    for word in words:
        if path and (word[0] == "{" or word.isdigit()):
            path[-1] = f"{path[-1]}.{word}"
        else:
            path.append(word)
    return path


def _links(symmetry: Structure, named: dict[str, Repeated], folded: bool) -> Iterator[Edge]:
    labels: dict[tuple[str, str, bool], dict[str, None]] = {}
    records: list[dict[str, Any]] = [{"name": name, "link": link(symmetry, name).plain} for name in symmetry.terms]
    for one in _alike(records, folded):
        for row in one.rows:
            own = one.filled(row)["link"]
            for source in own["source"]:
                for target in own["target"] or [source]:
                    ends = named[source].name, named[target].name, own["directed"]
                    labels.setdefault(ends, {})[one.name] = None
    for (source, target, directed), names in labels.items():
        yield Edge(source, target, ", ".join(names), directed)


def _fibres(spaces: Sequence[Repeated], named: dict[str, Repeated]) -> Iterator[Edge]:
    fibres = [
        Edge(named[outer].name, one.name) for one in spaces for row in one.rows for outer in one.filled(row)["fibre"]
    ]
    yield from dict.fromkeys(fibres)


# -- DOT -----------------------------------------------------------------------------------------------------------


def to_dot(symmetry: Structure, folded: bool = True) -> str:
    """The graph for Graphviz: modules as clusters, spaces as nodes, parameters as edges."""
    picture = drawing(symmetry, folded)
    return "\n".join(
        [
            f"digraph {_quoted(picture.title)} {{",
            "  rankdir=LR; compound=true; fontname=sans;",
            "  node [style=filled, fontname=sans]; edge [fontname=sans, fontsize=10, dir=none];",
            *_clusters(picture.whole, "", "  "),
            *map(_dot_edge, picture.edges),
            "}",
        ]
    )


def _clusters(module: Module, path: str, margin: str) -> Iterator[str]:
    for node in module.nodes:
        shape, _, colour = SHAPES[node.kind]
        label = _quoted("\n".join(node.label))
        yield f'{margin}{_quoted(node.name)} [label={label}, shape={shape}, fillcolor="{colour}"];'
    for name, inner in module.parts():
        within = f"{path}.{name}".lstrip(".")
        yield f"{margin}subgraph {_quoted(f'cluster_{within}')} {{"
        yield f"{margin}  label={_quoted(name)};"
        yield from _clusters(inner, within, f"{margin}  ")
        yield f"{margin}}}"


def _dot_edge(edge: Edge) -> str:
    how = ["dir=forward"] if edge.directed else []
    how += [f"label={_quoted(edge.label)}"] if edge.label else ["style=dotted", "dir=forward", "arrowhead=diamond"]
    return f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{', '.join(how)}];"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- Mermaid -------------------------------------------------------------------------------------------------------


def to_mermaid(symmetry: Structure, folded: bool = True) -> str:
    """The graph as a flow chart for Markdown, where it is drawn."""
    picture = drawing(symmetry, folded)
    ids = {node.name: f"s{number}" for number, node in enumerate(picture.nodes)}
    kinds = dict.fromkeys(node.kind for node in picture.nodes)
    return "\n".join(
        [
            "flowchart LR",
            *_subgraphs(picture.whole, ids, "  ", "m"),
            *(_mermaid_edge(edge, ids) for edge in picture.edges),
            *(f"  classDef {name} fill:{SHAPES[name][2]},stroke:#7b8794,color:#171b20" for name in kinds),
        ]
    )


def _subgraphs(module: Module, ids: dict[str, str], margin: str, prefix: str) -> Iterator[str]:
    for node in module.nodes:
        around = SHAPES[node.kind][1]
        half = len(around) // 2
        label = _escaped("<br>".join(node.label))
        yield f"{margin}{ids[node.name]}{around[:half]}{label}{around[half:]}:::{node.kind}"
    for number, (name, inner) in enumerate(module.parts()):
        yield f"{margin}subgraph {prefix}{number}[{_escaped(name)}]"
        yield from _subgraphs(inner, ids, f"{margin}  ", f"{prefix}{number}_")
        yield f"{margin}end"


def _mermaid_edge(edge: Edge, ids: dict[str, str]) -> str:
    line = f"-- {_escaped(edge.label)} {'-->' if edge.directed else '---'}" if edge.label else "-.->"
    return f"  {ids[edge.source]} {line} {ids[edge.target]}"


def _escaped(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'


# -- GraphML -------------------------------------------------------------------------------------------------------


def to_graphml(symmetry: Structure) -> str:
    """Spaces and tensors as a bipartite graph for Gephi, yEd and others; nothing of it is folded."""
    from networkx import generate_graphml

    return "\n".join(generate_graphml(to_networkx(symmetry)))


FORMATS: dict[str, Callable[[Structure, bool], str]] = {
    "dot": to_dot,
    "mermaid": to_mermaid,
    "graphml": lambda symmetry, _: to_graphml(symmetry),
}
