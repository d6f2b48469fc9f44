"""Recipes run by mergekit, or by a program in its place: what it is given, and what of its output is believed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from models_zoo import network
from torch import nn

import symgraph
from symgraph.errors import CheckpointError, SymgraphError, UsageError
from symgraph.tracing import state_of

PROGRAM = """import json, sys, yaml
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file

recipe = yaml.safe_load(open(sys.argv[1]))
states = [load_file(Path(m["model"]) / "model.safetensors") for m in recipe["models"]]
merged = {{n: sum(s[n] for s in states).astype(recipe["dtype"]) / len(states) for n in states[0]}}
{change}
out = Path(sys.argv[2])
out.mkdir()
save_file(merged, out / "model.safetensors")
dtypes = sorted({{str(t.dtype) for s in states for t in s.values()}})
Path("{seen}").write_text(json.dumps({{"recipe": recipe, "options": sys.argv[3:], "dtypes": dtypes}}))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program in the place of mergekit that merges evenly, and does one thing more."""

    def make(change: str = "") -> Path:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        program = folder / "program.py"
        program.write_text(PROGRAM.format(change=change, seen=tmp_path / "seen.json"))
        # Not in the first line of the program, where the path of Python may have no space.
        (folder / "mergekit-yaml").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
        (folder / "mergekit-yaml").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "seen.json"

    return make


def recipe(method: str = "linear", parameters: Any = None, **more: Any) -> dict[str, Any]:
    named = {"merge_method": method, "base_model": "a", "models": [{"model": n} for n in "ab"]}
    return {**named, "parameters": parameters or {}, **more}


def merged(kind: str, plain: dict[str, Any], **how: Any) -> symgraph.Merged:
    models = {n: network(kind, i) for i, n in enumerate("ab")}
    return symgraph.merge_by_recipe(plain, models=models, **how)


def test_it_is_given_aligned_models_and_its_result_is_taken(stand_in: Any, tmp_path: Path) -> None:
    seen = stand_in()
    plain = recipe(dtype="bfloat16", tokenizer_source=None, name="mine")
    found = merged("llama", plain, by="mergekit", seed=3)
    assert found.method == "linear by mergekit" and found.universe is not None
    for name, tensor in found.universe.merged([0.5, 0.5]).items():
        torch.testing.assert_close(found.state[name], tensor.bfloat16())
    told = yaml.safe_load(seen.read_text())
    # Rounded once: it computes in more than is written.
    assert told["dtypes"] == ["float32"] and told["recipe"]["dtype"] == "float32"
    assert {t.dtype for t in found.state.values()} == {torch.bfloat16}
    assert told["options"][-2:] == ["--random-seed", "3"] and "name" not in told["recipe"]
    found.save_pretrained(tmp_path / "out")
    assert "linear by mergekit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "lost = sorted(merged)[3:]; merged = {n: merged[n] for n in sorted(merged)[:3]}",
            "tensors are missing: model.",
        ),
        ("merged['lm_head.weight'] = merged['lm_head.weight'][:-1].copy()", "wrong shapes: lm_head.weight"),
        ("merged['lm_head.weight'] = merged['lm_head.weight'].astype('float16')", "not torch.float32"),
        ("merged['lm_head.weight'][0, 0] = float('nan')", "lm_head.weight"),
        ("sys.exit('there is no such method')", "there is no such method"),
    ],
)
def test_an_output_that_is_not_the_merge_is_refused(stand_in: Any, tmp_path: Path, change: str, words: str) -> None:
    stand_in(change)
    for i, name in enumerate("ab"):
        network("llama", i).save_pretrained(tmp_path / name)
    models = [{"model": str(tmp_path / n)} for n in "ab"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(models=models, base_model=str(tmp_path / "a"))))
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=words) as caught:
        symgraph.merge_by_recipe(tmp_path / "recipe.yaml", by="mergekit", align=False, scratch=tmp_path)
    assert "nothing was written" in caught.value.remedy
    assert {p.name for p in tmp_path.iterdir()} - {"seen.json"} == before


def test_who_runs_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("symgraph.io.mergekit.find_spec", lambda name: None)
    for plain, by, words in [
        (recipe("della"), "", "no method 'della' here, and mergekit is not installed"),
        (recipe("della"), "symgraph", "only mergekit has it"),
        (recipe(), "mergekit", "mergekit is not installed"),
        (recipe(), "someone", "runs no recipes"),
        (recipe("dela"), "", "did you mean della"),
        (recipe("della", {"epsylon": 1}), "", "did you mean epsilon"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            merged("llama", plain, by=by)
        assert caught.value.remedy


def test_modules_that_are_none_of_transformers_are_not_for_it(stand_in: Any) -> None:
    stand_in()
    nets = {n: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)) for n in "ab"}
    with pytest.raises(UsageError, match="mergekit reads models of transformers, and Sequential is none"):
        symgraph.merge_by_recipe(recipe(), models=nets, example=torch.randn(2, 4), by="mergekit")


# -- the real one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["slerp", "ties", "karcher"])
def test_mergekit_and_we_do_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mergekit")
    monkeypatch.setenv("PATH", "")
    parameters = {"slerp": {"t": [0.2, 0.7]}, "ties": {"weight": 0.5, "density": 0.6}}.get(method)
    found = merged("llama", recipe(method, parameters), by="mergekit", align=False)
    if method == "karcher":
        assert found.method == "karcher by mergekit"
        return
    for name, tensor in merged("llama", recipe(method, parameters), align=False).state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-6)


def test_what_mergekit_leaves_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that leaves nothing out is believed, and agrees."""
    pytest.importorskip("mergekit")
    monkeypatch.setenv("PATH", "")
    try:
        found = merged("vit", recipe(), by="mergekit", align=False)
    except SymgraphError as error:
        assert "of 40 tensors are missing: " in error.cause and "attention" in error.cause
        return
    wanted = state_of(merged("vit", recipe(), align=False).module)
    for name, tensor in state_of(found.module).items():
        torch.testing.assert_close(tensor, wanted[name])
