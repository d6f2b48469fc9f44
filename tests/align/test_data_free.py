"""Matching where there is no data: what the models make up, and that it serves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models_zoo import network
from torch import nn

import symgraph
from symgraph.errors import DataError
from symgraph.io.data import NoData, load
from symgraph.measure.losses import SOFT, SOFT_NEXT, cross_entropy
from symgraph.measure.synthetic import synthetic


def made_up(name: str, **more: Any) -> Any:
    models = [network(name, seed) for seed in (0, 1)]
    wanted = NoData(**{"examples": 24, "batch_size": 6, **more})
    return models, synthetic(models, symgraph.trace(models[0]), wanted)


@pytest.mark.parametrize("name", ["gpt2-untied", "llama"])
def test_language_models_write_windows_in_turns(name: str) -> None:
    models, found = made_up(name, length=7)
    assert len(found) == 4 and "windows" in found.source
    assert all(b["input_ids"].shape == (6, 7) and torch.equal(b["input_ids"], b["labels"]) for b in found)
    own = [[cross_entropy(m(input_ids=b["input_ids"]), b)[0].mean() for b in found] for m in models]
    # Each batch is likelier by the model that wrote it, and made anew it is the same.
    assert [int(a > b) for a, b in zip(*own, strict=True)] == [0, 1, 0, 1]
    assert torch.equal(made_up(name, length=7)[1][2]["input_ids"], found[2]["input_ids"])
    assert not torch.equal(made_up(name, length=7, seed=9)[1][2]["input_ids"], found[2]["input_ids"])


def test_tokens_are_drawn_as_the_model_predicts_with_or_without_a_cache() -> None:
    class Plain(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(input_ids=input_ids, use_cache=False).logits
            return logits

    model = network("llama", 0)
    graph = symgraph.trace(model)
    cached, plain = (synthetic([m], graph, NoData(length=6, batch_size=9))[0] for m in (model, Plain(model)))
    assert torch.equal(cached["input_ids"], plain["input_ids"])


class NamedOtherwise(nn.Module):
    """A language model whose input has a name that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.table(x).tanh())
        return logits


def test_windows_are_learned_by_what_all_models_predict_after_each_token() -> None:
    nets = [NamedOtherwise(), NamedOtherwise()]
    graph = symgraph.trace(nets[0], torch.zeros(2, 5, dtype=torch.int64))
    batch = synthetic(nets, graph, NoData(examples=8, batch_size=4, length=5), "cross-entropy")[1]
    mean = torch.stack([net(batch["x"]).softmax(-1) for net in nets]).mean(0).detach()
    torch.testing.assert_close(batch[SOFT_NEXT], mean)
    # The least loss at each position is the entropy of what comes next, and not that of the token itself.
    entropy = -(mean * mean.log()).sum(-1)
    torch.testing.assert_close(cross_entropy(mean.log(), batch)[0], entropy.mean(1))
    assert SOFT_NEXT not in synthetic(nets, graph, NoData(examples=8, batch_size=4, length=5))[1]


def test_a_window_is_the_same_in_batches_of_any_order() -> None:
    made = [made_up("gpt2-untied", examples=60, batch_size=12, length=8)[1] for _ in range(2)]
    backwards = [made[1][number] for number in reversed(range(5))][::-1]
    assert all(torch.equal(one["input_ids"], two["input_ids"]) for one, two in zip(made[0], backwards, strict=True))
    assert len({tuple(row.tolist()) for batch in made[0] for row in batch["input_ids"]}) == 60


def test_images_are_noise_with_what_the_models_say_of_it() -> None:
    models, found = made_up("vit", steps=0)
    batch = found[1]
    assert "noise" in found.source and batch["pixel_values"].shape == (6, 3, 8, 8)
    with torch.no_grad():
        said = [m(pixel_values=batch["pixel_values"]).logits.softmax(-1) for m in models]
    torch.testing.assert_close(batch[SOFT], (said[0] + said[1]) / 2)
    spectra = torch.fft.fft2(batch["pixel_values"]).abs()
    assert spectra[0, :, 3:6, 3:6].mean() > 3 * spectra[2, :, 3:6, 3:6].mean()


