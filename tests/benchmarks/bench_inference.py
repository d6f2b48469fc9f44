"""Inference over trace from a config alone, the memory that 70 billion parameters need, and linearity in the depth.

python tests/benchmarks/bench_inference.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from measure import one_thread, seconds
from transformers import GPT2Config, LlamaConfig

import symgraph

DEPTHS = (2, 8, 32, 128)


def xl() -> GPT2Config:
    """GPT-2 XL: 1.6 billion parameters."""
    return GPT2Config(n_layer=48, n_embd=1600, n_head=25, architectures=["GPT2LMHeadModel"])


def decoder(layers: int, width: int, hidden: int, heads: int, groups: int, vocabulary: int) -> LlamaConfig:
    """A gated decoder with grouped queries and an untied head."""
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )


def large() -> LlamaConfig:
    """Llama with 70 billion parameters."""
    return decoder(80, 8192, 28672, 64, 8, 128256)


def inspect(config: Any) -> dict[str, float]:
    """Seconds of the three stages behind `symgraph inspect`, nodes, and the peak memory of this process in GiB.

    `again` is inference once its claims are proven.
    """
    with one_thread():
        trace, graph = seconds(lambda: symgraph.trace(config))
        infer, found = seconds(lambda: symgraph.infer(graph))
        again, _ = seconds(lambda: symgraph.infer(graph))
        show, _ = seconds(lambda: str(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"trace": trace, "infer": infer, "again": again, "print": show, "nodes": len(graph.nodes), "peak": peak}


def in_a_process_of_its_own(name: str) -> dict[str, float]:
    """`inspect`, where nothing else has raised the peak."""
    root = str(Path(symgraph.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ratios(repetitions: int = 3) -> dict[str, float]:
    """Medians for the 48-layer config, after everything was loaded."""
    inspect(decoder(1, 64, 128, 4, 2, 100))
    runs = [inspect(xl()) for _ in range(repetitions)]
    found = {k: median(r[k] for r in runs) for k in runs[0]}
    return {**found, "ratio": median(r["infer"] / r["trace"] for r in runs)}


def linearity(depths: tuple[int, ...] = DEPTHS) -> dict[int, dict[str, float]]:
    """The stages at growing depth."""
    return {n: inspect(decoder(n, 512, 1024, 8, 2, 1000)) for n in depths}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    if arguments:
        print(json.dumps(inspect({"xl": xl, "large": large}[arguments[0]]())))
        return {}
    fresh = in_a_process_of_its_own("xl")
    print(
        f"48 layers, 1.6B: {_stages(fresh)}, inference / trace {fresh['infer'] / fresh['trace']:.3f} in a new process"
    )
    one = ratios()
    print(f"48 layers, 1.6B: {_stages(one)}, inference / trace {one['ratio']:.3f} in one that has proven its claims")
    big = in_a_process_of_its_own("large")
    print(f"80 layers, 70B: {_stages(big)}, inference / trace {big['infer'] / big['trace']:.3f}")
    print(f"    peak resident memory {big['peak']:.2f} GiB, imports included")
    rows = linearity()
    for layers, r in rows.items():
        per = {k: 1e6 * r[k] / r["nodes"] for k in ("trace", "infer", "print")}
        print(
            f"{layers:>4} layers, {r['nodes']:>5.0f} nodes; microseconds per node: trace {per['trace']:.0f}, "
            f"inference {per['infer']:.0f}, print {per['print']:.0f}"
        )
    return {"ratio": one["ratio"], "peak": big["peak"], "linearity": rows}


def _stages(found: dict[str, float]) -> str:
    stages = ", ".join(f"{k} {found[k]:.2f} s" for k in ("trace", "infer", "again", "print"))
    return f"{found['nodes']:.0f} nodes, {stages}"


if __name__ == "__main__":
    main(sys.argv[1:])
