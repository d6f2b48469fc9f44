"""What one model learned arrives at another: exactly where that one is the first in another basis."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import build, case
from safetensors.torch import load_file
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.io.adapters import factors
from symgraph.match.transport import Transported
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.steps import Transform
from symgraph.prove.verify import random_transform, settled_names
from symgraph.tracing import state_of

NAMES = ("mlp-gelu", "gpt2-untied", "llama", "vit")
LORA: dict[str, Any] = {"r": 3, "lora_alpha": 6, "init_lora_weights": False}
TARGETS = {"llama": ["q_proj", "v_proj", "o_proj", "down_proj"], "gpt2-untied": ["c_attn", "c_proj"]}


def module_of(name: str, state: dict[str, Tensor]) -> nn.Module:
    module = copy.deepcopy(build((name, "sdpa"))).double()
    for key, value in state_of(module).items():
        value.data.copy_(state[key])
    return module


def tuned(base: nn.Module) -> nn.Module:
    """The model after some training, as it were."""
    found, generator = copy.deepcopy(base), torch.Generator().manual_seed(1)
    for p in found.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=generator)
    return found


@cache
def ends(name: str) -> tuple[nn.Module, nn.Module]:
    """A model, and the same function in another basis and gauge."""
    c = case(name)
    state = c.state(0)
    element = random_transform(c.symmetry, state, torch.Generator().manual_seed(3), settled_names(c.symmetry))
    return module_of(name, state), module_of(name, element.apply(state))


def outputs(name: str, module: nn.Module) -> Tensor:
    c = case(name)
    return c.run({n: t.detach() for n, t in state_of(module).items()})


@cache
def carried(name: str) -> Transported:
    base, to = ends(name)
    return symgraph.transport(base, tuned(base), to, tuple(case(name).inputs))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_learned_arrives_exactly_where_the_other_is_the_same_model(name: str) -> None:
    base, to = ends(name)
    learned = outputs(name, tuned(base))
    assert (outputs(name, to) - learned).abs().max() > 1e-2
    torch.testing.assert_close(outputs(name, carried(name).module), learned, rtol=1e-5, atol=1e-6)


def test_half_of_it_is_half_way() -> None:
    base, to = ends("mlp-gelu")
    half = symgraph.transport(base, tuned(base), to, tuple(case("mlp-gelu").inputs), scale=0.5)
    whole, own = carried("mlp-gelu").state, state_of(to)
    for name, tensor in half.state.items():
        torch.testing.assert_close(tensor, (own[name].detach() + whole[name]) / 2)


def test_the_scale_is_chosen_on_data() -> None:
    base, to = ends("mlp-gelu")
    x = case("mlp-gelu").inputs[0].double()
    batches = [(x, tuned(base)(x).detach())]
    found = symgraph.transport(base, tuned(base), to, (x,), fit=batches, loss="mse")
    assert found.scale == 1.0 and found.fitted is not None
    assert found.fitted.losses[0] > 1e-5 > min(found.fitted.losses)
    none = symgraph.transport(base, tuned(base), to, (x,), fit=[(x, to(x).detach())], loss="mse")
    assert none.scale == 0.0 and "nothing is added" in str(none)


def turned(net: nn.Module, rotation: Tensor) -> nn.Module:
    """Two maps with a rotation between them."""
    found, own = copy.deepcopy(net), net.state_dict()
    first = {name: rotation @ own[name] for name in ("0.weight", "0.bias")}
    found.load_state_dict({**own, **first, "1.weight": own["1.weight"] @ rotation.T})
    return found


def test_an_alignment_is_learned_by_what_comes_of_what_is_carried() -> None:
    """Planted: the other model is the first one turned, and the alignment that is given does not know by what."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double()
    skew = torch.randn(8, 8).double() / 3
    to, after, x = turned(base, torch.linalg.matrix_exp(skew - skew.T)), tuned(base), torch.randn(160, 6).double()
    for parameter in after.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    batches = [(part, after(part).detach()) for part in torch.split(x, 16)]
    nowhere = Alignment(symgraph.infer(to, x), Transform(), "", "")
    wrong = symgraph.transport(base, after, to, x, alignment=nowhere)
    how: dict[str, Any] = {"method": "learned", "data": batches, "loss": "mse", "learning": {"steps": 300}}
    found = symgraph.transport(base, after, to, x, alignment=nowhere, **how)
    losses = [nn.functional.mse_loss(moved.module(x), after(x)).item() for moved in (wrong, found)]
    assert losses[0] > 0.1 and losses[1] < 1e-2 * losses[0]
    assert "learned over 300 steps" in str(found)


