"""Recipes in YAML: what is read, which number holds where, and what is one clear error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from symgraph.errors import UsageError
from symgraph.io.recipe import Place, Recipe, RecipeModel, read_recipe

METHODS = ("linear", "slerp", "ties")


def recipe(**change: Any) -> dict[str, Any]:
    named = {"merge_method": "ties", "base_model": "a", "models": [{"model": n} for n in "abc"]}
    return {k: v for k, v in {**named, **change}.items() if v is not None}


def layers(first: int, end: int, names: str = "ab", **more: Any) -> dict[str, Any]:
    return {"sources": [{"model": n, "layer_range": [first, end]} for n in names], **more}


# -- numbers -------------------------------------------------------------------------------------------------------


def test_settings_go_by_model_then_layers_then_recipe() -> None:
    own = {"model": "b", "layer_range": [0, 2], "parameters": {"weight": 0.7}}
    other = {"model": "a", "layer_range": [0, 2]}
    held = {"density": 0.2, "weight": 0.3}
    slices = [{"sources": [other, own], "parameters": held}]
    found = read_recipe(recipe(models=None, slices=slices, parameters={"lambda": 2, "density": 1}), METHODS)
    a, b = found.ingredients
    wanted = [
        ("weight", b, 0.7),
        ("weight", a, 0.3),
        ("density", b, 0.2),
        ("lambda", None, 2.0),
        ("rescale", None, 9.0),
    ]
    assert [found.setting(key, m, "x", Place(), 9.0) for key, m, _ in wanted] == [number for _, _, number in wanted]


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=5), st.integers(1, 9), st.data())
def test_lists_go_from_the_first_layer_to_the_last(values: list[float], count: int, data: st.DataObject) -> None:
    found = Recipe(merge_method="slerp", base_model="a", parameters={"t": values})

    def at(layer: int) -> float:
        return found.setting("t", None, "x", Place(layer, count), 0.0)

    assert min(values) - 1e-12 <= at(data.draw(st.integers(0, count - 1))) <= max(values) + 1e-12
    assert at(count - 1) == values[-1] and (count == 1 or at(0) == values[0])
    assert found.setting("t", None, "x", Place(after=True), 0.0) == values[0]


def test_filters_are_parts_of_names_and_the_first_that_fits_counts() -> None:
    t = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": "25e-2"}, {"value": 0.5}]
    found = Recipe(merge_method="slerp", base_model="a", parameters={"t": t})
    asked = {"layers.1.self_attn.q": 0.75, "layers.1.mlp.up": 0.25, "norm": 0.5}
    assert {n: found.setting("t", None, n, Place(3, 5), 0.0) for n in asked} == asked


def test_layers_of_slices_are_counted_within_each() -> None:
    slices = [layers(0, 3, parameters={"t": [0, 1]}), layers(3, 5, parameters={"t": [4, 6]})]
    found = read_recipe({"merge_method": "slerp", "base_model": "a", "slices": slices}, METHODS)
    at = [found.setting("t", None, "x", Place(i, 5), 0.0) for i in range(5)]
    assert at == [0.0, 0.5, 1.0, 4.0, 6.0]
    outside = [found.setting("t", None, "x", Place(after=after), 0.0) for after in (False, True)]
    assert outside == [0.0, 4.0]


def test_a_model_named_twice_has_two_weights() -> None:
    twice = [{"model": "b", "parameters": {"weight": w}} for w in (0.25, 0.5)]
    found = read_recipe(recipe(models=[{"model": "a"}, *twice]), METHODS)
    assert [found.setting("weight", m, "x", Place(), 1.0) for m in found.models] == [1.0, 0.25, 0.5]


# -- reading -------------------------------------------------------------------------------------------------------


def test_what_mergekit_writes_is_read(tmp_path: Path) -> None:
    written = recipe(dtype="torch.bfloat16", out_dtype="float16", tokenizer={"source": "b", "pad_to_multiple_of": 8})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    found = read_recipe(tmp_path / "recipe.yaml", METHODS)
    assert str(found.written) == "torch.float16" and [m.model for m in found.ingredients] == ["a", "b", "c"]
    assert found.tokens is not None and (found.tokens.source, found.tokens.pad_to_multiple_of) == ("b", 8)
    legacy = read_recipe(recipe(tokenizer_source="union"), METHODS)
    assert legacy.tokens is not None and legacy.tokens.source == "union"
    assert read_recipe(recipe(), METHODS).tokens is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge_method": "tie"}, "did you mean ties"),
        ({"modules": {}}, "'modules' is unknown .*did you mean `models`"),
        ({"chat_template": "auto"}, "'chat_template' is unknown .*known:"),
        (
            {"tokenizer": {"source": "base", "tokens": {}}},
            "'tokens' is unknown .*pad_to_multiple_of",
        ),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "multiple of 0"),
        ({"tokenizer_source": "d"}, "no tokenizer of 'd'"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "says twice"),
        ({"models": [{"model": "a", "layer_range": [1]}]}, "models"),
        ({"models": None, "slices": [layers(0, 2, "ab"), layers(2, 4, "ac")]}, "one after the other"),
        ({"models": None, "slices": [layers(0, 2), layers(3, 4)]}, "do not follow each other"),
        ({"models": None, "slices": [layers(1, 2)]}, "leaves out the first 1 layers"),
        ({"models": None, "slices": [layers(0, 0)]}, "is empty"),
        ({"models": None, "slices": [layers(0, 1, base_model="a"), layers(1, 2, base_model="b")]}, "different bases"),
        ({"models": None, "slices": [{"sources": []}]}, "no sources"),
        ({"models": None, "slices": [layers(0, 1, residual_weight=1)]}, "'residual_weight' is unknown"),
        ({"parameters": {"density": [0.5, "2"]}}, "density 2"),
    ],
)
def test_what_a_recipe_cannot_say_is_one_clear_error(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_recipe(recipe(**change), METHODS)
    assert caught.value.remedy


NUMBERS = st.one_of(st.floats(0, 1), st.integers(0, 1), st.booleans(), st.floats(0, 1).map(str))
ALONG = st.lists(NUMBERS, min_size=1, max_size=4)
FILTERED = st.lists(
    st.fixed_dictionaries({"value": NUMBERS | ALONG}, optional={"filter": st.sampled_from(["mlp", "attn", "*", None])}),
    min_size=1,
    max_size=3,
)
SETTING = NUMBERS | ALONG | FILTERED


def reference(setting: Any, tensor: str, depth: float) -> float | None:
    """What mergekit's documentation says, in plain words."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        fits = [v for v in setting if v.get("filter") in (None, "*") or v["filter"] in tensor]
        return reference(fits[0]["value"], tensor, depth) if fits else None
    if isinstance(setting, list):
        values = [float(v) for v in setting]
        place = depth * (len(values) - 1)
        i = math.floor(place)
        return values[-1] if i == len(values) - 1 else values[i] * (i + 1 - place) + values[i + 1] * (place - i)
    return float(setting)


