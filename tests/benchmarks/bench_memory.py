"""Peak memory of learned matching over that of plain training, of the same module on the same batches.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_memory.py [gpt2-shakespeare] [vit-cifar10]

Each runs in a process of its own. Libraries and data count in neither: what is compared is the peak over what the
process held when both were loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from bench_learned import training_batches
from bench_zoo import PAIRS, zoo

import symgraph
from symgraph.match.match_options import LearnOptions

STEPS = 20


def resident(name: str) -> float:
    """Resident memory in MiB, as Linux tells it: `VmRSS` now, `VmHWM` the peak since `forget_peak`."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def warm_up() -> None:
    """Everything that is imported only when it is first needed, on a network of no size."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    object.__setattr__(net, "example_inputs", (torch.randn(2, 3),))
    data = [{"input": torch.randn(2, 3), "labels": torch.tensor([0, 1])}] * 2
    options = LearnOptions(steps=1, permutations=True)
    symgraph.align(net, net, method="learned", data=data, validation=data, learning=options)


def plain(pair: str, folder: Path, training: Any) -> None:
    """A model, its optimiser, and some steps."""
    model = symgraph.model(folder / f"{pair}-0").module
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    for batch in islice(training, STEPS):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()


def learned(pair: str, folder: Path, training: Any, validation: Any) -> None:
    """Two models, from tracing to the checked result."""
    options = LearnOptions(steps=STEPS, check_every=STEPS, patience=0)
    a, b = (folder / f"{pair}-{i}" for i in (0, 1))
    symgraph.align(a, b, method="learned", data=training, validation=validation, learning=options)


def measured(role: str, pair: str) -> float:
    """The peak of one run, in MiB over what was held at its start."""
    command = [sys.executable, __file__, pair, "--role", role]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    parser.add_argument("--role", choices=("plain", "learned"))
    args = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("zoo: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    for pair in args.pairs:
        if args.role is None:
            ours, theirs = measured("learned", pair), measured("plain", pair)
            print(f"{pair}: memory {ours / theirs:.2f} ({ours:.0f} MiB over {theirs:.0f} MiB)", flush=True)
            continue
        training, _ = training_batches(pair, folder)
        warm_up()
        forget_peak()
        before = resident("VmRSS")
        if args.role == "plain":
            plain(pair, folder, training)
        else:
            learned(pair, folder, training, [training[i] for i in range(2)])
        print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
