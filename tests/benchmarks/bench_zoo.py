"""Weight matching on pairs of trained models: the test-loss barrier before and after, and the time of an alignment.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_zoo.py [gpt2-shakespeare] [vit-cifar10]

The folder holds pairs NAME-0 and NAME-1 of checkpoints and `shakespeare-tokens.npz`; CIFAR-10 lies beside it in
`data/cifar10/test.parquet`. Language: all full windows of 256 tokens of the test split; images: the whole test split.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import CONTEXT, one_thread, seconds

import symgraph
from symgraph.io.data import load

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
PAIRS = ("gpt2-shakespeare", "vit-cifar10")
# Beyond the names NAME-0 and NAME-1: a narrower model embedded into the shape of the other, or the other reduced to it.
ENDS = {
    "gpt2-shakespeare-narrow": ("gpt2-shakespeare-0", "gpt2-shakespeare-narrow"),
    "gpt2-shakespeare-reduced": ("gpt2-shakespeare-narrow", "gpt2-shakespeare-0"),
}


def zoo() -> Path | None:
    """The folder of trained pairs, if the environment names one."""
    found = os.environ.get("SYMGRAPH_ZOO")
    return Path(found).resolve() if found else None


def test_batches(pair: str, folder: Path) -> Iterable[Any]:
    if pair.startswith("vit"):
        return load(folder.parent / "data" / "cifar10" / "test.parquet", batch_size=250, mean=MEAN, std=STD)
    return windows(folder, "test")


def windows(folder: Path, split: str, count: int | None = None) -> list[dict[str, torch.Tensor]]:
    """The first full windows of a split of the text, in batches."""
    tokens = torch.from_numpy(np.load(folder / "shakespeare-tokens.npz")[split].astype(np.int64))
    whole = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)[:count]
    return [{"input_ids": w, "labels": w} for w in torch.split(whole, 16)]


def _reshaped(a: symgraph.Model, b: symgraph.Model, pair: str) -> symgraph.Model:
    """B in the shape of A, where it has another."""
    if pair.endswith("-reduced"):
        found = symgraph.narrow(b, like=a)
        print(found)
        return found.model
    return symgraph.embed(b, like=a).model if pair in ENDS else b


def measure(pair: str, folder: Path, repetitions: int = 3) -> dict[str, Any]:
    a, b = (symgraph.model(folder / n) for n in ENDS.get(pair, (f"{pair}-0", f"{pair}-1")))
    narrow = pair.endswith("-reduced")
    with one_thread():
        runs = [seconds(lambda: symgraph.align(a, b, narrow=narrow)) for _ in range(repetitions)]
    aligned = runs[0][1]
    batches = list(test_batches(pair, folder))
    return {
        "seconds": sorted(t for t, _ in runs)[len(runs) // 2],
        "first": runs[0][0],
        "sweeps": len(aligned.alignment.objective) - 1,
        "vanilla": symgraph.loss_barrier(a, _reshaped(a, b, pair), batches),
        "aligned": symgraph.loss_barrier(aligned.reference, aligned.state, batches, module=a.module),
    }


def main(pairs: Iterable[str] = PAIRS) -> dict[str, dict[str, Any]]:
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs")
        return {}
    results = {}
    for pair in pairs:
        found = results[pair] = measure(pair, folder)
        print(
            f"{pair}: {found['vanilla'].examples} examples of the test split, one thread: alignment of "
            f"{found['sweeps']} sweeps {found['seconds']:.2f} s (the first, with imports, {found['first']:.2f} s)"
        )
        for name in ("vanilla", "aligned"):
            curve = found[name].loss
            print(
                f"    {name:<8} test-loss barrier {curve.barrier:.4f} \u00b1 {curve.standard_error:.4f} at lambda "
                f"{curve.argmax:.1f}, midpoint {curve.midpoint:.4f}, interior minimum {curve.interior_min:.4f}, "
                f"ends {curve.values[0]:.4f} and {curve.values[-1]:.4f}"
            )
    return results


if __name__ == "__main__":
    main(sys.argv[1:] or PAIRS)
