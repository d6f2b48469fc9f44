"""Two symmetry graphs beside each other: what is gained, lost and changed, under other rules or in another size."""

from __future__ import annotations

import json
from functools import cache

import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.rules.book import default_rules, with_user_rules
from symgraph.rules.loading import rule
from symgraph.symmetry.difference import Change, Side, difference
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace

LGAMMA = rule(
    rule="log-gamma",
    about="A nonlinear function of each entry.",
    source="proof: it acts on each entry alone",
    ops=["aten.lgamma.default"],
    signature="self[*] -> [*]",
    admits={"*": "semi-permutation"},
)


class Net(nn.Module):
    def __init__(self, layers: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, hidden), act, nn.Linear(hidden, 6)) for _ in range(layers)
        )
        self.read, self.write = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        for layer in self.layers:
            x = x + layer(x)
        result: Tensor = self.write(torch.lgamma(x))
        return result


@cache
def graph(layers: int = 2, hidden: int = 8, act: type[nn.Module] = nn.ReLU, ruled: bool = False) -> SymmetryGraph:
    book = with_user_rules(default_rules(), [LGAMMA]) if ruled else None
    return infer(trace(Net(layers, hidden, act()), (torch.randn(2, 4),)), book)


def space(name: str, group: str, size: int, dimension: int = 0) -> Side:
    return Side(name, group, size, dimension)


def test_nothing_differs_from_itself() -> None:
    found = difference(graph(), graph())
    assert not found and found.changes == ()
    assert str(found).endswith("no space and no family differs")


def test_a_rule_brings_a_space() -> None:
    found = graph().diff(graph(ruled=True))
    spaces = [change for change in found.changes if change.kind == "space"]
    before, after = space("layers.0.0.bias[0]", "identity", 6), space("residual", "permutation", 6)
    assert spaces == [Change("space", "gained", before, after)]
    back = graph(ruled=True).diff(graph())
    assert [c for c in back.changes if c.kind == "space"] == [Change("space", "lost", after, before)]
    assert found.dimensions == back.dimensions[::-1]


def test_a_class_changes_in_all_layers_at_once() -> None:
    found = difference(graph(), graph(act=nn.GELU), ("relu", "gelu"))
    changes = [change for change in found.changes if change.kind == "space"]
    assert [change.what for change in changes] == ["changed", "changed"]
    text = str(found)
    assert text.startswith("relu -> gelu: continuous dimension ")
    assert (
        "  {0..1}.hidden  x2\n      positive monomial, dimension 8, size 8 -> permutation, dimension 0, size 8" in text
    )


def test_another_depth_and_width() -> None:
    found = difference(graph(), graph(layers=3, hidden=12), ("small", "large"))
    gained = [change for change in found.changes if change.what == "gained" and change.kind == "space"]
    assert gained == [Change("space", "gained", Side(), space("2.hidden", "positive monomial", 12, 12))]
    changed = {change.name for change in found.changes if change.what == "changed" and change.kind == "space"}
    assert changed == {"0.hidden", "1.hidden"}
    assert found.only_before == () and "layers.2.1.weight" in found.only_after
    assert "parameters and buffers of large alone:\n  layers.2." in str(found)


def test_families_are_compared() -> None:
    found = graph(ruled=True).diff(graph(layers=3, ruled=True))
    families = {(change.kind, change.what, change.name) for change in found.changes if change.kind != "space"}
    assert families and all(what == "gained" for _, what, _ in families)
    assert sum(change.after.dimension for change in found.changes) == found.dimensions[1] - found.dimensions[0]


def test_the_data_are_plain() -> None:
    found = graph().diff(graph(ruled=True))
    plain = json.loads(json.dumps(found.to_plain()))
    assert plain["changes"][0]["after"] == {"name": "residual", "group": "permutation", "size": 6, "dimension": 0}
    assert plain["dimensions"] == list(found.dimensions)
