"""What a loss barrier takes, how it evaluates, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from plain_loops import Net, Words, between, pairs, refused
from torch import Tensor, nn

from symgraph.errors import CheckpointError, DataError, UsageError
from symgraph.io.models import Model
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.losses import Metric

BATCHES = pairs([4, 3])
REFERENCE = loss_barrier(Net(0), Net(1), BATCHES, points=5, metrics="accuracy")


# -- endpoints -------------------------------------------------------------------------------------------------------


def model(net: nn.Module, spec: str = "m") -> Model:
    return Model(net, None, None, spec, "factory")


@pytest.mark.parametrize(
    "ends",
    [
        lambda: (Net(0), Net(1), None),
        lambda: (model(Net(0)), model(Net(1)), None),
        lambda: (Net(0).state_dict(), Net(1), None),
        lambda: (model(Net(0)), Net(1).state_dict(), None),
        lambda: (Net(0).state_dict(), Net(1).state_dict(), Net(7)),
        lambda: (Net(0), Net(1), Net(7)),
    ],
)
def test_an_endpoint_is_a_model_a_module_or_a_state(ends: Any) -> None:
    a, b, module = ends()
    assert loss_barrier(a, b, BATCHES, module=module, points=5, metrics="accuracy") == REFERENCE


def test_the_ends_are_the_models_to_the_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        nets = Net(0, dtype), Net(1, dtype)
        batches = [(x.to(dtype), y) for x, y in BATCHES]
        found = loss_barrier(*nets, batches, points=3)
        for net, loss in zip(nets, (found.losses[0], found.losses[-1]), strict=True):
            with torch.no_grad():
                parts = [nn.functional.cross_entropy(net(x), y, reduction="none") for x, y in batches]
            assert loss == float(torch.cat(parts).double().mul(1.0).sum() / 7)


def test_tied_tensors_may_come_once_or_twice() -> None:
    a, b = Words(0, tied=True), Words(1, tied=True)
    batches = [{"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}]
    found = loss_barrier(a, b, batches, points=3)
    once = {"table.weight": b.table.weight.detach()}
    assert loss_barrier(a, once, batches, points=3) == found
    assert loss_barrier(a, {"head.weight": once["table.weight"]}, batches, points=3) == found
    with refused(CheckpointError, "endpoint B", "tied but different"):
        loss_barrier(a, {**once, "head.weight": once["table.weight"] + 1}, batches)


def test_endpoints_that_do_not_fit() -> None:
    a, b = Net(0), Net(1)
    with refused(UsageError, "do not say which network"):
        loss_barrier(a.state_dict(), b.state_dict(), BATCHES)
    with refused(CheckpointError, "endpoint B", "missing up.bias"):
        loss_barrier(a, {n: t for n, t in b.state_dict().items() if n != "up.bias"}, BATCHES)
    with refused(CheckpointError, "endpoint A", "wrong shapes: up.bias (6,) instead of (5,)"):
        loss_barrier({**a.state_dict(), "up.bias": torch.zeros(6)}, b, BATCHES)
    with refused(CheckpointError, "x and y", "different architectures"):
        loss_barrier(model(a, "x"), model(nn.Linear(2, 2), "y"), BATCHES)
    with refused(CheckpointError, "y has no weights"):
        loss_barrier(model(a, "x"), model(Net(1).to("meta"), "y"), BATCHES)
    with refused(CheckpointError, "endpoint B has no weights", "no values for up.weight"):
        loss_barrier(a, Net(1).to("meta"), BATCHES)


# -- points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "grid"),
    [
        (3, (0.0, 0.5, 1.0)),
        (np.int64(5), (0.0, 0.25, 0.5, 0.75, 1.0)),
        ([0.5], (0.0, 0.5, 1.0)),
        ((0.75, 0.25, 1, 0.25), (0.0, 0.25, 0.75, 1.0)),
        (np.array([0.0, 0.125]), (0.0, 0.125, 1.0)),
    ],
)
def test_points(points: Any, grid: tuple[float, ...]) -> None:
    assert loss_barrier(Net(0), Net(1), BATCHES, points=points).lambdas == grid


@pytest.mark.parametrize(
    "points", [2, 1, 0, -3, [], [0, 1], [0.5, 1.5], [-0.1, 0.5], [float("nan")], ["x"], None, 0.5, True]
)
def test_points_that_give_no_barrier(points: Any) -> None:
    with refused(UsageError, f"points {points!r}", "strictly inside"):
        loss_barrier(Net(0), Net(1), BATCHES, points=points)


def test_eleven_points_with_the_middle_unless_others_are_asked_for() -> None:
    found = loss_barrier(Net(0), Net(1), BATCHES)
    assert len(found.lambdas) == 11 and found.midpoint == found.barriers[5]


def test_refinement_adds_three_points_around_the_largest_barrier() -> None:
    net = Net(0)
    hidden = {n: t.flip(0) for n, t in net.state_dict().items() if t.ndim and n.startswith(("up", "norm"))}
    turned = net.state_dict() | hidden | {"down.weight": net.down.weight.detach().flip(1)}
    own = [(x, net(x).argmax(-1)) for x, _ in BATCHES]
    plain = loss_barrier(net, turned, own, points=5)
    fine = loss_barrier(net, turned, own, points=5, refine=True)
    assert plain.losses[0] == pytest.approx(plain.losses[-1]) and 0 < plain.argmax < 1
    assert len(fine.lambdas) == 8 and set(plain.lambdas) < set(fine.lambdas) and fine.barrier >= plain.barrier
    added = set(fine.lambdas) - set(plain.lambdas)
    assert all(abs(x - plain.argmax) < 0.25 for x in added)
    assert list(fine.lambdas) == sorted(fine.lambdas)


# -- losses and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"loss": "hinge"}, ("no loss 'hinge'", "cross-entropy, mse, model")),
        ({"metrics": "speed"}, ("no metric 'speed'", "accuracy, perplexity")),
        ({"metrics": {"loss": len}}, ("cannot be called 'loss'",)),
        ({"device": "abacus"}, ("device abacus cannot be used", "device='cpu'")),
    ],
)
def test_names_of_nothing(options: Any, texts: tuple[str, ...]) -> None:
    with refused(UsageError, *texts):
        loss_barrier(Net(0), Net(1), BATCHES, **options)


def test_a_metric_may_be_a_function_or_more() -> None:
    def largest(outputs: Tensor, batch: Any) -> Tensor:
        return outputs.amax(-1)

    metrics = {"top": largest, "worst": Metric(largest, higher_is_better=False)}
    top, worst = loss_barrier(Net(0), Net(1), BATCHES, points=3, metrics=metrics).metrics
    assert top.values == worst.values and top.higher_is_better and not worst.higher_is_better
    assert top.barriers == tuple(-v + 0.0 for v in worst.barriers)


def test_one_value_for_a_batch_weighs_as_much_as_its_examples() -> None:
    def whole(outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch["labels"])

    found = loss_barrier(Net(0), Net(1), BATCHES, points=5, loss=whole)
    assert found.losses == pytest.approx(REFERENCE.losses, rel=1e-12) and found.loss.name == "whole"


class Judges(Net):
    """A network that also returns a loss, if it is given labels."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        outputs = {"scores": super().forward(x)}
        if labels is not None:
            outputs["loss"] = nn.functional.cross_entropy(outputs["scores"], labels)
        return outputs


