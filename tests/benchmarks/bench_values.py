"""How much of one model's residual stream another one's explains: as it is, through alignments, and by a fit on it.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_values.py [--methods weights learned transport]

Of the zoo's GPT-2 pair: the share of the variance of A's stream that B's explains after each block, on test windows,
both without their mean along the stream, which nothing reads. `Procrustes` is the best rotation on training windows,
a fit that knows both models' values; `weights` has seen no data at all. Origins are those of the map, or (centred)
the means of both on training windows, which all fits know. `transport` is what `symgraph transport --vectors` does:
the stream is turned by the values of that very block alone, on text that the models write themselves, without any data;
`with-data` is the same on the training windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_zoo import test_batches, windows, zoo
from measure import Batch, one_thread
from torch import Tensor, nn

import symgraph
from symgraph.match.value_map import value_map

PAIR, TRAINING = "gpt2-shakespeare", 40
# Of whole models.
METHODS: dict[str, dict[str, Any]] = {
    "weights": {},
    "activations": {"method": "activations"},
    "learned": {"method": "learned", "learning": {"steps": 200}},
}
# At one block after the other: whether on training windows, or on what the models write.
THERE = {"transport": False, "with-data": True}


@torch.no_grad()
def streams(module: nn.Module, places: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The result of each block on all tokens, without its mean along the stream: (tokens, d) float64."""
    kept: dict[str, list[Tensor]] = {place: [] for place in places}
    handles = []
    for place in places:

        def keep(_: nn.Module, __: object, result: object, place: str = place) -> None:
            first = result[0] if isinstance(result, tuple) else result
            assert isinstance(first, Tensor)
            rows = first.flatten(0, -2).double()
            kept[place].append(rows - rows.mean(-1, keepdim=True))

        handles.append(module.get_submodule(place).register_forward_hook(keep))
    for batch in batches:
        module(**batch)
    for handle in handles:
        handle.remove()
    return {place: torch.cat(rows) for place, rows in kept.items()}


def explained(wanted: Tensor, found: Tensor) -> float:
    """1 - |wanted - found|^2 / |wanted - its mean|^2."""
    return 1 - float((wanted - found).square().sum() / (wanted - wanted.mean(0)).square().sum())


def procrustes(wanted: Tensor, given: Tensor) -> Tensor:
    """The orthogonal matrix that takes `given` nearest to `wanted`, both centred: rows times its transpose."""
    left, _, right = torch.linalg.svd((wanted - wanted.mean(0)).T @ (given - given.mean(0)))
    found: Tensor = left @ right
    return found


def measure(folder: Path, methods: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    a, b = (symgraph.model(folder / f"{PAIR}-{i}") for i in (0, 1))
    places = [name for name, _ in a.module.named_modules() if name.count(".") == 2 and ".h." in name]
    training = windows(folder, "train")
    seen = [streams(m.module, places, training[:TRAINING]) for m in (a, b)]
    tested = [streams(m.module, places, list(test_batches(PAIR, folder))) for m in (a, b)]
    found: dict[str, list[tuple[float, float]]] = {}

    def said(name: str, place: str, matrix: Tensor, constant: Tensor) -> None:
        wanted, given = (t[place] for t in tested)
        means = [s[place].mean(0) for s in seen]
        plain = explained(wanted, given @ matrix.T + constant)
        centred = explained(wanted, (given - means[1]) @ matrix.T + means[0])
        found.setdefault(name, []).append((plain, centred))
        print(f"{name:<14} {place:<16} {plain:7.3f} ({centred:6.3f})", flush=True)

    nothing = torch.zeros(tested[0][places[0]].shape[1], dtype=torch.float64)
    for place in places:
        said("as they are", place, torch.eye(len(nothing), dtype=torch.float64), nothing)
        fit = procrustes(seen[0][place], seen[1][place])
        said("Procrustes", place, fit, seen[0][place].mean(0) - fit @ seen[1][place].mean(0))
    for method in (m for m in methods if m in THERE):
        given: dict[str, Any] = {"data": training[:TRAINING]} if THERE[method] else {}
        for place in places:
            moved = symgraph.transport_vectors(b, {"stream": torch.eye(len(nothing))}, a, at=place, **given).map
            said(method, place, moved.matrix, moved.constant)
    for method in (m for m in methods if m in METHODS):
        data: dict[str, Any] = {} if method == "weights" else {"data": training}
        alignment = symgraph.align(a, b, **METHODS[method], **data).alignment
        for place in places:
            moved = value_map(b, alignment, place)
            said(method, place, moved.matrix, moved.constant)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *THERE], default=["weights", "activations", *THERE])
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("values: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        measure(folder, args.methods)


if __name__ == "__main__":
    main()
