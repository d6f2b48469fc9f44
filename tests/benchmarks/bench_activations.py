"""Activation matching on pairs of trained models: the test-loss barrier, alone and mixed with weights.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_activations.py [gpt2-shakespeare] [vit-cifar10] [--cost]
    [--only NAME ...]

"mixed" chooses its share on the validation split (images: the last 2,000 of the training split, as in
`bench_learned.py`), "mixed, training data" on training batches. With `--cost`, the time of the pass over that of the
bare forward passes of both models on the same batches.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from bench_learned import training_batches
from bench_zoo import PAIRS, test_batches, zoo
from measure import one_thread, ratio, seconds

import symgraph
from symgraph.match.match_options import MatchOptions
from symgraph.match.observe import observe
from symgraph.match.unit_trees import units
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64

OPTIONS = {
    "mixed": MatchOptions(),
    "mixed, training data": MatchOptions(),
    "alone": MatchOptions(alpha=1.0),
    "mixed, half": MatchOptions(alpha=0.5),
    "mixed, heads": MatchOptions(alpha=0.5, observed=("*.heads",)),
    "mixed, residual and heads": MatchOptions(alpha=0.5, observed=("residual", "*.heads")),
}


def measure(pair: str, folder: Path, name: str) -> None:
    """Aligns once and prints what came of it."""
    a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
    data, validation = training_batches(pair, folder)
    given = {"data": data, "validation": validation if name == "mixed" else None, "options": OPTIONS[name]}
    with one_thread():
        time, found = seconds(lambda: symgraph.align(a, b, method="activations", **given))
    print("\n".join(f"    {note}" for note in found.notes))
    measured = symgraph.loss_barrier(found.reference, found.state, list(test_batches(pair, folder)), module=a.module)
    curve = measured.loss
    print(
        f"{pair}, {name}: {time:.0f} s, test-loss barrier {curve.barrier:.4f} \u00b1 {curve.standard_error:.4f}, "
        f"midpoint {curve.midpoint:.4f}, interior minimum {curve.interior_min:.4f}",
        flush=True,
    )


def cost(pair: str, folder: Path, count: int = 5) -> None:
    """The pass alone, without trace and inference, over bare forward passes of both models, by the median of five."""
    models = [symgraph.model(folder / f"{pair}-{i}").module for i in (0, 1)]
    symmetry = symgraph.infer(models[0])
    states = [canonicalise(symmetry, float64(state_of(m))).state for m in models]
    data, _ = training_batches(pair, folder)
    given = [{k: t for k, t in data[i].items() if k != "labels"} for i in range(count)]
    seen = symgraph.infer(models[0], (), given[0])

    def forward() -> None:
        with torch.no_grad():
            for m in models:
                for batch in given:
                    m(**batch)

    with one_thread():
        for rows in (128, 512):
            ours = partial(observe, symmetry, seen, states, given, units(symmetry), rows=rows)
            found, first, second = ratio(ours, forward, 5)
            print(
                f"{pair}: a pass over bare forward passes, {rows} rows: {found:.2f} ({first:.2f} over {second:.2f} s)"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in args.pairs:
        cost(pair, folder)
        for name in () if args.cost else args.only:
            measure(pair, folder, name)


if __name__ == "__main__":
    main()
