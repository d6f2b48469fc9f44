"""One alignment sweep over one forward-backward pass of the same model on 64 sequences; real sizes on request.

    python tests/benchmarks/bench_align.py [--layers 12]

With a number of layers: a whole alignment, of two sweeps, of two models of the shape of GPT-2 small with so many of
its layers and random weights, on one thread; its process time by step, and its peak memory.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from statistics import median

import torch
from bench_memory import forget_peak, resident, warm_up
from measure import language_model, one_thread, seconds, sequences
from transformers import GPT2Config, GPT2LMHeadModel

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


def real_size(layers: int) -> dict[str, float]:
    """Seconds until each step of the alignment begins, those of all, and the peak in checkpoints above the start."""

    def made(seed: int) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers))
        model.train(False)
        return model

    a, b = made(0), made(1)
    warm_up()
    found: dict[str, float] = {}
    forget_peak()
    held, start = resident("VmRSS"), time.process_time()

    def mark(message: str) -> None:
        found[message.partition(" (")[0].partition(": ")[0]] = time.process_time() - start

    with one_thread():
        symgraph.align(a, b, options=symgraph.MatchOptions(sweeps=2, tolerance=-1.0), progress=mark)
    found["seconds"] = time.process_time() - start
    checkpoint = sum(t.numel() * t.element_size() for t in a.parameters()) / 2**20
    found["checkpoints"] = (resident("VmHWM") - held) / checkpoint
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int)
    wanted = parser.parse_args().layers
    if wanted is None:
        main()
    else:
        for step, figure in real_size(wanted).items():
            print(f"{figure:8.2f}  {step}")
