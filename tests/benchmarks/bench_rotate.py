"""Rotations before rounding: how much the loss of a trained language model rises, by what its weights were turned by.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_rotate.py [gpt2-shakespeare-0] [--draws 8] [--steps 200]

Round to nearest, symmetric: weights with a step for each output or for groups of 128 inputs, in W4A4 the inputs of the
same matrices with a step for each position. Tables and heads stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from bench_zoo import test_batches, zoo
from measure import Batch, one_thread
from torch import Tensor, nn

import symgraph
from symgraph.inference.sources import with_state
from symgraph.orbit.rounding_error import Rounding, rounded_matrices

GRIDS: dict[str, tuple[Rounding, int]] = {
    "W4A16": (Rounding(4), 0),
    "W3A16 g128": (Rounding(3, 128), 0),
    "W4A4": (Rounding(4), 4),
}


@contextmanager
def rounded_inputs(module: nn.Module, names: Mapping[str, int], bits: int) -> Iterator[None]:
    """The inputs of the matrices rounded to so many bits at each position; 0: as they are."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = inputs
        return Rounding(bits)(first, -1), *others

    modules = [module.get_submodule(name.rpartition(".")[0]) for name in names] if bits else []
    handles = [m.register_forward_pre_hook(hook) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def loss_of(
    module: nn.Module, matrices: Mapping[str, int], grid: Rounding | None, bits: int, data: list[Batch]
) -> float:
    state = {n: t.detach() for n, t in module.state_dict().items()}
    if grid is not None:
        state |= {n: grid(state[n], axis) for n, axis in matrices.items()}
    found = with_state(module, state)
    with rounded_inputs(found, matrices, bits):
        losses = [(float(found(**b).loss), len(b["labels"])) for b in data]
    return sum(x * n for x, n in losses) / sum(n for _, n in losses)


def measure(name: str, model: Any, data: list[Batch], draws: int, steps: int) -> None:
    symmetry = symgraph.infer(model)
    matrices = rounded_matrices(symmetry)
    plain = loss_of(model.module, matrices, None, 0, data)
    turned = [symgraph.rotate(model, seed=seed).module for seed in range(draws)]
    uniform = symgraph.rotate(model, by="random").module
    print(f"{name}: loss {plain:.4f}; rise by rounding")
    for label, (grid, bits) in GRIDS.items():
        how: dict[str, Any] = {"by": "learned", "bits": grid.bits, "group": grid.group, "options": {"steps": steps}}
        learned = symgraph.rotate(model, **how).module
        rises = {
            "as given": loss_of(model.module, matrices, grid, bits, data) - plain,
            "uniform": loss_of(uniform, matrices, grid, bits, data) - plain,
            "Hadamard": median(loss_of(m, matrices, grid, bits, data) for m in turned) - plain,
            "learned": loss_of(learned, matrices, grid, bits, data) - plain,
        }
        share = 1 - rises["learned"] / rises["Hadamard"]
        text = "  ".join(f"{n} {x:.4f}" for n, x in rises.items())
        print(f"  {label:<10} {text}  ({share:.0%} less than the median Hadamard of {draws})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["gpt2-shakespeare-0", "gpt2-shakespeare-1"])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("rotations: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        for name in args.models:
            data = list(test_batches("gpt2-shakespeare", folder))
            measure(name, symgraph.model(folder / name), data, args.draws, args.steps)


if __name__ == "__main__":
    main()
