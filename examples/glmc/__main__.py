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
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from jobs import Job, file_name, run_all, train_all, workers
from settings import METHODS, PAPER, Setting, scaled
from transformers.utils.logging import disable_progress_bar


def table(out: Path, settings: Sequence[Setting], pairs: int, methods: Sequence[str]) -> str:
    """Barriers by method: mean and standard error over the pairs, then the paper's."""
    head = ["barrier", *(x for s in settings for x in (s.name, "paper"))]
    lines = [head]
    for method in methods:
        row = [method]
        for s in settings:
            name = f"{file_name(method)}.json"
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python examples/glmc", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH", help=", ".join(PAPER))
    parser.add_argument("--scale", choices=("paper", "small", "tiny"), default="small")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of models for each data set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--tokenizer", help="for texts: a folder or hub id, as gpt2 in the paper; else one is trained")
    parser.add_argument("--limit", type=int, help="read only so many images of each file (2,000 characters each)")
    parser.add_argument("--epochs", type=float, help="of training, in place of the scale's")
    parser.add_argument("--steps", type=int, help="of learned matching, in place of the scale's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="on a GPU: models are trained as torch.compile has them")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the methods")
    parser.add_argument("--deadline", type=float, default=math.inf, help="begin no method after so many seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "out" / "glmc")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.deadline
    disable_progress_bar()
    settings: list[Setting] = []
    jobs: list[Job] = []
    out = options.out / options.scale
    with workers(options.jobs) as pool:
        for given in options.data:
            name, _, path = given.partition("=")
            if name not in PAPER or not path or not Path(path).exists():
                parser.error(f"--data {given}: give NAME=PATH, a name of {', '.join(PAPER)} and a path that exists")
            s = scaled(PAPER[name], options.scale)
            changed = {n: value for n in ("epochs", "steps") if (value := getattr(options, n)) is not None}
            s = replace(s, **changed)
            settings.append(s)
            (out / name).mkdir(parents=True, exist_ok=True)
            print(f"{name}: {s.layers} layers, {s.heads} heads, width {s.width}, hidden {s.hidden}", end=", ")
            print(f"{s.epochs:g} epochs", flush=True)
            one = Job(s, Path(path), out, options.tokenizer, options.limit, torch.device(options.device), 0, "")
            train_all(one, options.pairs, options.compile)
            jobs += [replace(one, pair=pair, method=m) for pair in range(options.pairs) for m in options.methods]
        run_all(jobs, pool, end)
    print()
    print(table(out, settings, options.pairs, options.methods))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
