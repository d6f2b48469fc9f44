"""What is measured and followed for one layer is not done again for others that are alike."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.tracing.export import trace_config
from symgraph.tracing.interpreter import Interpreter

DEPTHS = (2, 3)


def gpt2(layers: int) -> GPT2Config:
    return GPT2Config(n_layer=layers, n_embd=32, n_head=4, vocab_size=100, architectures=["GPT2LMHeadModel"])


def llama(layers: int) -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )


@pytest.mark.parametrize("config", [gpt2, llama])
def test_operators_are_run_as_often_however_many_layers_there_are(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Graph] = []
    values = Interpreter.values

    def counted(interpreter: Interpreter, *given: Any) -> Any:
        runs.append(interpreter.graph)
        return values(interpreter, *given)

    infer(trace_config(config(DEPTHS[0])))
    # Graphs that nothing has been asked of: what they have answered they keep.
    graphs = [trace_config(config(layers)) for layers in DEPTHS]
    monkeypatch.setattr(Interpreter, "values", counted)
    found = []
    for graph in graphs:
        runs.clear()
        infer(graph)
        found.append(len(runs))
    assert len(set(found)) == 1, dict(zip(DEPTHS, found, strict=True))
