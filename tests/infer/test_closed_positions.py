"""Masks that close what nothing sees are left out; whatever sees it keeps them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph import infer, verify
from symgraph.inference.closed_positions import without_needless_masks
from symgraph.rules.book import default_rules
from symgraph.tracing.interpreter import evaluate

WIDTH, WORDS, LENGTH, SHUT = 6, 13, 5, -3e38
Scores = Callable[[Tensor, Tensor], Tensor]
Further = Callable[["Masked", Tensor, Tensor], Tensor]
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


def filled(scores: Tensor, on: Tensor, number: float = SHUT) -> Tensor:
    return scores.masked_fill(~on[:, None, :], number).softmax(-1)


def added(scores: Tensor, on: Tensor) -> Tensor:
    return (scores + torch.zeros(on.shape).masked_fill(~on, SHUT)[:, None, :]).softmax(-1)


def both_ways(scores: Tensor, on: Tensor) -> Tensor:
    return scores.masked_fill(~(on[:, None, :] & on[:, :, None]), SHUT).softmax(-1)


def causal(scores: Tensor, on: Tensor) -> Tensor:
    return scores.masked_fill(~(on[:, None, :] & CAUSAL), SHUT).softmax(-1)


class Masked(nn.Module):
    """A block whose stream is multiplied by the mask of words that are no padding, in front and behind."""

    def __init__(self, scores: Scores, further: Further | None = None, last: bool = True, first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.before, self.norm = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head, self.taps = nn.Linear(WIDTH, WORDS), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.scores, self.further, self.first, self.last = scores, further, first, last
        self.example_inputs = (torch.randint(0, WORDS, (3, LENGTH)),)

    def forward(self, ids: Tensor) -> Tensor:
        on = ids != 1
        mask = on.unsqueeze(-1).float()
        x = self.before(self.words(ids))
        x = x * mask if self.first else x
        y = self.o(self.scores(self.q(x) @ self.k(x).mT, on) @ self.v(x))
        x = x + y if self.further is None else self.further(self, x, y)
        x = self.norm(x)
        out: Tensor = self.head(x * mask if self.last else x)
        return out


def masks_left(net: Masked) -> int:
    """How many of the products are left, in a graph that computes the same to the last bit, whatever is padding."""
    graph = symgraph.trace(net)
    found = without_needless_masks(graph, default_rules())
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    state = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    (name,) = (node.target for node in graph.inputs)
    for _ in range(8):
        ids = {name: torch.randint(0, 4, (3, LENGTH), generator=generator)}
        (before,), (after,) = (evaluate(g, state, ids, torch.float64) for g in (graph, found))
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0))
    return sum(node.target == "aten.mul.Tensor" for node in found.calls)


@pytest.mark.parametrize("scores", [filled, added, both_ways, causal], ids=lambda f: f.__name__)
def test_a_mask_in_front_that_nothing_needs(scores: Scores) -> None:
    net = Masked(scores)
    assert masks_left(net) == 1
    symmetry = infer(net)
    assert verify(net, symmetry=symmetry).passed
    assert symmetry.dimension().number == infer(Masked(scores, first=False)).dimension().number


def test_weights_of_the_operator_for_attention() -> None:
    class Fused(Masked):
        def forward(self, ids: Tensor) -> Tensor:
            on = ids != 1
            mask = on.unsqueeze(-1).float()
            x = self.before(self.words(ids)) * mask
            let = on[:, None, :].expand(-1, LENGTH, -1)
            y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), attn_mask=let)
            out: Tensor = self.head(self.norm(x + self.o(y)) * mask)
            return out

    net = Fused(filled)
    assert masks_left(net) == 1 and verify(net).passed


UNLIKE: dict[str, tuple[Scores, Further | None, bool]] = {
    "the output sees it": (filled, None, False),
    "scores are open": (lambda s, on: s.softmax(-1), None, True),
    "little weight is some": (lambda s, on: filled(s, on, -4.0), None, True),
    "other positions": (lambda s, on: filled(s, on.roll(1, -1)), None, True),
    "the others": (lambda s, on: filled(s, ~on), None, True),
    "rows of scores": (lambda s, on: s.masked_fill(~on[:, :, None], SHUT).softmax(-1), None, True),
    "weights along the other axis": (lambda s, on: s.masked_fill(~on[:, None, :], SHUT).softmax(-2), None, True),
    "a convolution": (filled, lambda s, x, y: x + y + s.taps(x.mT).mT, True),
    "a mean": (filled, lambda s, x, y: y + x + x.mean(1, keepdim=True), True),
    "a norm of positions": (filled, lambda s, x, y: y + F.layer_norm(x.mT, (LENGTH,)).mT, True),
    "neighbours": (filled, lambda s, x, y: y + x + x.roll(1, 1), True),
    "the largest": (filled, lambda s, x, y: y + x + x.amax(1, keepdim=True), True),
    "keys read elsewhere": (filled, lambda s, x, y: y + x + s.k(x).mean(1, keepdim=True), True),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_mask_stays_where_something_sees_what_it_closes(case: str) -> None:
    net = Masked(*UNLIKE[case])
    assert masks_left(net) == 1 + net.last
    assert verify(net).passed
