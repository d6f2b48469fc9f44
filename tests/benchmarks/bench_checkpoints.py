"""Peak memory of commands on two bfloat16 checkpoints, in checkpoints over what the process held after tiny ones.

    python tests/benchmarks/bench_checkpoints.py [COMMAND ...] [--width 512] [--layers 10] [--vocabulary 8000]

Each command runs in a process of its own, once on tiny checkpoints of the class, so that everything is imported, and
then on large ones. `apply` uses an alignment that `align --sweeps 1` of the same two has written; `merge` takes the
models as they are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from bench_memory import forget_peak, resident

from symgraph.cli import main as command_line

COMMANDS = {
    "merge": ("merge", "{a}", "{b}", "--weights", ".5", ".5", "--no-align"),
    "merge-aligned": ("merge", "{a}", "{b}", "--weights", ".5", ".5"),
    "align": ("align", "{a}", "{b}", "--sweeps", "1", "--alignment", "{alignment}"),
    "apply": ("apply", "{alignment}", "{b}"),
}


def save(folder: Path, seed: int, width: int, layers: int, vocabulary: int) -> None:
    """A Llama of these sizes with random weights, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers}
    sizes |= {"intermediate_size": 11 * width // 4, "num_attention_heads": max(width // 64, 1)}
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    model.to(torch.bfloat16).save_pretrained(folder)


def run(name: str, folder: Path, size: str, out: str) -> None:
    """One command on the checkpoints of a size."""
    places = {k: str(folder / f"{size}-{k}") for k in ("a", "b")}
    places["alignment"] = str(folder / (f"{size}.safetensors" if name == "apply" else f"{out}.safetensors"))
    arguments = [part.format(**places) for part in COMMANDS[name]]
    with redirect_stdout(StringIO()):
        if code := command_line([*arguments, "--out", str(folder / out)]):
            sys.exit(code)


def peak(name: str, folder: Path) -> None:
    """Prints the peak of a command in MiB, and the process time in seconds."""
    run(name, folder, "tiny", f"{name}-tiny")
    forget_peak()
    before, start = resident("VmRSS"), time.process_time()
    run(name, folder, "large", f"{name}-large")
    print(resident("VmHWM") - before, time.process_time() - start)


def measured(name: str, folder: Path) -> tuple[float, float]:
    """Peak and time of a command in a process of its own."""
    command = [sys.executable, __file__, name, "--role", str(folder)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return float(found[-2]), float(found[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--role")
    for name, count in (("width", 512), ("layers", 10), ("vocabulary", 8000)):
        parser.add_argument(f"--{name}", type=int, default=count)
    args = parser.parse_args()
    if args.role is not None:
        peak(args.commands[0], Path(args.role))
        return
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        for seed, name in enumerate("ab"):
            save(folder / f"large-{name}", seed, args.width, args.layers, args.vocabulary)
            save(folder / f"tiny-{name}", seed, 64, 1, 16)
        if "apply" in args.commands:
            for size in ("tiny", "large"):
                run("align", folder, size, size)
        stored = sum(f.stat().st_size for f in (folder / "large-a").glob("*.safetensors")) / 2**20
        for name in args.commands:
            memory, seconds = measured(name, folder)
            print(f"{name}: {memory / stored:.1f} checkpoints ({memory:.0f} MiB of {stored:.0f} MiB), {seconds:.0f} s")


if __name__ == "__main__":
    main()
