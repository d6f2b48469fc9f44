"""Many models in one basis: the loss barrier over the simplex as trained, aligned to one, in a universe, and learned.

    python tests/benchmarks/bench_universe.py [--models 4] [--steps 300]

Vision transformers of the demo on scikit-learn's handwritten digits, one seed each, trained here; barriers are on the
360 images that none has seen, learned matching on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from measure import one_thread, seconds

import symgraph
from symgraph import demo
from symgraph.console import Console


def trained(count: int) -> list[symgraph.Model]:
    settings = demo.Settings()
    return [demo._trained(f"seed {i}", i, settings, Console(quiet=True)) for i in range(count)]


def training_batches() -> list[dict[str, torch.Tensor]]:
    images, labels = demo._digits()
    chosen = demo._order()[demo._HELD_OUT :]
    return [{"pixel_values": images[i], "labels": labels[i]} for i in torch.split(chosen, 64)]


def barrier(states: Sequence[Any], module: torch.nn.Module) -> symgraph.SimplexBarrier:
    return symgraph.simplex_barrier(states, demo.held_out(), module=module, metrics=["accuracy"])


def show(label: str, found: symgraph.SimplexBarrier, time: float = 0.0) -> None:
    loss, accuracy = found.loss, found.metrics[0]
    even = accuracy.values[accuracy.mixtures.index((1 / accuracy.models,) * accuracy.models)]
    print(
        f"    {label:<24} loss barrier {loss.barrier:.4f} \u00b1 {loss.standard_error:.4f}, even mixture "
        f"{loss.centroid:.4f}, its accuracy {even:.3f}, accuracy barrier {accuracy.barrier:.3f}"
        + (f", {time:.1f} s" if time else "")
    )


def measure(count: int, steps: int) -> dict[str, symgraph.SimplexBarrier]:
    """All four, for this many models."""
    models = trained(count)
    module = models[0].module
    learning = symgraph.LearnOptions(sampler="dirichlet", steps=steps)
    with one_thread():
        to_one = seconds(lambda: [symgraph.align(models[0], m) for m in models[1:]])
        matched = seconds(lambda: symgraph.universe(models))
        data, held_out = training_batches(), {"validation": None}
        learned = seconds(
            lambda: symgraph.universe(models, method="learned", data=data, learning=learning, **held_out)
        )
        found = {
            "as trained": (0.0, [m.module for m in models]),
            "each aligned to the first": (to_one[0], [to_one[1][0].reference, *(a.state for a in to_one[1])]),
            "universe": (matched[0], matched[1].states),
            "universe, learned": (learned[0], learned[1].states),
        }
        print(f"{count} models, one thread; ends: losses of the models alone")
        results = {}
        for label, (time, states) in found.items():
            results[label] = barrier(states, module)
            show(label, results[label], time)
    print(f"    {learned[1].learned}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    for count in args.models:
        measure(count, args.steps)


if __name__ == "__main__":
    main()
