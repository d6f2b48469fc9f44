"""Recipes of merges on pairs of trained models: the loss of the result on the test split, as they are and in one basis.

SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_recipes.py [gpt2-shakespeare] [vit-cifar10]

Where mergekit is installed it runs every recipe, too; what it leaves out of a result is said in the place of a loss.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from bench_zoo import PAIRS, test_batches, zoo
from measure import one_thread
from torch import nn

import symgraph
from symgraph.errors import CheckpointError
from symgraph.io.mergekit import command

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "slerp": {"t": 0.5},
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5, "normalize": False},
    "dare_linear": {"weight": 0.5, "density": 0.5},
}


@torch.no_grad()
def loss_of(module: nn.Module, batches: Iterable[Any]) -> float:
    losses = [(float(module(**b).loss), len(b["labels"])) for b in batches]
    return sum(x * n for x, n in losses) / sum(n for _, n in losses)


def merged(by: str, method: str, models: dict[str, Any], batches: list[Any]) -> str:
    """Losses of one recipe, as the models are and in the basis of the first."""
    listed = [{"model": name} for name in models]
    recipe = {"merge_method": method, "base_model": "a", "models": listed, "parameters": METHODS[method]}
    losses = []
    for align in (False, True):
        try:
            with one_thread():
                found = symgraph.merge_by_recipe(recipe, models=models, align=align, by=by)
        except CheckpointError as error:
            return f"refused: {error.cause[:60]}"
        losses.append(loss_of(found.module, batches))
    return " -> ".join(f"{loss:.3f}" for loss in losses)


def main() -> None:
    folder = zoo()
    if folder is None:
        print("recipes: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    engines = ["symgraph", *(["mergekit"] if command() else [])]
    for pair in sys.argv[1:] or PAIRS:
        models = {name: symgraph.model(folder / f"{pair}-{i}") for i, name in enumerate("ab")}
        batches = list(test_batches(pair, folder))
        ends = ", ".join(f"{loss_of(model.module, batches):.3f}" for model in models.values())
        print(f"{pair}: ends {ends}; as they are -> in one basis")
        for method in METHODS:
            found = (f"by {by} {merged(by, method, models, batches)}" for by in engines)
            print(f"  {method:<16} {'   '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
