"""Orders of experts: the rank of the found one among all, and what is left of the loss that naive averaging costs.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_experts.py [--layers 0 3] [--top 0 2] [--shared 0]
        [--experts 4] [--seeds 3] [--images 10000] [--epochs 5] [--rate 0.003]

The backbone is the zoo's vision transformer of CIFAR-10, trained. The feed-forward layer of one block is replaced by a
mixture of experts in a list, initialised from seeds of their own, and fine-tuned with everything else held. Of every
pair of seeds, for all orders of the experts, the inside of each pair of experts is matched in canonical form, as the
costs do, and the loss at the midpoint is measured on test images. "inputs" is the joint cost with every parameter at
the second moment of what it reads.

Source: the setting of Tran et al., arXiv 2509.11348.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from statistics import mean

import torch
from bench_learned import training_batches
from bench_zoo import test_batches, zoo
from measure import Batch, one_thread, seconds
from torch import Tensor, nn

import symgraph
from symgraph.match.descent import Descent, Nearest
from symgraph.match.match_options import MatchOptions
from symgraph.match.nearest import nearest
from symgraph.match.observe_batches import observe_models
from symgraph.measure.objective import EvenMixture, Objective
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import Act
from symgraph.orbit.wreath import Tree
from symgraph.rules.book import default_rules
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64

BACKBONE = "vit-cifar10"
WIDTH, HIDDEN = 128, 256
COSTS = ("joint", "gate", "gram")


class FeedForward(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))


class Mixture(nn.Module):
    """Experts with a gate over all, or over the `top` ones, and others that everything goes through."""

    def __init__(self, experts: int, top: int, shared: int) -> None:
        super().__init__()
        self.top, self.router = top, nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(FeedForward() for _ in range(experts))
        self.shared = FeedForward() if shared else None

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.top:
            values, chosen = gate.topk(self.top, -1)
            gate = torch.zeros_like(gate).scatter(-1, chosen, values / values.sum(-1, keepdim=True))
        parts = [gate[..., i : i + 1] * e(x) for i, e in enumerate(self.experts)]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total if self.shared is None else total + self.shared(x)


@dataclass(frozen=True)
class Setting:
    layer: int
    top: int
    shared: int
    experts: int
    epochs: int
    rate: float

    def __str__(self) -> str:
        gate = f"top {self.top}" if self.top else "dense gate"
        return f"block {self.layer}, {self.experts} experts, {gate}{', one more shared' if self.shared else ''}"


@dataclass(frozen=True)
class Ranked:
    """Of one pair: the excess loss as trained, of all orders, and of each cost's order."""

    naive: float
    orders: tuple[float, ...]
    found: dict[str, float]

    def rank(self, cost: str) -> int:
        return 1 + sum(x < self.found[cost] - 1e-6 for x in self.orders)


def fine_tuned(backbone: nn.Module, seed: int, s: Setting, data: Sequence[Batch]) -> nn.Module:
    """The backbone with a mixture in the place of one feed-forward layer, which alone is trained."""
    torch.manual_seed(seed)
    net = copy.deepcopy(backbone).requires_grad_(False)
    block = net.vit.layers[s.layer]  # type: ignore[union-attr,index]
    block.mlp = Mixture(s.experts, s.top, s.shared)  # type: ignore[union-attr]
    tensors = list(block.mlp.parameters())  # type: ignore[union-attr]
    optimiser = torch.optim.AdamW(tensors, lr=s.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.rate, total_steps=s.epochs * len(data))
    for _ in range(s.epochs):
        for i in torch.randperm(len(data)).tolist():
            optimiser.zero_grad()
            net(**data[i]).loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


class _Ordered(Descent):
    """A descent whose outer spaces take a given order, once; what is inside is solved."""

    order: Tensor | None = None

    def _outer_order(self, unit: Tree, found: object) -> Tensor | None:
        if not unit.children or self.order is None:
            return torch.arange(unit.space.size) if unit.children else None
        order, self.order = self.order, None
        return order


def of_pair(
    symmetry: SymmetryGraph, a: nn.Module, b: nn.Module, s: Setting, data: Sequence[Batch], test: Sequence[Batch]
) -> Ranked:
    """The loss in excess of the mean of both ends', at the midpoint in canonical form and as trained."""
    given = [float64(state_of(m)) for m in (a, b)]
    first, second = (canonicalise(symmetry, t).state for t in given)
    mixture = EvenMixture(Objective(a), given, test, "held-out data")

    def excess(found: Nearest) -> float:
        return mixture.barrier([first, Act(found.element).apply(second)])

    names = tuple(x.name for x in symmetry.active if f"layers.{s.layer}.mlp" in x.name)
    orders = []
    for order in permutations(range(s.experts)):
        run = _Ordered(symmetry, first, second, MatchOptions(spaces=names), 0)
        run.order = torch.tensor(order)
        orders.append(excess(run.run(None)))
    seen = observe_models(symmetry, a, default_rules(), (first, second), data, (), moments=True)[0, 1]
    at_inputs = MatchOptions(spaces=names, weighting="inputs")
    found = {"inputs": excess(nearest(symmetry, first, second, at_inputs, seen=seen))}
    found |= {c: excess(nearest(symmetry, first, second, MatchOptions(spaces=names, outer=c))) for c in COSTS}
    return Ranked(mixture.barrier(given), tuple(sorted(orders)), found)


def measure(s: Setting, folder: Path, images: int, seeds: int, judged: int = 2000) -> list[Ranked]:
    """All pairs of so many fine-tunings."""
    backbone = symgraph.model(folder / f"{BACKBONE}-0").module
    data, _ = training_batches(BACKBONE, folder)
    batches = [data[i] for i in range(images // 128)]
    test = list(test_batches(BACKBONE, folder))[: judged // 250]
    found: list[Ranked]
    time, nets = seconds(lambda: [fine_tuned(backbone, k, s, batches) for k in range(seeds)])
    symmetry = symgraph.infer(nets[0], kwargs={"pixel_values": torch.zeros(2, 3, 32, 32)})
    then, found = seconds(lambda: [of_pair(symmetry, a, b, s, batches, test) for a, b in combinations(nets, 2)])
    print(f"{s}: {seeds} fine-tunings {time:.0f} s, {len(found)} pairs {then:.0f} s")
    show(found)
    return found


def show(found: Sequence[Ranked]) -> None:
    naive = mean(r.naive for r in found)
    best, worst = (mean(r.orders[k] for r in found) for k in (0, -1))
    count = len(found[0].orders)
    print(f"    excess loss {naive:.4f} as trained; of {count} orders between {best:.4f} and {worst:.4f}")
    for cost in found[0].found:
        ranks, left = [r.rank(cost) for r in found], mean(r.found[cost] for r in found)
        print(
            f"    {cost:<6} mean rank {mean(ranks):.1f} of {count} ({', '.join(map(str, ranks))}), excess {left:.4f}, "
            f"{100 * left / naive:.1f} % of naive averaging's",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> list[list[Ranked]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--top", type=int, nargs="+", default=[0, 2])
    for name, default in (("shared", 0), ("experts", 4), ("seeds", 3), ("images", 10000), ("epochs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=3e-3)
    args = parser.parse_args(arguments)
    folder = zoo()
    if folder is None:
        print("experts: set SYMGRAPH_ZOO to a folder of trained pairs")
        return []
    settings = [
        Setting(layer, top, args.shared, args.experts, args.epochs, args.rate)
        for layer in args.layers
        for top in args.top
    ]
    with one_thread():
        return [measure(s, folder, args.images, args.seeds) for s in settings]


if __name__ == "__main__":
    main()
