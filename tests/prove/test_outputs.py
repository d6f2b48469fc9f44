"""Outputs that are no floating numbers: truth values, whole numbers, complex numbers, and models without parameters."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from function_nets import Net, spread
from torch import Tensor, nn

import symgraph
from symgraph.errors import VerifyError
from symgraph.groups.lattice import SymmetryClass


def net(end: Any) -> nn.Module:
    torch.manual_seed(0)
    return spread(Net(lambda s, x: end(s.o(torch.relu(s.i(x)))), i=nn.Linear(5, 4), o=nn.Linear(4, 6)))


def as_complex(x: Tensor) -> Tensor:
    return torch.complex(x[:, :3], x[:, 3:])


INPUTS = (torch.randn(3, 5),)
ENDS = {
    "truth": lambda x: x > 0,
    "places": lambda x: x.argmax(-1),
    "complex": as_complex,
    "conjugate": lambda x: as_complex(x).conj(),
}


@pytest.mark.parametrize("end", ENDS)
def test_they_are_compared(end: str) -> None:
    model, other = net(ENDS[end]), net(ENDS[end])
    found = symgraph.infer(model, INPUTS)
    assert [s.group for s in found.active] == [SymmetryClass.POSITIVE_MONOMIAL]
    assert symgraph.verify(model, INPUTS, symmetry=found).passed
    turned = [s if s.rigid else replace(s, group=SymmetryClass.ORTHOGONAL, scales=0, signs=0) for s in found.spaces]
    assert not symgraph.verify(model, INPUTS, symmetry=replace(found, spaces=tuple(turned))).passed
    assert symgraph.align(model, other, INPUTS).state.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("end", ["complex", "conjugate"])
def test_what_is_complex_counts_in_an_audit(end: str) -> None:
    assert symgraph.audit(net(ENDS[end]), INPUTS).complete


@pytest.mark.parametrize(
    "model",
    [net(ENDS["truth"]), net(ENDS["places"]), Net(lambda s, x: 2 * x), spread(nn.Embedding(5, 5, max_norm=1.0))],
)
def test_an_audit_of_what_has_no_jacobian_says_so(model: nn.Module) -> None:
    inputs = (torch.tensor([[1, 2]]),) if isinstance(model, nn.Embedding) else INPUTS
    with pytest.raises(VerifyError, match="the model has no Jacobian"):
        symgraph.audit(model, inputs)


def test_models_without_parameters_are_aligned() -> None:
    model = Net(lambda s, x: 2 * x)
    assert not symgraph.align(model, Net(lambda s, x: 2 * x), INPUTS).state


def test_inputs_are_drawn_again_where_a_mask_closes_a_row() -> None:
    """Torch's own attention makes no number of a query that sees no key: masks at random do that now and then."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    model = spread(Net(lambda s, x, closed: s.a(x, x, x, key_padding_mask=closed)[0], a=attention))
    given = torch.randn(6, 3, 4), torch.zeros(6, 3, dtype=torch.bool)
    assert symgraph.verify(model, given, symmetry=symgraph.infer(model, given)).passed


@pytest.mark.slow
def test_many_layers_are_verified_in_two_minutes() -> None:
    """Every space and every bias by itself, in 400 layers: the clean gauge is found once."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(400)))
    began = time.process_time()
    assert symgraph.verify(model, torch.randn(2, 8)).passed
    assert time.process_time() - began < 120
