"""Heads, groups of keys, experts and streams of pruned models: planted copies go exactly, whatever stands inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mixtures
import pytest
import torch
from mixtures import EXPERTS, HIDDEN, Network
from models_zoo import GPT2, TEXT
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.io.data import NoData
from symgraph.resize.narrow import canonical_form
from symgraph.resize.stream_moments import moments_of_flow
from symgraph.rules.book import default_rules
from symgraph.tracing import state_of


def perturbed(module: nn.Module) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module.double().eval()


def llama(**more: Any) -> Any:
    import transformers

    sizes: dict[str, Any] = TEXT | dict(hidden_size=16, num_key_value_heads=2, head_dim=4) | more
    return perturbed(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)))


def gpt2(heads: int) -> Any:
    import transformers

    sizes: dict[str, Any] = GPT2 | dict(n_embd=4 * heads, n_head=heads, tie_word_embeddings=False)
    return perturbed(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)))


TOKENS = torch.arange(14).reshape(2, 7) % 11


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether both compute the same; norms of their code are in float32."""
    with torch.no_grad():
        return torch.allclose(one(TOKENS).logits, other(TOKENS).logits, atol=1e-5)


def test_heads_of_a_fused_projection_go_by_the_numbers_beside_it() -> None:
    model = gpt2(3)
    for block in model.transformer.h:
        inside = torch.randn(4, 4, dtype=torch.float64)
        attention = block.attn
        with torch.no_grad():
            for part, turn in ((0, inside), (1, torch.linalg.inv(inside).T), (2, torch.eye(4).double())):
                first, last = (slice(12 * part + 4 * h, 12 * part + 4 * h + 4) for h in (0, 2))
                attention.c_attn.weight[:, last] = attention.c_attn.weight[:, first] @ turn
                attention.c_attn.bias[last] = attention.c_attn.bias[first] @ turn
            attention.c_proj.weight[8:] = 2.0 * attention.c_proj.weight[:4]
    found = symgraph.prune(model, ratio=1 / 3, spaces=["*.heads"])
    assert found.reduction.exact and same(found.module, model)
    assert "Conv1D.nf 36 -> 24 (2 modules)" in str(found) and "GPT2Attention.split_size 12 -> 8" in str(found)
    alone = symgraph.prune(model, ratio=1 / 3, spaces=["h.1.attn.heads"])
    assert alone.reduction.exact and "Conv1D.nf 36 -> 24, GPT2Attention.split_size 12 -> 8" in str(alone)


def test_groups_of_keys_go_with_their_queries_in_any_order() -> None:
    model = llama()
    for layer in model.model.layers:
        attention, swapped = layer.self_attn, [4, 5, 6, 7, 0, 1, 2, 3]
        with torch.no_grad():
            attention.q_proj.weight[8:] = attention.q_proj.weight[:8][swapped]
            for part in (attention.k_proj, attention.v_proj):
                part.weight[4:] = part.weight[:4]
            attention.o_proj.weight[:, 8:] = 0.5 * attention.o_proj.weight[:, :8][:, swapped]
    found = symgraph.prune(model, ratio=0.5, spaces=["*groups"])
    assert found.reduction.exact and same(found.module, model)
    assert found.model.config.num_key_value_heads == 1 and found.model.config.num_attention_heads == 2


def doubled(form: str) -> Network:
    """A dense mixture whose last two experts are the first two, their hidden units in another order."""
    network = mixtures.network(form)
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(2))
    half = EXPERTS // 2
    with torch.no_grad():
        for mixture in network.mixtures:
            router: Any = mixture.router
            router.weight[half:], router.bias[half:] = router.weight[:half], router.bias[:half]
            if form == "tensors-dense":
                for name, dim in (("w_in", 1), ("b_in", 0), ("w_out", 0), ("b_out", None)):
                    tensor = mixture.get_parameter(name)
                    for i in range(half):
                        tensor[half + i] = tensor[i] if dim is None else tensor[i].index_select(dim, order)
            else:
                experts: Any = mixture.experts
                for one, other in zip(experts[:half], experts[half:], strict=True):
                    other.up.weight[:], other.up.bias[:] = one.up.weight[order], one.up.bias[order]
                    other.down.weight[:], other.down.bias[:] = one.down.weight[:, order], one.down.bias
    return network


