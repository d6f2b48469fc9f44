"""Tools that rotate models by themselves: how far logits move as they are released, and with what symgraph tells them.

    pip install --no-deps --target PEERS llmcompressor==0.14.0.1 compressed-tensors==0.19.0 auto-round==0.16.1 \\
        loguru py-cpuinfo nvidia-ml-py requests urllib3 idna certifi charset-normalizer
    PYTHONPATH=.:tests/architectures:PEERS python tests/benchmarks/bench_rotation_tools.py [llama qwen2 ...]

Tiny models of transformers whose gains and biases are no longer as they were initialised; the largest change of a logit
over the largest logit, in float32.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import one_thread
from sweep.builder import entries, tiny
from sweep.rotations import as_learned, outputs
from sweep.stages import relative
from torch import nn

import symgraph
from symgraph.errors import SymgraphError

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "olmo", "opt", "gpt2", "qwen3_moe")
Apply = Callable[[Any, str | None], None]


def by_llm_compressor(module: Any, text: str | None) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.transform.spinquant import SpinQuantModifier

    with TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(text or "")
        # It reads the config of a checkpoint, though the model is at hand.
        module.config.save_pretrained(folder)
        module.name_or_path = module.config._name_or_path = folder
        oneshot(model=module, recipe=str(recipe) if text else SpinQuantModifier(rotations=["R1", "R2"]), tokenizer=None)


def by_auto_round(module: Any, text: str | None) -> None:
    from auto_round.algorithms.transforms.hadamard.dispatcher import apply_hadamard_rotation

    said: dict[str, Any] = {"ROTATION": {"algorithm": "hadamard", "hadamard_type": "inplace_hadamard"}}
    exec(text or "", said)
    apply_hadamard_rotation(module, said["ROTATION"], data_type="int", compute_device="cpu")


TOOLS: dict[str, Apply] = {"llm-compressor": by_llm_compressor, "auto-round": by_auto_round}


def change(module: nn.Module, apply: Apply, text: str | None) -> str:
    turned = copy.deepcopy(module)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            apply(turned, text)
        return f"{max(map(relative, outputs(turned), outputs(module))):.1e}"
    except Exception as error:
        return f"raises {type(error).__name__}"


def told(module: nn.Module, tool: str, apply: Apply) -> str:
    try:
        found = symgraph.quantiser_mapping(module, tool=tool)
    except SymgraphError as error:
        return f"refused: {error.cause[:90]}"
    stream = "with" if any(name.startswith("residual") for name in found.turned) else "without"
    return f"{change(module, apply, found.text)} ({stream} the stream)"


def main() -> None:
    logging.disable(logging.WARNING)
    names = dict(entries("causal-lm"))
    with one_thread():
        for kind in sys.argv[1:] or KINDS:
            module = as_learned(tiny(kind, names[kind], "causal-lm")[0])
            for tool, apply in TOOLS.items():
                released = change(module, apply, None)
                print(f"{kind:<12}{tool:<16}as released {released:<28}told {told(module, tool, apply)}", flush=True)


if __name__ == "__main__":
    main()
