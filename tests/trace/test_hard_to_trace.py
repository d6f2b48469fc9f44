"""What once ended in a bug of ours is traced, and what cannot be traced says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_nets import Net, error, spread
from torch import Tensor, nn

from symgraph.errors import TraceError
from symgraph.tracing import trace
from symgraph.tracing.operators import functional


class Region(nn.Module):
    """Dropout whose result is read by a slice that nothing reads, before a region without autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.drop, self.out = nn.Linear(4, 6), nn.Dropout(0.1), nn.Linear(6, 3)
        self.register_buffer("frequencies", torch.ones(6))

    def tables(self) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", enabled=False):
            return self.frequencies.cos(), self.frequencies.sin()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Any:
        y = self.drop(self.lin(x))
        y[:, 1:]
        return self.out(F.normalize(y, dim=-1) * self.tables()[0] + y)


def between(f: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(lambda s, x: s.out(f(s.lin(x))), lin=nn.Linear(4, 6), out=nn.Linear(6, 3))


def augmented_power(y: Tensor) -> Tensor:
    y **= 2
    return y


def masked_transformer(s: Any, x: Tensor) -> Any:
    return s.t(x, x, tgt_mask=torch.full((4, 4), -float("inf")).triu(1))


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "quantile": (lambda: between(lambda y: y - y.quantile(0.3, -1, keepdim=True)), torch.randn(5, 4)),
    "several results inside of one operator": (
        lambda: between(lambda y: y - y.median(-1, keepdim=True)[0]),
        torch.randn(5, 4),
    ),
    "dropout before a region": (Region, torch.randn(5, 4)),
    "power in place": (lambda: between(lambda y: y.pow_(2)), torch.randn(5, 4)),
    "power by a tensor in place": (lambda: between(lambda y: y.abs().pow_(torch.tensor(1.5))), torch.randn(5, 4)),
    "augmented power": (lambda: between(augmented_power), torch.randn(5, 4)),
    "complex weights": (
        lambda: Net(
            lambda s, x: s.out((x.to(s.w.dtype) @ s.w).imag),
            w=torch.randn(4, 6, dtype=torch.complex64),
            out=nn.Linear(6, 3),
        ),
        torch.randn(5, 4),
    ),
    "a mask given to nn.Transformer": (
        lambda: Net(masked_transformer, t=nn.Transformer(8, 2, 1, 1, 12, 0.0, batch_first=True)),
        torch.randn(2, 4, 8),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_traced_and_what_is_inferred_holds(case: str) -> None:
    torch.manual_seed(0)
    make, x = CASES[case]
    assert error(spread(make()), (x,)) < 1e-9


def test_an_overload_in_place_is_the_one_that_takes_the_same() -> None:
    assert functional("aten.pow_.Scalar") == "aten.pow.Tensor_Scalar"
    assert functional("aten.pow_.Tensor") == "aten.pow.Tensor_Tensor"
    assert functional("aten.add_.Tensor") == "aten.add.Tensor"
    assert functional("aten.floor_divide_.Tensor") == "aten.floor_divide.default"
    assert functional("aten.relu.default") is None


def scripted() -> nn.Module:
    found: nn.Module = torch.jit.script(nn.Linear(4, 3))
    return found


def recorded() -> nn.Module:
    found: nn.Module = torch.jit.trace(nn.Linear(4, 3), torch.randn(5, 4))  # type: ignore[no-untyped-call]
    return found


REFUSED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "TorchScript": (scripted, torch.randn(5, 4), "the module that it was scripted from"),
    "TorchScript of a trace": (recorded, torch.randn(5, 4), "the module that it was scripted from"),
    "TorchScript inside": (lambda: nn.Sequential(nn.Linear(4, 4), scripted()), torch.randn(5, 4), "scripted from"),
    "two devices": (lambda: nn.Linear(4, 3), torch.randn(5, 4, device="meta"), "one device"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_says_what_to_do(case: str) -> None:
    make, x, remedy = REFUSED[case]
    with pytest.raises(TraceError) as caught:
        trace(make(), (x,))
    assert remedy in str(caught.value)
