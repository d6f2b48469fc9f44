"""Two tiny vision transformers, trained on handwritten digits from different seeds, brought into one basis.

    python examples/vit_on_digits.py

`symgraph demo` does the same on a larger scale and writes checkpoints; this script shows the calls behind it. The
networks are stock transformers classes: nothing here says where their symmetries are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

import symgraph
from symgraph.cli.demo_run import held_out
from symgraph.measure.plots import barrier_plot


def network(seed: int) -> ViTForImageClassification:
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return ViTForImageClassification(config)


def training_images() -> tuple[Tensor, Tensor]:
    """The digits that `symgraph.cli.demo_run.held_out` does not give."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    used = torch.cat([b["pixel_values"] for b in held_out()]).flatten(1)
    fresh = (torch.cdist(images.flatten(1), used) > 1e-3).all(1)
    return images[fresh], torch.tensor(found.target)[fresh]


def trained(seed: int, epochs: int) -> ViTForImageClassification:
    model, (images, labels) = network(seed), training_images()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0)
    total = epochs * (len(images) // 64 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=total, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            model(pixel_values=images[batch], labels=labels[batch]).loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "vit_on_digits")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    a, b = (trained(seed, 6 if options.fast else 20) for seed in (0, 1))

    graph = symgraph.infer(a)
    print(graph)
    proof = symgraph.verify(a, symmetry=graph)
    proof.raise_if_failed()
    print(f"\nverified: random elements change the outputs by {proof.together:.0e} (relative, float64)")
    aligned = symgraph.align(a, b, symmetry=graph)
    print(aligned)

    before = symgraph.loss_barrier(a, b, held_out(), metrics=["accuracy"])
    after = symgraph.loss_barrier(aligned.reference, aligned.state, held_out(), module=a, metrics=["accuracy"])
    for name, result in (("as trained", before), ("aligned", after)):
        accuracy = result.metric("accuracy").values
        print(
            f"{name:<10}  loss barrier {result.barrier:.3f}, "
            f"accuracy of A {accuracy[0]:.1%}, of B {accuracy[-1]:.1%}, of their mean {accuracy[5]:.1%}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = barrier_plot({"as trained": before, "aligned": after}, options.out / "barrier.png", overwrite=True)
    print(f"drawn to {path}")


if __name__ == "__main__":
    main()
