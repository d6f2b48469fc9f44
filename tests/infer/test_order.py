"""The order in which equations apply changes nothing that inference says."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.groups.lattice import describe
from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

ORDERS = 10


def mlp() -> Graph:
    layers = nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)
    return trace(nn.Sequential(*layers), (torch.zeros(2, 3),))


class Gated(nn.Module):
    """Two products in a row, whose result is cut: the cut must reach the operands of both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = (nn.Linear(n, m) for n, m in ((3, 8), (3, 8), (3, 8), (2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        products = (self.a(x) * self.b(x)) * self.c(x)
        result: Tensor = self.out(products.unflatten(-1, (2, 4)).amax(-1))
        return result


def gated() -> Graph:
    return trace(Gated(), (torch.zeros(2, 3),))


class TwoInputs(nn.Module):
    """A parameter that another input meets is as wide as one of two hidden layers, and freezes that one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 2)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, picture: Tensor | None = None) -> Tensor:
        inner = self.first(x).relu()
        result: Tensor = self.out(self.second(inner if picture is None else inner + self.idle * picture).relu())
        return result


def two_inputs() -> Graph:
    return trace(TwoInputs(), (torch.zeros(2, 2),))


class Bilinear(nn.Module):
    """Scores through one weight: what is compared is what is mixed, so that two rules name its space."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(2, 3), nn.Linear(3, 2)
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x)
        scores = inner @ self.weight @ inner.transpose(1, 2)
        result: Tensor = self.out(inner + scores.softmax(-1) @ inner)
        return result


def bilinear() -> Graph:
    return trace(Bilinear(), (torch.zeros(2, 3, 2),))


class Crossed(nn.Module):
    """Six features as 2 x 3 and as 3 x 2, of which a slice cuts one, and a gain on the slice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out, self.gain = nn.Linear(2, 6), nn.Linear(6, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.tanh(torch.unflatten(self.inner(x), -1, (2, 3)).softmax(-1).flatten(-2))
        thirds = torch.unflatten(halves, -1, (3, 2)).softmax(-1).flatten(-2)
        result: Tensor = self.out(torch.cat([thirds[..., :2] * self.gain, thirds[..., 2:]], -1))
        return result


class Between(nn.Module):
    """Two gains in a row between six features as 3 x 2 and as 2 x 3: either cut of what is between them has a claim."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(2, 6), nn.Linear(6, 2)
        self.gain, self.other = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        thirds = self.inner(x).unflatten(-1, (3, 2)).softmax(-1).flatten(-2)
        halves = torch.unflatten(thirds * self.gain * self.other, -1, (2, 3)).softmax(-1).flatten(-2)
        result: Tensor = self.out(halves)
        return result


def between() -> Graph:
    return trace(Between(), (torch.zeros(2, 2),))


def crossed() -> Graph:
    return trace(Crossed(), (torch.zeros(2, 2),))


class LastPosition(nn.Module):
    """Squares of a product with a scale for each position, of which the last position alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out, self.scale = nn.Linear(2, 5), nn.Linear(5, 3), nn.Parameter(torch.ones(4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.sigmoid(self.inner(x))
        scaled = torch.relu(inner**2 * self.scale) ** 2
        return inner.mean(1), self.out(scaled[:, -1])


def last_position() -> Graph:
    return trace(LastPosition(), (torch.zeros(2, 4, 2),))


class Halves(nn.Module):
    """Two halves of a stream that a norm of two groups reads, with a layer scale for what is added to both."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.coupled, self.out = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(4, 3)
        self.up, self.down, self.scale = nn.Linear(4, 3), nn.Linear(3, 4, bias=False), nn.Parameter(torch.ones(4))
        self.first, self.norm, self.last = nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.inner(x).chunk(2, -1)
        stream = self.first(torch.cat([first, second * self.coupled(first).tanh().exp()], -1) ** 2)
        hidden = torch.relu(self.up(self.norm(stream.transpose(1, 2)).transpose(1, 2)))
        result: Tensor = self.out(self.last(stream + self.down(hidden) * self.scale))
        return result


def halves() -> Graph:
    return trace(Halves(), (torch.zeros(2, 5, 3),))


class Rolled(nn.Module):
    """A gain for two norms: of a stream that nothing cuts, and of halves that take turns, so that no position moves."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.out = nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)
        self.up, self.down = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.norm(self.inner(x))
        stream = stream + stream.roll(1, -1)
        stream = stream + self.down(nn.functional.gelu(self.up(stream)))
        result: Tensor = self.out(self.norm(torch.stack([stream[..., :3], stream[..., 3:]], -1).flatten(-2)))
        return result


def rolled() -> Graph:
    return trace(Rolled(), (torch.zeros(2, 5, 3),))


def gpt2() -> Graph:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: Any = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 12}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True)
    return trace(GPT2LMHeadModel(config))


def llama() -> Graph:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: Any = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1, "head_dim": 4}
    heads: Any = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8}
    return trace(LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False)))


def bert() -> Graph:
    from transformers import BertConfig, BertForMaskedLM

    sizes: Any = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    heads: Any = {"num_attention_heads": 2, "max_position_embeddings": 8, "attn_implementation": "eager"}
    config = BertConfig(**sizes, **heads)
    return trace(BertForMaskedLM(config))


def resnet() -> Graph:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes: Any = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "num_labels": 3}
    model = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic"))
    return trace(model, (torch.zeros(1, 3, 32, 32),))


MODELS: dict[str, Callable[[], Graph]] = {
    f.__name__: f
    for f in (
        mlp,
        gated,
        two_inputs,
        bilinear,
        crossed,
        between,
        last_position,
        halves,
        rolled,
        gpt2,
        llama,
        bert,
        resnet,
    )
}


@cache
def graph(name: str) -> Graph:
    return MODELS[name]()


def statements(s: SymmetryGraph) -> dict[str, object]:
    """All that inference says, less the numbering of what has no order."""
    return {
        "spaces": [
            (x.name, x.size, str(x.group), describe(x.bound), [s.spaces[f].name for f in x.fibre], x.scales, x.signs)
            for x in s.spaces
        ],
        "axes": s.terms,
        "gains": {(g.parameter, g.frame, g.forward) for g in s.gains},
        "constants": {
            (
                c.place,
                frozenset(
                    (x.port.place, x.factor, tuple((h.reader.place, h.rows.place) for h in x.path)) for x in c.shares
                ),
            )
            for c in s.constants
        },
        "centred": {
            (c.frame, c.written, frozenset((p.parameter, p.axis, p.start, p.stop) for p in c.pieces)) for c in s.centred
        },
        "uncovered": s.uncovered,
    }


@pytest.mark.parametrize("name", MODELS)
def test_random_orders_say_the_same(name: str) -> None:
    expected = statements(infer(graph(name)))
    draw = random.Random(0)
    for _ in range(ORDERS):
        assert statements(infer(graph(name), order=lambda count: draw.sample(range(count), count))) == expected


@pytest.mark.parametrize("name", MODELS)
def test_from_the_last_node_to_the_first(name: str) -> None:
    assert statements(infer(graph(name), order=lambda count: reversed(range(count)))) == statements(infer(graph(name)))


def test_an_order_is_one_of_all_nodes() -> None:
    with pytest.raises(UsageError, match="no permutation"):
        infer(graph("mlp"), order=lambda count: range(count - 1))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("mlp", ["signed permutation", "positive monomial", "permutation"]),
        ("gated", ["monomial", "monomial"]),
        ("two_inputs", ["positive monomial"]),
        ("bilinear", ["invertible"]),
        ("gpt2", ["permutation", "permutation", "invertible", "invertible", "permutation"]),
        ("llama", ["orthogonal", "permutation", "permutation", "rotary", "invertible", "monomial"]),
        ("bert", ["permutation", "permutation", "invertible", "invertible", "permutation"]),
        ("resnet", ["monomial", "monomial", "monomial", "monomial"]),
    ],
)
def test_there_is_something_to_compare(name: str, groups: list[str]) -> None:
    assert sorted(str(s.group) for s in infer(graph(name)).active) == sorted(groups)
