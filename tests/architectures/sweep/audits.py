"""Tiny instances whose symmetry group is measured: wide enough vocabularies, more positions than a head is wide."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import Audit, audit
from symgraph.tracing import state_of, trace

TEXT: dict[str, Any] = dict(
    vocab_size=23,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    intermediate_size=10,
    tie_word_embeddings=False,
)
IMAGE: dict[str, Any] = dict(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=4, patch_size=2, num_labels=5
)
PLAIN: dict[str, Any] = {k: v for k, v in TEXT.items() if k not in ("num_key_value_heads", "head_dim")}

# name -> config class, model class, settings
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        dict(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=5, tie_word_embeddings=False),
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", TEXT),
    "vit": ("ViTConfig", "ViTForImageClassification", IMAGE | dict(intermediate_size=10)),
    "bert": (
        "BertConfig",
        "BertForMaskedLM",
        PLAIN | dict(num_attention_heads=2, max_position_embeddings=9, tie_word_embeddings=True),
    ),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        dict(
            vocab_size=23,
            d_model=8,
            d_kv=4,
            num_heads=2,
            d_ff=10,
            num_layers=2,
            relative_attention_num_buckets=4,
            relative_attention_max_distance=8,
            tie_word_embeddings=False,
        ),
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", TEXT),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", TEXT | dict(tie_word_embeddings=True)),
    "neox": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        # A first block beside the attention sees each token by itself: few tokens would determine too little of it.
        PLAIN | dict(vocab_size=61, hidden_size=6, num_attention_heads=2, intermediate_size=6),
    ),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        TEXT
        | dict(num_attention_heads=2, num_key_value_heads=1, intermediate_size=6)
        | dict(num_local_experts=3, num_experts_per_tok=2),
    ),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", TEXT),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", IMAGE | dict(mlp_ratio=1)),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        dict(embedding_size=4, hidden_sizes=[4, 5], depths=[1, 2], layer_type="basic", num_labels=5),
    ),
    "clip": (
        "CLIPConfig",
        "CLIPModel",
        dict(
            text_config=PLAIN
            | dict(num_attention_heads=2, max_position_embeddings=6, eos_token_id=22, bos_token_id=0, pad_token_id=1),
            vision_config=IMAGE | dict(intermediate_size=10),
            projection_dim=6,
        ),
    ),
}


def build(name: str) -> nn.Module:
    """The model at its initial values, in evaluation."""
    import transformers

    config, kind, settings = CONFIGS[name]
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    return model.eval()


@cache
def measured(name: str) -> Audit:
    """The audit of one instance, made once."""
    model = build(name)
    given = {"pixel_values": torch.randn(3, 3, 48, 48)} if name == "resnet" else {}
    return audit(infer(trace(model, kwargs=given)), state_of(model))
