"""Learned matching on pairs of trained models: the test-loss barrier, the time, and what a step costs.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_learned.py [gpt2-shakespeare] [vit-cifar10] [--dual]
        [--steps N] [--lr X] [--compact] [--gauge] [--lambdas LOW HIGH]

Learned on the training split (images: flipped at random, as in training), stopped on validation (images: the last
2,000 of the training split, which the models have seen; language: the validation split), reported on the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_zoo import MEAN, PAIRS, STD, test_batches, zoo
from measure import CONTEXT, Batch, one_thread, ratio, seconds

import symgraph
from symgraph.io.data import load
from symgraph.match.learned_matching import Lesson, _Run
from symgraph.match.match_options import LearnOptions
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of

STEPS = {"gpt2-shakespeare": 400, "vit-cifar10": 2500}
APART = 2000


class Flipped:
    """Batches of images, each flipped or not at every visit."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.batches = list(zip(torch.split(images, size), torch.split(labels, size), strict=True))
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Batch:
        images, labels = self.batches[i]
        flip = torch.rand(len(images), generator=self.generator) < 0.5
        return {"pixel_values": torch.where(flip[:, None, None, None], images.flip(-1), images), "labels": labels}


def training_batches(pair: str, folder: Path) -> tuple[Any, list[Batch]]:
    """Training and validation batches."""
    if pair.startswith("vit"):
        found = load(folder.parent / "data" / "cifar10" / "train.parquet", batch_size=1000, mean=MEAN, std=STD)
        whole = list(found)
        images, labels = (torch.cat([b[k] for b in whole]) for k in ("pixel_values", "labels"))
        apart = zip(torch.split(images[-APART:], 500), torch.split(labels[-APART:], 500), strict=True)
        held_out = [{"pixel_values": x, "labels": y} for x, y in apart]
        return Flipped(images[:-APART], labels[:-APART], 128), held_out
    tokens = np.load(folder / "shakespeare-tokens.npz")
    names = ("train", next(n for n in tokens.files if n.startswith("val")))
    splits = [torch.from_numpy(tokens[n].astype(np.int64)) for n in names]
    first, second = (t[: len(t) // CONTEXT * CONTEXT].view(-1, CONTEXT) for t in splits)
    windows = (torch.split(first, 8), torch.split(second, 16))
    training, held_out = ([{"input_ids": w, "labels": w} for w in split] for split in windows)
    return training, held_out


def learned(pair: str, folder: Path, options: LearnOptions) -> None:
    """Aligns, and prints what came of it."""
    a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
    training, validation = training_batches(pair, folder)
    with one_thread():
        time, found = seconds(
            lambda: symgraph.align(
                a, b, method="learned", data=training, validation=validation, learning=options, progress=_show
            )
        )
    print(f"{pair}: {'dual' if options.dual else 'single'}, one thread, {time:.0f} s")
    print("\n".join(f"    {note}" for note in found.notes))
    metrics = ("accuracy",) if pair.startswith("vit") else ()
    batches = list(test_batches(pair, folder))
    measured = symgraph.loss_barrier(found.reference, found.state, batches, module=a.module, metrics=metrics)
    print(f"    test split: {measured}".replace("\n", "\n    "), flush=True)


def _show(line: str) -> None:
    if line.startswith("step") and line.split()[1].endswith("00"):
        print(f"    {line}", flush=True)


def step_cost(pair: str, folder: Path, options: LearnOptions, repetitions: int = 15) -> float:
    """Time of one step of learned matching over one of plain training of the same module on the same batch."""
    a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
    symmetry = symgraph.infer(a)
    states = [canonicalise(symmetry, _wide(m.module)).state for m in (a, b)]
    training, validation = training_batches(pair, folder)
    run = _Run(symmetry, states, Lesson(a.module.eval(), training, validation[:1]), options)
    tensors = {n: p.detach().clone().requires_grad_() for n, p in a.module.named_parameters()}
    plain = torch.optim.Adam(tensors.values(), lr=1e-4)

    def train() -> None:
        plain.zero_grad()
        loss, _ = run.objective.mean(tensors, training[0], "here")
        loss.backward()  # type: ignore[no-untyped-call]
        plain.step()

    with one_thread():
        found, ours, theirs = ratio(lambda: run.descent.take(run._loss), train, repetitions)
    print(f"{pair}: a step over one of plain training {found:.2f} ({1000 * ours:.0f} ms over {1000 * theirs:.0f} ms)")
    return found


def _wide(module: Any) -> dict[str, torch.Tensor]:
    return {n: t.detach().double() if t.is_floating_point() else t for n, t in state_of(module).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--lambdas", type=float, nargs=2, default=[0.4, 0.6])
    for flag in ("--dual", "--compact", "--gauge", "--cost"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in args.pairs:
        steps = STEPS[pair] if args.steps is None else args.steps
        options = LearnOptions(
            steps=steps,
            lr=args.lr,
            dual=args.dual,
            lambdas=tuple(args.lambdas),
            patience=0,
            full=not args.compact,
            gauge=args.gauge,
        )
        step_cost(pair, folder, options)
        if not args.cost:
            learned(pair, folder, options)


if __name__ == "__main__":
    main()
