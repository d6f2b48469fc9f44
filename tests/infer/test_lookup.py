"""`explain` takes whatever `inspect` prints: spaces, folded names, parameters, families, classes, operators."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.inference.pipeline import infer
from symgraph.symmetry.fold import fold, unfold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.lookup import look_up
from symgraph.tracing import trace


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return result


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.layers, self.norm = nn.Linear(4, 6), nn.ModuleList([Layer(), Layer()]), nn.LayerNorm(6)
        self.odd, self.write = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.write(torch.lgamma(self.odd(self.norm(x))))
        return result


@cache
def net() -> SymmetryGraph:
    return infer(trace(Net(), (torch.randn(2, 4),)))


def test_a_folded_name_is_all_of_its_spaces() -> None:
    found = look_up(net(), "{0..1}.hidden")
    assert (found.kind, found.names) == ("space", ("0.hidden", "1.hidden"))
    assert found.text.startswith("{0..1}.hidden: 2 of a kind; this is the first of them\n\n0.hidden: a space")
    assert [member["space"] for member in found.plain["members"]] == ["0.hidden", "1.hidden"]


def test_the_data_of_a_space_hold_all_of_its_text() -> None:
    found = look_up(net(), "residual")
    plain = found.plain
    assert (plain["size"], plain["group"], plain["dimension"]) == (6, "orthogonal fixing ones", 10)
    assert {"parameter": "read.weight", "shape": [6, 4], "axis": 0, "place": "", "variance": "covariant"} in plain[
        "parameters"
    ]
    assert plain["meaning"] in found.text
    for reason in plain["evidence"]:
        assert f"rule {reason['rule']} admits" in found.text and reason["where"] in " ".join(found.text.split())
    (without, *_) = plain["larger"]
    assert f"without rule {without['without'][0]} the other evidence would admit" in found.text


def test_a_parameter_says_how_its_axes_move() -> None:
    text = look_up(net(), "layers.0.up.weight").text
    assert text.startswith("layers.0.up.weight: parameter [10, 6]\n  W -> A W B^T\n")
    assert "A, axis 0 of size 10: 0.hidden  (0.hidden: positive monomial)" in text
    assert "B, axis 1 of size 6: residual'  (residual: orthogonal fixing ones)" in text
    assert "read mean: 1 tensor reads from a centred stream" in text
    plain = look_up(net(), "read.weight").plain
    assert plain["law"] == "W -> A W" and plain["axes"][1]["classes"] == {}


def test_a_folded_parameter() -> None:
    assert look_up(net(), "layers.{0..1}.down.bias").names == ("layers.0.down.bias", "layers.1.down.bias")


def test_everything_that_the_table_prints_is_explained() -> None:
    """Names of spaces, families and parameters as they stand in the text, folded or not."""
    table = str(net())
    rows = [line.split("  ")[0] for line in table.split("\n\n")[1].splitlines()[1:]]
    families = table.partition("no rule covers")[0]
    listed = [name.strip() for line in families.splitlines() if line.startswith("    ") for name in line.split(",")]
    names = [name for name in (*rows, *listed) if name]
    assert len(names) >= 8
    for name in names:
        answer = look_up(net(), name)
        assert json.loads(json.dumps(answer.plain))["kind"] == answer.kind
    classes = {str(space.group) for space in net()}
    assert all(look_up(net(), cls).kind == "class" for cls in classes)
    (operator,) = re.findall(r"no rule covers (\S+);", table)
    assert look_up(net(), operator).kind == "operator"


def test_a_family_by_its_kind() -> None:
    found = look_up(net(), "absorbed gain")
    assert found.plain["parts"][0]["parameters"] == ["layers.0.norm.weight"]
    assert (
        found.text.startswith("absorbed gain: 3 in this model, dimension 18")
        and "layers.{0..1}.norm.weight" in found.text
    )


def test_a_class_says_where_it_acts() -> None:
    found = look_up(net(), "positive monomial")
    assert found.plain["spaces"] == ["0.hidden", "1.hidden"]
    assert "here it acts on {0..1}.hidden" in found.text and "is inside of monomial" in found.text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("residul", "`residual`"),
        ("{0..1}.hiden", "`{0..1}.hidden`"),
        ("orthogonal fixing one", "`orthogonal fixing ones`"),
        ("layers.0.up.weigth", "`layers.0.up.weight`"),
        ("zzz", "--rigid --no-fold"),
    ],
)
def test_near_names_of_every_kind(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="no space, parameter, family, class or operator") as caught:
        look_up(net(), name)
    assert near in str(caught.value)


@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1))
def test_unfolding_undoes_folding(numbers: set[tuple[int, int]]) -> None:
    names = {f"layers.{i}.experts.{j}.up" for i, j in numbers}
    folded = [pattern.pattern for pattern in fold(sorted(names))]
    assert sorted(name for pattern in folded for name in unfold(pattern)) == sorted(names)
