"""Adapters as models: by their folder, or after their base; what is no adapter, or more than one, is refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import network
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, SymgraphError, UsageError
from symgraph.io.adapted import load_named
from symgraph.tracing import state_of

peft = pytest.importorskip("peft")

PREFIX = "base_model.model."
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 5, "init_lora_weights": False}
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2-untied": ["c_attn", "c_proj"]}


def saved(folder: Path, base: nn.Module, config: Any) -> Any:
    """An adapter of a base in a folder; the module that PEFT has of both."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(copy.deepcopy(base), config)
    wrapped.peft_config["default"].base_model_name_or_path = str(folder.parent / "base")
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return wrapped.merge_and_unload()


def lora(name: str, **more: Any) -> Any:
    more = {"target_modules": TARGETS[name], "fan_in_fan_out": name.startswith("gpt2"), **more}
    return peft.LoraConfig(**LORA | more)


def close(found: nn.Module, wanted: nn.Module) -> None:
    held: dict[str, Tensor] = {n: t.detach() for n, t in state_of(wanted).items()}
    for name, tensor in state_of(found).items():
        torch.testing.assert_close(tensor.detach(), held[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(TARGETS))
def test_an_adapter_is_its_base_with_it(name: str, tmp_path: Path) -> None:
    base = network(name, 0)
    base.save_pretrained(tmp_path / "base")
    whole = saved(tmp_path / "ad", base, lora(name, use_rslora=True))
    for spec in (tmp_path / "ad", f"{tmp_path / 'base'}+{tmp_path / 'ad'}"):
        found = load_named(spec, deferred=True)
        close(found.module, whole)
        assert found.spec == str(spec) and [f.name for f in found.files] == ["config.json", "adapter_config.json"]
    assert not load_named(tmp_path / "ad", weights=False).has_weights
    assert load_named(tmp_path / "base").spec == str(tmp_path / "base")


def test_adapters_are_merged_as_models_are(tmp_path: Path) -> None:
    base = network("llama", 0)
    base.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    whole = saved(tmp_path / "ad", base, lora("llama"))
    plain = {
        "merge_method": "task_arithmetic",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": f"{tmp_path / 'base'}+{tmp_path / 'ad'}", "parameters": {"weight": 1.0}}],
    }
    found = symgraph.merge_by_recipe(plain)
    x = torch.arange(10).reshape(2, 5)
    torch.testing.assert_close(found.module(x).logits, whole(x).logits, rtol=1e-4, atol=1e-4)
    close(symgraph.merge_by_recipe(plain, align=False).module, whole)
    found.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").exists()
    even = symgraph.merge([tmp_path / "base", tmp_path / "ad"], align=False).state
    for ingredient in found.ingredients[1], symgraph.merge([tmp_path / "ad"] * 2, align=False).ingredients[0]:
        assert ingredient.names == ("base", "ad")
    half = {n: (t.detach() + state_of(whole)[n].detach()) / 2 for n, t in state_of(base).items()}
    for name, tensor in even.items():
        torch.testing.assert_close(tensor, half[name])


def test_an_adapter_alone_is_not_aligned(tmp_path: Path) -> None:
    base = network("llama", 0)
    base.save_pretrained(tmp_path / "base")
    whole = saved(tmp_path / "ad", base, lora("llama"))
    with pytest.raises(CheckpointError, match="ad is an adapter, not a model") as caught:
        symgraph.align(tmp_path / "base", tmp_path / "ad")
    assert f"transport --base {tmp_path / 'base'} --tuned {tmp_path / 'ad'}" in caught.value.remedy
    aligned = symgraph.align(tmp_path / "base", f"{tmp_path / 'base'}+{tmp_path / 'ad'}", options={"sweeps": 1})
    x = torch.arange(10).reshape(2, 5)
    torch.testing.assert_close(aligned.module(x).logits, whole(x).logits, rtol=1e-4, atol=1e-4)


def test_what_is_no_adapter_of_a_base_is_one_clear_error(tmp_path: Path) -> None:
    base = network("llama", 0)
    base.save_pretrained(tmp_path / "base")
    saved(tmp_path / "dora", base, lora("llama", use_dora=True, init_lora_weights=True))
    saved(tmp_path / "ad", base, lora("llama"))
    config = json.loads((tmp_path / "ad" / "adapter_config.json").read_text())
    for name, text in {
        "lost": json.dumps({**config, "base_model_name_or_path": None}),
        "moved": json.dumps({**config, "base_model_name_or_path": "/no/such/folder"}),
        "broken": "{",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(text)
    cases: list[tuple[str, type[SymgraphError], str]] = [
        (f"{tmp_path / 'dora'}", UsageError, "use_dora=True"),
        (f"{tmp_path / 'lost'}", CheckpointError, "does not say what its base is"),
        (f"{tmp_path / 'moved'}", CheckpointError, "the base of .*moved cannot be read"),
        (f"{tmp_path / 'broken'}", CheckpointError, "cannot be read"),
        (f"{tmp_path / 'base'}+{tmp_path / 'gone'}", CheckpointError, "gone is no adapter"),
        (f"{tmp_path / 'base'}+{tmp_path / 'base'}", CheckpointError, "base is no adapter"),
        (f"{tmp_path / 'gone'}+{tmp_path / 'gone'}", CheckpointError, "no such file or folder"),
    ]
    for spec, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            load_named(spec)
        assert caught.value.remedy
    other = network("gpt2-untied", 0)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is no adapter of"):
        load_named(f"{tmp_path / 'other'}+{tmp_path / 'ad'}")


def test_an_adapter_and_its_model_have_the_same_modules_and_tables(tmp_path: Path) -> None:
    """PEFT drops what has no place and draws what is missing, and takes tables over: none of it may pass."""
    base = network("llama", 0)
    base.save_pretrained(tmp_path / "base")
    saved(tmp_path / "ad", base, lora("llama"))
    tensors = load_file(tmp_path / "ad" / "adapter_model.safetensors")
    layer, deeper = "model.layers.0.self_attn.q_proj", "model.layers.7.self_attn.q_proj"
    table = f"{PREFIX}model.embed_tokens.base_layer.weight"
    embedding = base.get_parameter("model.embed_tokens.weight").detach()
    changed = {
        f"base has nothing for {deeper}$": {**tensors, f"{PREFIX}{deeper}.lora_A.weight": torch.zeros(2, 2)},
        f"the adapter has nothing for {layer}$": {n: t for n, t in tensors.items() if layer not in n},
        "it brings model.embed_tokens": {**tensors, table: embedding + 1},
        "": {**tensors, table: embedding.clone()},
    }
    for number, (words, held) in enumerate(changed.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "ad", folder)
        save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
        if words:
            with pytest.raises(CheckpointError, match="is no adapter of") as caught:
                load_named(folder)
            assert re.search(words, caught.value.cause)
        else:
            load_named(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no adapter"):
        load_named(folder)
