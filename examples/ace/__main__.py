"""A symmetry that training may break at first, after Manolache et al. (NeurIPS 2025, arXiv 2505.13631).

    python examples/ace bodies --seeds 3
    python examples/ace pictures --cifar FOLDER

Trains one architecture in four ways at equal steps: `free` (gamma stays one), `strict` (gamma stays zero), `driven`
(gamma starts at one and a multiplier drives it to zero; evaluated at zero), and `resilient` (it is driven to a bound
that it pays for). Options were chosen on validation data; the test data are looked at once, at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import bodies
import pictures
import torch
from torch import Tensor, nn
from torch.nn import functional

import symgraph

# Gamma comes from one to zero in 1.6 / sqrt(rate descent) steps.
HALF_WAY = 3.2
WAYS = ("free", "strict", "driven", "resilient")
Loss = Callable[[Tensor, Tensor], Tensor]
Inputs = dict[str, Tensor]


class Task:
    """Data, a model, a symmetry of both, and what is measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.rows = args.rows or (300 if args.fast else 3000)
        if args.task == "bodies":
            counts = (self.rows, 200 if args.fast else 2000, 200 if args.fast else 2000)
            splits = [bodies.simulated(count, seed) for seed, count in enumerate(counts)]
            self.make: Callable[[], nn.Module] = bodies.Predictor
            self.representation, self.loss, self.unit = bodies.TURNS, functional.mse_loss, "squared error, 1e-3"
            self.lr = 1.2e-2
            self.score: Loss = lambda found, wanted: 1e3 * functional.mse_loss(found, wanted)
        else:
            size, channels, patch = (32, 3, 4) if args.cifar else (8, 1, 2)
            found = pictures.cifar(args.cifar, self.rows) if args.cifar else pictures.digits()
            splits = [({"pictures": pictures.patches(p, patch)}, labels) for p, labels in found]
            self.make = lambda: pictures.PatchTransformer((size // patch) ** 2, channels * patch**2)
            self.representation = pictures.turns_and_flips(size, channels, patch)
            self.loss, self.unit = functional.cross_entropy, "accuracy, %"
            self.lr = 3e-3
            self.score = lambda found, wanted: 100 * (found.argmax(-1) == wanted).float().mean()
        self.train, self.validation, self.test = splits

    @torch.no_grad()
    def measured(self, model: nn.Module, split: tuple[Inputs, Tensor]) -> float:
        """The score of a model on a split."""
        model.eval()
        inputs, wanted = split
        parts = [slice(i, i + 500) for i in range(0, len(wanted), 500)]
        found = torch.cat([model(**{k: v[p] for k, v in inputs.items()}) for p in parts])
        model.train()
        return float(self.score(found, wanted))


def trained(task: Task, way: str, args: argparse.Namespace, seed: int) -> symgraph.Relaxed:
    """One model, trained in one of the ways."""
    torch.manual_seed(seed)
    inputs, wanted = task.train
    example = {k: v[:3] for k, v in inputs.items()}
    relaxed = symgraph.relax(task.make(), example, representation=task.representation)
    relaxed.gamma.requires_grad_(way in ("driven", "resilient"))
    if way == "strict":
        relaxed.gamma.zero_()
    lr = args.lr or task.lr
    optimiser = torch.optim.AdamW(relaxed.module.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=args.steps)
    steps: Any = optimiser
    if way in ("driven", "resilient"):
        price = args.resilience if way == "resilient" else None
        rate = args.rate or (HALF_WAY / args.steps) ** 2 / args.descent
        steps = symgraph.DualAscent(optimiser, relaxed, rate=rate, descent=args.descent, resilience=price)
    order = torch.Generator().manual_seed(seed)
    for step in range(args.steps):
        batch = torch.randint(len(wanted), (args.batch,), generator=order)
        loss = task.loss(relaxed(**{k: v[batch] for k, v in inputs.items()}), wanted[batch])
        steps.zero_grad()
        loss.backward()
        steps.step()
        schedule.step()
        if args.verbose and step % max(1, args.steps // 10) == 0:
            gamma = float(relaxed.gamma.detach().abs().max())
            print(f"  {way} step {step}: loss {float(loss.detach()):.4f}, largest gamma {gamma:.3f}")
    return relaxed


def evaluated(relaxed: symgraph.Relaxed, way: str) -> nn.Module:
    """What counts as the result: strict and driven models are exactly equivariant."""
    return relaxed.equivariant() if way in ("strict", "driven") else relaxed.as_trained()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("bodies", "pictures"))
    parser.add_argument("--cifar", type=Path, help="a folder with train.parquet and test.parquet (default: digits)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", type=int, default=1, help="how many models of each way")
    parser.add_argument("--rows", type=int, help="training examples")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--lr", type=float, help="the highest rate (default: what is best for the strict model on validation data)"
    )
    text = "of the ascent of the multipliers (default: gamma arrives at zero half way, if the loss does not care)"
    parser.add_argument("--rate", type=float, help=text)
    parser.add_argument("--descent", type=float, default=0.05, help="the step of gamma")
    parser.add_argument("--resilience", type=float, default=0.1)
    parser.add_argument("--validate", action="store_true", help="do not look at the test data")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--fast", action="store_true", help="a short run on little data")
    args = parser.parse_args(arguments)
    if args.fast:
        args.steps = min(args.steps, 60)
    task = Task(args)
    splits = {"validation": task.validation, "training": task.train}
    if not args.validate:
        splits["test"] = task.test
    for way in args.ways:
        found: list[tuple[float, ...]] = []
        for seed in range(args.seeds):
            relaxed = trained(task, way, args, seed)
            model = evaluated(relaxed, way)
            scores = [task.measured(model, split) for split in splits.values()]
            found.append((*scores, float(relaxed.gamma.detach().abs().max())))
        *spreads, gamma = (_spread(column) for column in zip(*found, strict=True))
        figures = "  ".join(f"{name} {spread}" for name, spread in zip(splits, spreads, strict=True))
        print(f"{way:10}  {figures}  ({task.unit})  largest gamma {gamma}", flush=True)
    if "resilient" in args.ways:
        print(relaxed.table())


def _spread(values: Sequence[float]) -> str:
    more = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{more}"


if __name__ == "__main__":
    main()
