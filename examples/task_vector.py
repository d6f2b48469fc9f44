"""One network learns to read digits upside down; another one, which never saw any, is taught by transport.

    python examples/task_vector.py

Two networks are trained from different seeds on handwritten digits. The first is then trained on digits turned by half
a turn. What it learned, the difference of its weights, means nothing to the second network, whose hidden units are
others; carried over by their alignment it does.
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

HELD = 400


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images, dtype=torch.float32)[order] / 8 - 1, torch.tensor(found.target)[order]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def trained(module: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float = 1e-3) -> nn.Module:
    found = copy.deepcopy(module)
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate, weight_decay=1.0)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            cross_entropy(found(images[batch]), labels[batch]).backward()
            optimiser.step()
    return found.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "task_vector")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    epochs = 15 if options.fast else 40
    images, labels = digits()
    turned = images.flip(1, 2)
    seen, new = slice(2 * HELD, None), slice(HELD)
    a, b = (trained(network(seed), images[seen], labels[seen], epochs) for seed in (0, 1))
    tuned = trained(a, turned[seen], labels[seen], epochs // 3, 3e-4)

    choosing = [(turned[HELD : 2 * HELD], labels[HELD : 2 * HELD])]
    carried = symgraph.transport(a, tuned, b, images[:2], fit=choosing)
    print(carried)

    own = b.state_dict()
    difference = {n: tuned.state_dict()[n] - t for n, t in a.state_dict().items()}
    naive = copy.deepcopy(b)
    naive.load_state_dict({n: t + carried.scale * difference[n] for n, t in own.items()})
    for name, module in {"B": b, "B + difference": naive, "B + transported": carried.module}.items():
        right = [(module(x[new]).argmax(1) == labels[new]).float().mean() for x in (turned, images)]
        print(f"{name:<16} accuracy {right[0]:.3f} on turned digits, {right[1]:.3f} on upright ones")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(carried.state, options.out / "b-on-turned-digits.pt")


if __name__ == "__main__":
    main()
