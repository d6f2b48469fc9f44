"""Tiny checkpoints and batches for the command line, and a way to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cli.runner import Cli, Outcome
from symgraph.cli import main

VIT: dict[str, Any] = dict(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    image_size=8,
    patch_size=4,
    num_channels=1,
    num_labels=3,
)
GPT2: dict[str, Any] = dict(
    vocab_size=11, n_positions=9, n_embd=8, n_layer=1, n_head=2, n_inner=12, bos_token_id=0, eos_token_id=0
)

FACTORIES = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, seed, width=6):
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.act, self.down = nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)
        self.example_inputs = (torch.randn(2, 4),)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class Odd(Net):
    def forward(self, x):
        return self.down(torch.special.bessel_j0(self.up(x)))


class Branching(Net):
    def forward(self, x):
        return self.down(self.up(x) if x.sum() > 0 else self.up(-x))


def a():
    return Net(0)


def b():
    return Net(1)


class Normed(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.norm, self.act, self.down = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
        self.norm.running_mean += torch.randn(6)
        self.example_inputs = (torch.randn(2, 4),)

    def forward(self, x):
        return self.down(self.act(self.norm(self.up(x))))


def normed_a():
    return Normed(0)


def normed_b():
    return Normed(1)


def smooth():
    found = Net(2)
    found.act = nn.Tanh()
    return found


def wide():
    return Net(0, 7)


def deep():
    net = Net(0)
    net.down = nn.Sequential(net.down, nn.Linear(3, 3))
    return net


def odd():
    return Odd(0)


def branching():
    return Branching(0)


def fails():
    raise ValueError("no such thing")


def interrupted():
    raise KeyboardInterrupt


def batches():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 4, generator=g), torch.randint(0, 3, (5,), generator=g)) for _ in range(2)]


def images():
    g = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(6, 1, 8, 8, generator=g), "labels": torch.randint(0, 3, (6,), generator=g)}]


def photos():
    return images() * 3
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(w) for w in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of factories, to be on the path."""
    folder = tmp_path_factory.mktemp("factories")
    (folder / "cli_nets.py").write_text(FACTORIES)
    return folder


@pytest.fixture(autouse=True)
def _work_elsewhere(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(nets)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMGRAPH_DEBUG", raising=False)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: vit-0, vit-1, vit-2, vit-wide, half-0, half-1, gpt2-0, gpt2-1."""
    from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification

    from symgraph.io.models import quiet

    folder = tmp_path_factory.mktemp("checkpoints")
    with quiet():
        for seed in (0, 1):
            _perturbed(ViTForImageClassification(ViTConfig(**VIT)), seed).save_pretrained(folder / f"vit-{seed}")
            half = _perturbed(ViTForImageClassification(ViTConfig(**VIT)), seed).to(torch.bfloat16)
            half.save_pretrained(folder / f"half-{seed}")
            _perturbed(GPT2LMHeadModel(GPT2Config(**GPT2)), seed).save_pretrained(folder / f"gpt2-{seed}")
        _perturbed(ViTForImageClassification(ViTConfig(**VIT)), 2).save_pretrained(folder / "vit-2")
        wide = ViTForImageClassification(ViTConfig(**VIT | dict(intermediate_size=16)))
        wide.save_pretrained(folder / "vit-wide")
    return folder


def _perturbed(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model