@given(SETTING, st.sampled_from(["l.mlp.w", "l.attn.w", "norm"]), st.integers(0, 6))
def test_every_setting_is_the_number_that_it_says(setting: Any, tensor: str, layer: int) -> None:
    text = yaml.safe_dump(recipe(parameters={"weight": setting}))
    found = read_recipe(yaml.safe_load(text), METHODS).setting("weight", None, tensor, Place(layer, 7), -1.0)
    wanted = reference(setting, tensor, layer / 6)
    assert found == pytest.approx(-1.0 if wanted is None else wanted, abs=1e-9)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.sampled_from(["a", "ties", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "t", "value", "?"]), inner),
    max_leaves=6,
)
KEYS = ("merge_method", "models", "slices", "base_model", "parameters", "dtype", "tokenizer", "tokenizer_source", "?")


@given(st.dictionaries(st.sampled_from(KEYS), PLAIN))
def test_anything_is_a_recipe_or_one_clear_error(change: dict[str, Any]) -> None:
    try:
        found = read_recipe({**recipe(), **change}, METHODS)
    except UsageError as error:
        assert error.remedy
        return
    assert found.merge_method in METHODS and all(isinstance(m, RecipeModel) for m in found.ingredients)


@given(st.text(max_size=80))
def test_any_text_is_a_recipe_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match="is no recipe"):
        read_recipe(file, METHODS)
