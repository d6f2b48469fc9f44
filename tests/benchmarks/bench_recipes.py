"""Recipes of merges on pairs of trained models: the loss of the result on the test split, as they are and in one basis.

SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_recipes.py [gpt2-shakespeare] [vit-cifar10]
... gpt2-shakespeare --only dare_linear --density 0.7 --seeds 5 --windows 20    on the first windows of validation text

Where mergekit is installed it runs every recipe, too; what it leaves out of a result is said in the place of a loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

import torch
from bench_zoo import PAIRS, test_batches, windows, zoo
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


def merged(by: str, recipe: dict[str, Any], models: dict[str, Any], batches: list[Any], seeds: Sequence[int]) -> str:
    """Losses of one recipe, as the models are and in the basis of the first; of several seeds, mean and error."""
    losses = []
    for align in (False, True):
        try:
            with one_thread():
                found = [symgraph.merge_by_recipe(recipe, models=models, align=align, by=by, seed=s) for s in seeds]
        except CheckpointError as error:
            return f"refused: {error.cause[:60]}"
        each = [loss_of(merge.module, batches) for merge in found]
        spread = f" ± {stdev(each) / len(each) ** 0.5:.3f}" if len(each) > 1 else ""
        losses.append(f"{mean(each):.3f}{spread}")
    return " -> ".join(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=1, help="of what DARE drops")
    parser.add_argument("--windows", type=int, help="so many windows of validation text in the place of the test split")
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("recipes: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    engines = ["symgraph", *(["mergekit"] if command() else [])]
    for pair in args.pairs:
        models = {name: symgraph.model(folder / f"{pair}-{i}") for i, name in enumerate("ab")}
        batches = list(windows(folder, "validation", args.windows) if args.windows else test_batches(pair, folder))
        ends = ", ".join(f"{loss_of(model.module, batches):.3f}" for model in models.values())
        print(f"{pair}: ends {ends}; as they are -> in one basis")
        for method in args.only:
            parameters = METHODS[method] | ({"density": args.density} if "density" in METHODS[method] else {})
            listed = {"base_model": "a", "models": [{"model": name} for name in models]}
            recipe = {"merge_method": method, "parameters": parameters, **listed}
            found = (f"by {by} {merged(by, recipe, models, batches, range(args.seeds))}" for by in engines)
            print(f"  {method:<16} {'   '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
