"""Shuffles of channels: parts that were one after the other take turns, each with a space of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.symmetry.dimension import dimension
from symgraph.tracing import trace

X = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
Body = Callable[[Any, Tensor], Tensor]


def by_views(x: Tensor, groups: int) -> Tensor:
    """As in torchvision's ShuffleNet."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).contiguous().view(x.shape)


def by_permuting(x: Tensor, groups: int) -> Tensor:
    return torch.unflatten(x, 1, (groups, -1)).permute(0, 2, 1, 3, 4).flatten(1, 2)


def two_units(net: Any, x: Tensor) -> Tensor:
    """Half of the channels pass by in each unit, and the next one takes every second of both halves."""
    x = net.stem(x)
    for number in range(2):
        left, right = F.relu(x).chunk(2, 1)
        right = net.inside[number](F.relu(net.before[number](right)))
        x = by_views(torch.cat([left, F.relu(net.behind[number](right))], 1), 2)
    return x


def units() -> dict[str, nn.Module]:
    def maps() -> nn.ModuleList:
        return nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(2)])

    inside = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1, groups=4) for _ in range(2)])
    return {"stem": nn.Conv2d(4, 8, 1), "before": maps(), "behind": maps(), "inside": inside}


def to_both(net: Any, x: Tensor) -> Tensor:
    """Two maps that write parts, and two that read halves of what is shuffled."""
    x = by_permuting(torch.cat([F.relu(net.a(x)), F.relu(net.b(x))], 1), 2)
    return F.relu(torch.cat([net.c(x[:, :4]), net.d(x[:, 4:])], 1))


def both() -> dict[str, nn.Module]:
    return {**{name: nn.Conv2d(4, 4, 1) for name in "ab"}, **{name: nn.Conv2d(4, 4, 3) for name in "cd"}}


def each_alone(net: Any, x: Tensor) -> Tensor:
    return F.relu(net.b(F.channel_shuffle(F.relu(net.a(x)), 4)))


# Each with the number of its directions and the sizes of its spaces.
CASES: dict[str, tuple[Body, Callable[[], dict[str, nn.Module]], int, list[int]]] = {
    "two units": (two_units, units, 40, [2, 2, 2, 2, 4, 4, 4, 4]),
    "two parts, two halves": (to_both, both, 16, [2, 2, 2, 2, 4, 4]),
    "each channel alone": (
        each_alone,
        lambda: {"a": nn.Conv2d(4, 8, 1), "b": nn.Conv2d(8, 8, 3, groups=8)},
        16,
        [8],
    ),
}


def net_of(body: Body, maps: dict[str, nn.Module]) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.o(body(net, x).mean((2, 3)))
        return found

    torch.manual_seed(0)
    return spread(Net(forward, o=nn.Linear(8, 3), **maps))


@pytest.mark.parametrize("name", CASES)
def test_parts_that_take_turns_have_spaces_of_their_own(name: str) -> None:
    body, make, number, sizes = CASES[name]
    torch.manual_seed(0)
    model = net_of(body, make())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert found.complete and found.inferred == number, str(found)
    assert dimension(symmetry).number == number
    assert sorted(space.size for space in symmetry.active) == sizes


@pytest.mark.parametrize("shuffle", [by_views, by_permuting, F.channel_shuffle])
def test_it_is_one_call_however_it_is_written(shuffle: Callable[[Tensor, int], Tensor]) -> None:
    net = Net(lambda s, x: s.b(shuffle(torch.relu(s.a(x)), 2)), a=nn.Conv2d(4, 6, 1), b=nn.Conv2d(6, 3, 1))
    calls = [node for node in trace(net, (X,)).calls if node.target == "aten.channel_shuffle.default"]
    assert [call.args[1] for call in calls] == [2]


def test_groups_that_cut_across_turns_stay() -> None:
    """Two groups of three channels, of which each was every second one of six."""
    maps: dict[str, nn.Module] = {"a": nn.Conv2d(4, 6, 1, groups=2), "b": nn.Conv2d(6, 8, 1, groups=2)}
    model = net_of(lambda s, x: F.relu(s.b(by_views(F.relu(s.a(x)), 2))), maps)
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert not audit(symmetry, approximate=False).unsound


@pytest.mark.parametrize("count", [6, 8])
@pytest.mark.parametrize("shuffle", [by_views, F.channel_shuffle])
def test_an_axis_that_meets_itself_in_another_order_stays(shuffle: Callable[[Tensor, int], Tensor], count: int) -> None:
    maps: dict[str, nn.Module] = {"a": nn.Conv2d(4, count, 1), "b": nn.Conv2d(count, 8, 1)}

    def meeting(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        return F.relu(s.b(shuffle(x, 2) + x))

    model = net_of(meeting, maps)
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    assert [space.size for space in symmetry.active] == [8]
