"""Orders of experts: the rank of the found one among all, and what is left of the loss that naive averaging costs.

    python tests/benchmarks/bench_experts.py [--experts 4] [--top 0]

A small vision transformer is trained on scikit-learn's digits; the feed-forward layer of one block is replaced by a
mixture of experts in a list, and fine-tuned twice from other seeds with everything else held. For all orders of the
experts the inside of each pair is matched and the loss at the midpoint is measured on held-out digits.

Source: the setting of Tran et al., arXiv 2509.11348, at a small scale.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial, reduce
from itertools import permutations
from typing import Any

import torch
from measure import one_thread, seconds
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

import symgraph
from symgraph.align.match import MatchOptions
from symgraph.data import load

WIDTH, HEADS, HIDDEN, TOKENS = 32, 4, 64, 16
COSTS = ("joint", "gate", "gram")


class FeedForward(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))


class Mixture(nn.Module):
    def __init__(self, experts: int, top: int) -> None:
        super().__init__()
        self.top, self.router = top, nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(FeedForward() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.top:
            values, chosen = gate.topk(self.top, -1)
            gate = torch.zeros_like(gate).scatter(-1, chosen, values / values.sum(-1, keepdim=True))
        parts = [gate[..., i : i + 1] * e(x) for i, e in enumerate(self.experts)]
        total: Tensor = reduce(torch.add, parts)
        return total


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp: nn.Module = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        found: Tensor = x + self.mlp(self.norms[1](x))
        return found


class Transformer(nn.Module):
    """Digits of 8 x 8 pixels in patches of 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Linear(4, WIDTH), nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)
        self.example_inputs = torch.zeros(2, 1, 8, 8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = pixel_values.unfold(2, 2, 2).unfold(3, 2, 2).reshape(-1, TOKENS, 4)
        x = self.patches(x) + self.places
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(self.norm(x).mean(1))
        return found


def train(net: nn.Module, tensors: Any, seed: int, epochs: int) -> None:
    from symgraph.demo import _HELD_OUT, _digits, _order

    images, labels = _digits()
    chosen, generator = _order()[_HELD_OUT:], torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(tensors, lr=2e-3, weight_decay=0.05)
    for _ in range(epochs):
        for batch in torch.split(chosen[torch.randperm(len(chosen), generator=generator)], 64):
            loss = functional.cross_entropy(net(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def pair(experts: int, top: int, epochs: int) -> tuple[Transformer, Transformer]:
    """Two fine-tunings of one backbone whose last feed-forward layer has become a mixture."""
    torch.manual_seed(0)
    backbone = Transformer()
    train(backbone, backbone.parameters(), 0, epochs)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = copy.deepcopy(backbone)
        net.blocks[1].mlp = Mixture(experts, top)
        train(net, net.blocks[1].mlp.parameters(), seed, epochs)
        found.append(net.eval())
    return found[0], found[1]


def in_order(a: dict[str, Tensor], b: dict[str, Tensor], order: tuple[int, ...]) -> dict[str, Tensor]:
    """B with its experts in an order, and the hidden units of each in that which fits A's best: by hand."""
    found, at = dict(b), "blocks.1.mlp"
    for name in ("router.weight", "router.bias"):
        found[f"{at}.{name}"] = b[f"{at}.{name}"][list(order)]
    names = [f"{at}.experts.{{}}.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")]
    for i, j in enumerate(order):
        first, second = ([s[n.format(k)] for n in names] for s, k in ((a, i), (b, j)))
        units = [torch.cat([t[0], t[1][:, None], t[2].T], 1) for t in (first, second)]
        rows = torch.from_numpy(linear_sum_assignment((units[0] @ units[1].T).numpy(), maximize=True)[1])
        moved = (second[0][rows], second[1][rows], second[2][:, rows], second[3])
        found.update({n.format(i): t for n, t in zip(names, moved, strict=True)})
    return found


def measure(experts: int = 4, top: int = 0, epochs: int = 15) -> dict[str, Any]:
    with one_thread():
        a, b = pair(experts, top, epochs)
        symmetry = symgraph.infer(a)
        batches = load("symgraph.demo:held_out")
        first, second = ({n: t.detach() for n, t in m.state_dict().items()} for m in (a, b))

        def excess(state: dict[str, Tensor]) -> float:
            found = symgraph.loss_barrier(first, state, batches, module=a, points=3)
            return found.midpoint or 0.0

        naive = excess(second)
        every = sorted(excess(in_order(first, second, order)) for order in permutations(range(experts)))
        results: dict[str, Any] = {"naive": naive, "best": every[0], "orders": len(every), "worst": every[-1]}
        inside = tuple(s.name for s in symmetry.active if "mlp" in s.name and (s.fibre or s.name.endswith("branches")))
        for cost in COSTS:
            options = MatchOptions(outer=cost, spaces=inside)
            time, aligned = seconds(partial(symgraph.align, a, b, options=options, symmetry=symmetry))
            left = excess(aligned.state)
            results[cost] = {"rank": sum(e < left - 1e-5 for e in every) + 1, "excess": left, "seconds": time}
    return results


def main(experts: int = 4, top: int = 0) -> dict[str, Any]:
    found = measure(experts, top)
    print(
        f"{experts} experts, {f'top {top}' if top else 'dense gate'}: excess loss at the midpoint {found['naive']:.4f} "
        f"as trained; of {found['orders']} orders between {found['best']:.4f} and {found['worst']:.4f}"
    )
    for cost in COSTS:
        one = found[cost]
        share = 100 * one["excess"] / found["naive"]
        print(
            f"    {cost:<6} rank {one['rank']:>2}, excess {one['excess']:.4f}, {share:.1f} % of naive averaging's, "
            f"{one['seconds']:.2f} s"
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--top", type=int, default=0)
    given = parser.parse_args()
    main(given.experts, given.top)
