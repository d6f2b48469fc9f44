"""One alignment sweep over one forward-backward pass of the same model on 64 sequences.

python tests/benchmarks/bench_align.py
"""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

from measure import language_model, one_thread, seconds, sequences
from transformers import GPT2LMHeadModel

import symgraph

SEQUENCES, BATCH = 64, 16


def sweeps(a: GPT2LMHeadModel, b: GPT2LMHeadModel) -> list[float]:
    """Process time of every sweep but the first, which shares its mark with the start of the descent."""
    marks: list[float] = []

    def mark(message: str) -> None:
        if message.startswith("sweep"):
            marks.append(time.process_time())

    symgraph.align(a, b, options=symgraph.MatchOptions(sweeps=6, tolerance=-1.0), progress=mark)
    return [last - first for first, last in pairwise(marks)]


def training_pass(model: GPT2LMHeadModel) -> None:
    for batch in sequences(SEQUENCES, BATCH):
        model(**batch).loss.backward()
    model.zero_grad()


def measure(repetitions: int = 3) -> dict[str, float]:
    a, b = language_model(0), language_model(1)
    with one_thread():
        training_pass(a)
        found = [(median(sweeps(a, b)), seconds(lambda: training_pass(a))[0]) for _ in range(repetitions)]
        whole = median(seconds(lambda: symgraph.align(a, b))[0] for _ in range(repetitions))
    return {
        "sweep": median(s for s, _ in found),
        "forward-backward": median(f for _, f in found),
        "ratio": median(s / f for s, f in found),
        "align": whole,
    }


def main() -> dict[str, float]:
    found = measure()
    print(
        f"align: one sweep {found['sweep']:.3f} s, forward and backward on {SEQUENCES} sequences "
        f"{found['forward-backward']:.3f} s, ratio {found['ratio']:.3f}; a whole alignment {found['align']:.2f} s"
    )
    return found


if __name__ == "__main__":
    main()
