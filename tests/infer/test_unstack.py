"""Parts of a stack are picked before the reshape that told them apart, and the function stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn

import symgraph
from symgraph.tracing import state_of, trace
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.unstack import without_stacks

Parts = tuple[Tensor, ...]


def stack_first(x: Tensor) -> Parts:
    return x.view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)


def stack_between_heads_and_size(x: Tensor) -> Parts:
    x = x.view(2, 5, 2, 3, 4)
    return x[..., 0, :], x[..., 1, :], x[..., -1, :].transpose(1, 2)


def heads_keys_and_values(x: Tensor) -> Parts:
    x = x.view(2, 5, 6, 4)
    return x[..., :4, :], x[..., [4], :], x[..., -1:, :].transpose(1, 2)


def slices_from_far_before(x: Tensor) -> Parts:
    x = x.view(2, 5, 6, 4)
    return x[..., -9:2, :], x[..., 2:99, :], x[..., -3:-1, :]


def split_heads(x: Tensor) -> Parts:
    return x.view(2, 5, 6, 4).transpose(1, 2).split([4, 1, 1], dim=1)  # type: ignore[no-untyped-call,no-any-return]


def stack_of_a_module(x: Tensor) -> Parts:
    x = x.unflatten(-1, (3, 8)).unsqueeze(0).transpose(0, -2).squeeze(-2)  # type: ignore[no-untyped-call]
    return x[0], x[1], x[2]


def heads_in_the_batch(x: Tensor) -> Parts:
    return x.view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).reshape(3, 4, 5, 4).unbind(0)


def innermost(x: Tensor) -> Parts:
    x = x.view(2, 5, 8, 3)
    return x[..., 0], x[..., 1]


def positions(x: Tensor) -> Parts:
    return x[:, 0], x.view(10, 24).view(2, 5, 24)[1]


def scaled_before(x: Tensor) -> Parts:
    x = x.view(2, 5, 3, 8) * torch.arange(1.0, 4.0)[:, None]
    return x[:, :, 0], x[:, :, 1]


class Picked(nn.Module):
    def __init__(self, f: Callable[[Tensor], Parts]) -> None:
        super().__init__()
        self.read, self.f = nn.Linear(3, 24), f

    def forward(self, x: Tensor) -> Parts:
        return self.f(self.read(x))


@pytest.mark.parametrize(
    "f",
    [
        stack_first,
        stack_between_heads_and_size,
        stack_of_a_module,
        heads_keys_and_values,
        slices_from_far_before,
        split_heads,
        heads_in_the_batch,
    ],
)
def test_parts_are_slices(f: Callable[[Tensor], Parts]) -> None:
    model, x = Picked(f), torch.randn(2, 5, 3)
    graph = trace(model, (x,))
    changed = without_stacks(graph)
    assert not {"aten.select.int", "aten.unbind.int"} & {n.target for n in changed.calls}
    assert sum(n.target == "aten.slice.Tensor" for n in changed.calls) >= 3
    before, after = (evaluate(g, state_of(model), (x,)) for g in (graph, changed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def inside_first(x: Tensor) -> Parts:
    return x.view(2, 5, 4, 3, 2).permute(3, 0, 4, 1, 2).unbind(0)


def split_innermost(x: Tensor) -> Parts:
    return tuple(part.squeeze(-1) for part in x.view(2, 5, 4, 2, 3).split(1, -1))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("f", [innermost, inside_first, split_innermost])
def test_parts_that_take_turns_are_slices_with_a_step(f: Callable[[Tensor], Parts]) -> None:
    model, x = Picked(f), torch.randn(2, 5, 3)
    graph = trace(model, (x,))
    changed = without_stacks(graph, turns=True)
    steps = [n.args[4] for n in changed.calls if n.target == "aten.slice.Tensor"]
    assert steps == [3] * len(f(torch.zeros(2, 5, 24)))
    before, after = (evaluate(g, state_of(model), (x,)) for g in (graph, changed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("f", [innermost, scaled_before])
def test_what_is_more_than_moved_stays(f: Callable[[Tensor], Parts]) -> None:
    graph = trace(Picked(f), (torch.randn(2, 5, 3),))
    assert without_stacks(graph) is graph


def test_positions_keep_their_values() -> None:
    model, x = Picked(positions), torch.randn(2, 5, 3)
    graph = trace(model, (x,))
    before, after = (evaluate(g, state_of(model), (x,)) for g in (graph, without_stacks(graph)))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_heads_that_go_into_the_batch_have_spaces_of_their_own() -> None:
    """As of Segment Anything: one fused projection is read by heads and batch as one axis."""

    def forward(s: Any, x: Tensor) -> Tensor:
        queries, keys, values = heads_in_the_batch(s.read(x))
        found = (queries @ keys.transpose(-1, -2)).softmax(-1) @ values
        out: Tensor = s.out(found.view(2, 2, 5, 4).transpose(1, 2).flatten(2))
        return out

    torch.manual_seed(0)
    model, inputs = spread(Net(forward, read=nn.Linear(3, 24), out=nn.Linear(8, 2))), (torch.randn(2, 5, 3),)
    symmetry = symgraph.infer(model, inputs)
    circuits = {space.name.rpartition(".")[2]: str(space.group) for space in symmetry.active}
    assert circuits["query-key"] == circuits["value-output"] == "invertible"
    assert symgraph.audit(model, symmetry=symmetry).complete
    assert error(model, inputs, symmetry) < 1e-9
