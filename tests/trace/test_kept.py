"""Traces kept on disk: what comes back is what was traced, and nothing comes back for a model that differs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.gpt2 import modeling_gpt2

import symgraph
from symgraph.cli import main
from symgraph.ir import Device, DType, Graph, Kind, Node, Opaque, Ref, Tensor
from symgraph.tracing import export, kept
from symgraph.tracing.fingerprint import fingerprint
from symgraph.tracing.graph_text import dump, load

SIZES: dict[str, Any] = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "architectures": ["GPT2LMHeadModel"]}


def config(**sizes: Any) -> Any:
    return transformers.GPT2Config(**{**SIZES, **sizes})


def model(**sizes: Any) -> Any:
    return transformers.GPT2LMHeadModel(config(**sizes))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "traces"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each trace that is made from now on."""
    made: list[str] = []
    export_of = export._export

    def counted(*args: Any) -> Any:
        made.append("export")
        return export_of(*args)

    monkeypatch.setattr(export, "_export", counted)
    return made


def test_the_second_trace_is_read(cache: Path, exports: list[str]) -> None:
    first = symgraph.trace(config())
    count = len(exports)
    second = symgraph.trace(config())
    assert len(exports) == count > 0
    assert second == first
    assert str(second) == str(first)
    assert {n: t.tolist() for n, t in second.known.items()} == {n: t.tolist() for n, t in first.known.items()}
    assert len(list(cache.iterdir())) == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _of_another(path: Path) -> None:
    other = path.with_name("0" * 64)
    path.rename(other)
    other.rename(path)
    path.write_bytes(path.read_bytes().replace(b"linear", b"matmul"))


@pytest.mark.parametrize("damage", [_cut, _of_another, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"\xff")])
def test_a_damaged_file_is_replaced(damage: Callable[[Path], Any], cache: Path, exports: list[str]) -> None:
    first = symgraph.trace(config())
    (path,) = cache.iterdir()
    whole, count = path.read_bytes(), len(exports)
    damage(path)
    assert symgraph.trace(config()) == first
    assert len(exports) > count
    assert path.read_bytes() == whole


def test_old_files_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept.without_cache():
        graph = symgraph.trace(nn.Linear(2, 2), torch.randn(1, 2))
    size = len(dump(graph)) + 65
    monkeypatch.setattr(kept, "LARGEST", 2 * size)
    for age, key in ((30, "a"), (20, "b"), (10, "c")):
        kept.keep(key, graph)
        os.utime(cache / key, (1e9 - age, 1e9 - age))
    kept.keep("d", graph)
    assert {p.name for p in cache.iterdir()} == {"c", "d"}


def test_nothing_is_kept_where_that_is_not_wanted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(config().to_json_string())
    assert main(["inspect", str(path), "--no-cache"]) == 0
    assert not cache.exists()
    assert main(["inspect", str(path)]) == 0
    assert len(list(cache.iterdir())) == 1
    shown = capsys.readouterr().out
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]
    monkeypatch.setenv("SYMGRAPH_CACHE", "off")
    assert kept.folder() is None


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SYMGRAPH_CACHE", str(tmp_path / "file"))
    assert symgraph.trace(config()).nodes


# -- what tells models apart -----------------------------------------------------------------------------------------


def _scaled(found: Any) -> None:
    found.transformer.h[1].attn.scaling = 3.0


def _buffer(found: Any) -> None:
    found.transformer.register_buffer("more", torch.arange(3), persistent=False)


def _eager(found: Any) -> None:
    found.set_attn_implementation("eager")


def _widened(found: Any) -> None:
    found.lm_head = nn.Linear(8, 30, bias=False)


def _tied(found: Any) -> None:
    found.transformer.h[0].ln_1.weight = found.transformer.h[0].ln_2.weight


class _Mine(nn.Linear):
    pass


def _class(found: Any) -> None:
    found.lm_head = _Mine(8, 20)


@pytest.mark.parametrize("change", [_scaled, _buffer, _eager, _widened, _tied, _class])
def test_another_model_has_another_key(change: Callable[[Any], None]) -> None:
    found = model()
    before = fingerprint(found, "")
    assert before == fingerprint(model(), "") != fingerprint(found, "another name")
    change(found)
    assert fingerprint(found, "") not in (before, None)


def test_weights_have_no_part_in_it() -> None:
    first, second = model(), model()
    with torch.no_grad():
        second.lm_head.weight.mul_(2)
    assert fingerprint(first, "") == fingerprint(second, "")


def _hook(found: Any) -> None:
    found.register_forward_hook(lambda *_: None)


def _method(found: Any) -> None:
    found.lm_head.forward = lambda x: x


@pytest.mark.parametrize("change", [_hook, _method])
def test_what_cannot_be_told_has_no_key(change: Callable[[Any], None]) -> None:
    found = model()
    change(found)
    assert fingerprint(found, "") is None


@pytest.mark.parametrize(
    ("owner", "name"), [(modeling_gpt2.GPT2MLP, "forward"), (modeling_gpt2, "eager_attention_forward")]
)
def test_code_put_in_the_place_of_other_code_has_no_key(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model()
    assert fingerprint(found, "") is not None
    monkeypatch.setattr(owner, name, lambda *_: None)
    assert fingerprint(found, "") is None


def test_a_module_of_ones_own_is_kept_where_its_code_is_known(cache: Path) -> None:
    symgraph.trace(nn.Linear(2, 2), torch.randn(1, 2))
    assert len(list(cache.iterdir())) == 1
    changed = nn.Linear(2, 2)
    changed.register_forward_hook(lambda *_: None)
    symgraph.trace(changed, torch.randn(1, 2))
    assert len(list(cache.iterdir())) == 1


# -- text ------------------------------------------------------------------------------------------------------------

NAMES = st.text(max_size=5)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    NAMES,
    st.builds(Ref, NAMES),
    st.builds(DType, NAMES),
    st.builds(Device, NAMES),
    st.builds(Opaque, NAMES),
)
OPERANDS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
SHAPES = st.builds(Tensor, st.lists(st.integers(0, 9), max_size=3).map(tuple), NAMES)
RESULTS = st.one_of(st.none(), SHAPES, st.lists(SHAPES, max_size=2).map(tuple))
KWARGS = st.lists(st.tuples(NAMES, OPERANDS), max_size=2).map(tuple)
ARGS = st.lists(OPERANDS, max_size=3).map(tuple)
NODES = st.builds(Node, NAMES, st.sampled_from(Kind), NAMES, ARGS, KWARGS, RESULTS, NAMES, NAMES)
SETS, SEVERAL = st.frozensets(NAMES, max_size=2), st.lists(NAMES, max_size=2).map(tuple)
GRAPHS = st.builds(
    Graph, st.lists(NODES, max_size=3).map(tuple), SEVERAL, st.dictionaries(NAMES, NAMES), SETS, NAMES, SEVERAL, SEVERAL
)


@settings(max_examples=40)
@given(GRAPHS)
def test_a_graph_comes_back_from_its_text(graph: Graph) -> None:
    found = load(dump(graph))
    assert found == graph
    assert repr(found.nodes) == repr(graph.nodes)
