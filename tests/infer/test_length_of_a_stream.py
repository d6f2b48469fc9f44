"""A stream that only scale-free norms read: its writers have one factor in common, wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of


class _Stream(nn.Module):
    """Two blocks on a stream that is normed by its length; `gain` behind the norm, or what else sees the stream."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.embed, self.places = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 6))
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.further_up, self.further_down = nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        self.gain = nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def normed(self, stream: Tensor) -> Tensor:
        unit: Tensor = F.normalize(stream, dim=-1)
        return unit * self.gain if self.kind == "gain" else unit * 2.0

    def forward(self, x: Tensor) -> Tensor:
        places = 0.35 * self.places if self.kind == "a fixed number" else self.places
        stream = self.embed(x) + places
        stream = stream + self.down(torch.tanh(self.up(self.normed(stream))))
        stream = stream + self.further_down(torch.tanh(self.further_up(self.normed(stream))))
        if self.kind == "constant":
            stream = stream + 1.0
        found: Tensor = self.head(self.normed(stream))
        if self.kind == "read elsewhere":
            return torch.add(found, stream.sum(-1, keepdim=True))
        if self.kind == "writer read elsewhere":
            return torch.add(found, F.linear(self.places, self.head.weight))
        return found


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("plain", 1),
        ("gain", 1),
        ("a fixed number", 1),
        ("constant", 0),
        ("read elsewhere", 0),
        ("writer read elsewhere", 0),
    ],
)
def test_writers_have_a_factor_in_common(kind: str, factors: int) -> None:
    model = _Stream(kind).double().eval()
    example = (torch.randn(9, 5, 4, dtype=torch.double),)
    symmetry = symgraph.infer(model, example)
    found = symgraph.audit(model, symmetry=symmetry)
    assert found.complete, str(found)
    assert len(symmetry.radial) == factors
    if factors:
        assert symmetry.radial[0].tensors == (
            "places", "embed.weight", "embed.bias", "down.weight", "down.bias", "further_down.weight",
        )  # fmt: skip
    moved = symgraph.sample(model, example)
    torch.testing.assert_close(moved(*example), model(*example), rtol=1e-9, atol=1e-9)


def _behind_unit_weights(s: Any, x: Tensor, seen: bool) -> Tensor:
    """A gated network whose weights have unit rows or columns, and whose result is divided by its length."""
    up = F.linear(x, F.normalize(s.up, dim=1)) * s.scale
    hidden = F.silu(s.gate(x)) * up
    found: Tensor = s.head(F.normalize(F.linear(hidden, F.normalize(s.down, dim=0)), dim=-1))
    return found + up.sum(-1, keepdim=True) if seen else found


@pytest.mark.parametrize("seen", [False, True], ids=["alone", "read elsewhere"])
def test_a_gain_inside_has_the_factor_where_weights_have_unit_columns(seen: bool) -> None:
    """As in nGPT: neither map has a length of its own, so that of what stands between is the gain's."""
    torch.manual_seed(0)
    maps = {"gate": nn.Linear(5, 6), "head": nn.Linear(4, 3)}
    tensors = {"up": torch.randn(6, 5), "down": torch.randn(4, 6), "scale": torch.randn(6)}
    model = spread(Net(lambda s, x: _behind_unit_weights(s, x, seen), **maps, **tensors))
    example = (torch.randn(7, 5),)
    symmetry = symgraph.infer(model, example)
    assert (("scale",) in [radial.tensors for radial in symmetry.radial]) is not seen
    assert symgraph.audit(model, symmetry=symmetry).complete
    assert error(model, example, symmetry) < 1e-9


@pytest.mark.parametrize("made", [torch.Tensor.exp, torch.Tensor.clone], ids=["exponentials", "as stored"])
def test_a_gain_that_is_absorbed_has_no_factor(made: Callable[[Tensor], Tensor]) -> None:
    """Its readers make up for a number beside it: the canonical form makes it one, and may not give it the number."""

    def function(net: Any, x: Tensor) -> Tensor:
        stream = F.rms_norm(net.embed(x), (8,)) * made(net.gain) * made(net.number)
        found: Tensor = net.head(torch.tanh(net.up(stream)))
        return found

    parts = {"embed": nn.Linear(5, 8), "up": nn.Linear(8, 8), "head": nn.Linear(8, 3)}
    model = spread(Net(function, gain=torch.rand(8) + 0.5, number=torch.rand(1) + 0.5, **parts)).double()
    example = torch.randn(4, 5, dtype=torch.float64)
    symmetry = symgraph.infer(model, (example,))
    assert [radial.tensors for radial in symmetry.radial] == [("number", "up.weight")]
    once = canonicalise(symmetry, state_of(model)).state
    again = canonicalise(symmetry, once).state
    assert max(float((once[name] - again[name]).abs().max()) for name in once) < 1e-9
