"""Evaluation of the loss barrier over the bare forward passes: the same batches, as many points.

python tests/benchmarks/bench_barrier.py
"""

from __future__ import annotations

import torch
from measure import Batch, language_model, one_thread, ratio, sequences
from torch import nn

import symgraph

POINTS = 11


def bare(model: nn.Module, batches: list[Batch]) -> None:
    with torch.no_grad():
        for _ in range(POINTS):
            for batch in batches:
                model(**batch)


def measure(sequence_count: int = 32, repetitions: int = 5) -> dict[str, float]:
    a, b = language_model(0), language_model(1)
    labelled = sequences(sequence_count, 16)
    unlabelled = [{"input_ids": batch["input_ids"]} for batch in labelled]
    with one_thread():
        bare(a, labelled[:1])
        found, ours, theirs = ratio(
            lambda: symgraph.loss_barrier(a, b, labelled, points=POINTS), lambda: bare(a, labelled), repetitions
        )
        lean, *_ = ratio(
            lambda: symgraph.loss_barrier(a, b, labelled, points=POINTS), lambda: bare(a, unlabelled), repetitions
        )
    return {"ratio": found, "loss barrier": ours, "forward": theirs, "ratio without their loss": lean}


def main() -> dict[str, float]:
    found = measure()
    print(
        f"loss barrier: {found['loss barrier']:.2f} s for {POINTS} points, bare forward passes with loss "
        f"{found['forward']:.2f} s, ratio {found['ratio']:.3f}; over forward passes that compute no loss "
        f"{found['ratio without their loss']:.3f}"
    )
    return found


if __name__ == "__main__":
    main()
