"""Orders of experts by the loss between the models: a wrong one is put right, and no match is left worse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixtures import network
from test_experts import planted

import symgraph
from symgraph.errors import DataError, UsageError
from symgraph.match.descent import Descent
from symgraph.match.match_options import MatchOptions
from symgraph.match.order_by_loss import exchanged
from symgraph.measure.objective import EvenMixture, Objective
from symgraph.orbit.action import GroupElement
from symgraph.orbit.alignment import distance
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import Act
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64


def batches(count: int, labels: bool = True) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        x = torch.randint(0, 11, (8, 7), generator=random)
        found.append({"x": x} | ({"labels": torch.randint(0, 11, (8, 7), generator=random)} if labels else {}))
    return found


def like(net: torch.nn.Module) -> list[dict[str, Any]]:
    """Batches whose labels are what a network gives."""
    with torch.no_grad():
        return [{"x": b["x"], "labels": net(b["x"])} for b in batches(2)]


@pytest.mark.parametrize("name", ["list", "tensors-dense"])
@pytest.mark.parametrize("turn", [(1, 0, 2, 3), (1, 2, 0, 3), (3, 2, 1, 0)])
def test_a_wrong_order_is_put_right(name: str, turn: tuple[int, ...]) -> None:
    net = network(name).double()
    symmetry = symgraph.infer(net)
    given = planted(net, symmetry, 0)
    first, second = (canonicalise(symmetry, s).state for s in given)
    options = MatchOptions()
    descent = Descent(symmetry, first, second, options, 0)
    right = descent.run(None).element
    place = next(i for i, unit in enumerate(descent.units) if unit.children)
    space = descent.units[place].space
    wrong = descent.at_order(place, torch.tensor(turn)).after(right)
    mixture = EvenMixture(Objective(net, "mse"), given, like(net), "data")
    assert mixture.barrier([first, Act(wrong).apply(second)]) > 1e-6
    found = exchanged(symmetry, (first, second), wrong, options, mixture)
    assert abs(found.after) < 1e-12 < found.before
    assert found.kept == {space.name: found.kept[space.name]}
    assert distance(first, Act(found.element).apply(second)) < 1e-6
    there, wanted = (e.elements[space.id].index for e in (found.element, right))
    assert there is not None and wanted is not None and torch.equal(there, wanted)


def test_what_is_there_stays_where_nothing_is_lower() -> None:
    net = network("list").double()
    symmetry = symgraph.infer(net)
    state = canonicalise(symmetry, float64(state_of(net))).state
    mixture = EvenMixture(Objective(net, "mse"), [state, state], like(net), "data")
    found = exchanged(symmetry, (state, state), GroupElement(symmetry, {}), MatchOptions(), mixture)
    assert found.element.is_neutral and found.tried == 12 and not found.kept
    assert "12 exchanges tried these were kept: none" in str(found)


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_no_match_is_left_worse(method: str) -> None:
    a, b = (network("tensors-dense", seed) for seed in (0, 1))
    symmetry = symgraph.infer(a)
    data = batches(3)
    found = {}
    for outer in ("joint", "loss"):
        options = MatchOptions(outer=outer, alpha=0.5)
        aligned = symgraph.align(
            a, b, method=method, options=options, data=data, validation=data, symmetry=symmetry, examples=data
        )
        found[outer] = symgraph.loss_barrier(aligned.reference, aligned.state, data, module=a).midpoint or 0.0
        assert any(n.startswith("order by loss: of ") for n in aligned.notes) == (outer == "loss")
    assert found["loss"] <= found["joint"] + 1e-6


def test_what_it_needs() -> None:
    a, b = (network("list", seed) for seed in (0, 1))
    with pytest.raises(UsageError, match="the order by loss needs data"):
        symgraph.align(a, b, options=MatchOptions(outer="loss"))
    with pytest.raises(DataError, match="an order by loss needs data with labels"):
        symgraph.align(a, b, options=MatchOptions(outer="loss"), data=batches(1, labels=False))
    with pytest.raises(UsageError, match="a universe has no order by loss"):
        symgraph.universe([a, b, a], options=MatchOptions(outer="loss"), data=batches(1))
