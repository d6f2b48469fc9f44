"""Constants on their way: scaled before a sum, and unseen by keys without a bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.tracing import state_of, trace


class Scaled(nn.Module):
    """Word embeddings are scaled before positions are added; keys and queries have no bias, the norm has one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(17, 6), nn.Parameter(torch.randn(5, 6))
        self.norm = nn.LayerNorm(6)
        self.query, self.key = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
        self.value, self.head = nn.Linear(6, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) * 1.7 + self.places / 3)
        q, k, v = self.query(x), self.key(x), self.value(x)
        found: Tensor = self.head(torch.tanh(torch.softmax(q @ k.transpose(-2, -1), -1) @ v))
        return found


def test_scaled_summands_and_keys_without_a_bias() -> None:
    model = Scaled()
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    (translation,) = symmetry.translations
    assert {p.parameter: round(p.factor, 6) for s in translation.sets for p in s} == {
        "words.weight": 1.7,
        "places": round(1 / 3, 6),
    }
    keys = [x for x in symmetry.leans if x.rows is not None]
    assert [(x.reader.parameter, x.bias, x.sink) for x in keys] == [("key.weight", "norm.bias", "")]
    state = {n: torch.randn_like(t) for n, t in state_of(model).items()}
    assert verify(symmetry, state).passed
    found = audit(symmetry)
    assert found.complete, str(found)


class Unbiased(nn.Module):
    """A norm with a bias, values without one, and an output projection with one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(17, 6), nn.LayerNorm(6)
        self.query, self.key = nn.Linear(6, 3), nn.Linear(6, 3)
        self.value, self.out = nn.Linear(6, 4, bias=False), nn.Linear(4, 6)
        self.last, self.head = nn.LayerNorm(6), nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        x = self.norm(h)
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(-2, -1), -1)
        found: Tensor = self.head(self.last(h + self.out(weights @ self.value(x))))
        return found


def test_values_without_a_bias_lean_into_the_bias_behind_them() -> None:
    model = Unbiased()
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    (lean,) = [x for x in symmetry.leans if x.rows is not None]
    assert (lean.reader.parameter, [s.bias for s in lean.sinks], lean.settled) == ("value.weight", ["out.bias"], False)
    assert verify(symmetry, {n: torch.randn_like(t) for n, t in state_of(model).items()}).passed
    found = audit(symmetry)
    assert found.complete, str(found)
