"""Deep models are traced by two of their blocks: the same graph as that of a trace of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import symgraph
from symgraph.ir import Graph
from symgraph.tracing import export, repeats, trace

DEPTH = 8
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPS = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
GPT2 = {"n_layer": DEPTH, "n_embd": 16, "n_head": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": DEPTH, "num_heads": 2, "vocab_size": 50}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
EXPERTS = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
DEEPSEEK = {**GROUPS, **LATENT, **EXPERTS, "head_dim": 4, "num_key_value_heads": 2, "first_k_dense_replace": 2}

# Class of model, config, and whether blocks are left out.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2, True),
    "gpt2 scaled by layer": ("GPT2LMHeadModel", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, False),
    "llama": ("LlamaForCausalLM", GROUPS, True),
    "qwen3": ("Qwen3ForCausalLM", GROUPS, True),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPS, "sliding_window": 4}, True),
    "gemma3": ("Gemma3ForCausalLM", {**GROUPS, "num_hidden_layers": 20, "sliding_window": 4}, True),
    "mixtral": ("MixtralForCausalLM", {**GROUPS, "num_local_experts": 3}, True),
    "bert": ("BertForMaskedLM", SIZES, True),
    "vit": ("ViTForImageClassification", {**SIZES, "image_size": 8, "patch_size": 4}, True),
    "gpt-neox": ("GPTNeoXForCausalLM", SIZES, True),
    "t5": ("T5ForConditionalGeneration", T5, True),
    "deepseek": ("DeepseekV3ForCausalLM", DEEPSEEK, True),
}
QUICK = ("gpt2", "gpt2 scaled by layer")
MODELS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES]


def config_of(name: str) -> Any:
    cls, sizes, _ = ARCHITECTURES[name]
    return getattr(transformers, cls).config_class(**sizes, architectures=[cls])


def left_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks each trace from now on leaves out."""
    counts: list[int] = []

    def counted(*args: Any) -> tuple[repeats.Repeat, ...]:
        found = repeats.repeats_of(*args)
        counts.append(sum(len(r.left_out) for r in found))
        return found

    monkeypatch.setattr(export, "repeats_of", counted)
    return counts


def as_a_whole(monkeypatch: pytest.MonkeyPatch, source: Any) -> Graph:
    monkeypatch.setattr(export, "repeats_of", lambda *_: ())
    return symgraph.trace(source)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_is_that_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(name)
    counts = left_out(monkeypatch)
    found = symgraph.trace(config)
    assert bool(counts[0]) == ARCHITECTURES[name][2]
    whole = as_a_whole(monkeypatch, config)
    assert found == whole
    assert found.known.keys() == whole.known.keys()


class Block(nn.Module):
    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(width, width), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(self.inner(x))


class Tower(nn.Module):
    """Blocks in a row; what block number `read` gives is returned as well."""

    def __init__(self, scales: list[float], read: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(4, s) for s in scales)
        self.head, self.read = nn.Linear(4, 2), read
        self.example_inputs = (torch.randn(3, 4),)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.read:
                seen.append(x)
        return (self.head(x), *seen)


class Literals(Tower):
    """Numbers that are made while the model runs, and that depend on the depth."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for i, block in enumerate(self.blocks):
            x = block(x) * torch.tensor(2.0 if i > 5 else 1.0)
        return (x,)


@pytest.mark.parametrize(
    ("tower", "count"),
    [
        pytest.param(Tower([1.0] * 9), 7, id="all alike"),
        pytest.param(Tower([1.0, 2.0] * 5), 6, id="by turns"),
        pytest.param(Tower([3.0, *[1.0] * 8, 5.0]), 6, id="edges of their own"),
        pytest.param(Tower([1 / (1 + i) for i in range(9)]), 0, id="a number by depth"),
        pytest.param(Tower([1.0] * 5 + [2.0] + [1.0] * 5), 0, id="one of them differs"),
        pytest.param(Tower([1.0] * 9, read=5), 0, id="one is read from outside"),
        pytest.param(Tower([1.0] * 9, read=0), 0, id="the first is read from outside"),
        pytest.param(Literals([1.0] * 12), 0, id="numbers made between the blocks"),
    ],
)
def test_what_differs_is_traced(tower: Tower, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = left_out(monkeypatch)
    found = symgraph.trace(tower)
    assert counts == [count]
    assert found == as_a_whole(monkeypatch, tower)


def test_shared_parameters_stay_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Tower([1.0] * 9)
    inner = [b.inner for b in tower.blocks if isinstance(b, Block)]
    inner[6].weight = inner[3].weight
    found = symgraph.trace(tower)
    assert found == as_a_whole(monkeypatch, tower)
    assert found.tied == {"blocks.6.inner.weight": "blocks.3.inner.weight"}


def test_the_model_is_left_as_it_was() -> None:
    tower = Tower([1.0] * 9)
    before = {name: id(t) for name, t in tower.state_dict(keep_vars=True).items()}
    trace(tower, tower.example_inputs)
    assert {name: id(t) for name, t in tower.state_dict(keep_vars=True).items()} == before
    assert len(tower.blocks) == 9
