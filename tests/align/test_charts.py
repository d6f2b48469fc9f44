"""Charts: what they stand for is in the group to the last digit, gradients are right, recentring changes nothing."""

from __future__ import annotations

import pytest
import torch
from models_zoo import case, relative, worst
from torch import Tensor

from symgraph.errors import UsageError
from symgraph.groups.charts import Angles, Assigned, Chart, Linear, Rotation, Scales, cayley, skew
from symgraph.groups.elements import IndexSet
from symgraph.groups.frequency_pairs import over_pairs
from symgraph.orbit.action import GroupElement
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descent_options import DescentOptions, MotionOptions
from symgraph.orbit.motion import Motion, chart_name, moving
from symgraph.orbit.relaxed import Relaxed, sinkhorn
from symgraph.orbit.steps import Act

CPU = torch.device("cpu")
FIBRE = (3,)
EVERY = ["mlp-relu", "vit", "gpt2-tied", "gpt2-untied", "llama", "bert", "resnet"]


def charts(dtype: torch.dtype = torch.float64) -> dict[str, Chart]:
    on, pairs = IndexSet(6, "halves", FIBRE, 2), IndexSet(6, "interleaved", FIBRE, 1)
    return {
        "cayley": Rotation(on, "cayley", dtype, CPU),
        "exponential": Rotation(on, "exponential", dtype, CPU),
        "ones": Rotation(on, "cayley", dtype, CPU, fix_ones=True),
        "ones-exponential": Rotation(on, "exponential", dtype, CPU, fix_ones=True),
        "angles": Angles(on, False, dtype, CPU),
        "angles-radii": Angles(pairs, True, dtype, CPU),
        "linear": Linear(on, 100.0, dtype, CPU),
        "scales": Scales(on, 6, lambda x: x, dtype, CPU),
        "pairwise-scales": Scales(pairs, 3, lambda x: over_pairs(x, 6, "interleaved"), dtype, CPU),
        "assigned": Assigned(on, dtype, CPU),
    }


NAMES = tuple(charts())


