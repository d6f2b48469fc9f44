"""Models whose parameters are read in parts are embedded, narrowed, pruned and carried like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, spread
from torch import Tensor, nn

import symgraph

X = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))


def net(forward: Callable[[Any, Tensor], Tensor], width: int, **parts: Any) -> nn.Module:
    return spread(Net(forward, i=nn.Linear(8, width), o=nn.Linear(width, 9), **parts))


def layers(size: int) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.i(x)
        for first, second in zip(s.w.unbind(0), s.v.unbind(0), strict=True):
            h = h + F.relu(h @ first) @ second
        return s.o(h)  # type: ignore[no-any-return]

    return net(forward, 6, w=torch.randn(2, 6, size), v=torch.randn(2, size, 6))


def rows(width: int) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.i(x)
        h = h + s.d(F.gelu(s.u(F.rms_norm(h, (h.shape[-1],), s.t[0])))) * s.t[2]
        return s.o(F.rms_norm(h, (h.shape[-1],), s.t[1]))  # type: ignore[no-any-return]

    return net(forward, width, t=torch.rand(3, width) + 0.5, u=nn.Linear(width, 7), d=nn.Linear(7, width))


def some(size: int) -> nn.Module:
    """As many maps of each kind as there are layers, and one that no layer reads."""

    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.i(x)
        for layer in range(2):
            h = h + F.relu(h @ s.w[layer]) @ s.v[layer]
        return s.o(h)  # type: ignore[no-any-return]

    return net(forward, 6, w=torch.randn(3, 6, size), v=torch.randn(3, size, 6))


def flat(width: int) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        h, inside = s.i(x), s.w.shape[1] // 2
        made = F.linear(h, s.w.flatten(0, 1)).view(2, 7, 3, 2, inside)
        q, k, v = made.permute(2, 0, 3, 1, 4).unbind(0)
        return s.o(h + s.p(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]

    return net(forward, width, w=torch.randn(3, 6, width), p=nn.Linear(6, width))


SIZES: dict[str, tuple[Callable[[int], nn.Module], int, int]] = {
    "layers": (layers, 5, 8),
    "rows": (rows, 6, 8),
    "some": (some, 5, 8),
    "flat": (flat, 6, 8),
}


def both(name: str) -> tuple[nn.Module, nn.Module]:
    make, narrow, wide = SIZES[name]
    torch.manual_seed(0)
    return make(narrow), make(wide)


@pytest.mark.parametrize("name", SIZES)
def test_they_are_embedded_and_read_back(name: str) -> None:
    narrow, wide = both(name)
    embedded = symgraph.embed(narrow, X, like=wide)
    torch.testing.assert_close(embedded.module(X), narrow(X), rtol=1e-4, atol=1e-4)
    back = symgraph.narrow(embedded.module, X, like=narrow)
    torch.testing.assert_close(back.module(X), narrow(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_a_stream_or_units_are_pruned(name: str) -> None:
    _, wide = both(name)
    spaces = "residual" if name in ("rows", "flat") else "hidden*"
    pruned = symgraph.prune(wide, X, ratio=0.25, spaces=spaces)
    stored = {name: tuple(tensor.shape) for name, tensor in pruned.module.named_parameters()}
    assert (
        stored
        == {
            "layers": {**dict(_shapes(wide)), "w": (2, 6, 6), "v": (2, 6, 6)},
            "rows": dict(_shapes(rows(6))),
            "some": {**dict(_shapes(wide)), "w": (3, 6, 6), "v": (3, 6, 6)},
            "flat": dict(_shapes(flat(6))),
        }[name]
    )


def _shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()]


@pytest.mark.parametrize("name", SIZES)
def test_a_task_is_carried_between_bases(name: str) -> None:
    make, _, size = SIZES[name]
    torch.manual_seed(0)
    base, other = make(size), make(size)
    moved = symgraph.sample(base, X, seed=0)
    tuned = make(size)
    tuned.load_state_dict({key: tensor + 0.05 * other.state_dict()[key] for key, tensor in base.state_dict().items()})
    carried = symgraph.transport(base, tuned, moved, X)
    torch.testing.assert_close(carried.module(X), tuned(X), rtol=1e-3, atol=1e-3)
