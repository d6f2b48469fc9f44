"""Mixtures of experts: planted recovery by every cost, and the costs against their formulas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mixtures import FORMS, Network, network
from models_zoo import pair_program
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import symgraph
from symgraph.errors import UsageError
from symgraph.groups.class_names import SymmetryClass
from symgraph.match import descent, order_by_candidates
from symgraph.match.match_models import nearest
from symgraph.match.match_options import MatchOptions
from symgraph.match.order_by_candidates import Tried, best_tried, orders, partners
from symgraph.match.order_by_cost import outer_order
from symgraph.match.unit_trees import units
from symgraph.orbit.alignment import distance
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.tensor_blocks import blocks
from symgraph.orbit.wreath import Tree
from symgraph.prove.verify import random_transform, settled_names
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.sampling import float64

State = dict[str, Tensor]


def planted(net: Network, symmetry: SymmetryGraph, seed: int) -> tuple[State, State]:
    a = float64(state_of(net))
    return a, random_transform(symmetry, a, torch.Generator().manual_seed(seed), settled_names(symmetry)).apply(a)


@pytest.mark.parametrize("outer", ["joint", "gate", "gram"])
@pytest.mark.parametrize("name", FORMS)
def test_a_planted_element_is_recovered_by_every_cost(name: str, outer: str) -> None:
    net = network(name)
    symmetry = symgraph.infer(net)
    for seed in (0, 1):
        a, b = planted(net, symmetry, seed)
        run = pair_program(symmetry, MatchOptions(outer=outer)).run(symmetry, {"A": a, "B": b})
        assert distance(a, b) > 0.5
        assert distance(a, run.states["B.aligned"]) < 1e-9
        inputs = [torch.arange(14).reshape(2, 7) % 11]
        outputs = [evaluate(symmetry.graph, s, inputs)[0] for s in (b, run.states["B.aligned"])]
        assert float((outputs[0] - outputs[1]).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["list", "tensors-dense"])
def test_the_costs_are_those_of_the_paper(name: str) -> None:
    nets = [network(name, seed) for seed in (0, 1)]
    symmetry = symgraph.infer(nets[0])
    a, b = (symmetry.stacked(canonicalise(symmetry, float64(state_of(n))).state) for n in nets)
    tree = next(u for u in units(symmetry) if u.children)
    held = {n: axes for n, axes in symmetry.acting_terms.items() if n in symmetry.acting_on[tree.space.id]}
    found = [(x, 1.0) for n, axes in held.items() for x in blocks(n, [a[n], b[n]], axes)]
    experts = [_expert(held, s) for s in (a, b)]
    for cost, formula in (("gate", _gate), ("gram", _gram)):
        table = torch.tensor([[formula(experts[0][i], experts[1][j]) for j in range(4)] for i in range(4)])
        order = outer_order(symmetry, tree, found, cost)
        assert order is not None
        assert order.tolist() == linear_sum_assignment(table.numpy())[1].tolist()


def _expert(held: Iterable[str], state: State) -> list[dict[str, Tensor]]:
    """Gate, [W_in, b_in] and W_out of every expert, by the shapes of their tensors."""
    joined = torch.tensor(float(any(name.endswith("w_out") for name in held)))
    found: list[dict[str, Tensor]] = [{"joined": joined} for _ in range(4)]
    for name in held:
        for i, t in enumerate(state[name]):
            kind = {(6,): "w" if "router" in name else "none", (): "b", (5,): "b_in"}.get(tuple(t.shape), "")
            outward = name.endswith("w_out") or "down" in name
            wide = t if t.dim() < 2 or tuple(t.shape) == ((5, 6) if not outward else (6, 5)) else t.T
            found[i][kind or ("out" if outward else "in")] = wide
    return found


def _gate(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    squares = (one["w"] - other["w"]).square().sum() + (one["b"] - other["b"]) ** 2
    # Experts of one tensor have their output biases beside the gate; those of a list have them inside.
    return float((squares + (one["none"] - other["none"]).square().sum() * one["joined"]).sqrt())


def _gram(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    squares = torch.zeros(())
    for x in ((lambda e: torch.cat([e["in"], e["b_in"].unsqueeze(1)], 1)), (lambda e: e["out"].T)):
        squares = squares + (x(one).T @ x(one) - x(other).T @ x(other)).square().sum()
    return float(squares.sqrt())


def test_the_joint_optimum_is_never_farther_than_two_stages() -> None:
    nets = [network("list", seed) for seed in (0, 1)]
    symmetry = symgraph.infer(nets[0])
    a, b = (canonicalise(symmetry, float64(state_of(n))).state for n in nets)
    branches = tuple(s.name for s in symmetry.active if s.name != "residual")
    found = {
        o: nearest(symmetry, a, b, MatchOptions(outer=o, spaces=branches)).objective[-1]
        for o in ("joint", "gate", "gram")
    }
    assert found["joint"] <= min(found.values()) + 1e-12
    assert found["joint"] < nearest(symmetry, a, b, MatchOptions(outer="gate", spaces=branches)).initial


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two partners are tried of each position, however small its inside."""
    monkeypatch.setattr(order_by_candidates, "WORK", 0)
    monkeypatch.setattr(order_by_candidates, "LEAST", 2)


