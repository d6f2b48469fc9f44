"""Weights that a group does not move: found for any model, exact, and driven in by training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError, VerifyError
from symgraph.io.decode import Malformed
from symgraph.orbit.finite_group import generated
from symgraph.orbit.representation import Representation, parsed
from symgraph.prove.equivariant import acted, require_equivariant, unequal

TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
FLIP = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
PLANE = {"plane": {"circle": [1]}}


def rule(axes: str, output: str, **group: Any) -> dict[str, Any]:
    return {"inputs": {"x": axes}, "output": output, "group": group}


class Vectors(nn.Module):
    """Vectors in a plane, gated by their lengths: linear maps of all coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix = nn.Linear(8, 12, bias=False), nn.Linear(12, 12)
        self.gate, self.leave = nn.Linear(6, 6), nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found = self.enter(x.flatten(-2)).unflatten(-1, (6, 2))
        found = found + self.mix(found.flatten(-2)).unflatten(-1, (6, 2))
        found = found * self.gate(torch.linalg.vector_norm(found, dim=-1)).sigmoid()[..., None]
        left: Tensor = self.leave(found.flatten(-2))
        return left.reshape(*left.shape[:-1], 2, 2)


class Stream(nn.Module):
    """A residual stream with a norm whose gain has to stay constant where the stream turns."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 8, bias=False), nn.RMSNorm(8)
        self.block, self.leave = nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        found = self.enter(x)
        left: Tensor = self.leave(found + self.block(self.norm(found)))
        return left


class Patches(nn.Module):
    """A small Vision Transformer on rows of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.positions = nn.Linear(4, 16), nn.Parameter(torch.randn(4, 16))
        self.layer = nn.TransformerEncoderLayer(16, 8, 24, 0.0, "gelu", batch_first=True, norm_first=True)
        self.head = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(self.enter(x) + self.positions)
        return found.mean(1) @ self.head.T


