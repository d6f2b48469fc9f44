"""Models of `transformers` at tiny sizes: the graph computes what the model does, with and without weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from symgraph.ir import Graph
from symgraph.tracing import example_inputs, state_of, trace, trace_config
from symgraph.tracing.interpreter import Interpreter

TEXT = dict(vocab_size=19, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
IMAGE = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8)
SMALL_GPT = dict(vocab_size=19, n_positions=16, n_embd=16, n_layer=2, n_head=2)

# name -> config class, model class, settings
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", IMAGE | dict(patch_size=4, num_labels=5)),
    "gpt2-tied": ("GPT2Config", "GPT2LMHeadModel", SMALL_GPT),
    "gpt2-untied": ("GPT2Config", "GPT2LMHeadModel", SMALL_GPT | dict(tie_word_embeddings=False)),
    "llama": ("LlamaConfig", "LlamaForCausalLM", TEXT | dict(num_key_value_heads=2)),
    "bert": ("BertConfig", "BertForMaskedLM", TEXT | dict(max_position_embeddings=16)),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        dict(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5),
    ),
    "t5": ("T5Config", "T5ForConditionalGeneration", dict(vocab_size=19, d_model=16, d_ff=24, d_kv=8, num_layers=1)),
    # Makes its own mask, but not while it is traced.
    "longt5": (
        "LongT5Config",
        "LongT5ForConditionalGeneration",
        dict(vocab_size=19, d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2, local_radius=3),
    ),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", TEXT | dict(num_key_value_heads=2, num_local_experts=4)),
}
IMPLEMENTATIONS = [
    (name, implementation)
    for name in ("vit", "gpt2-tied", "gpt2-untied", "llama", "bert")
    for implementation in ("eager", "sdpa")
] + [(name, "eager") for name in ("resnet", "t5", "longt5", "mixtral")]


def config_of(name: str, implementation: str) -> Any:
    import transformers

    kind, model, settings = MODELS[name]
    config = getattr(transformers, kind)(**settings, architectures=[model])
    config._attn_implementation = implementation
    return config


@cache
def traced(name: str, implementation: str) -> tuple[Any, Graph]:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, MODELS[name][1])(config_of(name, implementation))
    # Initial values (zero biases, unit gains) would hide a parameter read in the wrong place.
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval(), trace(model)


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_the_graph_computes_what_the_model_does(name: str, implementation: str) -> None:
    model, graph = traced(name, implementation)
    inputs = example_inputs(model, masks=name == "longt5")
    with torch.no_grad():
        wanted = model(**inputs).logits
    (found,) = Interpreter(graph).run(state_of(model), inputs)
    assert found.dtype == torch.float64
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_the_names_are_those_of_the_state_dict(name: str, implementation: str) -> None:
    model, graph = traced(name, implementation)
    assert (set(graph.state) - graph.transient) | set(graph.tied) == set(model.state_dict())
    assert set(graph.state) <= set(state_of(model))
    for key, node in graph.state.items():
        assert node.shape == tuple(state_of(model)[key].shape)


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_a_config_alone_gives_the_same_graph(name: str, implementation: str) -> None:
    _, graph = traced(name, implementation)
    assert str(trace_config(config_of(name, implementation))) == str(graph)


def test_operators_stay_whole_and_ties_are_kept() -> None:
    _, graph = traced("gpt2-tied", "sdpa")
    found = {n.target for n in graph.calls}
    assert {"aten.scaled_dot_product_attention.default", "aten.layer_norm.default", "aten.linear.default"} <= found
    assert graph.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert traced("gpt2-untied", "sdpa")[1].tied == {}


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_nothing_is_left_that_changes_no_value(name: str, implementation: str) -> None:
    gone = ("dropout", "contiguous", "alias", "detach", "clone", "lift", "_assert")
    for node in traced(name, implementation)[1].calls:
        assert not node.target.removeprefix("aten.").startswith(gone), str(node)


def test_places_are_in_the_users_model() -> None:
    _, graph = traced("llama", "eager")
    linears = [n for n in graph.calls if n.target == "aten.linear.default"]
    assert linears[0].module == "model.layers.0.self_attn.q_proj"
    assert linears[-1].module == "lm_head"
    assert all(n.source.split(":")[0].endswith(".py") for n in graph.calls)
    assert linears[0].source.startswith("modeling_")


def test_a_mask_is_an_input_only_where_the_model_needs_it() -> None:
    assert [n.name for n in traced("t5", "eager")[1].inputs] == ["input_ids", "decoder_input_ids"]
    found = [n.name for n in traced("longt5", "eager")[1].inputs]
    assert found == ["input_ids", "decoder_input_ids", "attention_mask", "decoder_attention_mask"]


def test_inputs_of_ones_own() -> None:
    model, _ = traced("bert", "eager")
    tokens, mask = torch.randint(0, 19, (3, 4)), torch.ones(3, 4, dtype=torch.long)
    graph = trace(model, (tokens,), {"attention_mask": mask})
    assert [(n.name, n.shape) for n in graph.inputs] == [("input_ids", (3, 4)), ("attention_mask", (3, 4))]
    with torch.no_grad():
        wanted = model(tokens, mask).logits
    found = Interpreter(graph).run(state_of(model), {"input_ids": tokens, "attention_mask": mask})
    assert (found[0] - wanted).abs().max() < 1e-4


def test_hidden_and_pooled_states_where_there_are_no_logits() -> None:
    from transformers import BertConfig, BertModel

    settings: dict[str, Any] = TEXT
    graph = trace(BertModel(BertConfig(**settings)))
    assert [graph.by_name[o].shape for o in graph.outputs] == [(2, 7, 16), (2, 16)]


def test_a_config_allocates_nothing() -> None:
    from transformers import LlamaConfig

    # 5e11 numbers: allocating a single weight of this model would fail.
    config = LlamaConfig(vocab_size=10**6, hidden_size=2**19, num_hidden_layers=1, architectures=["LlamaForCausalLM"])
    graph = trace_config(config)
    assert graph.parameters["lm_head.weight"].shape == (10**6, 2**19)
