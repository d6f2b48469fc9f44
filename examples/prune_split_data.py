"""Two networks trained side by side on half of the data each become one smaller network.

    python examples/prune_split_data.py

Either both are pruned and then merged ("prune and fuse"), or merged and then pruned ("fuse and prune"); a short
training on all of the data follows. Beside them stands one half alone, pruned and trained in the same way.

Source: split data, Theus et al., Intra-Fusion, arXiv 2402.07839.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import symgraph

HELD, RATIO = 400, 0.5


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(found.target)[order]


def made(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def trained(module: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float = 2e-3) -> nn.Module:
    """A copy that has been trained on."""
    torch.manual_seed(0)
    found = copy.deepcopy(module).train()
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate, weight_decay=0.1)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), 64):
            optimiser.zero_grad()
            cross_entropy(found(images[batch]), labels[batch]).backward()
            optimiser.step()
    return found.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "prune_split_data")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    images, labels = digits()
    held, images, labels = (images[:HELD], labels[:HELD]), images[HELD:], labels[HELD:]
    epochs = 4 if options.fast else 15
    halves = [trained(made(seed), images[seed::2], labels[seed::2], epochs) for seed in (0, 1)]
    batches = [(x, y) for x, y in zip(images.split(128), labels.split(128), strict=True)][:8]

    def pruned(module: nn.Module) -> nn.Module:
        return symgraph.prune(module, images[:4], ratio=RATIO, recalibrate=batches).module

    def merged(modules: Sequence[nn.Module]) -> nn.Module:
        found = copy.deepcopy(modules[0])
        found.load_state_dict(symgraph.merge(list(modules), example=images[:4], recalibrate=batches).state)
        return found

    def right(module: nn.Module) -> float:
        return float((module(held[0]).argmax(-1) == held[1]).float().mean())

    print(f"a half, as it was trained     accuracy {right(halves[0]):.3f}")
    ways = {
        "a half, pruned": pruned(halves[0]),
        "prune and fuse": merged([pruned(m) for m in halves]),
        "fuse and prune": pruned(merged(halves)),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name, module in ways.items():
        tuned = trained(module, images, labels, max(1, epochs // 5), rate=5e-4)
        size = sum(p.numel() for p in module.parameters())
        print(f"{name:<15} {size:,} parameters  accuracy {right(module):.3f}, after tuning {right(tuned):.3f}")
        torch.save(tuned.state_dict(), options.out / f"{name.replace(' ', '-').replace(',', '')}.pt")


if __name__ == "__main__":
    main()
