"""Every how-to guide runs from its first block to its last, in a folder of its own, and finds what it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from executed import run_page
from torch import nn

import symgraph

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def row(name: str, printed: str) -> list[float]:
    found = re.search(rf"^{name} +([\d. ]+)$", printed, re.MULTILINE)
    assert found is not None, printed
    return [float(number) for number in found[1].split()]


def test_merge_fine_tunes(capsys: Capture) -> None:
    printed = run_page("merge-fine-tunes.md", capsys)
    together, aligned, plain = (row(name, printed) for name in ("one_two", "one_three", "not_aligned"))
    assert all(abs(x - y) < 0.05 for x, y in zip(together, aligned, strict=True))
    assert aligned[0] > plain[0] + 0.1


def test_residual(capsys: Capture) -> None:
    printed = run_page("residual.md", capsys)
    assert "permutation -> orthogonal fixing ones" in printed and "465" in printed


def test_claims(capsys: Capture) -> None:
    printed = run_page("claims.md", capsys)
    assert printed.count("permutations") >= 2 and "width 64" in printed


def test_own_training(capsys: Capture) -> None:
    printed = run_page("own-training.md", capsys)
    assert "loss of the mean" in printed and "model.safetensors" in printed


def test_connectivity(capsys: Capture) -> None:
    printed = run_page("connectivity.md", capsys)
    barriers = dict(re.findall(r"^(embedded|aligned) +barrier ([\d.]+)$", printed, re.MULTILINE))
    assert float(barriers["aligned"]) < 0.5 * float(barriers["embedded"])
    right = {
        name: row[:3]
        for name, *row in re.findall(
            r"^(as trained|learned) .*?([\d.]+)%.*?([\d.]+)%.*?([\d.]+)%", printed, re.MULTILINE
        )
    }
    learned = [float(x) for x in right["learned"]]
    assert learned[0] > max(learned[1:]) and learned[0] > float(right["as trained"][0]) + 20


def test_ensembles(capsys: Capture) -> None:
    printed = run_page("ensembles.md", capsys)
    plain, matched = (
        float(re.search(rf"^{name} +loss of the mean ([\d.]+)", printed, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("as trained", "in one basis")
    )
    assert matched < plain and "only widths can differ" in printed


def test_transport(capsys: Capture) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    a, a2, b = (net() for _ in range(3))
    batches = 2 * [(torch.randn(8, 4), torch.arange(8) % 3)]
    a.example_inputs = b.example_inputs = a2.example_inputs = (torch.ones(1, 4),)  # type: ignore[assignment]
    optimiser = torch.optim.AdamW(a.parameters())
    a(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    given = {"a": a, "a2": a2, "b": b, "validation_batches": batches, "symgraph": symgraph}
    given |= {"training_batches": 3 * batches}
    run_page("transport.md", capsys, {**given, "direction": torch.randn(6), "optimiser_of_a": optimiser})
    assert Path("b2/model.safetensors").exists()
