"""Models of packages beside transformers: a few of those that are installed, all as a slow test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from sweep import third_party, timm_models
from sweep.builder import MAPPINGS, entries
from sweep.runner import sweep
from sweep.stages import run
from sweep.summary import ok, summary
from sweep.table import page
from torch import nn

from symgraph.tracing.tiny_config import shrunk_settings
from symgraph.tracing.tiny_fields import Sizes

FAST = [
    ("vit-pytorch", "vit"),
    ("x-transformers", "decoder"),
    ("open_clip", "text"),
    ("litgpt", "llama"),
    ("TransformerLens", "gpt2"),
    ("timm", "vit_tiny_patch16_224"),
    ("diffusers", "dit"),
]


@pytest.mark.parametrize(("package", "name"), FAST, ids=[f"{p}-{n}" for p, n in FAST])
def test_a_model_of_another_package_goes_through_every_stage(package: str, name: str) -> None:
    if not third_party.installed(package):
        pytest.skip(f"{package} is not installed: make sweep")
    record = run(package, name, name, each=False)
    assert all(outcome["ok"] for outcome in record["stages"].values()) and len(record["stages"]) == 4, record
    assert record["error"] <= 1e-9


@pytest.mark.slow
def test_every_model_of_other_packages(tmp_path: Path) -> None:
    wanted = [(p, *e) for p in third_party.catalogue() if third_party.installed(p) for e in third_party.entries(p)]
    if not wanted:
        pytest.skip("no package is installed: make sweep")
    records = list(sweep(wanted, tmp_path / "results.jsonl", jobs=2, timeout=240))
    text = summary(records)
    built = [r for r in records if ok(r, "build")]
    exported = [r for r in built if ok(r, "export")]
    assert not [r["kind"] for r in records if r.get("unsound")], text
    assert len(exported) >= 0.9 * len(built), text
    assert sum(ok(r, "verify") for r in exported) >= 0.95 * len(exported), text


def test_a_package_that_is_not_installed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(third_party.catalogue(), "nobody's", {"needs": "no_such_package", "models": {}})
    assert not third_party.installed("nobody's")


def test_every_entry_of_the_list_names_what_makes_it_and_its_inputs() -> None:
    for package, listed in third_party.catalogue().items():
        for name, entry in listed.get("models", {}).items():
            assert entry["make"].startswith(listed["needs"]), (package, name)
            assert entry.get("inputs") or listed.get("inputs"), (package, name)


def test_what_a_text_asks_for_is_made_inside_out() -> None:
    spec = {"make": "torch.nn.Sequential", "modules": 3}
    with pytest.raises(TypeError):
        third_party.made(spec)
    layer = {"make": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 2, "dim_feedforward": 6}
    made = third_party.made({"make": "torch.nn.TransformerEncoder", "encoder_layer": layer, "num_layers": 2})
    assert isinstance(made, nn.TransformerEncoder) and len(made.layers) == 2


def test_inputs_are_noise_numbers_ones_or_themselves() -> None:
    assert third_party.given([2, 3]).shape == (2, 3)
    numbers = third_party.given({"below": 5, "shape": [2, 4]})
    assert numbers.shape == (2, 4) and int(numbers.max()) < 5 and not numbers.is_floating_point()
    assert third_party.given({"ones": [2]}).tolist() == [1.0, 1.0]
    assert third_party.given(False) is False


class Small(nn.Module):
    """A model as a registry keeps them: everything in the signature."""

    def __init__(self, embed_dim: int = 768, depth: int = 12, num_heads: int = 12, img_size: int = 224) -> None:
        super().__init__()
        self.settings = (embed_dim, depth, num_heads, img_size)


@dataclass
class Stage:
    """One stage of a network, as an entry point writes it."""

    depth: int
    channels: int
    stride: int = 2


class Staged(nn.Module):
    """A model whose channels stand in what no name of a setting explains."""

    def __init__(self, stages: tuple[Stage, ...] = (), growth: int = 32, img_size: int = 224) -> None:
        super().__init__()
        self.settings = (stages, growth, img_size)


def test_channels_that_no_name_explains_are_divided_wherever_they_stand() -> None:
    given = {"stages": (Stage(3, 64), Stage(6, 128)), "growth": 32, "extra": [{"out": 256}, "M"], "img_size": 224}
    wanted = {"stages": (Stage(3, 8), Stage(6, 16)), "growth": 4, "extra": [{"out": 32}, "M"], "img_size": 64}
    sizes = Sizes(image=64, images_only=True)
    assert timm_models.shrunk(Staged, given, timm_models.Attempt(sizes, 8)) == wanted
    assert timm_models.shrunk(Staged, given, timm_models.Attempt(sizes)) == given | {"img_size": 64}


def test_settings_that_a_registry_hands_on_are_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("registered")
    module.build_model_with_cfg = lambda kind, *args, **kwargs: kind(**kwargs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "registered", module)

    def entry_point(name: str) -> Callable[..., Any]:
        return type("EntryPoint", (), {"__module__": "registered"})

    def create(name: str, **kwargs: Any) -> Any:
        return module.build_model_with_cfg(Small, depth=6)

    timm = SimpleNamespace(model_entrypoint=entry_point, create_model=create)
    monkeypatch.setattr(importlib, "import_module", lambda name: timm)
    model: Any = timm_models.built("small", timm_models.Attempt(Sizes(width=16, heads=2, image=32)))
    assert model.settings == (16, 2, 2, 32)
    assert timm_models.BUILDER in vars(module) and module.build_model_with_cfg(Small).settings[0] == 768


def test_blocks_that_no_number_of_layers_speaks_of_are_two() -> None:
    assert shrunk_settings({"num_blocks": 12, "embed_dim": 768}, Sizes(width=16)) == {"num_blocks": 2, "embed_dim": 16}


def test_the_page_of_a_record_says_what_attention_was_found() -> None:
    record = {"mapping": "timm", "kind": "vit", "model": "vit", "stages": {}, "circuits": {"query-key": 2}}
    assert "2 query-key" in page([record], "# Models")


def test_torchvision_without_its_compiled_part_can_be_declared_twice() -> None:
    third_party.declare_operators()
    third_party.declare_operators.cache_clear()
    third_party.declare_operators()
    assert torch.ops.torchvision is not None


def test_the_page_says_why_an_audit_lacks_something() -> None:
    record = {"mapping": "x-transformers", "model": "m", "stages": {}, "audit": "6 of 7", "missing": ["1 x scale in w"]}
    assert "- x-transformers talking_heads, 6 of 7: 1 x scale in w. Maps that mix heads" in page(
        [record | {"kind": "talking_heads"}], "# Models"
    )
    assert "- x-transformers other, 6 of 7: 1 x scale in w\n" in page([record | {"kind": "other"}], "# Models")


def test_models_with_a_known_limit_are_in_the_list() -> None:
    found = yaml.safe_load((Path(third_party.__file__).parent / "limits.yaml").read_text(encoding="utf-8"))
    for package in found.keys() - {third_party.TIMM} - MAPPINGS.keys():
        assert found[package].keys() <= third_party.catalogue()[package]["models"].keys()
    for mapping in found.keys() & MAPPINGS.keys():
        assert found[mapping].keys() <= dict(entries(mapping)).keys()
