"""What belongs to a value of one model belongs to that of another: exactly where that is the first in another basis."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import case
from safetensors.torch import load_file, save_file
from test_transport import ends, module_of
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.match.carry import CarriedVectors
from symgraph.orbit.alignment import Alignment
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64

# A residual stream, hidden units, what a norm with a gain gives, and the inside of heads: with their sizes.
VALUES = {
    "llama": {
        "model.layers.0": 0,
        "model.layers.1.mlp.act_fn": 0,
        "model.layers.0.input_layernorm": 0,
        "model.layers.0.self_attn.v_proj": 0,
    },
    "gpt2-untied": {"transformer.h.0": 0, "transformer.h.1.mlp.act": 0, "transformer.h.1.ln_1": 0},
    "vit": {"vit.layers.0": 0},
    "mlp-gelu": {"1": 0},
}
PAIRS = [(name, at) for name, values in VALUES.items() for at in values]
SAE = ("W_enc", "b_enc", "W_dec", "b_dec")
MODULES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def values(name: str, module: nn.Module, node: str) -> Tensor:
    c = case(name)
    found: Tensor = Interpreter(c.graph).run(float64(state_of(module)), list(c.inputs), [node])[1][node]
    return found


@cache
def alignment(name: str) -> Alignment:
    base, to = ends(name)
    return symgraph.align(base, to, tuple(case(name).inputs)).alignment


def carried(name: str, at: str, tensors: dict[str, Tensor], **how: Any) -> CarriedVectors:
    base, to = ends(name)
    given = {"alignment": alignment(name), **how}
    return symgraph.transport_vectors(base, tensors, to, tuple(case(name).inputs), at=at, **given)


def width(name: str, at: str) -> int:
    """How many numbers the value has, by the message that says so."""
    if not VALUES[name][at]:
        with pytest.raises(UsageError) as caught:
            carried(name, at, {"v": torch.randn(10_007)})
        VALUES[name][at] = int(str(caught.value).split(" has ")[2].split()[0])
    return VALUES[name][at]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("name", "at"), PAIRS)
def test_a_probe_reads_of_the_other_model_what_it_read_of_the_first(name: str, at: str) -> None:
    d = width(name, at)
    probe = {"weight": random(3, d), "bias": random(3)}
    # Streams behind layer norms have a mean of their own in each basis.
    probe["weight"] -= probe["weight"].mean(-1, keepdim=True)
    found = carried(name, at, probe)
    before, after = (values(name, m, found.map.value).movedim(found.map.axis, -1) for m in ends(name))
    read = before @ probe["weight"].T + probe["bias"]
    assert torch.allclose(after @ found.tensors["weight"].T + found.tensors["bias"], read, atol=1e-5)
    # And the value did move.
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("at", ["model.layers.0", "model.layers.0.input_layernorm"])
@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_features_of_an_autoencoder_are_the_same(at: str, modules: bool, centred: bool) -> None:
    d, m = width("llama", at), 7
    own = dict(zip(SAE, (random(d, m), random(m), random(m, d), random(d)), strict=True))
    given = renamed(own, MODULES) if modules else own
    found = carried("llama", at, {**given, "threshold": random(m)}, centred=centred)
    there = renamed(found.tensors, SAE) if modules else found.tensors
    x, y = (values("llama", module, found.map.value) for module in ends("llama"))
    features = [((v - t["b_dec"] * centred) @ t["W_enc"] + t["b_enc"]).relu() for v, t in ((x, own), (y, there))]
    assert torch.allclose(features[0], features[1], atol=1e-5)
    made, again = (f @ t["W_dec"] + t["b_dec"] for f, t in zip(features, (own, there), strict=True))
    assert torch.allclose(again, found.map.points(made), atol=1e-5)
    assert found.kind == "autoencoder"


def renamed(own: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """An autoencoder in the other of the two layouts."""
    before = SAE if names is MODULES else MODULES
    return {new: own[old].T if own[old].dim() == 2 else own[old] for new, old in zip(names, before, strict=True)}


def test_a_direction_goes_where_a_step_along_it_goes(tmp_path: Path) -> None:
    steer = random(width("llama", "model.layers.0"))
    save_file({"steer": steer}, tmp_path / "v.safetensors")
    base, to = ends("llama")
    inputs = tuple(case("llama").inputs)
    found = symgraph.transport_vectors(
        base, tmp_path / "v.safetensors", to, inputs, at="model.layers.0", alignment=alignment("llama")
    )
    x, y = (values("llama", m, found.map.value) for m in (base, to))
    assert torch.allclose(found.map.points(x + steer), y + found.tensors["steer"], atol=1e-5)
    written = load_file(found.save(tmp_path / "out.safetensors"))
    assert torch.equal(written["steer"], found.tensors["steer"])


def stack() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 3)).double()


def moments_of(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What AdamW sees where nothing moves."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0, amsgrad=True)
    for _ in range(4):
        optimiser.zero_grad()
        (module(x) - y).square().mean().backward()
        optimiser.step()
        x = x.roll(1, 0)
    return optimiser.state_dict()


def test_moments_are_those_that_the_other_model_would_have_had(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, x, y = stack(), random(9, 6), random(9, 3)
    b = symgraph.sample(a, x, seed=1)
    torch.save({"optimizer": moments_of(a, x, y), "step": 4}, tmp_path / "o.pt")
    found = symgraph.transport_moments(a, tmp_path / "o.pt", b, x)
    assert not found.mixed and "exact" in str(found)
    for number, one in moments_of(b, x, y)["state"].items():
        for key, tensor in one.items():
            assert torch.allclose(found.state["state"][number][key], tensor, rtol=1e-5, atol=1e-12), (number, key)
    torch.optim.AdamW(b.parameters()).load_state_dict(torch.load(found.save(tmp_path / "there.pt"), weights_only=True))


def test_moments_of_mixed_entries_are_said_to_be_so() -> None:
    (base, to), inputs = ends("llama"), tuple(case("llama").inputs)
    optimiser = torch.optim.AdamW(base.parameters(), lr=0.0, weight_decay=0.0)
    base(*inputs).logits.square().mean().backward()
    optimiser.step()
    base.zero_grad()
    found = symgraph.transport_moments(base, optimiser.state_dict(), to, inputs)
    to(*inputs).logits.square().mean().backward()
    gradients = [(n, p.grad) for n, p in to.named_parameters()]
    to.zero_grad()
    assert found.mixed and "independent" in str(found)
    assert found.anew and all("norm" in name for name in found.anew)
    for number, (name, gradient) in enumerate(gradients):
        if gradient is not None and name not in found.anew:
            mean = found.state["state"][number]["exp_avg"]
            assert torch.allclose(mean, 0.1 * gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


WRONG = {
    "a size": ({"v": torch.randn(10_007)}, {}, r"v has shape \(10007,\), and .* has \d+ numbers"),
    "a place": ({"v": torch.randn(8)}, {"at": "model.layer.0"}, "did you mean `model.layers.0"),
    "a kind": ({"v": torch.randn(8)}, {"kind": "vector"}, "is none of directions"),
    "no weight": ({"v": torch.randn(8)}, {"kind": "probe"}, "has no weight"),
    "an encoder's size": ({"encoder.weight": torch.randn(4, 10_007)}, {}, "encoder.weight has shape"),
    "whole numbers": ({"v": torch.ones(8, dtype=torch.int64)}, {}, "v has numbers of torch.int64"),
    "no numbers": ({"v": torch.full((8,), torch.nan)}, {}, "v is not finite"),
    "nothing": ({}, {}, "there are no vectors"),
    "nothing moves": ({"v": torch.randn(8)}, {"at": "lm_head"}, "nothing acts on the value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_error(name: str) -> None:
    tensors, how, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        carried("llama", tensors=tensors, **{"at": "model.layers.0", **how})


def test_an_autoencoder_without_a_decoder_is_one_error() -> None:
    encoder = {"encoder.weight": random(4, width("llama", "model.layers.0"))}
    with pytest.raises(UsageError, match=r"has no decoder\.weight"):
        carried("llama", "model.layers.0", encoder)


def test_a_bias_of_another_size_is_one_error() -> None:
    probe = {"weight": random(4, width("llama", "model.layers.0")), "bias": random(3)}
    with pytest.raises(UsageError, match=r"bias has shape \(3,\)"):
        carried("llama", "model.layers.0", probe)


def test_a_file_that_is_none_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no")
    text = tmp_path / "no.pt"
    text.write_text("no optimiser")
    base, to = ends("llama")
    inputs = tuple(case("llama").inputs)
    with pytest.raises(CheckpointError, match="cannot be read"):
        symgraph.transport_vectors(base, tmp_path / "no.safetensors", to, inputs, at="model.layers.0")
    with pytest.raises(CheckpointError, match="cannot be read") as found:
        symgraph.transport_moments(base, text, to, inputs)
    assert "no file of torch.save" in found.value.cause


def test_what_is_no_state_of_adamw_is_one_error() -> None:
    a, b, x = stack(), stack(), random(9, 6)
    with pytest.raises(UsageError, match="no state of an optimiser"):
        symgraph.transport_moments(a, torch.optim.AdamW(a.parameters()).state_dict(), b, x)
    sgd = torch.optim.SGD(a.parameters(), momentum=0.9)
    a(x).square().mean().backward()
    sgd.step()
    with pytest.raises(UsageError, match="no moments of first and second order"):
        symgraph.transport_moments(a, sgd.state_dict(), b, x)
    other = moments_of(nn.Linear(6, 2).double(), x, random(9, 2))
    with pytest.raises(CheckpointError, match="of the optimiser has shape"):
        symgraph.transport_moments(a, other, b, x)


def shortened(module: Any) -> nn.Module:
    """A model that writes windows of twelve tokens."""
    module.config.max_position_embeddings = 12
    found: nn.Module = module
    return found


def tokens_of(module: Any, count: int) -> Tensor:
    return torch.randint(0, module.config.vocab_size, (count, 12), generator=torch.Generator().manual_seed(5))


@cache
def writers() -> tuple[nn.Module, nn.Module]:
    """Two language models that have nothing to do with one another, and write short windows."""
    c = case("llama")
    return shortened(module_of("llama", c.state(0))), shortened(module_of("llama", c.state(1)))


def test_models_that_write_text_are_aligned_by_the_value_itself() -> None:
    """By that value more of it is explained than by weights, on text that it was not fitted to."""
    a, b = writers()
    inputs, at = tuple(case("llama").inputs), "model.layers.0"
    steer = {"steer": torch.eye(width("llama", "model.layers.0"), dtype=torch.float64)}
    by_value = symgraph.transport_vectors(a, steer, b, inputs, at=at)
    by_weights = symgraph.transport_vectors(a, steer, b, inputs, at=at, method="weights")
    assert "windows that the models wrote" in str(by_value) and "windows" not in str(by_weights)
    tokens = tokens_of(a, 64)
    x, y = (m.double()(tokens, output_hidden_states=True).hidden_states[1].flatten(0, 1).detach() for m in (a, b))

    def missed(found: CarriedVectors, origin: bool) -> float:
        left = found.map.points(x) - y if origin else found.map.directions(x - x.mean(0)) - (y - y.mean(0))
        return float(left.square().sum())

    assert not by_value.map.constant.requires_grad
    assert missed(by_value, False) < missed(by_weights, False)
    assert missed(by_value, True) < missed(by_weights, True)


def test_data_that_is_given_is_what_the_value_is_seen_on() -> None:
    a, b = writers()
    tokens = tokens_of(a, 32)
    inputs, steer = tuple(case("llama").inputs), {"steer": torch.ones(width("llama", "model.layers.0"))}
    # One batch: each has a mean of its own.
    batches = [{"input_ids": tokens}]
    found = symgraph.transport_vectors(a, steer, b, inputs, at="model.layers.0", data=batches)
    x, y = (m.double()(tokens, output_hidden_states=True).hidden_states[1].flatten(0, 1).detach() for m in (a, b))
    torch.testing.assert_close(found.map.points(x.mean(0)), y.mean(0), rtol=1e-4, atol=1e-5)
    left, _, right = torch.linalg.svd((y - y.mean(0)).T @ (x - x.mean(0)))
    torch.testing.assert_close(found.map.matrix, left @ right, rtol=1e-3, atol=1e-3)


def test_a_value_of_the_same_model_is_found_exactly_on_text() -> None:
    base, to = map(shortened, ends("llama"))
    inputs = tuple(case("llama").inputs)
    steer = {"steer": random(width("llama", "model.layers.0"))}
    fit = symgraph.transport_vectors(base, steer, to, inputs, at="model.layers.0")
    exact = carried("llama", "model.layers.0", steer)
    torch.testing.assert_close(fit.tensors["steer"], exact.tensors["steer"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_models_that_nobody_can_make_inputs_for_are_aligned_by_weights() -> None:
    base, to = ends("bert")
    inputs, at = tuple(case("bert").inputs), "bert.encoder.layer.0"
    steer = {"steer": random(len(case("bert").module.state_dict()["bert.embeddings.LayerNorm.weight"]))}
    plain = symgraph.transport_vectors(base, steer, to, inputs, at=at)
    by_weights = symgraph.transport_vectors(base, steer, to, inputs, at=at, method="weights")
    assert torch.equal(plain.tensors["steer"], by_weights.tensors["steer"])


class Unbatched(nn.Module):
    """Its values have one axis alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x[0]).tanh())
        return found


@pytest.mark.parametrize("once", [True, False])
def test_a_value_of_one_axis_on_batches_that_can_be_read_once(once: bool) -> None:
    a, b = Unbatched(0), Unbatched(1)
    batches = [(x,) for x in random(3, 2, 6).float()]
    data = iter(batches) if once else batches
    found = symgraph.transport_vectors(a, {"steer": random(8)}, b, batches[0], at="tanh", data=data)
    x, y = (torch.stack([m.first(x[0]).tanh() for (x,) in batches]).mean(0).double().detach() for m in (a, b))
    torch.testing.assert_close(found.map.points(x), y, rtol=1e-4, atol=1e-6)


def test_options_of_what_is_seen_say_nothing_of_one_value() -> None:
    a, b = writers()
    inputs, steer = tuple(case("llama").inputs), {"steer": torch.ones(width("llama", "model.layers.0"))}
    with pytest.raises(UsageError, match="alpha: the models are aligned by one value alone"):
        symgraph.transport_vectors(a, steer, b, inputs, at="model.layers.0", options={"alpha": 0.5, "sweeps": 2})