class Gated(nn.Module):
    """Vectors and a stream of numbers beside them, which weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
        self.sizes, self.more = nn.Linear(1, 6), nn.Sequential(nn.Linear(10, 8), nn.SiLU(), nn.Linear(8, 6))
        self.gate = nn.Linear(6, 4)

    def forward(self, x: Tensor, mass: Tensor) -> Tensor:
        vectors = self.enter(x.flatten(-2)).unflatten(-1, (4, 2))
        numbers = self.sizes(mass)
        numbers = numbers + self.more(torch.cat([torch.linalg.vector_norm(vectors, dim=-1), numbers], -1))
        left: Tensor = self.leave((vectors * self.gate(numbers)[..., None]).flatten(-2))
        return left


SQUARE = torch.arange(4).reshape(2, 2)
QUARTERS = {axis: SQUARE.rot90().flatten() for axis in ("patches", "pixels")}
MIRROR = {axis: SQUARE.flip(1).flatten() for axis in ("patches", "pixels")}
CASES = {
    "turns by any angle": (Vectors(), (3, 5, 4, 2), rule("n bodies c plane", "n bodies k plane", turn=PLANE)),
    "quarter turns": (Vectors(), (3, 4, 2), rule("n c plane", "n k plane", turn={"plane": TURN})),
    "turns and mirrors": (
        Vectors(),
        (3, 4, 2),
        rule("n c plane", "n k plane", turn={"plane": TURN}, flip={"plane": FLIP}),
    ),
    "several frequencies": (
        Stream(),
        (7, 6),
        rule("n x", "n out", turn={"x": {"circle": [1, 2, 0]}, "out": {"circle": [1]}}),
    ),
    "flattened axes": (nn.Linear(6, 4), (7, 6), None),
    "units in any order": (
        nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4)),
        (5, 4),
        {"inputs": {"input": "n cyclic"}, "output": "n cyclic", "group": {"shift": {"cyclic": [1, 2, 3, 0]}}},
    ),
    "patches and pixels": (Patches(), (3, 4, 4), rule("n patches pixels", "n classes", turn=QUARTERS, flip=MIRROR)),
}
FLAT = {"inputs": {"input": "n (c plane)"}, "output": "n (k plane)", "group": {"turn": PLANE}}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[symgraph.Relaxed, Tensor, Representation]:
    torch.manual_seed(0)
    module, size, given = CASES[request.param]
    found, x = Representation.of(given or FLAT), torch.randn(size, dtype=torch.float64)
    return symgraph.relax(module.double(), x, representation=found), x, found


def test_at_zero_the_model_is_equivariant_and_before_it_was_not(
    case: tuple[symgraph.Relaxed, Tensor, Representation],
) -> None:
    relaxed, x, representation = case
    (name,) = representation.inputs
    free, strict = (dict(m.named_parameters()) for m in (relaxed.module, relaxed.equivariant()))
    assert max(unequal(relaxed.module, {name: x}, representation, free).values()) > 1e-3
    assert max(unequal(relaxed.module, {name: x}, representation, strict).values()) < 1e-12
    # And it is no constant: what reaches the output is not zero.
    assert relaxed.equivariant()(x).abs().max() > 1e-3


def test_the_mean_is_a_projection_and_an_orthogonal_one(
    case: tuple[symgraph.Relaxed, Tensor, Representation],
) -> None:
    relaxed, _, _ = case
    for name, mean in relaxed.means.items():
        a = dict(relaxed.module.named_parameters())[name].detach()
        b = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(mean(mean(a)), mean(a), atol=1e-12)
        assert torch.allclose((mean(a) * b).sum(), (a * mean(b)).sum(), atol=1e-12)


def test_gamma_weighs_what_is_not_equivariant(case: tuple[symgraph.Relaxed, Tensor, Representation]) -> None:
    relaxed, x, _ = case
    assert torch.allclose(relaxed(x), relaxed.module(x))
    with torch.no_grad():
        relaxed.gamma.zero_()
        assert torch.allclose(relaxed(x), relaxed.equivariant()(x))
        relaxed.gamma.fill_(0.5)
        assert torch.allclose(relaxed(x), relaxed.as_trained()(x))
        relaxed.gamma.fill_(1.0)


def test_a_linear_map_keeps_what_commutes_with_turns() -> None:
    relaxed = symgraph.relax(nn.Linear(6, 4), torch.randn(5, 6), representation=FLAT)
    strict = dict(relaxed.equivariant().named_parameters())
    weight = strict["weight"].reshape(2, 2, 3, 2)
    assert torch.allclose(weight[:, 0, :, 0], weight[:, 1, :, 1])
    assert torch.allclose(weight[:, 0, :, 1], -weight[:, 1, :, 0])
    assert torch.allclose(strict["bias"], torch.zeros(4), atol=1e-7)


def test_numbers_beside_vectors_stay_numbers() -> None:
    given = {"inputs": {"x": "n c plane", "mass": "n one"}, "output": "n plane", "group": {"turn": PLANE}}
    inputs = {"x": torch.randn(5, 2, 2), "mass": torch.randn(5, 1)}
    relaxed = symgraph.relax(Gated(), inputs, representation=given)
    # Their spaces admit turns as well, and numbers that turned would be zero.
    assert relaxed.layers == ("enter", "leave")


def test_multipliers_drive_gamma_to_zero_where_the_loss_allows_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    target = nn.Linear(6, 4)
    planted = symgraph.relax(target, x, representation=FLAT).equivariant()
    relaxed = symgraph.relax(nn.Linear(6, 4), x, representation=FLAT)
    steps = symgraph.DualAscent(torch.optim.Adam(relaxed.module.parameters(), lr=0.02), relaxed, rate=0.01)
    for _ in range(300):
        steps.zero_grad()
        (relaxed(x) - planted(x).detach()).square().mean().backward()
        steps.step()
    assert relaxed.gamma.abs().max() < 0.05
    assert (relaxed.equivariant()(x) - planted(x)).square().mean() < 1e-3


def test_a_resilient_bound_stays_open_where_the_data_break_the_symmetry() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(256, 6), nn.Linear(6, 4)
    found = {}
    for price in (0.1, 10.0):
        relaxed = symgraph.relax(nn.Linear(6, 4), x, representation=FLAT)
        optimiser = torch.optim.Adam(relaxed.module.parameters(), lr=0.02)
        steps = symgraph.DualAscent(optimiser, relaxed, rate=0.02, descent=0.1, resilience=price)
        for _ in range(300):
            steps.zero_grad()
            (relaxed(x) - target(x).detach()).square().mean().backward()
            steps.step()
        (row,) = relaxed.report()
        # At the optimum the bound is what the multiplier pays for.
        assert abs(row.gamma) <= row.multiplier / price + 0.05
        found[price] = abs(row.gamma)
    assert found[0.1] > found[10.0] > 0


def test_a_symmetric_group_has_all_its_elements_and_its_regular_representation_composes() -> None:
    group = generated([{"plane": TURN}, {"plane": FLIP}])
    assert len(group) == 8
    plane = group.on("plane")
    for g in range(8):
        for h in range(8):
            product = int(group.table[g, h])
            assert torch.allclose(plane[g] @ plane[h], plane[product])
            regular = group.regular(19)
            values = torch.randn(19)
            assert torch.equal(values[regular[h]][regular[g]], values[regular[product]])
            assert torch.equal(regular[g][16:], torch.arange(16, 19))


@given(st.lists(st.lists(st.text("abz_", min_size=1, max_size=4), min_size=1, max_size=3), max_size=4))
def test_axes_are_read_as_they_are_written(axes: list[list[str]]) -> None:
    text = " ".join(names[0] if len(names) == 1 else f"({' '.join(names)})" for names in axes)
    assert parsed(text, "output") == tuple(map(tuple, axes))


@given(st.text(max_size=20))
def test_any_text_is_axes_or_one_error(text: str) -> None:
    try:
        found = parsed(text, "output")
    except Malformed as error:
        assert "output" in str(error)
    else:
        assert all(name.isidentifier() for names in found for name in names)


def test_a_counterexample_names_the_generator() -> None:
    model, x = Vectors(), torch.randn(3, 5, 4, 2)
    found = Representation.of(rule("n bodies c plane", "n bodies k plane", turn=PLANE))
    with pytest.raises(VerifyError, match=r"f\(g x\) = g f\(x\) fails for 'turn'"):
        require_equivariant(model, {"x": x}, found, dict(model.named_parameters()))


def test_an_element_acts_on_flattened_axes() -> None:
    x = torch.arange(12.0).reshape(2, 6)
    found = acted(x, parsed("n (c plane)", ""), {"plane": TURN})
    assert torch.equal(found, torch.einsum("ab,ncb->nca", TURN, x.reshape(2, 3, 2)).reshape(2, 6))


class Cut(nn.Module):
    """Coordinates one by one: nothing turns."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


