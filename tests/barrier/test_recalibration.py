"""Statistics of norms computed anew: against train mode of the norms alone, plain loops, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models_zoo import build
from plain_loops import Net, Words, between, pairs, refused
from torch import Tensor, nn
from torch.nn import functional

import symgraph
from symgraph.errors import DataError, UsageError
from symgraph.measure.losses import cross_entropy
from symgraph.measure.recalibrate import recalibrated

TRAINING, HELD_OUT = pairs([8, 8, 8], seed=1), pairs([6, 5], seed=2)
STATISTICS = ("norm.running_mean", "norm.running_var")


def by_train_mode(network: nn.Module, batches: Any) -> dict[str, Tensor]:
    """The same by torch's own cumulative average, the modules of batch norm in train mode."""
    found = copy.deepcopy(network).eval()
    for m in found.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.reset_running_stats()
            m.train()
            m.momentum = None
    with torch.no_grad():
        for x, _ in batches:
            found(x)
    return found.state_dict()


def resnet(seed: int) -> nn.Module:
    module = build(("resnet", "sdpa"))
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return module


def images(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(4, 3, 16, 16, generator=generator) + 1.0, torch.randint(0, 5, (4,), generator=generator))
        for _ in range(count)
    ]


def test_a_residual_net_against_train_mode_of_its_norms() -> None:
    net, batches = resnet(0), images(3, seed=0)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = recalibrated(net, net.state_dict(), batches)
    expected = by_train_mode(net, batches)
    moved = [n for n, t in found.items() if not torch.equal(t, before[n])]
    assert moved == [n for n in before if n.endswith(("running_mean", "running_var"))]
    for n in moved:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert not any(m.training for m in net.modules())


