"""What one model of a trained pair learns, carried to the other: the loss on the new task, and on the old one.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_transport.py [gpt2-shakespeare] [vit-cifar10]
    ... --steps N --own N      as many steps of training A on the new task, and B by itself

A is trained on a new task: Python source of the standard library that runs this (language), images with their colours
inverted (vision). The difference goes to B, untouched and through alignments, by activations on the new task's training
data and learned on it for as many steps as B is trained by itself beside it, and from B with half of it. Scales, of all
or of each tensor, are chosen on windows or images set apart from training data.
"""

from __future__ import annotations

import argparse
import copy
import random
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_zoo import MEAN, STD, zoo
from bench_zoo import test_batches as old_task
from measure import CONTEXT, Batch, one_thread
from torch import nn
from transformers import PreTrainedTokenizerFast

import symgraph
from symgraph.inference.sources import with_state
from symgraph.io.data import load

FILES, CHARACTERS, HELD = 160, 6000, 100
METHODS = ("weights", "activations", "learned")


@dataclass(frozen=True)
class Task:
    """A new task: what is trained on, what scales are chosen on, and what is measured on."""

    training: list[Batch]
    choosing: list[Batch]
    testing: list[Batch]


def python_source(folder: Path) -> Task:
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_file=str(folder / "gpt2-shakespeare-tokenizer.json"))
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(0).shuffle(files)
    text = "\n".join(f.read_text(encoding="utf-8", errors="ignore")[:CHARACTERS] for f in files[:FILES])
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    parts = (windows[: -2 * HELD], windows[-2 * HELD : -HELD], windows[-HELD:])
    return Task(*([{"input_ids": w, "labels": w} for w in torch.split(part, 16)] for part in parts))


def inverted_colours(folder: Path) -> Task:
    own: dict[str, Any] = {"mean": MEAN, "std": STD}
    images = folder.parent / "data" / "cifar10"
    training = [_inverted(b) for b in load(images / "train.parquet", batch_size=64, limit=12_000, **own)]
    testing = [_inverted(b) for b in load(images / "test.parquet", batch_size=250, **own)]
    return Task(training[:-16], training[-16:], testing)


def _inverted(batch: Batch) -> Batch:
    """Pixels p as 1 - p, after both were normalised."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return {**batch, "pixel_values": (1 - 2 * mean) / std - batch["pixel_values"]}


TASKS: dict[str, Callable[[Path], Task]] = {"gpt2-shakespeare": python_source, "vit-cifar10": inverted_colours}


def trained(module: nn.Module, batches: list[Batch], steps: int, rate: float) -> nn.Module:
    """A copy after some steps of AdamW, with a short warm-up and a linear decay."""
    found = copy.deepcopy(module).train()
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate)
    for step, batch in zip(range(steps), _over(batches), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        optimiser.zero_grad()
        found(**batch).loss.backward()
        optimiser.step()
    return found.eval()


def _over(batches: list[Batch]) -> Iterator[Batch]:
    order = random.Random(0)
    while True:
        yield from order.sample(batches, len(batches))


@torch.no_grad()
def mean_loss(module: nn.Module, batches: list[Batch]) -> float:
    sizes = [len(b["labels"]) for b in batches]
    losses = [float(module(**b).loss) for b in batches]
    return sum(x * n for x, n in zip(losses, sizes, strict=True)) / sum(sizes)


def measure(pair: str, folder: Path, steps: int, own: int, rate: float, methods: Sequence[str]) -> None:
    a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
    task, old = TASKS[pair](folder), list(old_task(pair, folder))

    def said(name: str, module: nn.Module) -> None:
        new, before = mean_loss(module, task.testing), mean_loss(module, old)
        print(f"{pair:<18} {name:<44} {new:8.3f} ({before:.3f})", flush=True)

    said("B", b.module)
    tuned = trained(a.module, task.training, steps, rate)
    said(f"A after {steps} steps", tuned)
    now, base, learned = (m.state_dict() for m in (b.module, a.module, tuned))
    naive = {n: t + learned[n] - base[n] if t.is_floating_point() else t for n, t in now.items()}
    said("B + difference as it is", with_state(b.module, naive))
    said(f"B after {own} steps", trained(b.module, task.training, own, rate))
    for name in methods:
        how: dict[str, Any] = {"method": name} if name == "weights" else {"method": name, "data": task.training}
        # As many steps as B is tuned by itself.
        how |= {"learning": {"steps": own}} if name == "learned" else {}
        fitted = symgraph.transport(a, tuned, b, fit=task.choosing, **how)
        said(f"B + {fitted.scale:.3g} transported ({name})", fitted.module)
        whole = symgraph.transport(a, tuned, b, alignment=fitted.alignment)
        said(f"B + 1 transported ({name})", whole.module)
        each = symgraph.transport(a, tuned, b, alignment=fitted.alignment, fit=task.choosing, per_tensor=True)
        said(f"B + transported ({name}), a scale for each tensor", each.module)
        # What is learned depends on how much of it is added.
        half = symgraph.transport(a, tuned, b, scale=0.5, **how)
        said(f"B + 0.5 transported ({name})", half.module)
        said(f"B + 0.5 transported ({name}), {own} steps", trained(half.module, task.training, own, rate))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=list(TASKS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--own", type=int, help="steps of B by itself (default: a quarter of those)")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("transport: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        for pair in args.pairs:
            measure(pair, folder, args.steps, args.own or args.steps // 4, args.rate, args.methods)


if __name__ == "__main__":
    main()
