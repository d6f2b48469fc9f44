"""A stream that only scale-free norms read: its writers have one factor in common, wherever they stand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph


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
