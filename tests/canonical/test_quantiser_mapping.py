"""What tools are told of a model: done as they do it, the function stays; where it would not, nothing is said."""

from __future__ import annotations

import copy
import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import yaml
from models_zoo import network
from scipy import linalg
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError

SIZES: dict[str, Any] = dict(vocab_size=23, num_hidden_layers=2, num_attention_heads=4, hidden_size=16)
KINDS = {
    "Llama": SIZES | dict(num_key_value_heads=2, intermediate_size=24),
    "Qwen2": SIZES | dict(num_key_value_heads=2, intermediate_size=24),
    "Gemma": SIZES | dict(num_key_value_heads=2, head_dim=4, intermediate_size=24),
    "OPT": SIZES | dict(ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=12, dropout=0.0),
    "Phi3": SIZES | dict(intermediate_size=24, pad_token_id=0),
    "Mixtral": SIZES | dict(num_key_value_heads=2, intermediate_size=24, num_local_experts=2),
}
TOKENS = torch.arange(12).reshape(2, 6)


def made(kind: str, **more: Any) -> nn.Module:
    """A model of that kind, with nothing as it is before training."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**KINDS[kind] | more))
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    found: nn.Module = model.eval()
    return found


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(TOKENS).logits
    return found


# -- llm-compressor ------------------------------------------------------------------------------------------------


def by_blocks(rows: Tensor, size: int) -> Tensor:
    """Rows times the Hadamard matrix, block by block, as the tool turns the last axis."""
    matrix = torch.from_numpy(linalg.hadamard(size)).float() / size**0.5
    found: Tensor = (rows.reshape(*rows.shape[:-1], -1, size) @ matrix).reshape(rows.shape)
    return found


def as_llm_compressor(model: nn.Module, text: str) -> nn.Module:
    """What `SpinQuantModifier` does with a recipe."""
    found: Any = copy.deepcopy(model)
    head = found.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    (modifier,) = yaml.safe_load(text)["transform_stage"]["transform_modifiers"].values()

    def matching(target: str) -> list[Any]:
        wanted = target.removeprefix("re:")
        same = re.compile(wanted) if target.startswith("re:") else re.compile(f"{re.escape(wanted)}$")
        return [m for n, m in found.named_modules() if same.match(n)]

    assert not matching(modifier["mappings"]["embedding"])
    with torch.no_grad():
        for norm in modifier["norm_mappings"]:
            (first,) = matching(norm["norm"])
            for reader in (m for n in norm["linears"] for m in matching(n)):
                reader.weight *= first.weight
            first.weight.fill_(1)
        for scheme in modifier["transform_config"]["config_groups"].values():
            for apply in scheme["apply"]:
                for module in (m for t in apply["targets"] for m in matching(t)):
                    turn(module, apply["location"], scheme["head_dim"])
    return found  # type: ignore[no-any-return]


def turn(module: Any, location: str, size: int) -> None:
    if location == "weight_output" and isinstance(module, nn.Linear):
        module.weight.copy_(by_blocks(module.weight.T, size).T)
        if module.bias is not None:
            module.bias.copy_(by_blocks(module.bias, size))
    else:
        module.weight.copy_(by_blocks(module.weight, size))


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_keeps_the_function(kind: str) -> None:
    model = made(kind)
    found = symgraph.quantiser_mapping(model)
    turned = as_llm_compressor(model, found.text)
    torch.testing.assert_close(logits(turned), logits(model), rtol=1e-4, atol=1e-4)
    differ = [n for n, p in model.named_parameters() if not torch.allclose(p, turned.get_parameter(n))]
    assert ("residual" in found.turned) == any("embed_tokens" in n for n in differ)
    assert differ


def test_a_recipe_says_what_it_leaves() -> None:
    left = {kind: " ".join(symgraph.quantiser_mapping(made(kind)).left) for kind in ("Gemma", "OPT", "Phi3", "Mixtral")}
    assert "1 is added to model.layers.0.input_layernorm.weight" in left["Gemma"]
    assert "keep the mean of a layer norm" in left["OPT"]
    assert "only a part of model.layers.0.self_attn.qkv_proj" in left["Phi3"]
    assert "mlp.gate.weight is no weight or bias of a Linear" in left["Mixtral"]


def test_a_recipe_names_the_roles() -> None:
    text = symgraph.quantiser_mapping(made("Llama")).text
    (modifier,) = yaml.safe_load(text)["transform_stage"]["transform_modifiers"].values()
    ends = {k: v if isinstance(v, str) else " ".join(v) for k, v in modifier["mappings"].items()}
    roles = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_o": "o_proj"}
    roles |= {"mlp_out": "down_proj", "lm_head": "lm_head", "attn": "self_attn"}
    assert all(ends[k].rstrip(")$").endswith(v) for k, v in roles.items()), ends
    assert "gate_proj" in ends["mlp_in"] and "up_proj" in ends["mlp_in"]
    assert r"re:model\.layers\.\d+\.self_attn\.o_proj$" in text


def test_what_no_recipe_can_turn_is_refused() -> None:
    with pytest.raises(UsageError, match="keep its function") as raised:
        symgraph.quantiser_mapping(network("gpt2-tied", 0))
    assert "keep the mean" in str(raised.value) and "c_attn.weight is no weight" in str(raised.value)
    with pytest.raises(UsageError, match="no tool is called"):
        symgraph.quantiser_mapping(network("llama", 0), tool="quark")


# -- auto-round ----------------------------------------------------------------------------------------------------


def mapping_of(text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a module of Python registers, beside what it says to rotate."""
    registered: dict[str, Any] = {}
    names = ["auto_round", "algorithms", "transforms", "hadamard", "inplace", "model_config"]
    for depth in range(1, len(names) + 1):
        monkeypatch.setitem(sys.modules, ".".join(names[:depth]), ModuleType(".".join(names[:depth])))
    tool: Any = sys.modules[".".join(names)]
    tool.RotationMapping, tool.register_mapping = SimpleNamespace, registered.__setitem__
    found: dict[str, Any] = {}
    exec(text, found)
    ((kind, fields),) = registered.items()
    return {"kind": kind, **vars(fields), **found["ROTATION"]}


