"""What several processes do together in the tests, and how they are started: `python ranked.py FILE` in each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mixtures
import torch
from models_zoo import network
from torch import Tensor

import symgraph
from symgraph.match.match_options import MatchOptions

State = dict[str, Tensor]
EXACT = MatchOptions(precision="float64", sweeps=3, tolerance=-1.0)


class Ended(NamedTuple):
    """How a process has ended, and what it has said."""

    code: int
    out: str
    err: str


def aligned(make: Callable[[int], Any], options: MatchOptions) -> State:
    """What an alignment comes to: the model, and the objective on the way."""
    found = symgraph.align(make(0), make(1), options=options)
    return {"objective": torch.tensor(found.alignment.objective), **found.state}


def merged() -> State:
    """The mean of three models."""
    return dict(symgraph.merge([network("llama", seed) for seed in range(3)], options=EXACT, rounds=1).state)


# A stream that is rotated, with heads beside it, from two starts; channels that hang together; experts, whose order
# follows from a cost of all their tensors; several models.
RUNS: dict[str, Callable[[], State]] = {
    "gpt2": lambda: aligned(lambda seed: network("gpt2-untied", seed), MatchOptions(precision="float64", restarts=1)),
    "resnet": lambda: aligned(lambda seed: network("resnet", seed), EXACT),
    "experts": lambda: aligned(
        lambda seed: mixtures.network("list", seed), MatchOptions(precision="float64", outer="gram")
    ),
    "merge": merged,
}


def started(words: Sequence[Any], count: int = 2, **environment: str) -> list[Ended]:
    """What comes of processes that run the same words together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(count), "SYMGRAPH_DEBUG": ""}
    where |= {"PYTHONPATH": os.pathsep.join(sys.path), **environment}
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**os.environ, **where, "RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=300) for process in running]
    return [Ended(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def main(file: Path) -> None:
    """Every run, the processes joined anew for each."""
    torch.set_num_threads(1)
    for name, run in RUNS.items():
        with symgraph.joined() as ranks:
            found = run()
            torch.save({"count": ranks.count, **found}, file.with_name(f"{name}.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
