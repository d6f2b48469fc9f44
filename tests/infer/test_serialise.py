"""JSON there and back without loss, every kind of bad JSON, and the networkx graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, case
from torch import nn

from symgraph.errors import SymgraphError, UsageError
from symgraph.inference.pipeline import infer
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Uncovered
from symgraph.symmetry.terms import leaves
from symgraph.tracing import trace

Change = Callable[[dict[str, Any]], object]


@cache
def relu() -> SymmetryGraph:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    return infer(trace(model, (torch.zeros(2, 5),)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_there_and_back(name: str) -> None:
    symmetry = case(name).symmetry
    text = symmetry.to_json()
    found = SymmetryGraph.from_json(text)
    assert found.fingerprint == symmetry.fingerprint
    for f in fields(symmetry):
        if f.name != "graph":
            assert getattr(found, f.name) == getattr(symmetry, f.name), f.name
    assert found.to_json() == text
    assert str(found) == str(symmetry)
    assert [found.explain(s.name) for s in found.spaces] == [symmetry.explain(s.name) for s in symmetry.spaces]
    assert found.dimension() == symmetry.dimension()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_kept_of_the_traced_graph(name: str) -> None:
    graph = case(name).graph
    found = SymmetryGraph.from_json(case(name).symmetry.to_json()).graph
    assert [(n.name, n.kind, n.target, n.result) for n in found.nodes] == [
        (n.name, n.kind, n.target, n.result) for n in graph.state.values()
    ]
    assert (found.tied, found.transient, found.model) == (graph.tied, graph.transient, graph.model)
    assert (found.calls, found.inputs, found.outputs) == ((), (), ())


def test_what_inference_could_not_cover_is_kept() -> None:
    missing = (Uncovered("aten.foo.default", "act (aten.foo)", ("float32[2]",)),)
    symmetry = replace(relu(), uncovered=missing, notes=("a note",))
    found = SymmetryGraph.from_json(symmetry.to_json())
    assert (found.uncovered, found.notes) == (missing, ("a note",))


def test_keys_come_in_one_order_with_the_version_first() -> None:
    orders = {tuple(json.loads(s.to_json())) for s in (relu(), case("gpt2-untied").symmetry)}
    assert len(orders) == 1
    assert next(iter(orders))[:3] == ("version", "model", "state")


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "symmetry.json"
    path.write_text(relu().to_json(indent=2), encoding="utf-8")
    assert SymmetryGraph.from_json(path).fingerprint == relu().fingerprint
    with pytest.raises(UsageError, match=r"nowhere\.json holds no symmetry graph"):
        SymmetryGraph.from_json(tmp_path / "nowhere.json")


# -- bad JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "JSONDecodeError"),
        ("{", "line 1 column 2"),
        ("[" * 100_000, "RecursionError"),
        ("[]", "an object is needed, a list was found"),
        ("null", "an object is needed, null was found"),
        ("1.5", "an object is needed, a number was found"),
        ("{}", "version: 8 is needed, None was found"),
        ('{"version": 3}', "version: 8 is needed, 3 was found"),
        ('{"version": 8, "model": "x"}', "is missing"),
    ],
)
def test_text_that_holds_something_else(text: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        SymmetryGraph.from_json(text)
    assert "the text holds no symmetry graph" in caught.value.what
    assert cause in caught.value.cause
    assert "symgraph inspect MODEL --json" in caught.value.remedy


def changed(change: Change, name: str = "") -> SymgraphError:
    plain = json.loads((case(name).symmetry if name else relu()).to_json())
    change(plain)
    with pytest.raises(UsageError) as caught:
        SymmetryGraph.from_json(json.dumps(plain))
    return caught.value


BROKEN: list[tuple[Change, str]] = [
    (lambda p: p.update(extra=1), "extra is unknown"),
    (lambda p: p.pop("frames"), "frames is missing"),
    (lambda p: p.update(spaces={}), "spaces: a list is needed, an object was found"),
    (lambda p: p.update(notes="none"), "notes: a list is needed, a text was found"),
    (lambda p: p.update(model=None), "model: a text is needed, null was found"),
    (lambda p: p["spaces"][0].update(size="6"), "spaces[0].size: an integer is needed, a text was found"),
    (lambda p: p["spaces"][0].update(size=True), "spaces[0].size: an integer is needed, true or false was found"),
    (lambda p: p["spaces"][0].update(size=6.5), "spaces[0].size: an integer is needed, a number was found"),
    (lambda p: p["spaces"][0].update(group="rotten"), "spaces[0].group: 'rotten' is no symmetry class"),
    (lambda p: p["spaces"][0].update(bound=[["x"]]), "spaces[0].bound: ['x'] is no symmetry class"),
    (lambda p: p["spaces"][0].pop("name"), "spaces[0]: name is missing"),
    (lambda p: p["terms"].update({"0.bias": [{"product": 3}]}), "terms['0.bias'][0]: a list is needed"),
    (lambda p: p["terms"].update({"0.bias": [[]]}), "terms['0.bias'][0]: an object is needed"),
    (lambda p: p["terms"]["0.bias"][0].pop("dual"), "terms['0.bias'][0]: dual is missing"),
    (lambda p: p["state"][0].update(kind="call"), "'call' is neither a parameter nor a buffer"),
    (lambda p: p["tied"].update(a=1), "tied['a']: a text is needed"),
    (
        lambda p: p["constants"].append(
            {
                "source": {"window": []},
                "shares": [],
                "tied": None,
                "sink": "",
                "even": False,
                "through": None,
                "lost": False,
            }
        ),
        "constants[0].source: piece, plane is missing",
    ),
]


@pytest.mark.parametrize(("change", "cause"), BROKEN)
def test_a_value_of_the_wrong_kind_is_named(change: Change, cause: str) -> None:
    assert cause in changed(change).cause


def unseen(axis: int, window: list[int]) -> dict[str, Any]:
    """A constant that nothing sees, as JSON has it."""
    leaf = {"space": -1, "frame": -1, "dual": False, "size": 7}
    piece = {
        "parameter": "0.bias",
        "axis": axis,
        "start": 0,
        "stop": 7,
        "term": leaf,
        "outer": 1,
        "period": 0,
        "more": [],
    }
    source = {"piece": piece, "window": window, "plane": None}
    return {"source": source, "shares": [], "tied": None, "sink": "", "even": False, "through": None, "lost": False}


INCONSISTENT: list[tuple[Change, str]] = [
    (lambda p: p["spaces"][0].update(id=1), "spaces[0].id: it is 1"),
    (lambda p: p["spaces"][1].update(name=p["spaces"][0]["name"]), "occurs twice"),
    (lambda p: p["spaces"][0].update(fibre=[9]), "spaces[0].fibre: there is no space 9"),
    (lambda p: p["spaces"][0].update(group="invertible"), "spaces[0].group: invertible is not within its bound"),
    (lambda p: p["spaces"][0].update(scales=-1), "a size or a count is negative or zero"),
    (lambda p: p["frames"][0].update(space=9), "frames[0].space: there is no space 9"),
    (lambda p: p["frames"][0].update(scale=[1, 1]), "frames[0]: its scales and signs are not those of"),
    (lambda p: p["frames"].append(p["frames"][0]), "occurs twice"),
    (lambda p: p["terms"].pop("0.bias"), "terms: '0.bias' is missing"),
    (lambda p: p["terms"].update(stranger=[]), "terms['stranger']: there is no such parameter"),
    (lambda p: p["terms"]["0.bias"][0].update(size=70), "terms['0.bias']: its sizes are not the shape [7]"),
    (lambda p: p["terms"]["0.bias"][0].update(space=9), "terms['0.bias'][0]: there is no space 9"),
    (lambda p: p["terms"]["0.bias"][0].update(frame=99), "terms['0.bias'][0]: there is no frame 99"),
    (
        lambda p: p["gains"].append(
            {"parameter": "nobody", "frame": 99, "flip": False, "forward": True, "start": 0, "inside": []}
        ),
        "gains: there is no frame 99; gains: there is no parameter 'nobody'",
    ),
    (
        lambda p: p["forms"].append(
            {"stored": ["0.bias", "nobody"], "read": ["both"], "axis": 0, "sizes": [7, 2], "terms": [[]]}
        ),
        "forms: there is no parameter 'nobody'; forms: the sizes of what is read are not those of 0.bias, nobody",
    ),
    (lambda p: p["constants"].append(unseen(0, [1, 0, 2])), "constants: '0.bias' has no axis 1"),
    (lambda p: p["constants"].append(unseen(1, [])), "constants: '0.bias' has no axis 1"),
    (lambda p: p["spaces"][0].update(signs=0, layout="halves"), "fingerprint: it does not belong to the rest"),
]


@pytest.mark.parametrize(("change", "cause"), INCONSISTENT)
def test_parts_that_do_not_fit_together_are_named(change: Change, cause: str) -> None:
    found = changed(change)
    assert found.what == "the text holds no consistent symmetry graph"
    assert cause in found.cause


def test_pieces_that_are_not_there_are_named() -> None:
    def cut(plain: dict[str, Any]) -> None:
        plain["constants"][0]["source"]["piece"]["stop"] = 999
        plain["centred"][0]["pieces"][0]["axis"] = 7

    cause = changed(cut, "gpt2-untied").cause
    assert "has no part [0:999]" in cause
    assert "has no axis 7" in cause


# -- networkx ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2-untied", "llama", "resnet"])
def test_the_networkx_graph_is_bipartite_but_for_the_fibres(name: str) -> None:
    symmetry = case(name).symmetry
    graph = symmetry.to_networkx()
    sides = {n: d["bipartite"] for n, d in graph.nodes(data=True)}
    axes = [(u, v, d) for u, v, d in graph.edges(data=True) if d["kind"] == "axis"]
    fibres = [(u, v) for u, v, d in graph.edges(data=True) if d["kind"] == "fibre"]
    assert all((sides[u], sides[v]) == (0, 1) for u, v, _ in axes)
    occurrences = [x for ts in symmetry.terms.values() for t in ts for x in leaves(t) if x.space >= 0]
    assert len(axes) == len(occurrences)
    names = [s.name for s in symmetry.spaces]
    wanted = [(f"space:{names[f]}", f"space:{s.name}") for s in symmetry.spaces for f in s.fibre]
    assert sorted(fibres) == sorted(wanted)
    assert graph.number_of_nodes() == len(symmetry.spaces) + len(symmetry.graph.state)


def test_the_attributes_say_what_a_space_is_and_where() -> None:
    graph = relu().to_networkx()
    hidden = graph.nodes["space:hidden.0"]
    assert (hidden["size"], hidden["group"], hidden["scales"]) == (7, "positive monomial", 1)
    assert graph.nodes["parameter:2.weight"] == {
        "kind": "parameter",
        "bipartite": 1,
        "name": "2.weight",
        "shape": "6x7",
    }
    (edge,) = graph.get_edge_data("space:hidden.0", "parameter:2.weight").values()
    assert (edge["kind"], edge["axis"], edge["dual"]) == ("axis", 1, True)


def test_it_can_be_written_as_graphml(tmp_path: Path) -> None:
    import networkx

    path = tmp_path / "graph.graphml"
    networkx.write_graphml(case("llama").symmetry.to_networkx(), path)
    assert networkx.read_graphml(path).number_of_edges() == case("llama").symmetry.to_networkx().number_of_edges()