def test_noise_is_led_to_where_the_models_are_sure() -> None:
    models, found = made_up("vit", examples=72, batch_size=24)
    plain = made_up("vit", examples=72, batch_size=24, steps=0)[1]
    assert torch.equal(found[0]["pixel_values"], plain[0]["pixel_values"])
    surest = [[batch[SOFT].amax(1).mean() for batch in batches] for batches in (found, plain)]
    # A third of the batches stays, one takes half of the steps, one all of them.
    assert surest[0][2] > surest[0][1] > surest[1][1] and surest[0][2] > surest[1][2]
    assert all(batch["pixel_values"].isfinite().all() for batch in found)
    again = made_up("vit", examples=72, batch_size=24)[1]
    assert torch.equal(again[2]["pixel_values"], found[2]["pixel_values"])
    assert all(parameter.grad is None for model in models for parameter in model.parameters())


def test_inputs_of_any_shape_are_led_and_where_no_class_is_said_they_stay() -> None:
    kinds = {"tabular": nn.Linear(6, 4), "signal": nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5))}
    for name, shape in {"tabular": (5, 6), "signal": (5, 2, 6)}.items():
        graph = symgraph.trace(kinds[name], torch.randn(shape))
        led, plain = (synthetic([kinds[name]], graph, NoData(examples=30, batch_size=10, steps=n))[2] for n in (8, 0))
        made = next(iter(led.values()))
        assert made.shape == (10, *shape[1:]) and led[SOFT].amax(1).mean() > plain[SOFT].amax(1).mean()
        torch.testing.assert_close(made.flatten(1).square().mean(1), torch.ones(10))
    # One class is always sure, and a model that works on its input in place has the gradient of one that does not.
    for net in (nn.Linear(6, 1), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))):
        found = synthetic([net], symgraph.trace(net, torch.randn(5, 6)), NoData(examples=30, batch_size=10))
        assert all(tensor.isfinite().all() for batch in found for tensor in batch.values())


def test_soft_labels_are_trained_as_labels_are() -> None:
    logits = torch.randn(4, 5)
    labels = torch.tensor([0, 3, 2, 2])
    hard = cross_entropy(logits, {"labels": labels})
    soft = cross_entropy(logits, {SOFT: nn.functional.one_hot(labels, 5).float()})
    assert all(torch.allclose(a, b) for a, b in zip(hard, soft, strict=True))


def test_regression_learns_the_mean_of_the_outputs() -> None:
    nets = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)) for _ in range(2)]
    found = synthetic(nets, symgraph.trace(nets[0], torch.randn(3, 4)), NoData(examples=8, batch_size=8), "mse")
    (inputs,) = (t for n, t in found[0].items() if n != "labels")
    torch.testing.assert_close(found[0]["labels"], (nets[0](inputs) + nets[1](inputs)).detach() / 2)


@pytest.mark.parametrize("name", ["vit", "gpt2-untied"])
def test_learned_matching_without_data_lowers_the_barrier_on_data(name: str) -> None:
    a, b = network(name, 0), network(name, 1)
    weights = symgraph.align(a, b)
    learning = {"steps": 40, "check_every": 20, "lr": 1e-2}
    learned = symgraph.align(a, b, method="learned", data=NoData(examples=120, batch_size=12), learning=learning)
    assert learned.learned is not None
    first, *_, last = (barrier for _, barrier in learned.learned.history)
    assert last < first
    fresh = synthetic([a, b], symgraph.trace(a), NoData(examples=48, batch_size=12, seed=1000))
    midpoints = [f.barrier(fresh, points=3).midpoint for f in (weights, learned)]
    assert midpoints[1] is not None and midpoints[0] is not None and midpoints[1] < midpoints[0]


def test_activations_are_compared_on_what_is_made_up() -> None:
    net = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    planted, order = copy.deepcopy(net), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        tensor = planted.get_parameter(name)
        tensor.data = tensor.data.index_select(axis, order)
    found = symgraph.align(net, planted, torch.randn(3, 4), method="activations", data="none", options={"alpha": 1.0})
    torch.testing.assert_close(found.state["0.weight"], net.get_parameter("0.weight").detach())


def test_inputs_of_unknown_kinds_are_refused() -> None:
    bert = network("bert", 0)
    with pytest.raises(DataError, match="whole numbers"):
        synthetic([bert], symgraph.trace(bert), NoData())
    net = nn.Bilinear(3, 4, 2)
    with pytest.raises(DataError, match="one by one"):
        synthetic([net], symgraph.trace(net, (torch.randn(2, 3), torch.randn(2, 4))), NoData())
    with pytest.raises(DataError, match="no such file"):
        load("none")