@pytest.mark.parametrize("loss", ["cross-entropy", "model"])
def test_the_model_s_own_loss_is_used_where_asked_or_where_no_other_fits(loss: str) -> None:
    named = [{"x": x, "labels": y} for x, y in BATCHES]
    found = loss_barrier(Judges(0), Judges(1), named, points=5, loss=loss)
    assert found.loss.name == "model" and found.losses == pytest.approx(REFERENCE.losses, rel=1e-12)
    with refused(DataError, "no loss or metric fits"):
        loss_barrier(Judges(0), Judges(1), [{"x": x, "targets": y} for x, y in BATCHES], points=5, loss=loss)


# -- buffers, dtypes, memory -----------------------------------------------------------------------------------------


def test_buffers_move_with_the_parameters_and_integers_stay_those_of_the_first() -> None:
    seen: list[State] = []

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            seen.append({n: b.clone() for n, b in self.named_buffers()})
            return super().forward(x)

    a, b = Watched(2), Watched(5)
    loss_barrier(a, b, BATCHES, points=[0.25])
    expected = between(a.state_dict(), b.state_dict(), 0.25)
    assert len(seen) == 3 * len(BATCHES)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.allclose(seen[-1][name], expected[name], atol=1e-15)
    assert [int(s["norm.num_batches_tracked"]) for s in seen] == [2] * len(seen)


