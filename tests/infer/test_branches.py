"""Branches that can change places: found, proven, and left alone where one is unlike the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from mixtures import EXPERTS, FORMS, WIDTH, Expert, network
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.inference.branches import find_branches
from symgraph.orbit.action import random_element
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64

LISTS = [n for n in FORMS if n.startswith("list")]


@pytest.mark.parametrize("name", LISTS)
def test_experts_in_a_list_are_positions_of_a_space(name: str) -> None:
    net = network(name)
    found = symgraph.infer(net)
    for layer in (0, 1):
        space = found.space(f"{layer}.branches")
        hidden = found.space(f"{layer}.experts.hidden")
        assert (space.size, str(space.group)) == (EXPERTS, "permutation")
        assert hidden.fibre == (space.id,)
        assert f"mixtures.{layer}.router.weight" in found.parameters_of[space.id]
        assert f"mixtures.{layer}.experts.3.down.weight" in found.parameters_of[space.id]
    symgraph.verify(net, symmetry=found).raise_if_failed()


def test_the_dimension_is_that_of_the_experts_by_themselves() -> None:
    found = symgraph.infer(network("list-gated"))
    assert found.dimension().of("0.experts.hidden").number == EXPERTS * 5


def test_shared_experts_without_a_gate_change_places_too() -> None:
    found = symgraph.infer(network("list-shared"))
    assert found.space("0.shared.branches").size == 2
    assert {s.space for s in found.stacks} == {s.id for s in found.spaces if s.name.endswith("branches")}


def test_stacks_survive_json() -> None:
    found = symgraph.infer(network("list"))
    read = SymmetryGraph.from_json(found.to_json())
    assert read.stacks == found.stacks and read.fingerprint == found.fingerprint
    assert replace(found, stacks=found.stacks[1:]).fingerprint != read.fingerprint


def test_a_state_without_some_branch_is_refused() -> None:
    net = network("list")
    found = symgraph.infer(net)
    state = {n: t for n, t in float64(state_of(net)).items() if not n.endswith("experts.2.up.bias")}
    element = random_element(found, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UsageError, match=r"`mixtures.0.experts.2.up.bias` is missing beside"):
        element(state)


class Unlike(nn.Module):
    """Experts that look alike and are not: `kind` says why."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.router = kind, nn.Linear(WIDTH, 3 if kind != "part" else 4)
        self.experts = nn.ModuleList(Expert() for _ in range(3))
        self.example_inputs = torch.randn(4, WIDTH)
        self.register_buffer("order", torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x: Tensor) -> Any:
        logits = self.router(x)
        gate = logits.cumsum(-1) if self.kind == "ordered" else logits.softmax(-1)
        outputs = [e(x) for e in self.experts]
        if self.kind == "factors":
            outputs = [(i + 1.0) * y for i, y in enumerate(outputs)]
        if self.kind == "crossed":
            return sum(gate[:, i : i + 1] * (y + gate[:, 2 - i : 3 - i]) for i, y in enumerate(outputs))
        if self.kind == "twice":
            outputs.append(outputs[0])
            return sum(outputs)
        total = sum(gate[:, i : i + 1] * y for i, y in enumerate(outputs))
        return (total, outputs[1]) if self.kind == "seen" else total


@pytest.mark.parametrize("kind", ["ordered", "factors", "crossed", "twice", "seen", "part"])
def test_branches_that_differ_stay_where_they_are(kind: str) -> None:
    torch.manual_seed(0)
    net = Unlike(kind).double().eval()
    net.example_inputs = net.example_inputs.double()
    found = symgraph.infer(net)
    assert not any(stack.members[0].startswith("experts.0") for stack in found.stacks)
    symgraph.verify(net, symmetry=found).raise_if_failed()


def test_nothing_is_found_among_layers_one_after_the_other() -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3)))
    assert find_branches(symgraph.trace(net, (torch.zeros(2, 4),))) == []