@pytest.mark.parametrize("name", ["tensors", "list-gated", "list-shared"])
@pytest.mark.usefixtures("few")
def test_a_planted_element_is_recovered_from_few_pairs(name: str) -> None:
    net = network(name)
    symmetry = symgraph.infer(net)
    assert all(partners(u) == 2 for u in units(symmetry) if u.children and u.space.size > 2)
    for seed in (0, 1):
        a, b = planted(net, symmetry, seed)
        run = pair_program(symmetry, MatchOptions()).run(symmetry, {"A": a, "B": b})
        assert distance(a, run.states["B.aligned"]) < 1e-9


@pytest.mark.parametrize("name", ["list", "tensors-dense"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_pairs_come_between_all_of_them_and_the_cost(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [network(name, s) for s in (0, seed)]
    symmetry = symgraph.infer(nets[0])
    a, b = (canonicalise(symmetry, float64(state_of(n))).state for n in nets)
    tree = next(u for u in units(symmetry) if u.children)
    inside = tuple(s.name for s in symmetry.active if s.id in tree.ids())
    # Of one unit alone in one sweep, where each optimum is one of the same table.
    one: dict[str, Any] = {"spaces": inside, "sweeps": 1, "precision": "float64"}
    found = {o: nearest(symmetry, a, b, MatchOptions(outer=o, **one)).objective for o in ("joint", "gram")}
    monkeypatch.setattr(order_by_candidates, "WORK", 0)
    for count in (2, 3):
        monkeypatch.setattr(order_by_candidates, "LEAST", count)
        few = nearest(symmetry, a, b, MatchOptions(**one)).objective[-1]
        assert found["joint"][-1] - 1e-12 <= few <= found["gram"][-1] + 1e-12


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["list-gated", "list"])
def test_orders_are_tried_once_more_where_all_has_come_to_rest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    symmetry = symgraph.infer(network(name))
    a, b = (canonicalise(symmetry, float64(state_of(network(name, s)))).state for s in (0, 1))
    last = dict[int, bool]()

    def watched(symmetry: SymmetryGraph, unit: Tree, *given: Any, **how: Any) -> Tried | None:
        last[unit.space.id] = how["still"]
        return best_tried(symmetry, unit, *given, **how)

    monkeypatch.setattr(descent, "best_tried", watched)
    nearest(symmetry, a, b, MatchOptions(precision="float64"))
    assert last and not any(last.values())


@pytest.mark.usefixtures("few")
def test_few_pairs_are_found_by_activations_too() -> None:
    net, other = network("list-shared"), network("list-shared")
    symmetry = symgraph.infer(net)
    a, b = planted(net, symmetry, 0)
    other.load_state_dict({n: b[n] for n in other.state_dict()})
    data = [{"x": torch.randint(0, 11, (8, 7), generator=torch.Generator().manual_seed(i))} for i in range(3)]
    for alpha in (0.5, 1.0):
        options = MatchOptions(rows=0, alpha=alpha)
        found = symgraph.align(net, other, method="activations", options=options, data=data, symmetry=symmetry)
        assert distance({n: a[n] for n in found.state}, found.state) < 1e-9


def test_pairs_are_few_where_insides_are_large_and_of_indices() -> None:
    symmetry = symgraph.infer(network("tensors"))
    experts = next(u for u in units(symmetry) if u.children)

    def unit(count: int, hidden: int, inner: SymmetryClass = SymmetryClass.PERMUTATION) -> Tree:
        (child,) = experts.children
        inside = Tree(replace(child.space, size=hidden, group=inner))
        return Tree(replace(experts.space, size=count), (inside,))

    assert partners(unit(64, 128)) == 8
    assert partners(unit(32, 128)) == 16
    assert partners(unit(16, 128)) == 0
    assert partners(unit(8, 14336)) == 0
    assert partners(unit(64, 128, SymmetryClass.ORTHOGONAL)) == 0


def test_orders_that_are_tried() -> None:
    costs = [torch.rand(6, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    found = orders(costs, 8)
    least = [linear_sum_assignment(cost.numpy())[1].tolist() for cost in costs]
    assert [order.tolist() for order in found[:3]] == [list(range(6)), *least]
    pairs = [set(enumerate(order.tolist())) for order in found]
    assert all(sorted(order.tolist()) == list(range(6)) for order in found)
    assert not any(pairs[3] & other for other in pairs[:3])
    # Of six positions no six orders are apart, and all pairs are tried in the end.
    assert len(set().union(*pairs)) == 36
    # An order of least cost is tried with the positions that it leaves where they are.
    still = torch.ones(4, 4).fill_diagonal_(0.0)
    still[[0, 1], [1, 0]] = -1.0
    assert orders([still], 2)[1].tolist() == [1, 0, 2, 3]


def test_experts_are_recovered_from_activations() -> None:
    net, other = network("list-shared"), network("list-shared")
    symmetry = symgraph.infer(net)
    a, b = planted(net, symmetry, 0)
    other.load_state_dict({n: b[n] for n in other.state_dict()})
    data = [{"x": torch.randint(0, 11, (8, 7), generator=torch.Generator().manual_seed(i))} for i in range(3)]
    options = MatchOptions(rows=0, alpha=1.0)
    found = symgraph.align(net, other, method="activations", options=options, data=data, symmetry=symmetry)
    assert distance({n: a[n] for n in found.state}, found.state) < 1e-9


def test_experts_are_matched_at_the_moment_of_their_inputs() -> None:
    net, other = network("list-shared"), network("list-shared")
    symmetry = symgraph.infer(net)
    a, b = planted(net, symmetry, 0)
    other.load_state_dict({n: b[n] for n in other.state_dict()})
    data = [{"x": torch.randint(0, 11, (8, 7), generator=torch.Generator().manual_seed(i))} for i in range(3)]
    found = symgraph.align(net, other, options=MatchOptions(weighting="inputs"), data=data, symmetry=symmetry)
    assert distance({n: a[n] for n in found.state}, found.state) < 1e-6


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(UsageError, match="outer is 'best'"):
        MatchOptions(outer="best")


def test_the_plan_says_how_experts_are_ordered() -> None:
    symmetry = symgraph.infer(network("list"))
    text = str(pair_program(symmetry, MatchOptions(outer="gram")))
    assert "assignment by inner products" in text


def test_a_universe_of_experts_in_a_list() -> None:
    net = network("list")
    symmetry = symgraph.infer(net)
    a = float64(state_of(net))
    others = [planted(net, symmetry, seed)[1] for seed in (1, 2)]
    models = []
    for state in (a, *others):
        copy = network("list").double()
        copy.load_state_dict({n: t for n, t in state.items() if n in copy.state_dict()})
        models.append(copy)
    found = symgraph.universe(models)
    first, *rest = found.states
    assert all(distance(first, s) < 1e-6 for s in rest)
    assert max(m.before for m in found.members) > 0.1