BAD = {
    "no generator": ({"inputs": {"x": "n plane"}, "output": "n plane", "group": {}}, "no generator"),
    "an axis that is not there": (rule("n plane", "n plane", turn={"plan": TURN}), "plan"),
    "no permutation": (rule("n plane", "n plane", turn={"plane": [0, 0]}), "no permutation"),
    "no inverse": (rule("n plane", "n plane", turn={"plane": [[1, 1], [1, 1]]}), "no inverse"),
    "two kinds": (rule("n plane", "n k", turn={"plane": {"circle": [1]}, "k": [1, 0]}), "moves others in steps"),
    "endless": (rule("n plane", "n k", grow={"plane": [[1, 1], [0, 1]]}), "more than 512"),
    "sizes": (rule("n plane", "n k", turn={"plane": [1, 2, 0]}), "has 2 positions"),
    "too few axes": (rule("plane", "n k", turn={"plane": TURN}), "has 2 axes"),
    "an input that is not there": ({**rule("n", "n", turn=PLANE), "inputs": {"y": "n plane"}}, "no input"),
    "a space that cannot": ({**rule("n plane", "n k", turn=PLANE), "hidden": {"*": "plane"}}, "cannot carry plane"),
    "no such pattern": ({**rule("n plane", "n k", turn=PLANE), "hidden": {"heads": "plane"}}, "names no space"),
    "nothing to carry": ({**rule("n plane", "n k", turn=PLANE), "hidden": {"*": "planes"}}, "nothing that a space"),
}


class Units(nn.Module):
    """Hidden units between two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_representation_is_one_error(name: str) -> None:
    found, message = BAD[name]
    with pytest.raises(UsageError, match=message):
        symgraph.relax(Units(), torch.randn(5, 2), representation=found)


def test_an_action_that_the_operators_do_not_admit_is_refused() -> None:
    with pytest.raises(UsageError, match="by orthogonal maps, and the model admits"):
        symgraph.relax(Cut(), torch.randn(5, 2), representation=rule("n plane", "n plane", turn=PLANE))


def test_a_model_that_the_group_leaves_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="moves no parameter"):
        symgraph.relax(Cut(), torch.randn(5, 2), representation=rule("n plane", "n plane", swap={"plane": [1, 0]}))


def test_numbers_that_make_no_ascent_are_refused() -> None:
    relaxed = symgraph.relax(nn.Linear(6, 4), torch.randn(5, 6), representation=FLAT)
    weights = torch.optim.SGD(relaxed.module.parameters(), 0.1)
    for wrong in ("rate", "descent", "resilience"):
        with pytest.raises(UsageError, match=f"{wrong}=0.0 is not positive"):
            symgraph.DualAscent(weights, relaxed, **{wrong: 0.0})
    with pytest.raises(UsageError, match="trains gamma by itself"):
        symgraph.DualAscent(torch.optim.SGD(relaxed.parameters(), 0.1), relaxed)
