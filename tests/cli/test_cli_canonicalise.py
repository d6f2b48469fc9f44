"""canonicalise, end to end: one model in two gauges is written as the same weights, and computes what it computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import symgraph
from cli.runner import Cli
from symgraph.tracing import state_of


@pytest.mark.parametrize("name", ["gpt2-0", "vit-0"])
def test_two_gauges_come_to_one_checkpoint(cli: Cli, checkpoints: Path, name: str) -> None:
    model = symgraph.model(checkpoints / name).module
    moved = symgraph.sample(model, seed=1)
    moved.save_pretrained("moved")
    for source, out in ((checkpoints / name, "one"), ("moved", "other")):
        found = cli("canonicalise", source, "--out", out)
        assert found.code == 0 and "norm" in found.out and f"wrote {out}" in found.out, found.err
    one, other = (symgraph.model(out).module for out in ("one", "other"))
    apart = {n: float((t - state_of(other)[n]).abs().max()) for n, t in state_of(one).items() if t.is_floating_point()}
    assert max(apart.values()) < 1e-3, apart
    before, after = (state_of(m) for m in (model, one))
    assert max(float((before[n] - after[n]).abs().max()) for n in before if before[n].is_floating_point()) > 0.1
    assert "symgraph canonicalise" in Path("one/README.md").read_text()
    assert "--overwrite" in cli("canonicalise", "moved", "--out", "one").err


def test_units_may_stay_where_they_are(cli: Cli, checkpoints: Path) -> None:
    found = cli("canonicalise", checkpoints / "gpt2-0", "--out", "out", "--keep-order", "--json")
    assert found.code == 0, found.err
    norm = found.json["norm"]
    assert 0 < norm["after"] < norm["before"]
    x = torch.arange(6).reshape(1, 6)
    before, after = (symgraph.model(p).module for p in (checkpoints / "gpt2-0", "out"))
    torch.testing.assert_close(after(x).logits, before(x).logits, rtol=1e-4, atol=1e-4)
