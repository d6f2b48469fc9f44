"""What statistics of batch norms computed anew are worth: the test-loss barrier of two small convolutional nets.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_recalibration.py [--images 20000] [--epochs 6] [--width 32]

Two ResNets of transformers from different seeds are trained here on CIFAR-10, which lies beside the zoo in
`data/cifar10`. The barrier is that of the whole test split, between the models as trained and as matched by weights
and by activations, each with the statistics interpolated and with those of 2,000 training images (no test image is
seen).

Source: Jordan et al., REPAIR, arXiv 2211.08403.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from bench_learned import Flipped, training_batches
from bench_zoo import test_batches, zoo
from measure import Batch, one_thread, seconds
from transformers import ResNetConfig, ResNetForImageClassification

import symgraph

SOURCE = "vit-cifar10"


def trained(seed: int, data: Flipped, epochs: int, width: int) -> ResNetForImageClassification:
    """One net: three stages of two basic blocks, of this width, twice and four times as wide."""
    torch.manual_seed(seed)
    sizes = [width, 2 * width, 4 * width]
    shape: dict[str, Any] = {"num_labels": 10, "use_cache": False}
    config = ResNetConfig(embedding_size=width, hidden_sizes=sizes, depths=[2, 2, 2], layer_type="basic", **shape)
    model = ResNetForImageClassification(config).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=epochs * len(data))
    for _ in range(epochs):
        for i in torch.randperm(len(data)).tolist():
            optimiser.zero_grad()
            model(**data[i]).loss.backward()
            optimiser.step()
            schedule.step()
    object.__setattr__(model, "example_inputs", {"pixel_values": torch.zeros(2, 3, 32, 32)})
    model.train(False)
    found: ResNetForImageClassification = model
    return found


def measure(a: Any, b: Any, data: list[Batch], test: list[Batch]) -> dict[str, symgraph.LossBarrier]:
    """The barriers, by how B was matched and where the statistics come from."""
    moved = {
        "as trained": (a, b),
        "matched by weights": _aligned(a, b),
        "matched by activations": _aligned(
            a, b, method="activations", data=data, options=symgraph.MatchOptions(alpha=1.0)
        ),
    }
    found = {}
    for label, (first, second) in moved.items():
        for kind, batches in (("interpolated", None), ("recalibrated", data)):
            barrier = symgraph.loss_barrier(
                first, second, test, module=a, metrics=["accuracy"], recalibrate=batches and batches[:16]
            )
            found[f"{label}, {kind}"] = barrier
            curve, accuracy = barrier.loss, barrier.metrics[0]
            print(
                f"    {label:<23} statistics {kind}: barrier {curve.barrier:.4f} \u00b1 {curve.standard_error:.4f}, "
                f"midpoint {curve.midpoint:.4f}, accuracy at the ends {accuracy.values[0]:.4f} and "
                f"{accuracy.values[-1]:.4f}, at the midpoint {accuracy.values[len(accuracy.values) // 2]:.4f}",
                flush=True,
            )
    return found


def _aligned(a: Any, b: Any, **options: Any) -> tuple[Any, Any]:
    found = symgraph.align(a, b, **options)
    return found.reference, found.state


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs, beside which data/cifar10 lies")
        return
    run(folder, args)


def run(folder: Path, args: argparse.Namespace) -> None:
    whole, _ = training_batches(SOURCE, folder)
    images, labels = (torch.cat([pair[i] for pair in whole.batches])[: args.images] for i in (0, 1))
    data = Flipped(images, labels, 125)
    with one_thread():
        time, models = seconds(lambda: [trained(s, data, args.epochs, args.width) for s in (0, 1)])
        print(f"two nets of width {args.width}, {args.epochs} epochs of {args.images} images: {time:.0f} s", flush=True)
        plain = [data[i] for i in range(len(data))]
        measure(models[0], models[1], plain, list(test_batches(SOURCE, folder)))


if __name__ == "__main__":
    main()
