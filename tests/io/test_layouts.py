"""Files of weights as people write them: what is read of them, and that they are written as they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_checkpoints import refused
from torch import nn

from symgraph.errors import CheckpointError
from symgraph.io.layouts import is_weights, read_weights, write_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


STATE = {n: torch.full_like(t, i + 1.0) for i, (n, t) in enumerate(net().state_dict().items())}


def named(prefix: str) -> dict[str, Any]:
    return {f"{prefix}{n}": t for n, t in STATE.items()}


FILES: list[dict[str, Any]] = [
    named(""),
    named("module."),
    named("_orig_mod."),
    named("module._orig_mod."),
    {n.replace("0.", "0._orig_mod."): t for n, t in STATE.items()},
    {"state_dict": named("module."), "epoch": 3},
    {"checkpoint": 1, "model": {"weights": named(""), "note": "x"}},
    {**named(""), "queue": torch.ones(2)},
]


@pytest.mark.parametrize("held", FILES)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_state_is_read_and_written_as_it_was_laid_out(held: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    torch.save(held, file)
    state, layout = read_weights(file, net())
    assert state.keys() == STATE.keys() and all(torch.equal(t, STATE[n]) for n, t in state.items())
    doubled = {n: 2 * t for n, t in state.items()}
    written = torch.load(write_weights(tmp_path / f"b{suffix}", doubled, layout), weights_only=True)
    expected = copy.deepcopy(held)
    assert str(_shape(written)) == str(_shape(expected))
    again, _ = read_weights(tmp_path / f"b{suffix}", net())
    assert all(torch.equal(t, doubled[n]) for n, t in again.items())


def _shape(held: Any) -> Any:
    if isinstance(held, dict):
        return {k: _shape(held[k]) for k in sorted(held)}
    return tuple(held.shape) if isinstance(held, torch.Tensor) else held


def test_safetensors_keep_their_header_and_what_no_model_has(tmp_path: Path) -> None:
    file, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({**named("module."), "queue": torch.ones(2)}, file, {"run": "seven"})
    state, layout = read_weights(file, net())
    write_weights(out, state, layout)
    with safe_open(out, "pt") as found:
        assert found.metadata() == {"run": "seven"}
        assert set(found.keys()) == {*named("module."), "queue"}
    assert is_weights(out) and not is_weights(tmp_path)


def test_a_tied_tensor_may_stand_once(tmp_path: Path) -> None:
    shared = nn.Linear(2, 2)
    module = nn.Sequential(shared, shared)
    torch.save({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, tmp_path / "a.pt")
    state, layout = read_weights(tmp_path / "a.pt", module)
    assert list(state) == list(layout.names) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"0.weight": STATE["0.weight"]}, "missing 0.bias, 1.weight, 1.bias"),
        ({**STATE, "1.bias": torch.ones(4)}, "1.bias (4,) instead of (1,)"),
        ({"epoch": 3}, "it holds 'epoch'"),
        ([1, 2], "it holds a list"),
    ],
)
def test_what_does_not_fit_is_named(held: Any, says: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "a.pt")
    with refused(CheckpointError, tmp_path / "a.pt", says):
        read_weights(tmp_path / "a.pt", net())


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "a.pt")
    with refused(CheckpointError, tmp_path / "a.pt", remedy="save model.state_dict()"):
        read_weights(tmp_path / "a.pt", net())
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with refused(CheckpointError, tmp_path / "b.safetensors"):
        read_weights(tmp_path / "b.safetensors", net())
