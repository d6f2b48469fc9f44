"""Every result is compared with its origin by the user's own module, in eager mode, before it is handed out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import symgraph
from symgraph.errors import VerifyError
from symgraph.io.models import Model
from symgraph.prove.same_function import check_unchanged


class Branching(nn.Module):
    """Positively homogeneous hidden units on short inputs, such as it is traced with, but not on long ones."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.example_inputs = (torch.randn(4, 5),)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(torch.tanh(self.stem(x)))
        found: Tensor = self.down(functional.relu(hidden) if len(x) < 6 else functional.gelu(hidden))
        return found


class Masked(nn.Module):
    """Hidden units behind a stored mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("mask", mask)
        self.example_inputs = (torch.randn(4, 5),)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(functional.relu(self.up(x)) * self.get_buffer("mask"))
        return found


def _long() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(4, 5), "labels": torch.zeros(4)}, {"x": torch.randn(9, 5), "labels": torch.zeros(9)}]


def test_what_changes_on_a_batch_alone_is_refused_and_the_space_named() -> None:
    a, b = Branching(0), Branching(1)
    assert symgraph.align(a, b, examples=_long()).state
    with pytest.raises(VerifyError, match="a batch of the data") as found:
        symgraph.align(a, b, examples=_long()[1:])
    assert found.value.exit_code == 6
    assert "basis of up.hidden" in str(found.value) or "basis of hidden" in str(found.value)
    with pytest.raises(VerifyError, match="a batch of the data"):
        symgraph.universe([a, b], reference=0, examples=_long()[1:])


def test_a_state_of_another_function_is_refused() -> None:
    a, b = Branching(0), Branching(1)
    model = Model(b, None, b.example_inputs, "b", "factory")
    assert check_unchanged(model, symgraph.align(a, b).state, "b aligned") < 1e-6
    with pytest.raises(VerifyError, match="b aligned does not compute what b computes"):
        check_unchanged(model, {**symgraph.align(a, b).state, "down.bias": torch.zeros(3)}, "b aligned")


def test_rounding_inside_of_a_module_is_no_change() -> None:
    class Single(Branching):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.up(torch.tanh(self.stem(x))).float()
            found: Tensor = self.down((hidden / hidden.square().mean(-1, keepdim=True).sqrt()).to(x.dtype))
            return found

    assert symgraph.align(Single(0), Single(1)).after < 1


@pytest.mark.parametrize("mask", [torch.ones(6), torch.tensor([1.0, 0, 1, 1, 0, 1])], ids=["ones", "zeros"])
def test_stored_buffers_count_in_the_least_norm(mask: Tensor) -> None:
    found = symgraph.canonicalise(Masked(mask))
    sizes = [float(t.abs().max()) for t in found.state.values()]
    assert max(sizes) < 2 and found.state["mask"].isfinite().all()
    assert (found.state["up.weight"].norm(dim=1) > 1e-3).all()


def _collapsed(seed: int, small: bool) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(9, 8), nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    if small:
        net[1].weight.data = torch.tensor([1.0, 0.9, 1.1, 1.0, 1e-6, 3e-7, 1e-6, 2e-7])
    net.example_inputs = (torch.randn(5, 9),)  # type: ignore[assignment]
    return net.eval()


def test_a_gauge_that_is_nearly_singular_is_not_taken() -> None:
    found = symgraph.align(_collapsed(1, True), _collapsed(2, False))
    assert found.singular == ("1.weight",) and max(found.growth.values()) < 10
    assert any("gains near zero: 1.weight" in note for note in found.notes)
    assert not torch.equal(found.reference["1.weight"], found.a.module.state_dict()["1.weight"])
    other = symgraph.align(_collapsed(2, False), _collapsed(1, True))
    assert not other.singular
    assert symgraph.universe([_collapsed(1, True), _collapsed(2, False)]).reference == 1
    forced = symgraph.universe([_collapsed(1, True), _collapsed(2, False)], reference=0)
    assert forced.reference is None and any("norms would grow" in note for note in forced.notes)
