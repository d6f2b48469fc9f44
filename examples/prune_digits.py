"""A network for handwritten digits made a quarter as wide, by dropping units and by fusing them.

    python examples/prune_digits.py

A small convolutional network with batch norms is trained, then three quarters of its channels and hidden units go: the
least important are dropped, or all are merged where they are nearest to one another, which loses less.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import symgraph

HELD = 400


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(found.target)[order]


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.1)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            cross_entropy(module(images[batch]), labels[batch]).backward()
            optimiser.step()
    return module.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "prune_digits")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    images, labels = digits()
    module = trained(images[HELD:], labels[HELD:], 4 if options.fast else 15)

    def said(name: str, found: nn.Module) -> None:
        right = (found(images[:HELD]).argmax(-1) == labels[:HELD]).float().mean()
        print(f"{name:<22} {sum(p.numel() for p in found.parameters()):,} parameters, accuracy {right:.3f}")

    said("as it was trained", module)
    dropped = symgraph.prune(module, images[:4], ratio=0.75, importance="l1", drop=True)
    said("units dropped by l1", dropped.module)
    fused = symgraph.prune(module, images[:4], ratio=0.75)
    said("units fused", fused.module)
    print(fused)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(fused.state, options.out / "pruned.pt")


if __name__ == "__main__":
    main()
