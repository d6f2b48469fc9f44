"""What is added beside a matrix that could make it by itself may be anything: low-rank updates, however written."""

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
from symgraph.symmetry.dimension import Family, dimension
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

N, M, RANK = 5, 4, 2
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
STEPS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))
Body = Callable[[Any, Tensor], Tensor]


def between(body: Body, **more: Any) -> Net:
    """A map with what is beside it, between functions of the entries that let nothing through."""

    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.o(F.gelu(body(net, F.gelu(net.i(x)))))
        return found

    return Net(forward, i=nn.Linear(6, N), w=nn.Linear(N, M), o=nn.Linear(M, 3), **more)


def maps(bias: bool = False) -> dict[str, nn.Module]:
    return {"a": nn.Linear(N, RANK, bias), "b": nn.Linear(RANK, M, bias)}


def factors(rank: int, *names: str) -> dict[str, Tensor]:
    shapes = [(rank, N) if number % 2 else (M, rank) for number in range(len(names))]
    return {name: torch.randn(shape) for name, shape in zip(names, shapes, strict=True)}


def attention(net: Any, x: Tensor) -> Tensor:
    """Updates beside queries and values, behind a norm."""
    x = net.norm(net.i(x))
    q, k, v = net.q(x) + 0.5 * net.qb(net.qa(x)), net.k(x), net.v(x) + 0.5 * net.vb(net.va(x))
    q, k, v = (part.view(2, 5, 2, 2).transpose(1, 2) for part in (q, k, v))
    found: Tensor = net.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 4))
    return found


def attentive() -> Net:
    projections: dict[str, Any] = {name: nn.Linear(4, 4) for name in "qkv"}
    projections |= {name: nn.Linear(4, RANK, bias=False) for name in ("qa", "va")}
    projections |= {name: nn.Linear(RANK, 4, bias=False) for name in ("qb", "vb")}
    return Net(attention, i=nn.Linear(6, 4), norm=nn.LayerNorm(4), o=nn.Linear(4, 3), **projections)


def cut_otherwise(net: Any, x: Tensor) -> Tensor:
    """A map that reads all positions along one axis, as those of GPT-2 do."""
    x = F.gelu(net.i(x))
    mapped = torch.addmm(net.c, x.view(-1, N), net.w).view(*x.shape[:-1], M)
    found: Tensor = net.o(F.gelu(mapped + 0.5 * net.b(net.a(x))))
    return found


def two_readers(net: Any, x: Tensor) -> Tensor:
    """One map down and two maps up, beside two matrices that write for two products."""
    x = F.gelu(net.i(x))
    down = net.a(x)
    found: Tensor = net.o(F.gelu(net.w(x) + net.b(down)) * torch.sigmoid(net.v(x) - 2 * net.c(down)))
    return found


def down_once() -> Net:
    more = {"v": nn.Linear(N, M), "c": nn.Linear(RANK, M, bias=False)}
    return Net(two_readers, i=nn.Linear(6, N), w=nn.Linear(N, M), o=nn.Linear(M, 3), **maps(), **more)


