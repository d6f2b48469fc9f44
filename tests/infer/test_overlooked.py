"""What is written into a stream where its readers see fewer dimensions than it has may be anything there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.symmetry.dimension import Family, dimension
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace


class Blocks(nn.Module):
    """A stream of eight with a branch, a head that reads three dimensions of it, and further maps to read it."""

    def __init__(self, read: Callable[[Blocks, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 4)
        self.norm, self.gain = nn.LayerNorm(8), nn.Parameter(torch.rand(8) + 0.5)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.tanh(self.embed(x))
        return self.read(self, stream, self.down(torch.tanh(self.up(stream))))


class Pictures(nn.Module):
    """The same of convolutions, whose readers see more positions than one."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.enter, self.branch = nn.Conv2d(2, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1, bias=False)
        self.leave = nn.Conv2d(20, 2, window, padding=window // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        found: Tensor = self.leave(x + self.branch(x))
        return found


Q, BACK = torch.randn(2, 6, 5), torch.randn(8, 12)


def overlooked(model: nn.Module, *args: Tensor) -> dict[str, int]:
    """How many directions each writer has, of a graph that is proven."""
    symmetry = infer(trace(model, args))
    assert verify(symmetry, state=state_of(model)).passed
    assert SymmetryGraph.from_json(symmetry.to_json()).overlooked == symmetry.overlooked
    parts = dimension(symmetry).parts
    return {part.name: part.number for part in parts if part.family is Family.OVERLOOKED}


FOUND: dict[str, tuple[Callable[[Blocks, Tensor, Tensor], Tensor], int]] = {
    "a sum": (lambda net, stream, branch: net.head(stream + branch), 5 * 12),
    "alone": (lambda net, stream, branch: net.head(branch), 5 * (12 - 8)),
    "behind a mean over positions": (lambda net, stream, branch: net.head((stream + branch).mean(1)), 5 * 12),
    "by two readers": (lambda net, stream, branch: torch.cat([net.head(branch), net.other(stream + branch)], -1), 12),
    "by a transposed matrix": (lambda net, stream, branch: (stream - 2 * branch) @ net.head.weight.T, 5 * 12),
    "behind a gain": (lambda net, stream, branch: net.head(net.gain * branch + stream), 5 * 12),
    "turned": (lambda net, stream, branch: net.head((stream + branch).transpose(0, 1)).sum(0), 5 * 12),
}
SEEN: dict[str, Callable[[Blocks, Tensor, Tensor], Tensor]] = {
    "an output": lambda net, stream, branch: torch.cat([net.head(stream + branch), branch], -1),
    "a function of entries": lambda net, stream, branch: net.head(torch.tanh(stream + branch)),
    "a norm": lambda net, stream, branch: net.head(net.norm(stream + branch)),
    "a gain that stays": lambda net, stream, branch: net.head(net.gain * branch + stream) * net.gain.sum(),
    "its length": lambda net, stream, branch: net.head(branch) / branch.norm(dim=-1, keepdim=True),
    "its product": lambda net, stream, branch: net.head(branch) * (branch * stream).sum(-1, keepdim=True),
    "all of it": lambda net, stream, branch: F.linear(net.head(branch).tanh(), net.up.weight[:, :3]) + net.up(branch),
    "keys": lambda net, stream, branch: net.head(F.scaled_dot_product_attention(stream, branch, branch)),
    "a part": lambda net, stream, branch: F.linear(branch[..., :4], net.head.weight[:, :4]) + net.head(stream),
    "the same map again": lambda net, stream, branch: (
        net.head(branch) + torch.tanh(net.down(stream @ BACK)).sum(-1, keepdim=True)
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_readers_do_not_see_is_free(name: str) -> None:
    read, number = FOUND[name]
    torch.manual_seed(1)
    model = Blocks(read)
    assert overlooked(model, Q).get("down.weight") == number
    # What one of two readers does not see can be made up for by the other one, which is not looked for.
    assert name == "by two readers" or audit(infer(trace(model, (Q,)))).complete


@pytest.mark.parametrize("name", SEEN)
def test_whatever_else_reads_it_sees_it(name: str) -> None:
    assert "down.weight" not in overlooked(Blocks(SEEN[name]), Q)


@pytest.mark.parametrize(("window", "number"), [(1, 18 * 20 * 9), (3, 2 * 20 * 9), (5, 0)])
def test_every_offset_of_a_convolution_reads(window: int, number: int) -> None:
    found = overlooked(Pictures(window), torch.randn(2, 2, 7, 7))
    assert found.get("branch.weight", 0) == number


def test_directions_that_no_reader_sees_turn_with_the_readers() -> None:
    symmetry = infer(trace(Blocks(FOUND["a sum"][0]), (Q,)))
    (part,) = (part for part in symmetry.overlooked if part.writer.parameter == "down.weight")
    state = {name: torch.randn(shape, dtype=torch.float64) for name, shape in symmetry.shapes.items()}
    turn = torch.randn_like(state["head.weight"])
    along = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    reader = state["head.weight"] + along * turn
    unseen = part.directions({**state, "head.weight": reader}, state["down.weight"])
    torch.testing.assert_close(unseen.T @ unseen, torch.eye(5, dtype=torch.float64))
    (slope,) = torch.autograd.grad((reader @ unseen).sum(), along)
    assert abs(float(slope)) < 1e-9 < abs(float((turn @ unseen).sum()))