class ByHand(nn.Module):
    """Statistics without a module of batch norm, under other names, read twice and once without a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("width", torch.ones(3, dtype=torch.float64))
        self.register_buffer("unread", torch.ones(3, dtype=torch.float64))
        self.mode_of_dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.batch_norm(x, self.centre, self.width)  # type: ignore[arg-type]
        y = torch.batch_norm(y + 2, None, None, self.centre, self.width, False, 0.1, 1e-5, False)  # type: ignore[arg-type]
        return self.mode_of_dropout(y)  # type: ignore[no-any-return]


def test_the_operator_counts_and_not_the_module() -> None:
    net = ByHand().train()
    batches = [x for x, _ in TRAINING]
    found = recalibrated(net, net.state_dict(), [{"x": x} for x in batches])
    values = []
    for x in batches:
        y = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        values += [(x.mean(0), x.var(0)), ((y + 2).mean(0), (y + 2).var(0))]
    torch.testing.assert_close(found["centre"], torch.stack([m for m, _ in values]).mean(0))
    torch.testing.assert_close(found["width"], torch.stack([v for _, v in values]).mean(0))
    assert torch.equal(found["unread"], torch.ones(3)) and net.training and net.mode_of_dropout.training


def test_a_barrier_is_recalibrated_between_the_models_only() -> None:
    a, b = Net(0), Net(1)
    for net in (a, b):
        # With statistics that are those of these data what is wanted between is mean zero and deviation one.
        net.load_state_dict(by_train_mode(net, TRAINING))
    plain = symgraph.loss_barrier(a, b, HELD_OUT, points=5)
    found = symgraph.loss_barrier(a, b, HELD_OUT, points=5, recalibrate=TRAINING)
    assert (found.losses[0], found.losses[-1]) == (plain.losses[0], plain.losses[-1])
    assert found.recalibrated and not plain.recalibrated and "statistics of the training data" in str(found)
    assert symgraph.LossBarrier.from_json(found.to_json()) == found
    for x, value in list(zip(found.lambdas, found.losses, strict=True))[1:-1]:
        net = copy.deepcopy(a)
        net.load_state_dict(between(a.state_dict(), b.state_dict(), x))
        net.load_state_dict(by_train_mode(net, TRAINING))
        losses = torch.cat([cross_entropy(net.eval()(i), {"labels": y})[0] for i, y in HELD_OUT])
        assert value == pytest.approx(float(losses.detach().mean()), abs=1e-9)
        assert value != plain.losses[plain.lambdas.index(x)]
    flat = symgraph.loss_barrier(a, b, HELD_OUT, mixtures=[(0.5, 0.5)], recalibrate=TRAINING)
    assert flat.losses[1] == found.losses[2]


def test_statistics_go_over_into_those_of_the_models_in_any_gauge() -> None:
    a, b = Net(0), Net(1)
    near_b = between(a.state_dict(), b.state_dict(), 1 - 1e-9)
    pairs = [(a.state_dict(), 1e-9), (b.state_dict(), 1 - 1e-9)]
    found = recalibrated(a, near_b, TRAINING, between=pairs)
    for name in STATISTICS:
        torch.testing.assert_close(found[name], b.state_dict()[name], rtol=1e-6, atol=1e-6)
    alone = recalibrated(a, near_b, TRAINING)
    assert not any(torch.allclose(alone[n], b.state_dict()[n], rtol=1e-2) for n in STATISTICS)


def test_a_loss_has_no_step_at_a_model_whose_gauge_is_another() -> None:
    a, b = resnet(0), resnet(1)
    batches = images(2, seed=1)
    moved = symgraph.sample(b, batches[0][0], seed=0)
    points = (0.0, 1e-6, 1 - 1e-6, 1.0)
    first, near_first, near_last, last = symgraph.loss_barrier(
        a, moved, batches, points=points, recalibrate=batches
    ).losses
    assert near_first == pytest.approx(first, rel=0.05) and near_last == pytest.approx(last, rel=0.05)
    alone = copy.deepcopy(moved)
    alone.load_state_dict(recalibrated(moved, moved.state_dict(), batches))
    step = symgraph.loss_barrier(alone, moved, batches, points=3).losses
    assert abs(step[0] - step[-1]) > 0.2 * step[-1]


def test_equal_statistics_are_recalibrated_and_stay_with_the_models() -> None:
    a, b = Net(0), Net(1)
    b.norm.load_state_dict(a.norm.state_dict())
    before = {n: t.clone() for n, t in a.state_dict().items()}
    one, two = (symgraph.loss_barrier(a, b, HELD_OUT, points=3, recalibrate=r) for r in (None, TRAINING))
    assert one.losses[1] != two.losses[1] and one.losses[::2] == two.losses[::2]
    assert all(torch.equal(t, before[n]) for n, t in a.state_dict().items())


def test_half_precision_is_computed_in_float32_and_given_back() -> None:
    net = Net(0, torch.bfloat16)
    found = recalibrated(net, net.state_dict(), TRAINING)
    assert all(found[n].dtype == torch.bfloat16 for n in STATISTICS)
    wide = by_train_mode(net.double(), TRAINING)
    assert all(torch.allclose(found[n].double(), wide[n], rtol=0.02, atol=0.02) for n in STATISTICS)


def test_what_cannot_be_recalibrated_is_refused() -> None:
    words = [{"input_ids": torch.randint(0, 7, (3, 5))}]
    with refused(UsageError, "there is nothing to recalibrate", "no batch norm of this model"):
        recalibrated(Words(0), Words(0).state_dict(), words)
    with refused(UsageError, "there is nothing to recalibrate"):
        symgraph.loss_barrier(Words(0), Words(1), words, recalibrate=words)
    with refused(DataError, "no batches to recalibrate on"):
        recalibrated(Net(0), Net(0).state_dict(), [])
    with refused(DataError, "no batches to recalibrate on"):
        symgraph.loss_barrier(Net(0), Net(1), HELD_OUT, recalibrate=[])
    with refused(DataError, "recalibration, batch 0", "more than 1 value per channel"):
        recalibrated(Net(0), Net(0).state_dict(), pairs([1]))
    with refused(DataError, "recalibration, batch 0"):
        recalibrated(Net(0), Net(0).state_dict(), [{"x": torch.zeros(2, 9, dtype=torch.float64)}])


def test_a_match_by_weights_of_models_with_batch_norms_says_what_it_lacks() -> None:
    x = TRAINING[0][0]
    assert any("batch norms" in note for note in symgraph.align(Net(0), Net(1), x).notes)
    by_values = symgraph.align(Net(0), Net(1), x, method="activations", data=TRAINING, options={"alpha": 1.0})
    assert not any("batch norms" in note for note in by_values.notes)
