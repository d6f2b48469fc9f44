"""Matrices that are products of parameters, and scaled ones, are maps and gains one after the other."""

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

N, M, RANK = 5, 4, 2
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
Matrix = Callable[[Any], Tensor]


def behind_a_norm(matrix: Matrix, *, right: bool = False, **parts: Tensor) -> Net:
    """A centred norm, whose readers lean, in front of a map by a matrix of the parts, which may stand on its right."""

    def forward(net: Any, x: Tensor) -> Tensor:
        read = net.norm(net.i(x))
        found: Tensor = net.o(F.gelu(read @ matrix(net) + net.b if right else F.linear(read, matrix(net), net.b)))
        return found

    norm = nn.LayerNorm(N, elementwise_affine=False)
    return Net(forward, i=nn.Linear(6, N), norm=norm, o=nn.Linear(M, 3), b=torch.randn(M), **parts)


def w() -> Tensor:
    return torch.randn(M, N)


def three() -> dict[str, Tensor]:
    return {"v": torch.randn(N, RANK), "g": torch.randn(RANK), "u": torch.randn(RANK, M)}


PLAIN = 17
# Each with the directions that it has beside those of one matrix: of the rank, of gains, of a number.
CASES: dict[str, tuple[Callable[[], Net], int]] = {
    "one matrix": (lambda: behind_a_norm(lambda s: s.w, w=w()), PLAIN),
    "of a small rank": (
        lambda: behind_a_norm(lambda s: s.u @ s.v, u=torch.randn(M, RANK), v=torch.randn(RANK, N)),
        PLAIN - M + RANK + RANK**2,
    ),
    "of a small rank, on the right": (
        lambda: behind_a_norm(lambda s: s.v @ s.u, right=True, v=torch.randn(N, RANK), u=torch.randn(RANK, M)),
        PLAIN - M + RANK + RANK**2,
    ),
    "three factors": (
        lambda: behind_a_norm(lambda s: s.v @ torch.diag(s.g) @ s.u, right=True, **three()),
        PLAIN - M + RANK + RANK**2 + RANK,
    ),
    "a diagonal behind": (lambda: behind_a_norm(lambda s: torch.diag(s.g) @ s.w, g=torch.randn(M), w=w()), PLAIN + M),
    "a diagonal in front": (
        lambda: behind_a_norm(lambda s: s.w @ torch.diag(s.g), g=torch.randn(N), w=w()),
        PLAIN + N,
    ),
    "scaled rows": (lambda: behind_a_norm(lambda s: s.w * s.g[:, None], g=torch.randn(M), w=w()), PLAIN + M),
    "scaled columns": (lambda: behind_a_norm(lambda s: s.g * s.w, g=torch.randn(N), w=w()), PLAIN + N),
    "times a number": (lambda: behind_a_norm(lambda s: 0.3 * s.w, w=w()), PLAIN),
    "times a learned number": (lambda: behind_a_norm(lambda s: s.w * s.g, g=torch.tensor(0.4), w=w()), PLAIN + 1),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_missing(name: str) -> None:
    make, number = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    symmetry = infer(trace(model, (X,)))
    assert error(model, (X,), symmetry) < 1e-9
    found = audit(symmetry, approximate=False)
    assert found.complete and found.inferred == number, str(found)
    assert dimension(symmetry).number == number


def test_biases_go_through_scaled_matrices() -> None:
    """As in layers with an equalised learning rate."""

    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = torch.tanh(F.linear(F.linear(x, 0.2 * net.u, net.a), 0.1 * net.v, net.b))
        return found

    net = Net(forward, u=torch.randn(M, 6), a=torch.randn(M), v=torch.randn(M, M), b=torch.randn(M))
    symmetry = infer(trace(net, (X,)))
    assert [constant.source.piece.parameter for constant in symmetry.constants] == ["a"]
    assert error(net, (X,), symmetry) < 1e-9 and audit(symmetry, approximate=False).complete


def test_a_matrix_over_its_own_length_keeps_it_unseen() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = torch.tanh(F.linear(x, net.w * net.w.square().sum(1, keepdim=True).rsqrt()))
        return found

    net = Net(forward, w=torch.randn(M, 6))
    symmetry = infer(trace(net, (X,)))
    assert error(net, (X,), symmetry) < 1e-9
    assert audit(symmetry, approximate=False).complete and dimension(symmetry).number == M
