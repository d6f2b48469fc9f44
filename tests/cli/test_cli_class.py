"""Checkpoints of classes that transformers does not know."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.runner import Cli
from symgraph.io import models
from symgraph.io.factories import import_factory

CLASSES = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class SmallConfig(PreTrainedConfig):
    model_type = "small-of-ours"

    def __init__(self, width=5, vocab_size=7, **more):
        self.width, self.vocab_size = width, vocab_size
        super().__init__(**more)


class SmallModel(PreTrainedModel):
    config_class = SmallConfig
    _tied_weights_keys = {}

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.up, self.down = nn.Linear(config.width, 8), nn.Linear(8, 3)
        self.post_init()

    def forward(self, input_ids):
        return self.down(torch.relu(self.up(self.table(input_ids))))


class NoModel(nn.Module):
    pass
"""
CLASS = ("--class", "ours.py:SmallModel")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of that class, one with a tensor that the model does not have."""
    (tmp_path / "ours.py").write_text(CLASSES)
    cls: Any = import_factory("ours.py:SmallModel")
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        cls(cls.config_class()).save_pretrained(tmp_path / name)
    state = load_file(tmp_path / "b" / "model.safetensors")
    save_file(state | {"critic": torch.arange(4.0)}, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    sys.modules.pop("ours", None)
    return tmp_path


def test_the_class_is_named_and_what_it_does_not_have_is_kept(folder: Path, cli: Cli) -> None:
    found = cli("align", "a", "b", "--out", "c", *CLASS)
    assert found.code == 0, found.err
    assert "b: the model does not have critic: kept as they are" in found.err
    assert load_file("c/model.safetensors")["critic"].tolist() == [0, 1, 2, 3]
    assert json.loads(Path("c/config.json").read_text())["architectures"] == ["SmallModel"]
    assert cli("verify", "c", *CLASS).code == 0
    assert "positive monomial" in cli("inspect", "a", *CLASS).out
    given: Any = import_factory("ours.py:SmallModel")
    assert models.load("b", model_class=given, deferred=True).layout is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name the class, --class path/file.py:Class"),
        (("--class", "ours.py:Smal"), "the class cannot be imported"),
        (("--class", "ours.py:NoModel"), "is no class of transformers models"),
        (("--class", "ours"), "the class cannot be imported"),
    ],
)
def test_a_class_that_cannot_be_used(folder: Path, cli: Cli, words: tuple[str, ...], says: str) -> None:
    found = cli("verify", "a", *words)
    assert found.code == 7 and says in found.err and "help: " in found.err