def test_a_mapping_names_every_layer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    text = symgraph.quantiser_mapping(made("Llama"), tool="auto-round").text
    found = mapping_of(text, monkeypatch)
    assert found["kind"] == "llama" and found["layers_attr"] == "model.layers"
    ends = [found[k] for k in ("embedding", "lm_head", "pre_head_ln")]
    assert ends == ["model.embed_tokens", "lm_head", "model.norm"]
    assert (found["attn_input_ln"], found["mlp_input_ln"]) == ("input_layernorm", "post_attention_layernorm")
    assert (found["attn_v"], found["attn_o"]) == ("self_attn.v_proj", "self_attn.o_proj")
    assert {found["attn_q"], found["attn_k"]} == {"self_attn.q_proj", "self_attn.k_proj"}
    assert set(found["mlp_in"]) == {"mlp.gate_proj", "mlp.up_proj"} and found["mlp_out"] == "mlp.down_proj"
    # 24 units are no power of two.
    assert found["block_size"] == 8


def test_what_the_tool_forgets_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias of values, which is not turned with them: then all is turned by blocks, and values not at all."""
    models = (made("Llama", intermediate_size=32, attention_bias=biased) for biased in (False, True))
    texts = (symgraph.quantiser_mapping(model, tool="auto-round").text for model in models)
    whole, blocks = (mapping_of(text, monkeypatch) for text in texts)
    assert "block_size" not in whole and whole["attn_head_dim"] == 4
    assert blocks["block_size"] == 16


def test_layer_norms_and_positions_have_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mapping_of(symgraph.quantiser_mapping(made("OPT"), tool="auto-round").text, monkeypatch)
    assert found["positional_embedding"] == "model.decoder.embed_positions"
    assert (found["mlp_in"], found["mlp_out"]) == (["fc1"], "fc2")
    assert found["intermediate_size_attr"] == "ffn_dim"


@pytest.mark.parametrize(
    ("kind", "why"),
    [("Gemma", "1 is added"), ("Phi3", "one in front of three maps"), ("Mixtral", "is no weight or bias of a Linear")],
)
def test_models_of_another_form_are_refused(kind: str, why: str) -> None:
    with pytest.raises(UsageError, match="auto-round cannot rotate") as raised:
        symgraph.quantiser_mapping(made(kind), tool="auto-round")
    assert why in str(raised.value)
