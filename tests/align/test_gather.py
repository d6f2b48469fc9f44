"""Experts and heads of one model in one basis: planted copies are found again, and the function stays."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.tracing import state_of

SIZES: dict[str, Any] = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, vocab_size=20)
EXPERTS = ["*mlp.hidden"]


@cache
def mixture(experts: int = 3) -> Any:
    torch.manual_seed(0)
    more: dict[str, Any] = dict(
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=experts, num_experts_per_tok=2
    )
    model: Any = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, **more))
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    return model.eval()


@cache
def planted() -> Any:
    """A mixture whose experts are one with its hidden units in other orders and scales."""
    model = mixture()
    experts = model.model.layers[0].mlp.experts
    both, down = experts.gate_up_proj.data, experts.down_proj.data
    for i in (1, 2):
        order, scale = torch.randperm(12), 0.5 + torch.rand(12)
        both[i] = torch.cat([both[0][:12][order], both[0][12:][order] * scale[:, None]])
        down[i] = down[0][:, order] / scale
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.arange(12).reshape(2, 6)).logits
    return found


def test_experts_that_are_one_become_equal() -> None:
    found = symgraph.gather(planted(), over=EXPERTS)
    (spread,) = found.spreads
    assert spread.size == 3 and spread.before > 0.1 and spread.after < 1e-6
    state = state_of(found.module)
    for name in ("gate_up_proj", "down_proj"):
        held = next(t for n, t in state.items() if n.endswith(name))
        torch.testing.assert_close(held[1:], held[:1].expand_as(held[1:]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(found.module), logits(planted()), rtol=1e-4, atol=1e-4)


def test_unrelated_experts_come_nearer_and_keep_their_order() -> None:
    model = mixture(4)
    found = symgraph.gather(model, over=EXPERTS)
    (spread,) = found.spreads
    assert spread.after < 0.95 * spread.before
    torch.testing.assert_close(logits(found.module), logits(model), rtol=1e-4, atol=1e-4)
    gates = [next(t for n, t in state_of(m).items() if n.endswith("gate.weight")) for m in (model, found.module)]
    scores = [g @ torch.ones(16) for g in gates]
    assert scores[0].shape == scores[1].shape


def test_heads_are_gathered_too() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=4)
    model: Any = transformers.LlamaForCausalLM(config)
    model.eval()
    heads = model.model.layers[0].self_attn
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    with torch.no_grad():
        value, out = heads.v_proj.weight.view(4, 4, 16), heads.o_proj.weight.view(16, 4, 4)
        value[1:], out[:, 1:] = turn @ value[:1], out[:, :1] @ turn.T
    found = symgraph.gather(model, over=["*heads"])
    assert found.spreads[0].after < 0.8 * found.spreads[0].before
    values = found.module.get_parameter("model.layers.0.self_attn.v_proj.weight").view(4, 4, 16)
    torch.testing.assert_close(values[1:], values[:1].expand(3, 4, 16), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits(found.module), logits(model), rtol=1e-4, atol=1e-4)


def test_an_order_that_is_fixed_stays_between_models() -> None:
    a, b = mixture(3), symgraph.sample(mixture(3), seed=1)
    found = symgraph.align(a, b, options={"outer": "fixed"})
    outer = found.alignment.element("layers.0.mlp.hidden")
    assert outer is None or outer.is_neutral


def test_what_has_no_inside_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match="nothing to gather") as raised:
        symgraph.gather(net, torch.randn(2, 4))
    assert "hidden" in str(raised.value)


def test_a_checkpoint_is_written(tmp_path: Path) -> None:
    found = symgraph.gather(planted(), over=EXPERTS)
    found.save_pretrained(tmp_path / "out")
    opened = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), logits(planted()), rtol=1e-4, atol=1e-4)
    assert "spread" in (tmp_path / "out" / "README.md").read_text()
