"""Tiny instances of large models, and the audits that are made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

import symgraph
from symgraph.errors import UsageError
from symgraph.tracing.tiny_instance import tiny_instance


def large(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)


def test_settings_that_are_no_sizes_stay() -> None:
    config = LlamaConfig(tie_word_embeddings=True, rms_norm_eps=0.5, attention_bias=True, head_dim=128)
    found = tiny_instance(large(LlamaForCausalLM, config), 3000)
    small: Any = found.module.config
    assert (small.tie_word_embeddings, small.rms_norm_eps, small.attention_bias) == (True, 0.5, True)
    assert small.num_attention_heads % small.num_key_value_heads == 0
    assert sum(p.numel() for p in found.module.parameters()) <= 3000
    assert "hidden_size 4096 -> 8" in found.changes


@pytest.mark.slow
def test_a_large_model_is_audited_at_tiny_sizes() -> None:
    found = symgraph.audit(large(ViTForImageClassification, ViTConfig()), approximate=False)
    assert found.complete, str(found)
    assert "hidden_size 768 -> 8" in found.instance and "of a tiny instance" in str(found)


def test_no_instance_is_small_enough() -> None:
    with pytest.raises(UsageError, match="no tiny instance of LlamaForCausalLM was found") as error:
        tiny_instance(large(LlamaForCausalLM, LlamaConfig()), 10)
    assert "parameters" in error.value.cause
