"""What a merge leaves in its folder: shards, all that stands beside weights, a card that says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from models_zoo import network

import symgraph
from symgraph.match.licences import strictest
from symgraph.match.merge import Merged, write_merged

BESIDE = {
    "generation_config.json": {"eos_token_id": 1, "max_length": 7},
    "tokenizer_config.json": {"model_max_length": 9},
    "special_tokens_map.json": {"eos_token": "b"},
    "preprocessor_config.json": {"size": 8},
    "processor_config.json": {"processor_class": "P"},
    "chat_template.jinja": "{{ messages }}",
}


def checkpoint(folder: Path, seed: int, card: str | None = None) -> Path:
    network("llama", seed).save_pretrained(folder)
    for name, content in BESIDE.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


def head(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata of a card, and its text."""
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---")[1]), text


def licensed(name: str) -> str:
    return f"---\nlicense: {name}\ntags: [x]\n---\n\n# A model\n"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a = checkpoint(tmp_path / "one: a", 0, licensed("MIT"))
    return a, checkpoint(tmp_path / "b", 1, licensed("apache-2.0"))


def merged(pair: tuple[Path, Path]) -> Merged:
    return symgraph.merge(pair, [0.6, 0.4], align=False)


def test_a_merge_is_written_in_shards_with_all_that_stands_beside_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = merged(pair)
    out = write_merged(found, tmp_path / "out", shard_size=4000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2 and not (out / "model.safetensors").exists()
    for name, content in BESIDE.items():
        text = (out / name).read_text()
        assert (text if isinstance(content, str) else json.loads(text)) == content
    opened = symgraph.model(out).module.state_dict()
    assert all((tensor == opened[name]).all() for name, tensor in found.state.items())


def test_a_card_says_where_a_merge_comes_from(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = merged(pair)
    said, text = head(found.save_pretrained(tmp_path / "out"))
    assert said["base_model"] == ["one: a", "b"] and said["base_model_relation"] == "merge"
    assert said["license"] == "apache-2.0" and said["library_name"] == "transformers"
    assert all(ingredient.hash in text and len(ingredient.hash) == 64 for ingredient in found.ingredients)
    assert "licence: apache-2.0, the strictest of" in text
    recipe = {"merge_method": "slerp", "base_model": str(pair[0]), "models": [{"model": str(p)} for p in pair]}
    said, _ = head(symgraph.merge_by_recipe(recipe, align=False).save_pretrained(tmp_path / "slerp"))
    assert said["base_model"] == ["one: a", "b"] and said["license"] == "apache-2.0"


@pytest.mark.parametrize("card", [licensed("gemma"), licensed("other"), "# no head", "---\n: :\n---\n", None])
def test_a_licence_that_cannot_be_told_is_not_claimed(
    pair: tuple[Path, Path], tmp_path: Path, card: str | None
) -> None:
    (pair[1] / "README.md").unlink()
    if card is not None:
        (pair[1] / "README.md").write_text(card)
    said, text = head(merged(pair).save_pretrained(tmp_path / "out"))
    assert "license" not in said
    other = "gemma" if card == licensed("gemma") else "not said"
    assert f"no licence is claimed: `{pair[0]}`: mit; `{pair[1]}`: {other}" in text


def test_modules_are_no_checkpoints_that_a_card_could_name(tmp_path: Path) -> None:
    found = symgraph.merge([network("llama", 0), network("llama", 1)], align=False)
    said, text = head(found.save_pretrained(tmp_path / "out"))
    assert "base_model" not in said and "license" not in said and "SHA-256" in text


KNOWN = st.sampled_from(["mit", "apache-2.0", "gpl-3.0", "agpl-3.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "gemma"])


@given(st.lists(KNOWN, min_size=1, max_size=4), st.lists(KNOWN, max_size=2))
def test_the_strictest_is_one_of_them_in_any_order_and_stays_with_more(some: list[str], more: list[str]) -> None:
    found = strictest(some)
    assert found is None or found in some
    assert strictest(some[::-1]) == found and strictest([*some, None]) is None
    if (whole := strictest([*some, *more])) is not None and found is not None:
        assert strictest([found, whole]) == whole