def test_each_tensor_has_its_scale() -> None:
    """Planted: what was learned of one tensor is noise, and what was learned of the others is all that is wanted."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    wanted, x = tuned(tuned(base)), torch.randn(160, 6).double()
    for parameter in wanted.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    spoilt = copy.deepcopy(wanted)
    spoilt.get_parameter("0.weight").data += torch.randn(8, 6).double()
    batches = [(part, with_weight(wanted, base)(part).detach()) for part in torch.split(x, 16)]
    nowhere = Alignment(symgraph.infer(base, x), Transform(), "", "")
    how: dict[str, Any] = {"alignment": nowhere, "fit": batches, "loss": "mse"}
    one, each = (symgraph.transport(base, spoilt, base, x, per_tensor=p, **how) for p in (False, True))
    losses = [sum(nn.functional.mse_loss(f.module(x), y).item() for x, y in batches) for f in (one, each)]
    assert losses[1] < 0.1 * losses[0] and each.scales is not None
    assert abs(each.scales["0.weight"]) < 0.1 and abs(each.scales["2.weight"] - 1) < 0.1
    assert each.scale == 1.0 and each.to_plain()["scales"] == each.scales and "a scale for each tensor" in str(each)
    with pytest.raises(UsageError, match="chosen on"):
        symgraph.transport(base, spoilt, base, x, per_tensor=True)


def with_weight(net: nn.Module, other: nn.Module) -> nn.Module:
    """A network with the first matrix of another one."""
    found = copy.deepcopy(net)
    found.load_state_dict({**net.state_dict(), "0.weight": other.state_dict()["0.weight"]})
    return found


def test_what_is_learned_by_is_named_where_it_is_missing() -> None:
    base, to = ends("mlp-gelu")
    x = tuple(case("mlp-gelu").inputs)
    with pytest.raises(UsageError, match="nothing is learned without data"):
        symgraph.transport(base, tuned(base), to, x, method="learned")
    batches = [(x[0].double(), to(x[0].double()).detach())] * 3
    with pytest.raises(UsageError, match="has anything to learn"):
        symgraph.transport(base, tuned(base), to, x, method="learned", data=batches, loss="mse")
    with pytest.raises(UsageError, match="stepz"):
        symgraph.transport(base, tuned(base), to, x, method="learned", data=batches, learning={"stepz": 3})


def test_an_alignment_that_is_known_is_used(tmp_path: Path) -> None:
    base, to = ends("mlp-gelu")
    x = tuple(case("mlp-gelu").inputs)
    file = symgraph.align(base, to, x).alignment.save(tmp_path / "known.safetensors")
    found = symgraph.transport(base, tuned(base), to, x, alignment=file)
    for name, tensor in carried("mlp-gelu").state.items():
        torch.testing.assert_close(found.state[name], tensor)
    assert "another model" in str(symgraph.transport(to, tuned(base), to, x, alignment=file))
    with pytest.raises(UsageError, match="how to make one: method"):
        symgraph.transport(base, tuned(base), to, x, alignment=file, method="weights")


def test_a_checkpoint_is_written_that_opens_as_it_is(tmp_path: Path) -> None:
    import transformers

    found = carried("llama")
    found.save_pretrained(tmp_path / "out")
    opened = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    assert torch.equal(outputs("llama", opened), outputs("llama", found.module))
    assert "in the basis and gauge" in (tmp_path / "out" / "README.md").read_text()


# -- adapters ------------------------------------------------------------------------------------------------------


def test_factors_of_a_product_give_it_back() -> None:
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(9, 3, generator=generator).double() @ torch.randn(3, 7, generator=generator).double()
    for rank in (3, 5, 8):
        left, right = factors(product, rank)
        assert left.shape == (9, rank) and right.shape == (rank, 7)
        torch.testing.assert_close(left @ right, product)
        torch.testing.assert_close(left.norm(), right.norm())


@pytest.fixture(scope="module", params=list(TARGETS))
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, nn.Module]:
    """The architecture, an adapter of it, and its model with it."""
    peft = pytest.importorskip("peft")
    name = request.param
    torch.manual_seed(0)
    config = peft.LoraConfig(**LORA, target_modules=TARGETS[name], fan_in_fan_out=name.startswith("gpt2"))
    wrapped = peft.get_peft_model(copy.deepcopy(ends(name)[0]), config)
    folder = tmp_path_factory.mktemp("adapters") / name
    wrapped.save_pretrained(str(folder))
    return name, folder, wrapped.eval()


def test_an_adapter_arrives_as_one_of_the_same_rank(adapter: tuple[str, Path, nn.Module], tmp_path: Path) -> None:
    import peft

    name, folder, wrapped = adapter
    base, to = ends(name)
    found = symgraph.transport(base, folder, to, tuple(case(name).inputs))
    found.save_pretrained(tmp_path / "out")
    shapes = [
        {n: t.shape for n, t in load_file(f / "adapter_model.safetensors").items()} for f in (folder, tmp_path / "out")
    ]
    assert shapes[0] == shapes[1]
    opened = peft.PeftModel.from_pretrained(copy.deepcopy(to), str(tmp_path / "out")).eval()
    here, there, own = (m(*case(name).inputs)[0] for m in (wrapped, opened, base))
    assert (here - own).abs().max() > 0.1
    if name == "llama":
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)
    else:
        # Its biases are in another gauge, and an adapter has no place for what it would change in them.
        assert "left out" in str(found)
    torch.testing.assert_close(found.module(*case(name).inputs)[0], there, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_learned_on_at_its_rank(adapter: tuple[str, Path, nn.Module], tmp_path: Path) -> None:
    """From an alignment that knows of nothing: what is carried lowers the loss, and is an adapter still."""
    name, folder, wrapped = adapter
    base, to = ends(name)
    ids = torch.randint(0, int(case(name).inputs[0].max()), (24, 6), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "labels": wrapped(part).logits.argmax(-1)} for part in torch.split(ids, 4)]
    nowhere = Alignment(symgraph.infer(to), Transform(), "", "")
    how: dict[str, Any] = {"method": "learned", "data": batches, "learning": {"steps": 30, "check_every": 10}}
    found = symgraph.transport(base, folder, to, alignment=nowhere, **how)
    before, after = map(float, re.findall(r"validation loss ([\d.]+) -> ([\d.]+)", str(found))[0])
    assert after < before - 0.05
    found.save_pretrained(tmp_path / "out")
    shapes = [
        {n: t.shape for n, t in load_file(f / "adapter_model.safetensors").items()} for f in (folder, tmp_path / "out")
    ]
    assert shapes[0] == shapes[1]


def test_a_model_keeps_its_table_when_it_is_given_an_adapter_of_one(tmp_path: Path) -> None:
    """PEFT stores tables beside their factors, and takes them over wherever the adapter is opened."""
    peft = pytest.importorskip("peft")
    base, to = ends("llama")
    config = peft.LoraConfig(**LORA, target_modules=["embed_tokens"])
    peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(str(tmp_path / "ad"), save_embedding_layers=True)
    before = copy.deepcopy(to.state_dict())
    found = symgraph.transport(base, tmp_path / "ad", to, tuple(case("llama").inputs))
    found.save_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in to.state_dict().items())


def test_adapters_that_are_more_than_two_factors_are_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, to = ends("llama")
    x = tuple(case("llama").inputs)
    more = {
        "DoRA": peft.LoraConfig(**LORA | {"init_lora_weights": True}, target_modules=["q_proj"], use_dora=True),
        "saved": peft.LoraConfig(**LORA, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "scales": peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    }
    for name, config in more.items():
        peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(str(tmp_path / name))
        with pytest.raises(UsageError, match="is an adapter") as raised:
            symgraph.transport(base, tmp_path / name, to, x)
        assert "merge it into its model" in str(raised.value)


def test_an_adapter_of_another_model_is_refused(adapter: tuple[str, Path, nn.Module]) -> None:
    name, folder, _ = adapter
    base, to = ends("mlp-gelu")
    with pytest.raises(CheckpointError, match="is no adapter of"):
        symgraph.transport(base, folder, to, tuple(case("mlp-gelu").inputs))
    assert name


def test_models_of_other_shapes_are_refused() -> None:
    five, six = (nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)) for width in (5, 6))
    with pytest.raises(CheckpointError, match="differ"):
        symgraph.transport(five, copy.deepcopy(five), six, torch.randn(3, 4))