def stir(chart: Chart, size: float = 0.3, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for latent in chart.latents.values():
        latent.data += size * torch.randn(latent.shape, generator=generator, dtype=torch.float64).to(latent.dtype)


def parts(chart: Chart) -> list[Tensor]:
    found = chart.moved()
    return [t for t in (found.matrix, found.dual, found.scale) if t is not None]


@pytest.mark.parametrize("name", ["cayley", "exponential", "ones", "ones-exponential", "angles"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_compact_is_orthogonal_after_a_thousand_steps(name: str, dtype: torch.dtype) -> None:
    chart = charts(dtype)[name]
    for seed in range(1000):
        stir(chart, 0.05, seed)
        chart.retract()
    stir(chart, 0.05)
    m = chart.element().matrix
    assert m is not None and m.dtype is torch.float64
    assert float((m.mT @ m - torch.eye(6)).abs().max()) < 1e-12
    if name.startswith("ones"):
        ones = torch.ones(6, dtype=torch.float64)
        assert float((m @ ones - ones).abs().max()) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_zero_is_the_identity_and_recentring_changes_nothing(name: str) -> None:
    chart = charts()[name]
    one = torch.ones(()) if name.endswith("scales") else torch.eye(6)
    assert all(relative(one.double(), t.detach()) < 1e-15 for t in parts(chart))
    stir(chart)
    before, element = parts(chart), chart.element()
    chart.retract()
    assert all(relative(x.detach(), y.detach()) < 1e-12 for x, y in zip(before, parts(chart), strict=True))
    again = chart.element()
    for part, t in element.tensors().items():
        assert float((t - again.tensors()[part]).abs().max()) < 1e-12, part
    other = charts()[name]
    other.hold(chart.held())
    assert all(torch.equal(x, y) for x, y in zip(parts(chart), parts(other), strict=True))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "assigned"])
@pytest.mark.parametrize("size", [0.0, 0.4])
def test_gradients_against_finite_differences(name: str, size: float) -> None:
    chart = charts()[name]
    stir(chart, 0.5, 3)
    chart.retract()
    stir(chart, size)
    names = list(chart.latents)

    def values(*latents: Tensor) -> tuple[Tensor, ...]:
        chart.latents.update(dict(zip(names, latents, strict=True)))
        return tuple(parts(chart))

    given = tuple(t.detach().clone().requires_grad_() for t in chart.latents.values())
    assert torch.autograd.gradcheck(values, given, atol=1e-7)


def test_the_dual_is_the_inverse_transpose() -> None:
    for name in ("angles-radii", "linear"):
        chart = charts()[name]
        stir(chart)
        with torch.no_grad():
            found = chart.moved()
        assert found.matrix is not None and found.dual is not None
        assert float((found.matrix.mT @ found.dual - torch.eye(6)).abs().max()) < 1e-12
        assert float((found.matrix - found.dual).abs().max()) > 0.1


def test_invertible_matrices_stay_well_conditioned() -> None:
    chart = Linear(IndexSet(6, "halves", FIBRE), 10.0, torch.float64, CPU)
    for seed in range(50):
        stir(chart, 0.5, seed)
        chart.retract()
    assert float(torch.linalg.cond(chart.current).max()) < 10.0 * (1 + 1e-9)


def test_assignment_is_hard_forward_and_soft_backward() -> None:
    chart = Assigned(IndexSet(6, "halves", FIBRE), torch.float64, CPU)
    chart.latents["scores"].data[:, 0, 1] = 2.0
    chart.latents["scores"].data[:, 1, 0] = 2.0
    found = chart.moved().matrix
    assert found is not None and torch.equal(found.detach()[0].argmax(-1), torch.tensor([1, 0, 2, 3, 4, 5]))
    found[:, 2, 3].sum().backward()  # type: ignore[no-untyped-call]
    grad = chart.latents["scores"].grad
    assert grad is not None and float(grad[0, 2, 3]) == 1.0 and float(grad.abs().sum()) == 3.0


def test_a_planted_permutation_is_found_at_the_usual_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(3, 24, 16, generator=generator)
    planted = torch.stack([torch.randperm(24, generator=generator) for _ in range(3)])
    goal = units.gather(1, planted.unsqueeze(-1).expand_as(units))
    chart = Assigned(IndexSet(24, "halves", FIBRE), torch.float32, CPU)
    optimiser = torch.optim.Adam(chart.latents.values(), lr=DescentOptions().lr)
    for _ in range(30):
        optimiser.zero_grad()
        (chart.matrix() @ units - goal).square().sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    index = chart.element().index
    assert index is not None and torch.equal(index, planted)


def test_skew_and_cayley() -> None:
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    k = skew(x, fix_ones=True)
    assert torch.allclose(k, -k.mT) and float((k @ torch.ones(5, dtype=torch.float64)).abs().max()) < 1e-14
    q = cayley(skew(x))
    assert float((q.mT @ q - torch.eye(5)).abs().max()) < 1e-13


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_a_motion_keeps_the_function_and_agrees_with_its_transform(name: str, full: bool) -> None:
    c = case(name)
    options = MotionOptions(full=full, condition=1e9, gauge=full and bool(c.symmetry.gains))
    if not full and not any(s.is_matrix for s in c.symmetry.active):
        with pytest.raises(UsageError, match="has anything to learn"):
            moving(c.symmetry, options)
        return
    motion = Motion(c.symmetry, options, torch.float64, CPU)
    generator = torch.Generator().manual_seed(0)
    for latent in motion.latents().values():
        latent.data += 0.2 * torch.randn(latent.shape, generator=generator, dtype=torch.float64)
    base = canonicalise(c.symmetry, c.state(3)).state
    like = next(iter(base.values()))
    with torch.no_grad():
        moved = motion.on(base)
    assert relative(c.run(base), c.run(moved)) < 1e-9
    assert worst(moved, motion.transform(like).apply(base)) < 1e-9
    held = motion.held()
    motion.retract()
    assert worst(moved, motion.transform(like).apply(base)) < 1e-9
    other = Motion(c.symmetry, options, torch.float64, CPU)
    motion.hold(motion.held())
    other.hold(motion.held())
    assert held.keys() == other.held().keys()
    assert worst(motion.transform(like).apply(base), other.transform(like).apply(base)) == 0.0


@pytest.mark.parametrize("name", ["gpt2-untied", "llama", "bert"])
def test_the_differentiable_action_is_the_action(name: str) -> None:
    s = case(name).symmetry
    motion = Motion(s, MotionOptions(permutations=True, full=True), torch.float64, CPU)
    generator = torch.Generator().manual_seed(1)
    for latent in motion.latents().values():
        latent.data += 0.3 * torch.randn(latent.shape, generator=generator, dtype=torch.float64)
    base = canonicalise(s, case(name).state(3)).state
    with torch.no_grad():
        found = motion.on(base)
    element = GroupElement(s, {i: c.element() for i, c in motion.charts.items()})
    assert worst(found, Act(element).apply(base)) < 1e-9


def test_every_chart_has_a_name_and_options_are_checked() -> None:
    s = case("llama").symmetry
    for options in (MotionOptions(), MotionOptions(full=True), MotionOptions(permutations=True, full=True)):
        assert all(chart_name(s, x, options) for x in moving(s, options))
    with pytest.raises(UsageError, match="chart is 'polar'"):
        MotionOptions(chart="polar")
    with pytest.raises(UsageError, match="condition number of 1 is no limit"):
        MotionOptions(condition=1.0)
    with pytest.raises(UsageError, match="has anything to learn"):
        moving(case("bert").symmetry, MotionOptions(spaces=("*.heads",)))


@pytest.mark.parametrize("name", ["cayley", "ones", "assigned"])
def test_slack_is_driven_out_and_leaves_the_exact_element(name: str) -> None:
    chart = Relaxed(charts()[name])  # type: ignore[arg-type]
    stir(chart, 0.2)
    exact, loose = chart.exact.moved().matrix, chart.moved().matrix
    assert exact is not None and loose is not None
    assert float((exact - loose).detach().abs().max()) > 1e-3
    optimiser = torch.optim.Adam([chart.slack], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        # A loss that would like to have more of it, as far as it is free.
        (chart.penalty() - 0.1 * chart.slack).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        chart.tighten(0.02)
    assert float(chart.slack.detach()) == 0.0 and float(chart.price) > 0.1
    left = chart.moved().matrix
    assert left is not None and torch.equal(left, exact)
    again = Relaxed(charts()[name])  # type: ignore[arg-type]
    chart.retract()
    again.hold(chart.held())
    assert all(torch.equal(x, y) for x, y in zip(parts(again), parts(chart), strict=True))


def test_gradients_of_a_relaxed_rotation() -> None:
    chart = Relaxed(charts()["cayley"])  # type: ignore[arg-type]
    stir(chart, 0.2)
    names = list(chart.latents)

    def values(*latents: Tensor) -> Tensor:
        given = dict(zip(names, latents, strict=True))
        chart.exact.latents["skew"], chart.slack = given["skew"], given["slack"]
        chart.latents = given
        return torch.stack(parts(chart))

    given = tuple(t.detach().clone().requires_grad_() for t in chart.latents.values())
    assert torch.autograd.gradcheck(values, given, atol=1e-7)


def test_sinkhorn_is_doubly_stochastic() -> None:
    found = sinkhorn(torch.randn(4, 6, 6, dtype=torch.float64), rounds=200)
    ones = torch.ones(4, 6, dtype=torch.float64)
    assert float((found.sum(-1) - ones).abs().max()) < 1e-9
    assert float((found.sum(-2) - ones).abs().max()) < 1e-9


def test_nothing_that_can_be_relaxed() -> None:
    with pytest.raises(UsageError, match="larger class"):
        options = MotionOptions(relaxed=("*.hidden",))
        Motion(case("vit").symmetry, options, torch.float64, CPU)
