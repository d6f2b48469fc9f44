"""A symmetry graph as JSON and back, and as a networkx graph.

The JSON holds everything that inference found. Of the traced graph it holds the parameters and buffers with their
shapes and dtypes, the ties and the model's name; operators, inputs and outputs are left out, so that what is read back
can be printed, explained, and used to align and merge, but not to run the model (`verify` needs the trace).

Reading follows the hints of the dataclasses. It is written here because msgspec takes no union of dataclasses, as a
term is, asks no hook about a dataclass that is written in another form, as a bound is, passes over keys that it does
not know, and leaves out of a place the keys of objects, where the name of the parameter is what one needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from symgraph.errors import UsageError, one_line, shorten
from symgraph.groups.lattice import Bound, SymmetryClass, down, maximal, named
from symgraph.io.decode import Malformed
from symgraph.ir import Graph, Kind, Node, Tensor
from symgraph.symmetry.references import problems
from symgraph.symmetry.structure import Structure
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves

if TYPE_CHECKING:
    from networkx import MultiDiGraph

VERSION = 8
REMEDY = "give the JSON that `symgraph inspect MODEL --json` prints"
Found = TypeVar("Found", bound=Structure)
_GRAPH = ("version", "model", "state", "tied", "transient")
_FOUND = tuple(field.name for field in fields(Structure) if field.name != "graph")


def to_json(symmetry: Structure, indent: int | None = None) -> str:
    """The graph as JSON text, its keys in a fixed order (see the module for what is left out)."""
    graph = symmetry.graph
    state = [
        {"name": node.name, "kind": str(node.kind), "target": node.target, "shape": node.shape, "dtype": node.dtype}
        for node in graph.state.values()
    ]
    plain = {
        "version": VERSION,
        "model": graph.model,
        "state": state,
        "tied": graph.tied,
        "transient": sorted(graph.transient),
        **{name: _plain(getattr(symmetry, name)) for name in _FOUND},
        "fingerprint": symmetry.fingerprint,
    }
    return json.dumps(plain, indent=indent, ensure_ascii=False)


def read_json(text: str | Path, kind: type[Found]) -> Found:
    """What `to_json` wrote, from its text or from the path of a file, as a structure of this kind.

    Raises:
        UsageError: it is something else; the place of the problem is named.
    """
    where = str(text) if isinstance(text, Path) else "the text"
    try:
        plain = json.loads(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
        symmetry = _symmetry(plain, kind)
        wrong = list(dict.fromkeys(problems(symmetry)))
        if not wrong and plain["fingerprint"] != symmetry.fingerprint:
            wrong.append("fingerprint: it does not belong to the rest, which was changed after it was written")
    except (OSError, ValueError, RecursionError) as e:
        cause = str(e) if isinstance(e, Malformed) else one_line(e)
        raise UsageError(f"{where} holds no symmetry graph", cause=cause, remedy=REMEDY) from e
    if wrong:
        raise UsageError(f"{where} holds no consistent symmetry graph", cause=shorten(wrong, "; "), remedy=REMEDY)
    return symmetry


def to_networkx(symmetry: Structure) -> MultiDiGraph:
    """Spaces and tensors as a bipartite graph; further edges lead from a space to those fibred over it.

    Nodes are `space:NAME` and `parameter:NAME` or `buffer:NAME`, with the attribute `kind` and what a table shows of
    them. An edge from a space to a tensor (kind `axis`) carries the axis, whether it is dual, and its frame; an edge
    between spaces (kind `fibre`) the position in the fibre. All attributes are numbers, booleans or texts.
    """
    import networkx

    graph = networkx.MultiDiGraph(model=symmetry.graph.model)
    for space in symmetry.spaces:
        attributes = {"size": space.size, "group": str(space.group), "scales": space.scales, "signs": space.signs}
        graph.add_node(f"space:{space.name}", kind="space", bipartite=0, name=space.name, **attributes)
    for name, node in symmetry.graph.state.items():
        shape = "x".join(map(str, node.shape))
        graph.add_node(f"{node.kind}:{name}", kind=str(node.kind), bipartite=1, name=name, shape=shape)
    for source, target, attributes in _edges(symmetry):
        graph.add_edge(source, target, **attributes)
    return graph


def _edges(symmetry: Structure) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, axes in symmetry.terms.items():
        target = f"{symmetry.graph.state[name].kind}:{name}"
        for axis, term in enumerate(axes):
            for leaf in leaves(term):
                if leaf.space >= 0:
                    attributes = {"kind": "axis", "axis": axis, "dual": leaf.dual, "frame": leaf.frame}
                    yield f"space:{symmetry.spaces[leaf.space].name}", target, attributes
    for space in symmetry.spaces:
        for position, outer in enumerate(space.fibre):
            yield f"space:{symmetry.spaces[outer].name}", f"space:{space.name}", {"kind": "fibre", "position": position}


# -- writing -------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, Product | Concat):
        key = "product" if isinstance(value, Product) else "concat"
        parts = [_plain(part) for part in value.children]
        return {key: parts, "order": list(value.order)} if isinstance(value, Concat) and value.order else {key: parts}
    if isinstance(value, Bound):
        return [str(member) for member in maximal(value)]
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Enum) else value


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StateNode:
    """A parameter or buffer as it stands in the JSON."""

    name: str
    kind: str
    target: str
    shape: tuple[int, ...]
    dtype: str

    def node(self) -> Node:
        if self.kind not in (Kind.PARAMETER, Kind.BUFFER):
            raise Malformed(f"state: {self.kind!r} is neither a parameter nor a buffer")
        return Node(self.name, Kind(self.kind), self.target, result=Tensor(self.shape, self.dtype))


def _symmetry(plain: Any, kind: type[Found]) -> Found:
    if not isinstance(plain, dict):
        raise Malformed(f"an object is needed, {_kind(plain)} was found")
    if plain.get("version") != VERSION:
        raise Malformed(f"version: {VERSION} is needed, {plain.get('version')!r} was found")
    _keys(plain, (*_GRAPH, *_FOUND, "fingerprint"), "")
    hints = _hints(Structure)
    parts = {name: _read(hints[name], plain[name], name) for name in _FOUND}
    nodes = _read(tuple[_StateNode, ...], plain["state"], "state")
    graph = Graph(
        tuple(node.node() for node in nodes),
        (),
        _read(dict[str, str], plain["tied"], "tied"),
        frozenset(_read(tuple[str, ...], plain["transient"], "transient")),
        _read(str, plain["model"], "model"),
    )
    return kind(graph, **parts)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _keys(plain: dict[str, Any], wanted: tuple[str, ...], at: str) -> None:
    missing, unknown = [key for key in wanted if key not in plain], [key for key in plain if key not in wanted]
    if missing or unknown:
        said = [f"{shorten(missing)} is missing"] * bool(missing) + [f"{shorten(unknown)} is unknown"] * bool(unknown)
        raise Malformed(f"{at or 'the object'}: {', '.join(said)}")


def _read(hint: Any, plain: Any, at: str) -> Any:
    """A value of the hinted type; `at` is where it stands."""
    if hint == Term:
        return _term(plain, at)
    if hint == Bound:
        return down(*(_class(member, at) for member in _list(plain, at)))
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), _list(plain, at), at)
    if get_origin(hint) is UnionType:
        return None if plain is None else _read(get_args(hint)[0], plain, at)
    if get_origin(hint) is dict:
        return {key: _read(get_args(hint)[1], item, f"{at}[{key!r}]") for key, item in _object(plain, at).items()}
    if is_dataclass(hint) and isinstance(hint, type):
        _keys(_object(plain, at), tuple(entry.name for entry in fields(hint)), at)
        return hint(**{key: _read(inner, plain[key], f"{at}.{key}") for key, inner in _hints(hint).items()})
    if hint is SymmetryClass:
        return _class(plain, at)
    if type(plain) is not hint:
        raise Malformed(f"{at}: {_KINDS[hint]} is needed, {_kind(plain)} was found")
    return plain


def _tuple(hints: tuple[Any, ...], plain: list[Any], at: str) -> tuple[Any, ...]:
    if hints[1:] == (...,):
        return tuple(_read(hints[0], item, f"{at}[{number}]") for number, item in enumerate(plain))
    if len(hints) != len(plain):
        raise Malformed(f"{at}: {len(hints)} values are needed, {len(plain)} were found")
    return tuple(
        _read(hint, item, f"{at}[{number}]") for number, (hint, item) in enumerate(zip(hints, plain, strict=True))
    )


def _term(plain: Any, at: str) -> Term:
    term = _object(plain, at)
    for key in ("product", "concat"):
        if key in term:
            return _inner(term, key, at)
    leaf = _read(Leaf, term, at)
    if not isinstance(leaf, Leaf):
        raise Malformed(f"{at}: no term")
    return leaf


def _inner(term: dict[str, Any], key: str, at: str) -> Term:
    order = tuple(_read(tuple[int, ...], term["order"], f"{at}.order")) if key == "concat" and "order" in term else ()
    _keys(term, (key, "order") if order else (key,), at)
    parts = tuple(_term(part, f"{at}.{key}[{number}]") for number, part in enumerate(_list(term[key], at)))
    joined = Product(parts) if key == "product" else Concat(parts, order)
    if order and sorted(order) != list(range(joined.size)):
        raise Malformed(f"{at}.order: each of {joined.size} positions is needed once")
    return joined


def _class(plain: Any, at: str) -> SymmetryClass:
    known = named(plain)
    if known is None:
        raise Malformed(f"{at}: {plain!r} is no symmetry class")
    return known


_KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object"}


def _kind(plain: Any) -> str:
    return _KINDS.get(type(plain), "null" if plain is None else "a number")


def _list(plain: Any, at: str) -> list[Any]:
    if not isinstance(plain, list):
        raise Malformed(f"{at}: a list is needed, {_kind(plain)} was found")
    return plain


def _object(plain: Any, at: str) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise Malformed(f"{at}: an object is needed, {_kind(plain)} was found")
    return plain
