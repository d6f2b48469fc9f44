"""Recipes of merges: every method by its formula, settings by layer and filter, in one basis; what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from models_zoo import network
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.io.checkpoint import names_in_files
from symgraph.measure.blending import DELTAS, METHODS, Deltas, deltas, linear, slerp
from symgraph.tracing import state_of

MODELS = [{"model": n} for n in "abc"]


def recipe(method: str, models: Any = MODELS, **parameters: Any) -> dict[str, Any]:
    return {"merge_method": method, "base_model": "a", "models": models, "parameters": parameters}


def tensors(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(count)]


def blended(base: Tensor, others: list[Tensor], method: str, densities: float = 1.0, strength: float = 1.0) -> Tensor:
    weights = [0.5, 0.25][: len(others)]
    held = [densities] * len(others)
    return deltas(base, others, weights, held, DELTAS[method], strength, torch.Generator().manual_seed(0))


# -- methods -------------------------------------------------------------------------------------------------------


def test_linear_is_a_mean_or_a_sum() -> None:
    a, b, c = tensors()
    torch.testing.assert_close(linear([a, b, c], [1, 1, 2]), (a + b + 2 * c) / 4)
    torch.testing.assert_close(linear([a, b], [1, 1], normalise=False), a + b)
    with pytest.raises(ValueError, match="zero"):
        linear([a, b], [1, -1])


def test_slerp_goes_along_the_arc() -> None:
    a, b, _ = tensors()
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    a, b = a / a.norm(), b / b.norm()
    middle = slerp(a, b, 0.5)
    assert math.isclose(float(middle.norm()), 1.0, rel_tol=1e-9)
    assert math.isclose(float((middle * a).sum()), float((middle * b).sum()), rel_tol=1e-9)
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)


def test_task_arithmetic_adds_differences() -> None:
    a, b, c = tensors()
    torch.testing.assert_close(blended(a, [b, c], "task_arithmetic"), a + 0.5 * (b - a) + 0.25 * (c - a))
    torch.testing.assert_close(blended(a, [b], "task_arithmetic", strength=2.0), a + (b - a))


def test_ties_keeps_the_largest_where_signs_agree() -> None:
    base = torch.zeros(4, dtype=torch.float64)
    one, other = torch.tensor([[4.0, -3.0, 0.1, 2.0], [2.0, 5.0, -0.2, -1.0]], dtype=torch.float64)
    found = deltas(base, [one, other], [1.0, 1.0], [0.75, 0.5], DELTAS["ties"], 1.0, torch.Generator())
    # The third is thinned out in both; of the second only the larger one counts, of the fourth only one is left.
    torch.testing.assert_close(found, torch.tensor([3.0, 5.0, 0.0, 2.0], dtype=torch.float64))


def test_dare_drops_and_makes_up_for_it() -> None:
    base, delta = torch.zeros(200, 50, dtype=torch.float64), torch.ones(200, 50, dtype=torch.float64)
    found = deltas(base, [delta], [1.0], [0.25], DELTAS["dare_linear"], 1.0, torch.Generator().manual_seed(0))
    kept = found != 0
    assert 0.22 < float(kept.double().mean()) < 0.28
    torch.testing.assert_close(found.sum(), delta.sum())
    again = deltas(base, [delta], [1.0], [0.25], DELTAS["dare_linear"], 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    none = deltas(base, [delta], [1.0], [0.0], Deltas(DELTAS["ties"].sparsify), 1.0, torch.Generator())
    assert not none.any()


# -- settings ------------------------------------------------------------------------------------------------------


def test_layers_are_counted_in_the_module() -> None:
    a, b = network("llama", 0), network("llama", 1)
    found = symgraph.merge_by_recipe(
        recipe("slerp", MODELS[:2], t=[0.0, 1.0]), models={"a": a, "b": b}, align=False
    ).module
    own, other = state_of(a), state_of(b)
    for name, tensor in state_of(found).items():
        wanted = other if ".layers.1." in name else own
        torch.testing.assert_close(tensor, wanted[name])


def test_slices_have_numbers_of_their_own() -> None:
    a, b = network("llama", 0), network("llama", 1)

    def layers(first: int, end: int, **parameters: Any) -> dict[str, Any]:
        sources = [{"model": n, "layer_range": [first, end]} for n in "ab"]
        return {"sources": sources, "base_model": "a", "parameters": parameters}

    plain = {"merge_method": "slerp", "slices": [layers(0, 1, t=0.0), layers(1, 2, t=1.0)]}
    found = symgraph.merge_by_recipe(plain, models={"a": a, "b": b}, align=False).module
    own, other = state_of(a), state_of(b)
    # What comes before all layers goes with the first, what comes after them with the last.
    for name, tensor in state_of(found).items():
        wanted = own if ".layers.0." in name or "embed" in name else other
        torch.testing.assert_close(tensor, wanted[name])
    with pytest.raises(UsageError, match="merges 1 layers, and the models have 2"):
        symgraph.merge_by_recipe({**plain, "slices": [layers(0, 1, t=0.5)]}, models={"a": a, "b": b}, align=False)


def test_filters_know_tensors_by_their_names_in_files_as_well() -> None:
    nets = {name: network("vit", seed) for seed, name in enumerate("ab")}
    given = {name: symgraph.model(net) for name, net in nets.items()}
    there = names_in_files(given["a"])
    old = next(name for name in there if "attention" in name and name.endswith("weight"))
    by_value = [{"filter": old.removesuffix("weight"), "value": 1.0}, {"value": 0.0}]
    found = symgraph.merge_by_recipe(recipe("slerp", MODELS[:2], t=by_value), models=given, align=False).module
    for name, tensor in state_of(found).items():
        wanted = nets["b"] if name.startswith(there[old].removesuffix("weight")) else nets["a"]
        torch.testing.assert_close(tensor, state_of(wanted)[name])
    for part, words in (("atention", "did you mean `attention`"), ("?", "tensors are called as")):
        plain = recipe("slerp", MODELS[:2], t=[{"filter": part, "value": 1.0}])
        with pytest.raises(UsageError, match="fits no tensor") as caught:
            symgraph.merge_by_recipe(plain, models=given, align=False)
        assert words in caught.value.remedy


# -- in one basis --------------------------------------------------------------------------------------------------


def permuted(net: nn.Sequential, seed: int) -> nn.Sequential:
    moved, order = copy.deepcopy(net), torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        tensor = moved.get_parameter(name)
        tensor.data = tensor.data.index_select(axis, order)
    return moved


@pytest.mark.parametrize("method", METHODS)
def test_models_that_are_one_in_other_bases_merge_to_it(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    held = {"a": net, "b": permuted(net, 1), "c": permuted(net, 2)}
    models = MODELS[:2] if method == "slerp" else MODELS
    x = torch.randn(5, 4)
    found = symgraph.merge_by_recipe(recipe(method, models, weight=0.3, density=0.5), models=held, example=x)
    torch.testing.assert_close(found.module(x), net(x), rtol=1e-4, atol=1e-5)
    plain = symgraph.merge_by_recipe(recipe(method, models, weight=0.3), models=held, example=x, align=False)
    assert not torch.allclose(plain.module(x), net(x), atol=1e-2)


def test_a_recipe_is_read_from_a_file_and_its_dtype_written(tmp_path: Path) -> None:
    a, b = (network("llama", i) for i in (0, 1))
    for name, m in {"a": a, "b": b}.items():
        m.save_pretrained(tmp_path / name)
    sources = [{"model": str(tmp_path / n), "layer_range": [0, 2]} for n in "ab"]
    written = {"slices": [{"sources": sources}], "merge_method": "slerp", "base_model": str(tmp_path / "a")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**written, "parameters": {"t": 0.5}, "dtype": "bfloat16"}))
    found = symgraph.merge_by_recipe(tmp_path / "recipe.yaml")
    found.save_pretrained(tmp_path / "out")
    opened = symgraph.model(tmp_path / "out").module
    assert {p.dtype for p in opened.parameters()} == {torch.bfloat16}
    assert "slerp" in (tmp_path / "out" / "README.md").read_text() and found.to_plain()["method"] == "slerp"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge_method": "tie"}, "did you mean ties"),
        ({"base_model": None}, "needs a base"),
        ({"models": []}, "names no models"),
        ({"dtype": "int4"}, "no dtype"),
        ({"parameters": {"wieght": 1}}, "did you mean weight"),
        ({"parameters": {"density": "much"}}, "is 'much'"),
        ({"model": "a"}, "model"),
        ({"tokenizer_source": "other"}, "no tokenizer"),
        ({"slices": [{"sources": [{"model": "a"}]}]}, "twice"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(change: dict[str, Any], words: str) -> None:
    nets = {n: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)) for n in "abc"}
    with pytest.raises(UsageError, match=words):
        merged = symgraph.merge_by_recipe({**recipe("ties"), **change}, models=nets, example=torch.randn(2, 4))
        merged.module(torch.randn(2, 4))
