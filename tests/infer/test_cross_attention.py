"""Cross-attention is told from self-attention by name, however it is written, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

D, HEADS = 8, 2


class Attention(nn.Module):
    def __init__(self, eager: bool) -> None:
        super().__init__()
        self.eager = eager
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (
            layer(z).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer, z in ((self.q, x), (self.k, y), (self.v, y))
        )
        if self.eager:
            mixed = (q @ k.transpose(-1, -2) / 2.0).softmax(-1) @ v
        else:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return result


class Decoder(nn.Module):
    """Two layers of self-attention, then cross-attention, beside one layer of an encoder; all words in one table."""

    def __init__(self, eager: bool, norms: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(7, D)
        self.encoder, self.norms = Attention(eager), nn.ModuleList(nn.LayerNorm(D) for _ in range(2 * norms))
        self.first, self.second = Attention(eager), Attention(eager)
        self.cross_first, self.cross_second = Attention(eager), Attention(eager)
        self.write = nn.Linear(D, 3)

    def forward(self, text: Tensor, source: Tensor) -> Tensor:
        y = self.words(source)
        y = y + self.encoder(y, y)
        x = self.words(text)
        for own, cross in ((self.first, self.cross_first), (self.second, self.cross_second)):
            # The same stream behind two norms is one stream.
            x = x + own(self.norms[0](x), self.norms[-1](x))
            x = x + cross(self.norms[0](x), y)
        result: Tensor = self.write(x)
        return result


def inferred(eager: bool) -> SymmetryGraph:
    return infer(trace(Decoder(eager), (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 0]]))))


@pytest.mark.parametrize("eager", [False, True])
def test_what_reads_another_stream_is_called_so(eager: bool) -> None:
    names = {space.name for space in inferred(eager) if "." in space.name}
    labels = ("heads", "query-key", "value-output")
    own = {f"{module}.{label}" for module in ("encoder", "first", "second") for label in labels}
    across = {f"{module}.cross-{label}" for module in ("cross_first", "cross_second") for label in labels}
    assert names == own | across


class Pooling(nn.Module):
    """A learned query that asks a sequence, then learned queries that ask each other."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.queries = nn.Linear(4, D), nn.Parameter(torch.randn(1, 3, D))
        self.ask, self.among, self.write = Attention(False), Attention(False), nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.expand(len(x), -1, -1)
        q = q + self.among(q, q)
        result: Tensor = self.write(q + self.ask(q, self.read(x)))
        return result


def test_learned_queries_that_ask_a_sequence_cross() -> None:
    names = {space.name for space in infer(trace(Pooling(), (torch.randn(2, 5, 4),)))}
    assert "ask.cross-query-key" in names and "among.query-key" in names
