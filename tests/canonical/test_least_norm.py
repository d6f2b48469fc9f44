"""The point of least norm: no scale and no matrix makes it smaller, and blocks known by their squares agree with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from function_nets import Net, spread
from models_zoo import State, case
from torch import Tensor, nn

from symgraph.groups.elements import Element
from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.invertible import Invertible
from symgraph.groups.map_class import DenseMaps
from symgraph.inference.pipeline import infer
from symgraph.orbit.action import GroupElement, neutral, random_element
from symgraph.orbit.least_norm import least_norm
from symgraph.orbit.owned import owners
from symgraph.orbit.squared_norms import SquaredNorms
from symgraph.orbit.tensor_blocks import blocks
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace


def _norm(symmetry: SymmetryGraph, state: State) -> float:
    kept = symmetry.graph.state.keys() - symmetry.graph.transient
    return sum(float(t.square().sum()) for n, t in state.items() if n in kept and t.is_floating_point())


@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_no_element_of_the_group_makes_it_smaller(name: str) -> None:
    found = case(name)
    symmetry, state = found.symmetry, found.state()
    at = least_norm(symmetry, state, owners(symmetry, 1))(state)
    least, generator = _norm(symmetry, at), torch.Generator().manual_seed(0)
    assert least < _norm(symmetry, state)
    for how_far in (1e-4, 1e-2, 0.3):
        away = _norm(symmetry, random_element(symmetry, generator=generator, spread=how_far)(at))
        assert away > least * (1 - 1e-13)


def scaled_again(s: Any, x: Tensor) -> Tensor:
    """Units that one weight takes to themselves, twice."""
    h = torch.relu(s.a(x))
    return s.o(torch.relu(s.w(torch.relu(s.w(h)))))  # type: ignore[no-any-return]


def mixed_again(s: Any, x: Tensor) -> Tensor:
    """The same without a nonlinearity between heads and what is inside of each."""
    h = s.a(x)
    for _ in range(2):
        h = s.w(h)
        h = (h.unflatten(-1, (2, 3)) * torch.sigmoid(s.g(h)).unsqueeze(-1)).flatten(-2)
    return s.o(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", [scaled_again, mixed_again])
def test_the_same_where_a_weight_has_a_space_on_both_sides(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    maps = {"a": nn.Linear(4, 6), "w": nn.Linear(6, 6), "g": nn.Linear(6, 2), "o": nn.Linear(6, 3)}
    net, x = spread(Net(function, **maps)), torch.randn(5, 4)
    symmetry = infer(trace(net, (x,)))
    assert any(space.scales or space.is_matrix for space in symmetry.active)
    state = {name: tensor.detach().double() for name, tensor in state_of(net).items()}
    at = least_norm(symmetry, state, owners(symmetry, 1))(state)
    least, generator = _norm(symmetry, at), torch.Generator().manual_seed(0)
    for how_far in (1e-4, 1e-2, 0.3):
        moved = random_element(symmetry, generator=generator, spread=how_far)(at)
        assert _norm(symmetry, moved) > least * (1 - 1e-13)
    again = least_norm(symmetry, at, owners(symmetry, 1))(at)
    for name, tensor in again.items():
        torch.testing.assert_close(tensor, at[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp-relu", "llama", "resnet"])
def test_sums_of_squares_at_other_scales_are_those_of_moved_tensors(name: str) -> None:
    found = case(name)
    symmetry, state = found.symmetry, found.state()
    spaces = [s for s in symmetry.active if s.scales and isinstance(s.maps, IndexMaps)]
    dense = {s.id for s in symmetry.active if isinstance(s.maps, DenseMaps)}
    held = {n: t for n, t in state.items() if t.is_floating_point() and n in symmetry.acting_terms}

    def squares(state: State) -> SquaredNorms:
        every = [b for n, t in state.items() for b in blocks(n, [t], symmetry.acting_terms[n])]
        scaled = [b for b in every if b.spaces() & {s.id for s in spaces} and not b.spaces() & dense]
        return SquaredNorms(symmetry, spaces, scaled, {}, next(iter(state.values())))

    random = random_element(symmetry, generator=torch.Generator().manual_seed(3), spaces=[s.id for s in spaces])
    scales = {i: e.scale.log() for i, e in random.elements.items() if e.scale is not None}
    alone = {s.id: replace(neutral(symmetry, s), scale=scales[s.id].exp()) for s in spaces}
    before, after = squares(held), squares(GroupElement(symmetry, alone)(held))
    before.scale(scales)
    for space in spaces:
        torch.testing.assert_close(before.of(space), after.of(space), rtol=1e-12, atol=0)


def test_where_it_is_already_no_matrix_is_solved_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = case("llama")
    symmetry, state = found.symmetry, found.state()
    whole, solved = Invertible.balance, list[int]()

    def counted(self: Invertible, co: Tensor, dual: Tensor, layout: str) -> Element | None:
        solved.append(1)
        return whole(self, co, dual, layout)

    monkeypatch.setattr(Invertible, "balance", counted)
    at = least_norm(symmetry, state, owners(symmetry, 1))(state)
    assert solved
    solved.clear()
    again = least_norm(symmetry, at, owners(symmetry, 1))(at)
    assert not solved
    for name, tensor in again.items():
        torch.testing.assert_close(tensor, at[name], rtol=1e-10, atol=1e-12)
