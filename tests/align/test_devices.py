"""The same program elsewhere: the same result on every device, and nothing comes to the host but what has to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from models_zoo import batches, case, network, worst
from torch import nn

import symgraph
from symgraph.orbit.unique import unique

DEVICES = [("mlp", "cpu")]
if torch.cuda.is_available():
    DEVICES += [(name, "cuda") for name in ("mlp", "gpt2-untied", "llama", "resnet")]
# Assignments are solved on the host, the user's module is called there, and states of results are given there.
ON_THE_HOST = {"match": {"groups.assignment"}, "settle": {"match.program_run", "prove.eager"}}


def _mlp(seed: int) -> Any:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    object.__setattr__(net, "example_inputs", (torch.ones(5, 6),))
    return net.eval()


def _pair(name: str) -> tuple[Any, Any]:
    make = _mlp if name == "mlp" else lambda seed: network(name, seed)
    return make(0), make(1)


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_every_device_gives_the_same_model(name: str, device: str) -> None:
    a, b = _pair(name)
    found = symgraph.align(a, b, device=device)
    assert all(t.device.type == "cpu" for t in found.state.values())
    expected = symgraph.align(a, b)
    assert (found.before, found.after) == pytest.approx((expected.before, expected.after), rel=1e-5)
    # Correlations are float32 products, whose sums a device orders in its own way: some ten units of rounding.
    _close(dict(expected.state), dict(found.state), 1e-6 if device == "cpu" else 1e-5)


@pytest.mark.parametrize("name", ["mlp", pytest.param("gpt2-untied", marks=pytest.mark.slow), "llama", "resnet"])
def test_nothing_comes_to_the_host_but_what_has_to(name: str) -> None:
    a, b = _pair(name)
    expected = symgraph.align(a, b)
    with Elsewhere(*(step.op for step in symgraph.plan([a, b]).steps)) as elsewhere:
        found = symgraph.align(a, b, device=DEVICE, progress=elsewhere.told)
    _close(dict(expected.state), dict(found.state))
    assert elsewhere.copies
    for copy in elsewhere.copies:
        assert copy.module in ON_THE_HOST.get(copy.step, ()), copy


LEARNING = symgraph.LearnOptions(steps=6, check_every=3, retract_every=2, lr=0.02, warmup=2, patience=0)
HOW: dict[str, dict[str, Any]] = {
    "activations": {"method": "activations", "options": symgraph.MatchOptions(alpha=0.5, rows=0)},
    "learned": {"method": "learned", "learning": LEARNING},
    "dual": {"method": "learned", "learning": replace(LEARNING, dual=True, gauge=True)},
    "permutations": {"method": "learned", "learning": replace(LEARNING, permutations=True, full=False)},
}
NAMES = ("vit", "gpt2-untied", "llama", "resnet")
PLACES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# What is compared with the host: a host that is compared with itself could not fail.
OTHERS = [pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))]


def _close_enough(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", OTHERS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_data_is_read_the_same_everywhere(name: str, how: str, device: str) -> None:
    """In float64 rounding alone tells devices apart, and few steps do not make much of it."""
    a, b, data = network(name, 0), network(name, 1), batches(name)
    options = {"data": data[:4], "validation": data[4:], "dtype": torch.float64, **HOW[how]}
    expected = symgraph.align(a, b, **options)
    found = symgraph.align(a, b, device=device, **options)
    _close_enough(dict(expected.state), dict(found.state))
    _close_enough(dict(expected.reference), dict(found.reference))


@pytest.mark.parametrize("device", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_learning_in_halves_finds_a_symmetry(name: str, device: str) -> None:
    """The network computes in bfloat16; what is learned is as exact as ever, and the loss is no worse than before."""
    a, b, data = network(name, 0), network(name, 1), batches(name)
    learning = replace(LEARNING, autocast=True, steps=12)
    found = symgraph.align(a, b, method="learned", data=data[:4], validation=data[:4], learning=learning, device=device)
    assert found.learned is not None
    history = dict(found.learned.history)
    assert history[found.learned.best] <= history[0]
    first, second = (dict(network(name, 1).state_dict()), dict(found.state))
    ends = symgraph.loss_barrier(first, second, data, module=a, points=3)
    assert ends.losses[0] == pytest.approx(ends.losses[-1], abs=1e-4)


@pytest.mark.parametrize("device", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_barriers_and_means_are_the_same_everywhere(name: str, device: str) -> None:
    a, b, data = network(name, 0), network(name, 1), batches(name)
    how: dict[str, Any] = {"points": 3, "metrics": "accuracy", "dtype": torch.float64}
    expected, found = (symgraph.loss_barrier(a, b, data, device=d, **how) for d in ("cpu", device))
    # In float64, too, rotary angles and RMS norms of transformers are float32, which devices round differently.
    assert found.losses == pytest.approx(expected.losses, abs=1e-6)
    both, there = (symgraph.merge([a, b], device=d) for d in ("cpu", device))
    assert all(t.device.type == "cpu" for t in there.state.values())
    _close_enough(dict(both.state), dict(there.state))


def test_the_device_tells_operands_on_two_devices() -> None:
    with Elsewhere() as elsewhere:
        there = torch.ones(3, 3).to(DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            there @ torch.ones(3, 3)
        assert float((there @ there).sum()) == 27
        assert not elsewhere.copies and elsewhere.read == 1
        assert there.cpu().tolist() == [[1.0] * 3] * 3
        assert [copy.shape for copy in elsewhere.copies] == [(3, 3)]


@pytest.mark.parametrize("name", ["mlp-tanh", "llama", "resnet"])
def test_the_canonical_form_is_made_where_the_weights_are(name: str) -> None:
    found = case(name)
    state = found.state(1)
    expected = unique(found.symmetry, state).state
    with Elsewhere():
        there = unique(found.symmetry, {key: tensor.to(DEVICE) for key, tensor in state.items()}).state
        assert all(tensor.device.type == DEVICE for tensor in there.values())
        back = {key: tensor.cpu() for key, tensor in there.items()}
    assert worst(expected, back) < 1e-9
