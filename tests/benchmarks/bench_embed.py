"""Time and peak memory of an exact embedding over the number of layers: both should grow as the model does.

    python tests/benchmarks/bench_embed.py [LAYERS ...]

GPT-2 of width 32 with two heads, embedded into width 64: heads grow too, so that factors have to be solved for.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench_memory import forget_peak, resident
from measure import language_model, one_thread

import symgraph
from symgraph.resize.embed import embed
from symgraph.tracing import state_of

DEPTHS = (2, 8, 32)


def run(layers: int) -> None:
    """One embedding; prints nodes, seconds, MiB over what was held before, and MiB of the wide state in float64."""
    small = {"n_layer": layers, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    wide, narrow = (language_model(width, n_embd=width, **small) for width in (64, 32))
    outer, inner = (symgraph.infer(m) for m in (wide, narrow))
    states = [dict(state_of(m)) for m in (narrow, wide)]
    forget_peak()
    before, start = resident("VmRSS"), time.process_time()
    with one_thread():
        embed(outer, inner, *states)
    own = sum(t.numel() * 8 for t in states[1].values()) / 2**20
    print(len(inner.graph.nodes), time.process_time() - start, resident("VmHWM") - before, own)


def main(depths: Sequence[int] = DEPTHS) -> dict[int, dict[str, float]]:
    found = {}
    for layers in depths:
        command = [sys.executable, str(Path(__file__)), "--run", str(layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        keys = ("nodes", "seconds", "peak", "state")
        found[layers] = dict(zip(keys, map(float, done.stdout.split()[-4:]), strict=True))
        f = found[layers]
        print(
            f"{layers} layers, {f['nodes']:.0f} values: {f['seconds']:.1f} s ({1e3 * f['seconds'] / f['nodes']:.1f} ms "
            f"each), peak {f['peak']:.0f} MiB beside a state of {f['state']:.1f} MiB",
            flush=True,
        )
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(int(sys.argv[2]))
    else:
        main([int(x) for x in sys.argv[1:]] or DEPTHS)
