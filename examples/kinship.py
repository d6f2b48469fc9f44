"""Which of these networks is whose, and what comes of merging two that are no kin.

    python examples/kinship.py

Networks are trained on handwritten digits. Their weights are then moved by a random element of the symmetry group,
which no comparison of weights survives: `same` still tells which is the first one again, with noise or tuned further,
and which was trained by itself. Two that are no kin lose much of what they know when a recipe merges them as they are;
in one basis they do not.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

import symgraph

HELD = 400
RECIPE = {"merge_method": "linear", "base_model": "a", "models": [{"model": "a"}, {"model": "b"}]}


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images, dtype=torch.float32)[order] / 8 - 1, torch.tensor(found.target)[order]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(module: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float = 1e-3) -> nn.Module:
    found = copy.deepcopy(module)
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate, weight_decay=1.0)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            cross_entropy(found(images[batch]), labels[batch]).backward()
            optimiser.step()
    return found.eval()


def moved(module: nn.Module, example: Tensor, noise: float = 0.0) -> nn.Module:
    """The same function at other weights, with noise of a share of the size of each of them."""
    found = copy.deepcopy(module)
    state = symgraph.sample(module, example, seed=1).state_dict()
    found.load_state_dict({n: t + noise * t.square().mean().sqrt() * torch.randn_like(t) for n, t in state.items()})
    return found


def cosine(a: nn.Module, b: nn.Module) -> float:
    x, y = (normalize(torch.cat([p.detach().flatten() for p in m.parameters()]), dim=0) for m in (a, b))
    return float(x @ y)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "kinship")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    epochs = 15 if options.fast else 40
    images, labels = digits()
    seen, new, example = slice(HELD, None), slice(HELD), images[:2]
    a, b = (trained(network(seed), images[seen], labels[seen], epochs) for seed in (0, 1))
    tuned = trained(a, -images[seen], labels[seen], epochs // 3, 3e-4)
    others = {
        "moved": moved(a, example),
        "moved, 5 % noise": moved(a, example, 0.05),
        "tuned, moved": moved(tuned, example),
        "independent": b,
    }
    for name, other in others.items():
        found = symgraph.same(a, other, example)
        print(f"{name:<18} weights alike by {cosine(a, other):5.2f}: {found.verdict}, {found.share:.4f} left")

    options.out.mkdir(parents=True, exist_ok=True)
    for align in (False, True):
        merged = symgraph.merge_by_recipe(RECIPE, models={"a": a, "b": b}, example=example, align=align).module
        right = float((merged(images[new]).argmax(1) == labels[new]).float().mean())
        print(f"merged {'aligned' if align else 'as they are':<12} accuracy {right:.3f}")
    torch.save(merged.state_dict(), options.out / "merged.pt")


if __name__ == "__main__":
    main()
