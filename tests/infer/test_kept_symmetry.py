"""What was inferred, kept on disk: it comes back whole, and only for the same graph, numbers, rules and code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_zoo import ARCHITECTURES, case
from torch import nn

import symgraph
from symgraph.groups.lattice import SymmetryClass, extended
from symgraph.groups.permutation import Permutation
from symgraph.inference import kept_symmetry, pipeline
from symgraph.inference.kept_symmetry import key_of
from symgraph.ir import Graph
from symgraph.rules.book import RuleBook, default_rules
from symgraph.symmetry.compact import dump, load
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMGRAPH_CACHE", str(tmp_path))
    return tmp_path / "symmetries"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each inference from now on."""
    made: list[str] = []
    run = pipeline.run

    def counted(*given: object, **more: object) -> object:
        made.append("run")
        return run(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "run", counted)
    return made


@pytest.fixture
def graph() -> Graph:
    return symgraph.trace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(2, 3))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_comes_back_whole(name: str) -> None:
    found = case(name).symmetry
    again = load(dump(found), found.graph, SymmetryGraph)
    assert again == found
    assert again.fingerprint == found.fingerprint
    assert str(again) == str(found)
    assert [again.explain(s.name) for s in again] == [found.explain(s.name) for s in found]


def test_the_second_time_it_is_read(cache: Path, runs: list[str], graph: Graph) -> None:
    first = pipeline.infer(graph)
    assert len(runs) == 1
    assert pipeline.infer(graph) == first
    assert len(runs) == 1
    assert len(list(cache.iterdir())) == 1


def _numbers(graph: Graph) -> Graph:
    return replace(graph, known={**graph.known, "1.running_mean": torch.ones(4)})


CHANGES: dict[str, Callable[[Graph], Graph]] = {
    "numbers of a buffer": _numbers,
    "a call": lambda g: replace(g, nodes=(*g.nodes[:-1], replace(g.nodes[-1], target="aten.tanh.default"))),
    "outputs": lambda g: replace(g, outputs=g.outputs * 2),
    "the model": lambda g: replace(g, model="another"),
    "what is idle": lambda g: replace(g, idle=frozenset({"0.weight"})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_graph_has_another_key(change: str, cache: Path, graph: Graph) -> None:
    assert key_of(CHANGES[change](graph), default_rules()) != key_of(graph, default_rules()) is not None


def test_other_rules_and_other_code_have_other_keys(cache: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    book = default_rules()
    before = key_of(graph, book)
    assert key_of(graph, RuleBook(book.rules[1:])) != before
    assert key_of(graph, RuleBook(book.rules, ("a note",))) != before
    monkeypatch.setattr(kept_symmetry, "sources", lambda folders: (*fingerprint.sources(folders), "more"))
    assert key_of(graph, book) != before


def test_a_damaged_file_is_replaced(cache: Path, runs: list[str], graph: Graph) -> None:
    first = pipeline.infer(graph)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(b"permutation", b"invertible!")):
        path.write_bytes(damaged)
        assert pipeline.infer(graph) == first
        assert path.read_bytes() == whole
    assert len(runs) == 4


def test_where_classes_are_added_and_where_nothing_is_kept(
    cache: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Further(Permutation):
        name, inside = SymmetryClass("further"), (SymmetryClass.MONOMIAL,)

    with extended(Further()):
        assert key_of(graph, default_rules()) is None
    monkeypatch.setenv("SYMGRAPH_CACHE", "off")
    assert key_of(graph, default_rules()) is None
