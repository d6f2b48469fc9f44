"""Rotations before rounding: how much the loss of a trained language model rises, by what its weights were turned by.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_rotate.py [gpt2-shakespeare-0] [--draws 8] [--steps 200]
    ... --split validation --windows 40      on so many windows of another split
    ... outlying-0 outlying-1                small Llamas that are trained with outliers, on windows of 64

Round to nearest, symmetric: weights with a step for each output or for groups of 128 inputs, in W4A4 the inputs of the
same matrices with a step for each position. Tables and heads stay as they are. Beside the rise of the loss stands the
divergence of what is predicted from what was predicted before, which is never below zero and varies less.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from bench_zoo import windows, zoo
from measure import CONTEXT, Batch, one_thread
from outlying_text_model import LENGTH, outlying_model
from torch import Tensor, nn

import symgraph
from symgraph.inference.sources import with_state
from symgraph.match.calibrated import readers, rounded_inputs
from symgraph.orbit.incoherent import turnable
from symgraph.orbit.rounding_error import Rounding, rounded_matrices
from symgraph.symmetry.terms import leaves

GRIDS: dict[str, tuple[Rounding, int]] = {
    "W4A16": (Rounding(4), 0),
    "W3A16 g128": (Rounding(3, 128), 0),
    "W4A4": (Rounding(4), 4),
}


class Rounded:
    """What rounding does to a model on data: the rise of its loss, and the divergence from what it predicted."""

    @torch.no_grad()
    def __init__(self, module: nn.Module, matrices: Mapping[str, int], data: list[Batch]) -> None:
        self.matrices, self.data = matrices, data
        found = [module(**b) for b in data]
        self.before = [(float(o.loss), o.logits.log_softmax(-1)) for o in found]

    @property
    def loss(self) -> float:
        return mean([loss for loss, _ in self.before], self.data)

    @torch.no_grad()
    def __call__(
        self, module: nn.Module, grid: Rounding | None, bits: int, read: Mapping[str, int] | None = None
    ) -> tuple[float, float]:
        """Args: read: the matrices whose inputs are rounded, all where none are named."""
        state = {n: t.detach() for n, t in module.state_dict().items()}
        turned = {n: grid(state[n], axis) for n, axis in self.matrices.items()} if grid else {}
        found = with_state(module, state | turned)
        names = readers(found, self.matrices if read is None else read) if bits else ()
        with rounded_inputs(found, names, bits):
            outputs = [found(**b) for b in self.data]
        pairs = list(zip(outputs, self.before, strict=True))
        losses = [float(o.loss) - loss for o, (loss, _) in pairs]
        return mean(losses, self.data), mean([diverged(o.logits, was) for o, (_, was) in pairs], self.data)


def mean(values: list[float], data: list[Batch]) -> float:
    sizes = [len(b["labels"]) for b in data]
    return sum(x * n for x, n in zip(values, sizes, strict=True)) / sum(sizes)


def diverged(logits: Tensor, before: Tensor) -> float:
    return float((before.exp() * (before - logits.log_softmax(-1))).sum(-1).mean())


def measure(name: str, model: Any, data: list[Batch], draws: int, steps: int, calibration: list[Batch]) -> None:
    symmetry = symgraph.infer(model)
    matrices = rounded_matrices(symmetry)
    rounded = Rounded(model.module, matrices, data)
    turned = [symgraph.rotate(model, seed=seed).module for seed in range(draws)]
    uniform = symgraph.rotate(model, by="random").module
    print(f"{name}: loss {rounded.loss:.4f}; by rounding it rises (and what is predicted diverges)")
    for label, (grid, bits) in GRIDS.items():
        how: dict[str, Any] = {"by": "learned", "bits": grid.bits, "group": grid.group, "options": {"steps": steps}}
        single = {"as given": model.module, "uniform": uniform, "learned": symgraph.rotate(model, **how).module}
        single["on data"] = symgraph.rotate(model, **how, data=calibration, inputs=bits).module
        found = {n: rounded(m, grid, bits) for n, m in single.items()}
        rises, divergences = zip(*(rounded(m, grid, bits) for m in turned), strict=True)
        found["Hadamard"] = median(rises), median(divergences)
        text = "  ".join(f"{n} {rise:.4f} ({divergence:.4f})" for n, (rise, divergence) in found.items())
        print(f"  {label:<10} {text}; Hadamards from {min(rises):.4f} to {max(rises):.4f}", flush=True)
    still = unturned(symmetry, matrices)
    rise, divergence = rounded(turned[0], None, 4, still)
    print(f"  inputs at 4 bits where nothing rotates, of {len(still)} matrices alone: {rise:.4f} ({divergence:.4f})")


def unturned(symmetry: symgraph.SymmetryGraph, matrices: Mapping[str, int]) -> dict[str, int]:
    """The matrices that read what no rotation of the group reaches."""
    spaces = {space.id for space in turnable(symmetry)}
    return {
        name: axis
        for name, axis in matrices.items()
        if not any(leaf.space in spaces for leaf in leaves(symmetry.terms[name][axis]))
    }


def cut(batches: list[Batch], length: int, size: int) -> list[Batch]:
    """Windows of another length, so many in a batch."""
    tokens = torch.cat([batch["input_ids"] for batch in batches]).view(-1, length)
    return [{"input_ids": part, "labels": part} for part in torch.split(tokens, size)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["gpt2-shakespeare-0", "gpt2-shakespeare-1"])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--split", default="test")
    parser.add_argument("--windows", type=int)
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("rotations: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        for name in args.models:
            own = not name.startswith("outlying-")
            model = symgraph.model(
                folder / name if own else outlying_model(folder, int(name.removeprefix("outlying-")))
            )
            size, count = (CONTEXT, 8) if own else (LENGTH, 32)
            data = cut(list(windows(folder, args.split, args.windows)), size, 16)
            calibration = cut(list(windows(folder, "train", 32 * count * size // CONTEXT)), size, count)
            measure(name, model, data, args.draws, args.steps, calibration)


if __name__ == "__main__":
    main()
