"""Channels added as zeros are one space, wherever they stand beside the others and however they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from function_nets import spread
from torch import Tensor, nn

import symgraph
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Concat, Leaf, joined, reordered

Widen = Callable[[Tensor, int, int], Tensor]


class Block(nn.Module):
    """A residual block whose shortcut has channels added to it."""

    def __init__(self, width: int, sides: tuple[int, int], widen: Widen) -> None:
        super().__init__()
        self.sides, self.widen = sides, widen
        self.conv = nn.Conv2d(width, width + sum(sides), 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width + sum(sides))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + self.widen(x, *self.sides))


class Widening(nn.Module):
    """Blocks that add channels, one after the other."""

    def __init__(self, widen: Widen, *sides: tuple[int, int], width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, width, 1)
        widths = [width + sum(map(sum, sides[:i])) for i in range(len(sides) + 1)]
        self.blocks = nn.Sequential(*(Block(w, s, widen) for w, s in zip(widths, sides, strict=False)))
        self.head = nn.Linear(widths[-1], 3)
        self.example_inputs = (torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)),)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.blocks(F.relu(self.first(x))).mean((2, 3)))
        return found


def padded(x: Tensor, before: int, behind: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, before, behind))


def beside_zeros(x: Tensor, before: int, behind: int) -> Tensor:
    shape = x.shape[2:]
    return torch.cat([x.new_zeros(len(x), before, *shape), x, torch.zeros(len(x), behind, *shape)], 1)


def times_zero(x: Tensor, before: int, behind: int) -> Tensor:
    return torch.cat([x[:, :before] * 0, x, x[:, :behind].mul(0.0)], 1)


def written(x: Tensor, before: int, behind: int) -> Tensor:
    whole = torch.zeros(len(x), before + x.shape[1] + behind, *x.shape[2:])
    whole[:, before : before + x.shape[1]] = x
    return whole


def in_two_steps(x: Tensor, before: int, behind: int) -> Tensor:
    return padded(padded(x, before, 0), 0, behind)


@pytest.mark.parametrize("widen", [padded, beside_zeros, times_zero, written])
def test_channels_on_both_sides_are_one_space(widen: Widen) -> None:
    assert_recovered(Widening(widen, (1, 1)), {4: 1, 2: 1})


@pytest.mark.parametrize(
    ("widen", "sides", "sizes"),
    [
        (padded, ((0, 3),), {4: 1, 3: 1}),
        (padded, ((1, 2),), {4: 1, 3: 1}),
        (in_two_steps, ((2, 3),), {4: 1, 2: 1, 3: 1}),
        (padded, ((1, 1), (3, 3)), {4: 1, 2: 1, 6: 1}),
    ],
)
def test_channels_added_elsewhere(widen: Widen, sides: tuple[tuple[int, int], ...], sizes: dict[int, int]) -> None:
    assert_recovered(Widening(widen, *sides), sizes)


def assert_recovered(model: nn.Module, sizes: dict[int, int]) -> None:
    """The spaces of the model have these sizes, and its function and its basis are found again."""
    spread(model)
    symmetry = symgraph.infer(model)
    found = [space.size for space in symmetry.active]
    assert {size: found.count(size) for size in found} == sizes
    assert symgraph.verify(model, symmetry=symmetry).passed
    names = [space.name for space in symmetry.active]
    before, moved = model.state_dict(), symgraph.sample(model, symmetry=symmetry, seed=3, families=names)
    assert max(float((moved.state_dict()[n] - before[n]).abs().max()) for n in before) > 0.1
    aligned = symgraph.align(model, moved).state
    for name in before:
        assert torch.allclose(before[name], aligned[name], atol=1e-3), name


def test_where_the_sides_are_read_apart_they_are_two_spaces() -> None:
    class Apart(Widening):
        def forward(self, x: Tensor) -> Tensor:
            y = self.blocks(F.relu(self.first(x))).mean((2, 3))
            found: Tensor = self.head(torch.cat([y[:, :2] * 2, y[:, 2:]], 1))
            return found

    model = spread(Apart(padded, (2, 2)))
    symmetry = symgraph.infer(model)
    assert sorted(space.size for space in symmetry.active) == [2, 2, 4]
    assert symgraph.verify(model, symmetry=symmetry).passed


def test_the_order_is_written_and_read() -> None:
    symmetry = symgraph.infer(Widening(padded, (1, 1)).eval())
    again = SymmetryGraph.from_json(symmetry.to_json())
    assert again.terms == symmetry.terms
    assert any(isinstance(t, Concat) and t.order for axes in again.terms.values() for t in axes)


def test_a_wider_model_has_more_of_each() -> None:
    small, wide = spread(Widening(padded, (1, 1), width=4)), spread(Widening(padded, (2, 2), width=8), seed=1)
    found = symgraph.embed(small, like=wide).model.module
    (x,) = Widening(padded, (1, 1)).example_inputs
    torch.testing.assert_close(found.float()(x), small(x), rtol=1e-4, atol=1e-4)


def entries(term: Concat) -> list[int]:
    return list(term.order or range(term.size))


def test_orders_of_terms() -> None:
    a, b, c = (Leaf(i, i, False, size) for i, size in enumerate((2, 2, 3)))
    inner = reordered(joined([a, b]), (2, 0, 1, 3))
    assert (inner.parts, entries(inner)) == ((a, b), [2, 0, 1, 3])
    whole = reordered(joined([inner, c]), (4, 0, 1, 2, 3, 5, 6))
    assert (whole.parts, entries(whole)) == ((a, b, c), [4, 2, 0, 1, 3, 5, 6])
    assert [whole.places[entry] for entry in range(7)] == [2, 3, 1, 4, 0, 5, 6]
    assert joined([inner, inner]).order == (2, 0, 1, 3, 6, 4, 5, 7)
    assert inner.order_of([3, 4]) == (3, 4, 0, 1, 2, 5, 6)
    with pytest.raises(symgraph.SymgraphError, match="around others"):
        inner.order_of([2, 3])
