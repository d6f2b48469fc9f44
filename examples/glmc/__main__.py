"""Table 2 of "Generalized Linear Mode Connectivity for Transformers" (arXiv 2506.22712), from training to barriers.

    python examples/glmc --data cifar10=FOLDER --data tinyshakespeare=input.txt --scale small

Trains pairs of models from different seeds, aligns each pair by every method, and prints the test-loss barriers at 11
points as mean and standard error over the pairs, beside the paper's. Images: a folder with train.parquet and
test.parquet, columns img and label. Everything is kept under --out, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from corpora import EVALUATED, Corpus, images, text
from settings import METHODS, PAPER, Setting, scaled
from torch import nn
from training import endpoint
from transformers.utils.logging import disable_progress_bar

import symgraph
from symgraph.match.match_options import LearnOptions, MatchOptions

Results = dict[str, dict[str, Any]]


def aligned(method: str, a: nn.Module, b: nn.Module, s: Setting, corpus: Corpus, device: torch.device) -> Any:
    """The two endpoints of the line, and the module to evaluate them in."""
    if method == "vanilla":
        return dict(a.state_dict()), dict(b.state_dict())
    if method == "weights":
        found = symgraph.align(a, b)
        return found.reference, found.state
    data: dict[str, Any] = {"data": corpus.lesson(s.learning_batch), "validation": corpus.batches("validation", 64)}
    if method in ("activations", "mixed"):
        options = MatchOptions(alpha=1.0 if method == "activations" else "auto")
        found = symgraph.align(a, b, method="activations", options=options, **data)
        return found.reference, found.state
    only = method.endswith("permutations only")
    symmetry = symgraph.infer(a)
    dual = method.endswith("dual")
    learning = LearnOptions(steps=s.steps, lr=s.learning_rate, dual=dual, patience=0, permutations=only, full=not only)
    found = symgraph.align(
        a,
        b,
        method="learned",
        symmetry=symmetry.within("permutation") if only else symmetry,
        learning=learning,
        device=device,
        dtype=torch.float64 if device.type == "cpu" else torch.float32,
        **data,
    )
    return found.reference, found.state


def measure(s: Setting, corpus: Corpus, pair: int, out: Path, methods: Sequence[str], device: torch.device) -> None:
    """Trains and aligns one pair; a file for every method that is done."""
    folder = out / s.name
    ends = [endpoint(s, corpus, 2 * pair + i, folder / f"{2 * pair + i}", device) for i in range(2)]
    test = corpus.batches("test", EVALUATED if not corpus.text else 16)
    for method in methods:
        path = folder / f"pair-{pair}" / f"{method.replace(', ', '-').replace(' ', '-')}.json"
        if path.exists():
            continue
        start = time.perf_counter()
        model = [e.cpu() for e in ends]
        first, second = aligned(method, model[0], model[1], s, corpus, device)
        taken = time.perf_counter() - start
        metrics = () if corpus.text else ("accuracy",)
        found = symgraph.loss_barrier(first, second, test, module=model[0], metrics=metrics, device=device)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"barrier": found.barrier, "error": found.standard_error, "midpoint": found.midpoint}
        record |= {"minimum": found.interior_min, "seconds": taken, "curve": json.loads(found.to_json())}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record))
        partial.rename(path)
        print(f"  pair {pair}  {method:<28} barrier {found.barrier:.4f} \u00b1 {found.standard_error:.4f}", end="")
        print(f"  midpoint {found.midpoint:.4f}  {taken:.0f} s", flush=True)


def table(out: Path, settings: Sequence[Setting], pairs: int, methods: Sequence[str]) -> str:
    """Barriers by method: mean and standard error over the pairs, then the paper's."""
    head = ["barrier", *(x for s in settings for x in (s.name, "paper"))]
    lines = [head]
    for method in methods:
        row = [method]
        for s in settings:
            name = f"{method.replace(', ', '-').replace(' ', '-')}.json"
            paths = [out / s.name / f"pair-{i}" / name for i in range(pairs)]
            values = [json.loads(p.read_text())["barrier"] for p in paths if p.exists()]
            row += [_figure(values), _paper(s.paper.get(method))]
        lines.append(row)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _figure(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f} (1 pair)"
    error = stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.3f} \u00b1 {error:.3f} ({len(values)} pairs)"


def _paper(figure: tuple[float, float] | None) -> str:
    return "-" if figure is None else f"{figure[0]:.2f} \u00b1 {figure[1]:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python examples/glmc", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH", help=", ".join(PAPER))
    parser.add_argument("--scale", choices=("paper", "small", "tiny"), default="small")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of models for each data set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--tokenizer", help="for texts: a folder or hub id, as gpt2 in the paper; else one is trained")
    parser.add_argument("--limit", type=int, help="read only so many images of each file (2,000 characters each)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "out" / "glmc")
    options = parser.parse_args(arguments)
    disable_progress_bar()
    settings = []
    out = options.out / options.scale
    for given in options.data:
        name, _, path = given.partition("=")
        if name not in PAPER or not path or not Path(path).exists():
            parser.error(f"--data {given}: give NAME=PATH, a name of {', '.join(PAPER)} and a path that exists")
        s = scaled(PAPER[name], options.scale)
        settings.append(s)
        (out / name).mkdir(parents=True, exist_ok=True)
        print(f"{name}: {s.layers} layers, {s.heads} heads, width {s.width}, hidden {s.hidden}", flush=True)
        if s.kind == "images":
            corpus = images(Path(path), s, options.limit)
        else:
            corpus = text(Path(path), s, options.tokenizer, out / name, options.limit)
        for pair in range(options.pairs):
            measure(s, corpus, pair, out, options.methods, torch.device(options.device))
    print()
    print(table(out, settings, options.pairs, options.methods))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
