"""Plain PyTorch at the command line: factories in files with arguments, files of weights, exported programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.runner import Cli

NETS = """
import torch
from torch import nn


def make(width=8, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)), torch.zeros(2, 6)


def bare():
    return make()[0]


def data():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 6, generator=g), torch.randint(0, 3, (16,), generator=g)) for _ in range(2)]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plain_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(NETS, scope)
    for name, seed in (("a", 1), ("b", 2)):
        module, inputs = scope["make"](5, seed)  # type: ignore[operator]
        held = {f"module.{n}": t for n, t in module.state_dict().items()}
        torch.save({"state_dict": held, "epoch": seed}, f"{name}.pt")
        torch.export.save(torch.export.export(module.eval(), (inputs,)), f"{name}.pt2")
    return tmp_path


MAKE = "plain_nets.py:make(width=5)"


def test_weights_are_aligned_written_alike_and_read_again(folder: Path, cli: Cli) -> None:
    done = cli("align", MAKE, MAKE, "--weights", "a.pt", "b.pt", "--out", "out.pt", "--alignment", "ab.safetensors")
    assert done.code == 0, done.err
    written = torch.load("out.pt", weights_only=True)
    assert written["epoch"] == 2 and "module.0.weight" in written["state_dict"]
    done = cli("barrier", MAKE, MAKE, "--weights", "a.pt", "out.pt", "--data", "plain_nets.py:data", "--points", "3")
    assert done.code == 0 and "over 32 examples" in done.out
    done = cli("merge", f"{MAKE}@a.pt", f"{MAKE}@out.pt", "--weights", "0.5", "0.5", "--out", "m.pth", "--like", "a.pt")
    assert done.code == 0, done.err
    assert torch.load("m.pth", weights_only=True)["epoch"] == 1
    done = cli("apply", "ab.safetensors", MAKE, "--weights", "b.pt", "--out", "moved.safetensors")
    assert done.code == 0 and (folder / "moved.safetensors").exists()
    done = cli("align", MAKE, MAKE, "--weights", "a.pt", "b.pt", "--out", "out.pt")
    assert done.code == 7 and "out.pt exists already" in done.err


def test_exported_programs_are_aligned_into_a_program(folder: Path, cli: Cli) -> None:
    done = cli("align", "a.pt2", "b.pt2", "--out", "c.pt2")
    assert done.code == 0, done.err
    x = torch.randn(2, 6)
    b, c = (torch.export.load(f"{n}.pt2").module() for n in "bc")
    assert torch.allclose(b(x), c(x), atol=1e-5)
    assert "positive monomial" in cli("inspect", "c.pt2").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "plain_nets.py:bare"], "let plain_nets.py:bare return (module, example_inputs)"),
        (["inspect", "plain_nets.py:make(width=x)"], "plain_nets.py:make(4, kind='plain')"),
        (["inspect", "plain_nets.py:mak"], "no attribute 'mak'"),
        (["inspect", "missing.py:make"], "there is no file missing.py"),
        (["verify", "plain_nets.py:make", "--weights", "a.pt"], "wrong shapes: 0.weight (5, 6) instead of (8, 6)"),
        (["verify", MAKE, "--weights", "a.pt", "b.pt"], "2 files of weights for 1 models"),
        (["verify", MAKE, "--weights", "no.pt"], "there is no such file"),
        (["align", MAKE, MAKE, "--weights", "a.pt", "b.pt", "--out", "o.pt2"], "is no exported program"),
    ],
)
def test_mistakes_name_what_to_type(words: list[str], says: str, folder: Path, cli: Cli) -> None:
    done = cli(*words)
    assert done.code and says in done.err and "Traceback" not in done.err
    assert "=" not in done.err.split("help:")[-1].replace("kind='plain'", "")
