"""Recipes of merges on pairs of trained models: the loss of the result on the test split, as they are and in one basis.

SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_recipes.py [gpt2-shakespeare] [vit-cifar10]
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


def main() -> None:
    folder = zoo()
    if folder is None:
        print("recipes: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in sys.argv[1:] or PAIRS:
        models = {name: symgraph.model(folder / f"{pair}-{i}") for i, name in enumerate("ab")}
        batches = list(test_batches(pair, folder))
        ends = ", ".join(f"{loss_of(m.module, batches):.3f}" for m in models.values())
        print(f"{pair}: ends {ends}")
        for method, parameters in METHODS.items():
            listed = [{"model": name} for name in models]
            recipe = {"merge_method": method, "base_model": "a", "models": listed, "parameters": parameters}
            with one_thread():
                found = [symgraph.merge_by_recipe(recipe, models=models, align=align) for align in (False, True)]
                raw, aligned = (loss_of(m.module, batches) for m in found)
            print(f"  {method:<16} {raw:.3f} -> {aligned:.3f}", flush=True)


if __name__ == "__main__":
    main()
