"""One alignment shared by several processes: process time, and how often the bits of both models are read, by process.

    python tests/benchmarks/bench_ranks.py [--layers 12] [--counts 1 2] [--sweeps 2]

Two checkpoints of the shape of GPT-2 small with so many of its layers and random weights are aligned by `torchrun`, in
processes on one thread each. Time is counted from when all is imported; "match" ends where the first process goes on
alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_memory import forget_peak, resident, warm_up
from torch import Tensor

from symgraph.cli import main as command_line
from symgraph.io.shards import Stored


def save(folder: Path, layers: int) -> None:
    """Two models with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model: Any = GPT2LMHeadModel(GPT2Config(n_layer=layers))
        model.save_pretrained(folder / name)


class Marks(logging.Handler):
    """Process time, and bytes read, where the steps of the program begin."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.read, self.start = 0, time.process_time()
        self.found: dict[str, tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the first word."""
        self.note(record.getMessage().partition(" ")[0])

    def note(self, what: str) -> None:
        self.found[what] = (time.process_time() - self.start, self.read)


def one(folder: Path, sweeps: int) -> None:
    """One of the processes; what it has noted goes to a file."""
    torch.set_num_threads(1)
    warm_up()
    marks, read = Marks(), Stored.read

    def reading(stored: Stored) -> Tensor:
        marks.read += stored.size
        return read(stored)

    Stored.read = reading  # type: ignore[method-assign,assignment]
    log = logging.getLogger("symgraph")
    log.setLevel(logging.INFO)
    log.addHandler(marks)
    forget_peak()
    held = resident("VmRSS")
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    words = ["align", str(folder / "a"), str(folder / "b"), "--out", str(folder / f"out-{count}")]
    code = command_line([*words, "--sweeps", str(sweeps), "--tolerance", "0", "--no-cache", "-q"])
    marks.note("end")
    peak = resident("VmHWM") - held
    (folder / f"{count}-{rank}.json").write_text(json.dumps([code, marks.found, peak]))


def shown(folder: Path, count: int) -> None:
    """What the processes of a run have noted."""
    stored = (folder / "a" / "model.safetensors").stat().st_size
    for rank in range(count):
        code, found, peak = json.loads((folder / f"{count}-{rank}.json").read_text())
        parts = [f"{what} {at:.1f} s, {read / stored:.2f} checkpoints" for what, (at, read) in found.items()]
        print(
            f"process {rank} of {count} (exit {code}, {peak / stored * 2**20:.2f} held): {'; '.join(parts)}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sweeps", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.folder is not None:
        one(args.folder, args.sweeps)
        return
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), args.layers)
        for count in args.counts:
            start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
            subprocess.run([*start, __file__, "--folder", name, "--sweeps", str(args.sweeps)], check=True)
            shown(Path(name), count)


if __name__ == "__main__":
    main()