State = dict[str, Tensor]


def test_a_mask_of_infinities_stays_what_it_is() -> None:
    class Masked(Net):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, float("-inf")]))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.mask  # type: ignore[operator]

    kept = [(x, y.clamp(max=2)) for x, y in BATCHES]
    assert all(np.isfinite(loss_barrier(Masked(0), Masked(1), kept, points=3).losses))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("same_buffers", [True, False])
def test_half_precision_is_computed_in_single(dtype: torch.dtype, same_buffers: bool) -> None:
    a, b = Net(0, dtype), Net(1, dtype)
    if same_buffers:
        b.norm.load_state_dict(a.norm.state_dict())
    found = loss_barrier(a, b, [(x.to(dtype), y) for x, y in BATCHES], points=3)
    wide = loss_barrier(
        copy.deepcopy(a).float(), copy.deepcopy(b).float(), [(x.to(dtype), y) for x, y in BATCHES], points=3
    )
    assert found.losses == wide.losses
    double = loss_barrier(a, b, [(x.to(dtype), y) for x, y in BATCHES], points=3, dtype=torch.float64)
    assert double.losses == pytest.approx(found.losses, abs=1e-5) and double.losses != found.losses


def test_no_model_is_made_for_a_point() -> None:
    places: set[tuple[int, int]] = set()

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            places.add((id(self), self.up.weight.data_ptr()))
            return super().forward(x)

    a, b = Watched(0), Watched(1)
    own = {t.data_ptr() for m in (a, b) for t in m.state_dict().values()}
    loss_barrier(a, b, BATCHES, points=9, refine=True)
    assert len(places) == 1 and {i for i, _ in places} == {id(a)} and not {p for _, p in places} & own


def test_models_and_batches_are_left_as_they_were() -> None:
    a, b = Net(0).train(), Net(1)
    b.norm.train()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    batches = [(x.clone(), y.clone()) for x, y in BATCHES]
    loss_barrier(a, b, batches, points=3)
    with refused(DataError, "cannot be evaluated"):
        loss_barrier(a, b, [(torch.zeros(2, 9), torch.zeros(2).long())])
    assert a.training and a.norm.training and not b.training and b.norm.training
    for module, state in zip((a, b), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(x, z) for (x, _), (z, _) in zip(batches, BATCHES, strict=True))
    a(batches[0][0]).sum().backward()


@pytest.mark.parametrize("refine", [True, False])
def test_progress_ends_where_it_said_it_would(refine: bool) -> None:
    told: list[Any] = []
    loss_barrier(Net(0), Net(1), BATCHES, points=4, refine=refine, progress=told.append)
    total = (4 + 3 * refine) * len(BATCHES)
    assert told == [f"batch {i + 1} of {total}" for i in range(total)]
    assert [(t.done, t.total) for t in told] == [(i + 1, total) for i in range(total)]
