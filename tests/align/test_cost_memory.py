"""What a run says it will hold is what it holds, in processes of their own: peaks are of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

# What is said may be so many times too much or too little.
FACTOR = 1.5
TINY: dict[str, Any] = {"vocab_size": 16, "hidden_size": 64, "intermediate_size": 176}
# In the first the largest tensor counts, in the second the largest table of correlations.
SHAPES: dict[str, dict[str, Any]] = {
    "merge": {"vocab_size": 16_000, "hidden_size": 256, "intermediate_size": 512},
    "align": {"vocab_size": 500, "hidden_size": 256, "intermediate_size": 3_000},
}
# Runs a command on tiny models, so that all is imported, says what it would hold on large ones, and runs it on them.
_RUN = """
import contextlib, io, json, sys
from pathlib import Path
from symgraph.cli import main

def kibibytes(name):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))

def run(size, *more):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*command, f"{size}-0", f"{size}-1", "--sweeps", "1", "-q", "--out", f"{size}-out", *more]) == 0
    return out.getvalue()

command = sys.argv[1:]
run("tiny")
said = json.loads(run("large", "--dry-run", "--json"))["cost"]["memory"]
Path("/proc/self/clear_refs").write_text("5")
before = kibibytes("VmRSS")
run("large")
print(json.dumps([said, 1024 * (kibibytes("VmHWM") - before)]))
"""


def _save(folder: Path, shape: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=2, num_attention_heads=4))
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak of a process")
@pytest.mark.parametrize("command", SHAPES)
def test_a_run_holds_what_it_says(command: str, tmp_path: Path) -> None:
    for seed in range(2):
        _save(tmp_path / f"tiny-{seed}", TINY, seed)
        _save(tmp_path / f"large-{seed}", SHAPES[command], seed)
    call = [sys.executable, "-c", _RUN, command]
    found = subprocess.run(call, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    said, held = json.loads(found.stdout.splitlines()[-1])
    assert said / FACTOR < held < said * FACTOR, f"{said / 2**20:.0f} MiB said, {held / 2**20:.0f} MiB held"
