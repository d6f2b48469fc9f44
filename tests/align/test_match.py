"""The descent: what it finds is a symmetry, never a step back, reproducible, and optimal where that can be checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from models_zoo import ARCHITECTURES, State, case, relative, worst

from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.inference.pipeline import infer
from symgraph.match.descent import Nearest
from symgraph.match.match_models import nearest
from symgraph.match.match_options import MatchOptions
from symgraph.match.unit_trees import units
from symgraph.orbit.action import GroupElement, random_element
from symgraph.orbit.canonical import canonicalise
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace


def unrelated(name: str, seed: int = 0) -> tuple[State, State]:
    """Two independent models in canonical form."""
    c = case(name)
    a, b = (canonicalise(c.symmetry, c.state(seed + 10 * k, spread=0.5)).state for k in (1, 2))
    return a, b


def squared(s: SymmetryGraph, a: State, b: State, found: Nearest, weights: dict[str, float] | None = None) -> float:
    """The objective at the element found, computed from scratch."""
    moved = found.element(b)
    return sum((weights or {}).get(n, 1.0) * float((a[n] - moved[n]).square().sum()) for n in s.graph.parameters)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_objective_never_rises(name: str) -> None:
    """Recomputed from the element after each number of sweeps, not taken from the record."""
    s = case(name).symmetry
    a, b = unrelated(name)
    options = [MatchOptions(sweeps=k, tolerance=0.0, weighting="uniform", precision="float64") for k in range(6)]
    runs = [nearest(s, a, b, o) for o in options]
    values = [squared(s, a, b, r) for r in runs]
    scale = 1e-12 * values[0]
    assert all(later <= earlier + scale for earlier, later in itertools.pairwise(values)), values
    recorded = runs[-1].objective
    assert recorded == pytest.approx(values[: len(recorded)])
    assert values[-1] < sum(float((a[n] - b[n]).square().sum()) for n in s.graph.parameters)


@pytest.mark.parametrize("name", ["gpt2-untied", "resnet"])
def test_float32_finds_what_float64_finds(name: str) -> None:
    """Distances agree to five digits."""
    s = case(name).symmetry
    a, b = unrelated(name)
    single, double = (nearest(s, a, b, MatchOptions(precision=p)) for p in ("float32", "float64"))
    assert single.objective[-1] == pytest.approx(double.objective[-1], rel=1e-5)
    assert all(e.matrix is None or e.matrix.dtype is torch.float64 for e in single.element.elements.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_found_is_a_symmetry_of_compact_kind(name: str) -> None:
    c = case(name)
    a, b = unrelated(name)
    found = nearest(c.symmetry, a, b)
    moved = found.element(b)
    assert relative(c.run(b), c.run(moved)) < 1e-9
    for parameter in c.symmetry.graph.parameters:
        assert float(moved[parameter].norm()) == pytest.approx(float(b[parameter].norm()))
    assert set(found.element.elements) == {x.id for x in c.symmetry.active}


@pytest.mark.parametrize("name", ["mlp-relu", "gpt2-untied", "llama", "resnet"])
def test_restarts_are_never_worse_and_seeds_reproduce(name: str) -> None:
    s = case(name).symmetry
    a, b = unrelated(name, seed=5)
    plain, again, more = (nearest(s, a, b, MatchOptions(seed=3, restarts=r, weighting="uniform")) for r in (0, 0, 3))
    assert (
        worst(more.element(b), nearest(s, a, b, MatchOptions(seed=3, restarts=3, weighting="uniform")).element(b))
        == 0.0
    )
    assert plain.objective == again.objective
    assert worst(plain.element(b), again.element(b)) == 0.0
    assert more.objective[-1] <= plain.objective[-1]
    assert squared(s, a, b, more) == pytest.approx(more.objective[-1])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_matched_pair_is_a_fixed_point(name: str) -> None:
    s = case(name).symmetry
    a, b = unrelated(name)
    moved = nearest(s, a, b, MatchOptions(sweeps=40, tolerance=1e-12)).element(b)
    start = sum(float((a[n] - moved[n]).square().sum()) for n in s.graph.parameters)
    assert nearest(s, a, moved).objective[-1] <= start * (1 + 1e-9)
    assert nearest(s, a, a).objective[-1] < 1e-15 * start


@pytest.mark.parametrize("patterns", [("residual",), ("*.heads", "*.query-key"), ("h.0.*",), ("*.query-key",)])
def test_patterns_restrict_what_moves(patterns: tuple[str, ...]) -> None:
    from fnmatch import fnmatch

    s = case("gpt2-untied").symmetry
    a, b = unrelated("gpt2-untied")
    found = nearest(s, a, b, MatchOptions(spaces=patterns))
    chosen = {x.id for x in s.active if any(fnmatch(x.name, p) for p in patterns)}
    assert set(found.element.elements) == chosen
    assert set().union(*(t.ids() for t in units(s, patterns))) == chosen
    moved = found.element(b)
    for n in s.graph.parameters:
        if not any(n in s.parameters_of[i] for i in chosen):
            assert torch.equal(moved[n], b[n]), n
    assert relative(case("gpt2-untied").run(b), case("gpt2-untied").run(moved)) < 1e-9


def test_options_that_name_nothing_are_refused() -> None:
    s = case("gpt2-untied").symmetry
    a, b = unrelated("gpt2-untied")
    with pytest.raises(UsageError, match="matches 'residul'"):
        nearest(s, a, b, MatchOptions(spaces=("residul",)))
    with pytest.raises(UsageError, match="weighting is 'unifrom'"):
        nearest(s, a, b, MatchOptions(weighting="unifrom"))
    with pytest.raises(UsageError, match="a weight for wte, which is no parameter"):
        nearest(s, a, b, MatchOptions(weighting={"wte": 2.0}))


def test_per_entry_does_not_see_the_unit_of_inputs() -> None:
    def net(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))

    x = torch.randn(4, 5)
    a, b = net(0), net(1)
    s = infer(trace(a, (x,)))

    def order(weighting: str, unit: float) -> list[int]:
        first, second = (
            {n: t.double() * (unit if n == "0.weight" else 1) for n, t in m.state_dict().items()} for m in (a, b)
        )
        found = nearest(s, first, second, MatchOptions(weighting=weighting))
        (element,) = found.element.elements.values()
        assert element.index is not None
        return element.index.flatten().tolist()

    assert order("per-entry", 1.0) == order("per-entry", 100.0)
    assert order("uniform", 1.0) != order("uniform", 100.0)


def test_weightings_change_what_is_near() -> None:
    s = case("vit").symmetry
    a, b = unrelated("vit")
    norms = {n: 1.0 / float(a[n].norm() * b[n].norm()) for n in s.graph.parameters if float(a[n].norm() * b[n].norm())}
    normalised = nearest(s, a, b, MatchOptions(weighting="normalised"))
    assert normalised.objective[-1] == pytest.approx(squared(s, a, b, normalised, norms), rel=1e-6)
    given = nearest(s, a, b, MatchOptions(weighting={n: norms.get(n, 1.0) for n in s.graph.parameters}))
    assert given.objective == pytest.approx(normalised.objective, rel=1e-6)
    halved = nearest(s, a, b)
    writers = {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    half = {n: 0.5 for n in (*writers, "vit.embeddings.patch_embeddings.projection.weight")}
    assert halved.objective[-1] == pytest.approx(squared(s, a, b, halved, half))
    # With all weight on the head alone, the residual rotation is the polar factor of that one correlation.
    one = {n: float(n == "classifier.weight") for n in s.graph.parameters}
    found = nearest(s, a, b, MatchOptions(weighting=one, spaces=("residual",)))
    left = (a["classifier.weight"] - found.element(b)["classifier.weight"]).square().sum()
    n = a["classifier.weight"].shape[1]
    p = torch.eye(n, dtype=torch.float64) - 1.0 / n
    x, y = (t["classifier.weight"] @ p for t in (a, b))
    mean = float((a["classifier.weight"].mean(1) - b["classifier.weight"].mean(1)).square().sum() * n)
    nuclear = float(torch.linalg.svdvals(x.mT @ y).sum())
    assert float(left) == pytest.approx(float(x.square().sum() + y.square().sum()) - 2 * nuclear + mean)


class Recurrent(torch.nn.Module):
    """A stream whose weights read it and write it: one space stands twice on a parameter."""

    def __init__(self, act: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.act = torch.nn.Linear(6, 6), act
        self.first, self.last = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.act(self.inner(x))
        return self.last(x + self.act(self.inner(x)))  # type: ignore[no-any-return]


class Turning(Recurrent):
    """The same stream under nothing but rotations."""

    def __init__(self) -> None:
        super().__init__(torch.nn.RMSNorm(6, elementwise_affine=False))


@pytest.mark.parametrize(
    ("make", "group"), [(lambda: Recurrent(torch.nn.Tanh()), "signed permutation"), (Turning, "orthogonal")]
)
def test_a_space_that_stands_twice_on_a_parameter(make: Callable[[], torch.nn.Module], group: str) -> None:
    """The objective is then quadratic in the element; it still falls, and a planted element still comes back."""
    s = infer(trace(make(), (torch.zeros(5, 3),)))
    assert [(x.name, str(x.group)) for x in s.active] == [("residual", group)]
    improved = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        # Weak ends, so that the square matrix decides.
        weak = {n: 1.0 if n.startswith("inner") else 0.1 for n in s.graph.parameters}
        a, b = (
            {
                n: weak[n] * torch.randn(node.shape, generator=generator, dtype=torch.float64)
                for n, node in s.graph.parameters.items()
            }
            for _ in range(2)
        )
        exact = partial(MatchOptions, tolerance=0.0, weighting="uniform", precision="float64")
        runs = [nearest(s, a, b, exact(sweeps=k)) for k in range(8)]
        values = [squared(s, a, b, r) for r in runs]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values)), values
        improved += values[-1] < values[0] * (1 - 1e-6)
        planted = random_element(s, generator=generator)(a)
        assert squared(s, a, planted, nearest(s, a, planted)) < 1e-20
    assert improved >= 4


# -- against all elements ----------------------------------------------------------------------------------------------

SIGNS: dict[str, tuple[float, ...]] = {"relu": (1.0,), "tanh": (1.0, -1.0), "gelu": (1.0,)}


def one_layer(kind: str) -> SymmetryGraph:
    acts = {"relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh(), "gelu": torch.nn.GELU()}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), acts[kind], torch.nn.Linear(4, 2))
    return infer(trace(model, (torch.zeros(5, 3),)))


def everything(s: SymmetryGraph, signs: tuple[float, ...]) -> Iterator[GroupElement]:
    space = s.space("hidden")
    for p in itertools.permutations(range(4)):
        for sign in itertools.product(signs, repeat=4):
            flips = torch.tensor([sign], dtype=torch.float64) if space.signs else None
            ones = torch.ones(space.scales, 4, dtype=torch.float64) if space.scales else None
            yield GroupElement(s, {space.id: Element(torch.tensor(p), ones, flips)})


@pytest.mark.parametrize("kind", list(SIGNS))
@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_is_matched_optimally(kind: str, seed: int) -> None:
    s = one_layer(kind)
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        canonicalise(
            s,
            {
                n: torch.randn(node.shape, generator=generator, dtype=torch.float64)
                for n, node in s.graph.parameters.items()
            },
        ).state
        for _ in range(2)
    )
    found = squared(s, a, b, nearest(s, a, b, MatchOptions(weighting="uniform")))
    tried = min(squared(s, a, b, Nearest(g, (), 0.0, 1.0, (1.0, 1.0))) for g in everything(s, SIGNS[kind]))
    assert found == pytest.approx(tried)
