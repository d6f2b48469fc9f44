"""A symmetry class from outside of the package, in one file: orthogonal circulant maps, with which shifts commute.

All of `CirculantRotations` is what whoever adds a class writes; then a rule may admit it, and inference, verification,
audit, canonical form, matching and learning know what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.groups.charts import Angles, ChartOptions, ChartPlan
from symgraph.groups.class_names import SymmetryClass
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.lattice import RIGID, TOP, Lattice, classes, describe, down, extended, maps, named
from symgraph.groups.map_class import DenseMaps
from symgraph.inference.pipeline import infer
from symgraph.match.match_models import nearest
from symgraph.orbit.action import GroupElement, random_element
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descent_options import MotionOptions
from symgraph.orbit.motion import Motion
from symgraph.prove.audit import audit
from symgraph.prove.verify import verify
from symgraph.rules.book import default_rules, with_user_rules
from symgraph.rules.check import check
from symgraph.rules.loading import rule
from symgraph.rules.schema import Rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_state


def circulant(column: Tensor) -> Tensor:
    """The circulant matrices with these first columns: (F, n) -> (F, n, n)."""
    places = torch.arange(column.shape[-1])
    return column[..., (places.unsqueeze(1) - places) % column.shape[-1]]


def shifted(n: int, angles: Tensor) -> Tensor:
    """The circulant matrix that turns the k-th frequency by the k-th angle: (F, (n - 1) // 2) -> (F, n, n)."""
    still = angles.new_zeros(*angles.shape[:-1], 1)
    ends = [still, angles, still] if n % 2 == 0 else [still, angles]
    phases = torch.cat(ends, dim=-1)
    return circulant(torch.fft.irfft(torch.complex(phases.cos(), phases.sin()), n))


class Phases(Angles):
    """An angle for each frequency of the axis."""

    def _element(self, dtype: torch.dtype) -> Element:
        n = self.on.size
        return Element.rotation(shifted(n, self._at("angle", dtype)[..., : (n - 1) // 2]))


class CirculantRotations(DenseMaps):
    """Orthogonal circulant matrices that leave the mean as it is: a phase for each frequency."""

    name = SymmetryClass("circulant rotations")
    inside: ClassVar[tuple[SymmetryClass, ...]] = (SymmetryClass.ORTHOGONAL_ONES,)
    solver = "phase of each frequency"

    def meaning(self, on: IndexSet) -> str:
        return f"each of the {self.dimension(on.size, 0)} frequencies along it may be shifted"

    def dimension(self, n: Any, scales: int) -> Any:
        return (n - 1) // 2 if isinstance(n, int) else (n - 1) / 2

    def generators(self, on: IndexSet) -> list[Tensor]:
        axes = torch.eye(self.dimension(on.size, 0), dtype=torch.float64)
        quarter, whole = (shifted(on.size, turn * axes) for turn in (math.pi / 2, math.pi))
        # shifted(a) = 1 + sin(a) G + (1 - cos(a)) G^2 in each plane.
        return list(quarter - (torch.eye(on.size, dtype=torch.float64) + whole) / 2)

    def random(self, on: IndexSet, generator: torch.Generator, spread: float = 0.3) -> Element:
        shape = (*on.fibre, self.dimension(on.size, 0))
        return self.element(shifted(on.size, 6.28 * torch.rand(shape, generator=generator, dtype=torch.float64)))

    def optimum(self, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        n = c.shape[-1]
        places = torch.arange(n)
        diagonals = torch.stack([c[..., (places + k) % n, places].sum(-1) for k in range(n)], dim=-1)
        g = shifted(n, torch.fft.rfft(diagonals).angle()[..., 1 : (n + 1) // 2])
        return g, (g * c).sum((-2, -1))

    def chart(self, on: IndexSet, options: ChartOptions) -> ChartPlan | None:
        return ChartPlan("phases", partial(Phases, on, False))


def correlation() -> Rule:
    """A rule that admits the class; it is read where the class is there."""
    return rule(
        rule="circular-correlation",
        about="How alike a vector is to itself a few places further round.",
        source="proof: an orthogonal map that commutes with the shift changes neither factor's place to the other",
        pattern="sum(x * roll(x, [k], [-1]), [-1])",
        signature="x[... d] -> [...]",
        admits={"d": "circulant rotations", "...": "semi-permutation"},
        gaps={"...": "signs of whole vectors, which the reader does not admit"},
        examples=[{"sizes": {"d": 7}, "args": {"k": 2}}],
    )


class Ring(nn.Module):
    """Reads a vector round a ring by its correlations with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.read = nn.Linear(5, 7), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.write(x)
        found = torch.stack([(h * torch.roll(h, [k], [-1])).sum([-1]) for k in range(1, 4)], dim=-1)
        read: Tensor = self.read(torch.sigmoid(torch.cat([found, h.sum(-1, keepdim=True)], dim=-1)))
        return read


@pytest.fixture
def lattice() -> Iterator[Lattice]:
    with extended(CirculantRotations()) as found:
        yield found


def ring() -> SymmetryGraph:
    return infer(trace(Ring(), (torch.randn(6, 5),)), with_user_rules(default_rules(), [correlation()]))


def test_the_class_is_there_for_a_while_only() -> None:
    assert named("circulant rotations") is None
    with extended(CirculantRotations()):
        name = named("circulant rotations")
        assert name is not None and name in TOP and name in down(SymmetryClass.ORTHOGONAL)
        assert name not in RIGID and name not in down(SymmetryClass.PERMUTATION)
        assert describe(down(name) & down(SymmetryClass.ORTHOGONAL)) == "circulant rotations"
        assert describe(down(name) & down(SymmetryClass.MONOMIAL)) == "identity"
    assert name not in TOP and name not in classes()
    with pytest.raises(UsageError, match="no class 'circulant rotations'"):
        maps(name)


def test_what_does_not_fit_is_refused() -> None:
    class Loose(CirculantRotations):
        name = SymmetryClass("loose")
        inside = ()

    class Strange(CirculantRotations):
        name = SymmetryClass("strange")
        contains = (SymmetryClass("unheard of"),)

    for wrong, cause in ((Loose(), "inside of no class"), (Strange(), "no class unheard of")):
        with pytest.raises(UsageError) as caught, extended(wrong):
            pass
        assert cause in (caught.value.cause or "")
    with pytest.raises(UsageError) as caught, extended(CirculantRotations(), CirculantRotations()):
        pass
    assert "there already" in (caught.value.cause or "")


@pytest.mark.usefixtures("lattice")
def test_rules_admit_it_and_too_much_is_refused() -> None:
    claimed = correlation()
    assert check(claimed).sound, check(claimed).counterexample
    assert not check(replace(claimed, admits={**claimed.admits, "d": down(SymmetryClass.PERMUTATION)})).sound


@pytest.mark.usefixtures("lattice")
def test_it_is_inferred_verified_and_complete() -> None:
    found = ring()
    space = found.space("write.hidden")
    assert str(space.group) == "circulant rotations"
    assert "each of the 3 frequencies along it may be shifted" in found.explain(space.name)
    assert verify(found).together < 1e-9
    counted = audit(found)
    assert counted.complete and counted.measured == 3
    again = SymmetryGraph.from_json(found.to_json())
    assert again.fingerprint == found.fingerprint
    assert not found.within("permutation").active


@pytest.mark.usefixtures("lattice")
def test_a_planted_element_comes_back() -> None:
    found = ring()
    a = canonicalise(found, random_state(found.graph, torch.Generator().manual_seed(1))).state
    g = random_element(found, generator=torch.Generator().manual_seed(2))
    result = nearest(found, a, g(a))
    assert result.initial > 1e-2 * result.scale and result.objective[-1] < 1e-18 * result.scale
    back, planted = result.element.elements, g.inverse().elements
    for i, e in planted.items():
        assert e.matrix is not None and torch.allclose(back[i].matrix, e.matrix)  # type: ignore[arg-type]


@pytest.mark.usefixtures("lattice")
def test_what_is_trained_keeps_the_function() -> None:
    found = ring()
    state = random_state(found.graph, torch.Generator().manual_seed(1))
    motion = Motion(found, MotionOptions(), torch.float64, torch.device("cpu"))
    (latent,) = motion.latents().values()
    latent.data += torch.randn(latent.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs = [torch.randn(6, 5, dtype=torch.float64)]
    run = Interpreter(found.graph, dtype=torch.float64)
    with torch.no_grad():
        before, after = (run.run(s, inputs)[0] for s in (state, motion.on(state)))
    assert not torch.equal(motion.on(state)["write.weight"], state["write.weight"])
    assert torch.allclose(before, after, rtol=0, atol=1e-12)
    moved = GroupElement(found, {i: c.element() for i, c in motion.charts.items()})(state)
    assert torch.allclose(moved["write.weight"], motion.on(state)["write.weight"])
