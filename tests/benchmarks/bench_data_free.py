"""Learned matching without data on pairs of trained models: the barrier on the test split, by how it was matched.

SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_data_free.py [gpt2-shakespeare] [vit-cifar10] [--steps N]
    [--methods weights activations learned]
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from bench_zoo import PAIRS, test_batches, zoo
from measure import one_thread, seconds

import symgraph
from symgraph.io.data import NoData

# Windows and batches of the size that such models were trained on.
MADE = {"gpt2-shakespeare": NoData(batch_size=8), "vit-cifar10": NoData(batch_size=128)}
METHODS = ("weights", "activations", "learned")
STEPS = {"gpt2-shakespeare": 300, "vit-cifar10": 600}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("data-free matching: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in args.pairs:
        a, b = (symgraph.model(folder / f"{pair}-{i}") for i in (0, 1))
        batches = list(test_batches(pair, folder))
        learning = {"steps": args.steps or STEPS[pair], "patience": 0}
        methods: dict[str, dict[str, Any]] = {
            "weights": {},
            "activations": {"method": "activations", "data": MADE[pair]},
            "learned": {"method": "learned", "data": MADE[pair], "learning": learning},
        }
        for name in args.methods:
            with one_thread():
                time, aligned = seconds(partial(symgraph.align, a, b, **methods[name]))
            loss = aligned.barrier(batches).loss
            print(
                f"{pair:<18} {name:<12} {time:7.1f} s  barrier {loss.barrier:.4f} \u00b1 {loss.standard_error:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