# Each with the parameters that may be anything, and how many numbers these are.
CASES: dict[str, tuple[Callable[[], Net], Tensor, set[str], int]] = {
    "two maps": (
        lambda: between(lambda s, x: s.w(x) + 0.5 * s.b(s.a(x)), **maps()),
        X,
        {"a.weight", "b.weight"},
        18,
    ),
    "two maps, in front": (
        lambda: between(lambda s, x: s.b(s.a(x)) - s.w(x), **maps()),
        X,
        {"a.weight", "b.weight"},
        18,
    ),
    "two maps with biases": (
        lambda: between(lambda s, x: s.b(s.a(x)) + s.w(x), **maps(True)),
        X,
        {"a.weight", "a.bias", "b.weight", "b.bias"},
        24,
    ),
    "products with transposes": (
        lambda: between(lambda s, x: s.w(x) + 0.5 * (x @ s.A.T @ s.B.T), **factors(RANK, "B", "A")),
        X,
        {"A", "B"},
        18,
    ),
    "with a learned number": (
        lambda: between(lambda s, x: s.w(x) + s.s * s.b(s.a(x)), s=torch.tensor(0.7), **maps()),
        X,
        {"s", "a.weight", "b.weight"},
        19,
    ),
    "with gains": (
        lambda: between(lambda s, x: s.w(x) + s.g * s.b(s.d * s.a(x)), d=torch.randn(RANK), g=torch.randn(M), **maps()),
        X,
        {"d", "g", "a.weight", "b.weight"},
        24,
    ),
    "with a number behind the sum": (
        lambda: between(lambda s, x: s.w(x) + s.b(s.a(x)) + 0.3, **maps()),
        X,
        {"a.weight", "b.weight"},
        18,
    ),
    "times a learned number": (
        lambda: between(lambda s, x: (s.w(x) + s.b(s.a(x))) * s.t, t=torch.tensor(0.7), **maps()),
        X,
        {"a.weight", "b.weight"},
        18,
    ),
    "a whole map": (lambda: between(lambda s, x: s.w(x) + s.v(x), v=nn.Linear(N, M)), X, {"v.weight", "v.bias"}, 24),
    "in the matrix": (
        lambda: between(lambda s, x: F.linear(x, s.w.weight + 0.5 * s.B @ s.A, s.w.bias), **factors(RANK, "B", "A")),
        X,
        {"A", "B"},
        18,
    ),
    "entries of two products in the matrix": (
        lambda: between(
            lambda s, x: F.linear(x, s.w.weight + (s.A @ s.B) * (s.C @ s.D)), **factors(1, "A", "B", "C", "D")
        ),
        X,
        {"A", "B", "C", "D"},
        18,
    ),
    "one map down for two matrices": (down_once, X, {"a.weight", "b.weight", "c.weight"}, 26),
    "beside positions that are cut otherwise": (
        lambda: Net(
            cut_otherwise, i=nn.Linear(6, N), w=torch.randn(N, M), c=torch.randn(M), o=nn.Linear(M, 3), **maps()
        ),
        STEPS,
        {"a.weight", "b.weight"},
        18,
    ),
    "queries and values": (attentive, STEPS, {"qa.weight", "qb.weight", "va.weight", "vb.weight"}, 32),
}


@pytest.mark.parametrize("name", CASES)
def test_all_of_an_update_may_be_anything(name: str) -> None:
    make, x, free, numbers = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, (x,)))
    assert {name for update in symmetry.updates for name in update.free} == free
    assert sum(torch.Size(symmetry.graph.state[name].shape).numel() for name in free) == numbers
    assert error(model, (x,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert found.complete, str(found)
    assert dimension(symmetry).number == found.inferred


def test_what_spaces_have_of_an_update_counts_once() -> None:
    symmetry = infer(trace(CASES["two maps"][0](), (X,)))
    assert symmetry.spaces[-1].maps.dimension(RANK, 0) == RANK**2
    assert dimension(symmetry).family(Family.UPDATE) == RANK * (N + M) - RANK**2
    assert SymmetryGraph.from_json(symmetry.to_json()).updates == symmetry.updates


def elsewhere(net: Any, x: Tensor) -> Tensor:
    down = net.a(x)
    found: Tensor = net.w(x) + net.b(down) + torch.tanh(down).sum(-1, keepdim=True)
    return found


def test_what_something_else_reads_stays() -> None:
    """The map up is beside the matrix alone, the map down is not."""
    symmetry = infer(trace(between(elsewhere, **maps()), (X,)))
    assert [update.free for update in symmetry.updates] == [("b.weight",)]


OTHERS: dict[str, Body] = {
    "not linear": lambda s, x: s.w(x) + s.b(torch.tanh(s.a(x))),
    "of another value": lambda s, x: s.w(x) + s.b(s.a(torch.tanh(x))),
    "of other positions": lambda s, x: s.w(x) + s.b(s.a(x.flip(0))),
    "of all positions": lambda s, x: s.w(x) + s.b(s.a(x)).mean(0, keepdim=True).expand(3, M),
    "the matrix is read twice": lambda s, x: s.w(x) + s.b(s.a(x)) + s.w(torch.tanh(x)),
    "other updates for one matrix": lambda s, x: s.w(x) + s.b(s.a(x)) + torch.tanh(s.w(torch.tanh(x)) - s.b(s.a(x))),
    "biases that none takes": lambda s, x: F.linear(x, s.w.weight) + s.b(s.a(x) + s.w.bias[:RANK]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_matrix_cannot_make_stays(name: str) -> None:
    torch.manual_seed(0)
    model = spread(between(OTHERS[name], **maps()))
    symmetry = infer(trace(model, (X,)))
    assert not symmetry.updates
    assert error(model, (X,), symmetry) < 1e-9
