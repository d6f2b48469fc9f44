"""The same program elsewhere: the same result on every device, and nothing comes to the host but what has to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from models_zoo import network
from torch import nn

import symgraph

DEVICES = [("mlp", "cpu")]
if torch.cuda.is_available():
    DEVICES += [(name, "cuda") for name in ("mlp", "gpt2-untied", "llama", "resnet")]
# Assignments are solved on the host, the user's module is called there, and states of results are given there.
ON_THE_HOST = {"match": {"groups.assignment"}, "settle": {"match.program_run", "prove.eager"}}


def _mlp(seed: int) -> Any:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    object.__setattr__(net, "example_inputs", (torch.ones(5, 6),))
    return net.eval()


def _pair(name: str) -> tuple[Any, Any]:
    make = _mlp if name == "mlp" else lambda seed: network(name, seed)
    return make(0), make(1)


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_every_device_gives_the_same_model(name: str, device: str) -> None:
    a, b = _pair(name)
    found = symgraph.align(a, b, device=device)
    assert all(t.device.type == "cpu" for t in found.state.values())
    assert found.after < found.before
    _close(dict(symgraph.align(a, b).state), dict(found.state))


@pytest.mark.parametrize("name", ["mlp", "gpt2-untied", "llama", "resnet"])
def test_nothing_comes_to_the_host_but_what_has_to(name: str) -> None:
    a, b = _pair(name)
    expected = symgraph.align(a, b)
    with Elsewhere(*(step.op for step in symgraph.plan(a, b).steps)) as elsewhere:
        found = symgraph.align(a, b, device=DEVICE, progress=elsewhere.told)
    _close(dict(expected.state), dict(found.state))
    assert elsewhere.copies
    for copy in elsewhere.copies:
        assert copy.module in ON_THE_HOST.get(copy.step, ()), copy


def test_the_device_tells_operands_on_two_devices() -> None:
    with Elsewhere() as elsewhere:
        there = torch.ones(3, 3).to(DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            there @ torch.ones(3, 3)
        assert float((there @ there).sum()) == 27
        assert not elsewhere.copies and elsewhere.read == 1
        assert there.cpu().tolist() == [[1.0] * 3] * 3
        assert [copy.shape for copy in elsewhere.copies] == [(3, 3)]
