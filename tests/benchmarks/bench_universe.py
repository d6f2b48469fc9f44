"""Many models in one basis: the loss barrier over the simplex as trained, aligned to one, in a universe, and learned.

    python tests/benchmarks/bench_universe.py [--models 3 5] [--steps 300]

Vision transformers of the demo on scikit-learn's handwritten digits, one seed each, trained here; barriers are on the
360 images that none has seen, learned matching on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from measure import one_thread, seconds

import symgraph
from symgraph.cli import demo_run as demo
from symgraph.cli.console import Console


def trained(count: int) -> list[symgraph.Model]:
    settings = demo.Settings()
    return [demo._trained(f"seed {i}", i, settings, Console(quiet=True)) for i in range(count)]


def training_batches() -> list[dict[str, torch.Tensor]]:
    images, labels = demo._digits()
    chosen = demo._order()[demo._HELD_OUT :]
    return [{"pixel_values": images[i], "labels": labels[i]} for i in torch.split(chosen, 64)]


def barrier(states: Sequence[Any], module: torch.nn.Module) -> symgraph.LossBarrier:
    return symgraph.loss_barrier(*states, demo.held_out(), module=module, metrics=["accuracy"])


def show(label: str, found: symgraph.LossBarrier, time: float) -> None:
    loss, accuracy = found.loss, found.metrics[0]
    even = accuracy.values[accuracy.mixtures.index((1 / accuracy.models,) * accuracy.models)]
    print(
        f"    {label:<26} loss barrier {loss.barrier:.4f} \u00b1 {loss.standard_error:.4f}, even mixture "
        f"{loss.midpoint:.4f}, its accuracy {even:.3f}, {time:.1f} s",
        flush=True,
    )


def measure(count: int, steps: int) -> dict[str, symgraph.LossBarrier]:
    """All four, for this many models."""
    models = trained(count)
    data, learning = training_batches(), symgraph.LearnOptions(sampler="dirichlet", steps=steps)
    print(f"{count} models, one thread", flush=True)
    runs: dict[str, Callable[[], Sequence[Any]]] = {
        "as trained": lambda: [m.module for m in models],
        "each aligned to the first": lambda: to_first(models),
        "universe": lambda: symgraph.universe(models).states,
        "universe, activations": lambda: seen(models, data, 1.0),
        "universe, mixed": lambda: seen(models, data, "auto"),
        "universe, learned": lambda: symgraph.universe(models, method="learned", data=data, learning=learning).states,
        "universe, learned, worst": lambda: (
            symgraph.universe(models, method="learned", data=data, learning=replace(learning, estimate="worst")).states
        ),
    }
    found = {}
    for label, run in runs.items():
        time, states = seconds(run)
        found[label] = barrier(states, models[0].module)
        show(label, found[label], time)
    return found


def seen(models: Sequence[symgraph.Model], data: Any, alpha: float | str) -> Sequence[Any]:
    found = symgraph.universe(models, method="activations", data=data, options=symgraph.MatchOptions(alpha=alpha))
    print("\n".join(f"        {n}" for n in found.notes if n.startswith("chosen")), end="\n" if alpha == "auto" else "")
    return found.states


def to_first(models: Sequence[symgraph.Model]) -> list[Any]:
    found = [symgraph.align(models[0], m) for m in models[1:]]
    return [found[0].reference, *(a.state for a in found)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    with one_thread():
        for count in args.models:
            measure(count, args.steps)


if __name__ == "__main__":
    main()