@pytest.mark.parametrize("form", ["tensors-dense", "list"])
@pytest.mark.parametrize("by", [None, "l2"])
def test_equal_experts_are_merged_with_the_rows_of_the_router(form: str, by: str | None) -> None:
    network = doubled(form)
    symmetry = symgraph.infer(network)
    outer = [s.name for s in symmetry.active if s.size == EXPERTS and any(s.id in t.fibre for t in symmetry.active)]
    found = symgraph.prune(network, ratio=0.5, spaces=outer, importance=by)
    made: Any = found.module
    assert found.reduction.exact and torch.allclose(made(TOKENS), network(TOKENS), atol=1e-9)
    assert made.mixtures[0].router.weight.shape[0] == 2
    assert form != "list" or len(made.mixtures[0].experts) == 2
    dropped = symgraph.prune(network, ratio=0.25, spaces=outer, importance="l1", drop=True)
    assert not dropped.reduction.exact and dropped.module(TOKENS).shape == network(TOKENS).shape


def test_experts_of_a_stock_model_go_by_its_config() -> None:
    import transformers

    sizes: dict[str, Any] = TEXT | dict(hidden_size=16, num_key_value_heads=2, num_local_experts=4, head_dim=4)
    model = perturbed(transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)))
    scores = {f"layers.{i}.mlp.hidden": torch.tensor([1.0, 4, 2, 3]) for i in range(2)}
    found = symgraph.prune(model, ratio=0.5, spaces=["*.mlp.hidden"], importance=scores, drop=True)
    assert found.model.config.num_local_experts == 2
    kept, own = (m.state_dict()["model.layers.0.mlp.gate.weight"] for m in (found.module, model))
    # In canonical form gains are in their readers, and the router's mean is gone: rows keep their differences.
    gain = model.model.layers[0].post_attention_layernorm.weight
    assert torch.allclose(kept[1] - kept[0], (own[3] - own[1]) * gain)
    with pytest.raises(UsageError, match="cannot be pruned together"):
        symgraph.prune(model, ratio=0.5, spaces=["*mlp.hidden", "*experts.hidden"])
    with pytest.raises(UsageError, match="its code has sizes written in"):
        symgraph.prune(model, ratio=0.75, spaces=["*.mlp.hidden"])


def test_a_stream_keeps_what_flows_on_it() -> None:
    small, wide = llama(num_attention_heads=2, num_key_value_heads=1), llama(num_attention_heads=2, hidden_size=24)
    wide = symgraph.embed(small, like=llama(num_attention_heads=2, num_key_value_heads=1, hidden_size=24)).module
    data = [{"input_ids": torch.randint(23, (4, 9))} for _ in range(8)]
    found = symgraph.prune(wide, ratio=1 / 3, spaces=["residual"], data=data)
    assert found.reduction.exact and same(found.module, small) and "what flows" in str(found)
    # What a model of noise writes itself is another text with the same directions.
    assert symgraph.prune(
        wide, ratio=1 / 3, spaces=["residual"], data=NoData(examples=16, batch_size=8, length=9)
    ).reduction.exact


def test_what_flows_is_what_norms_give_to_their_readers() -> None:
    model, symmetry = llama(), symgraph.infer(llama())
    tokens = torch.randint(23, (3, 6))
    seen: list[Tensor] = []
    hooks = [
        m.register_forward_hook(lambda norm, _, out: seen.append((out / norm.weight).flatten(0, 1)))
        for n, m in model.named_modules()
        if n.endswith("norm")
    ]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    plain = state_of(model)
    state = {**plain, **canonical_form(symmetry, {n: plain[n] for n in symmetry.terms})}
    residual = symmetry["residual"]
    found = moments_of_flow(model, default_rules(), state, [{"input_ids": tokens}], [residual])[residual.id]
    wanted = torch.stack([x.T @ x / x.square().sum() for x in seen]).sum(0)
    assert torch.allclose(found, wanted.double(), atol=1e-5)


class Numbered(nn.Module):
    """A module that keeps a size beside its parameters, under a name of its own."""

    def __init__(self, parts: int = 1) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.broad = 6

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(torch.relu(self.up(x)).reshape(-1, self.broad))
        return found


def test_a_number_of_a_module_is_found_by_experiment() -> None:
    found = symgraph.prune(Numbered(), torch.randn(2, 4), ratio=0.5)
    assert found.module.broad == 3 and "Numbered.broad 6 -> 3" in str(found)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "taylor without data": (llama, dict(importance="taylor", data=NoData()), "needs data"),
    "data for nothing": (llama, dict(data=[{"input_ids": TOKENS}]), "nothing reads it"),
    "no batches": (llama, dict(spaces=["residual"], data=[]), "no batches"),
    "rotary": (llama, dict(spaces=["*query-key"]), "rotary frequencies depend on the size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused(name: str) -> None:
    make, how, message = REFUSED[name]
    with pytest.raises(symgraph.SymgraphError, match=message) as raised:
        symgraph.prune(make(), ratio=0.5, **how)
    assert "help" in str(raised.value)
