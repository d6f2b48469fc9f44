"""Activation matching on pairs of trained models: the test-loss barrier, alone and mixed with weights.

SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_activations.py [gpt2-shakespeare] [vit-cifar10]
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench_learned import training_batches
from bench_zoo import PAIRS, test_batches, zoo
from measure import one_thread, seconds

import symgraph
from symgraph.align.match import MatchOptions

OPTIONS = {
    "alone": MatchOptions(),
    "mixed": MatchOptions(alpha=0.5, rows=1024),
    "mixed, heads": MatchOptions(alpha=0.5, rows=1024, observed=("*.heads",)),
    "mixed, residual and heads": MatchOptions(alpha=0.5, rows=1024, observed=("residual", "*.heads")),
}


def measure(pair: str, folder: Path, name: str) -> None:
    """Aligns once and prints what came of it."""
    a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
    data, _ = training_batches(pair, folder)
    with one_thread():
        time, found = seconds(lambda: symgraph.align(a, b, method="activations", data=data, options=OPTIONS[name]))
    measured = symgraph.loss_barrier(found.reference, found.state, list(test_batches(pair, folder)), module=a.module)
    curve = measured.loss
    print(
        f"{pair}, {name}: {time:.0f} s, test-loss barrier {curve.barrier:.4f} \u00b1 {curve.standard_error:.4f}, "
        f"midpoint {curve.midpoint:.4f}, interior minimum {curve.interior_min:.4f}",
        flush=True,
    )


def main(pairs: tuple[str, ...] | list[str] = PAIRS) -> None:
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in pairs:
        for name in reversed(OPTIONS):
            measure(pair, folder, name)


if __name__ == "__main__":
    main(sys.argv[1:] or PAIRS)
