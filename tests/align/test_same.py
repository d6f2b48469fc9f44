"""Same or different: planted pairs are told apart, noise is estimated, and surplus units are undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
from models_zoo import Case, case
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError
from symgraph.match.gain_signs import with_nearer_signs
from symgraph.match.laid_over import on_nearest_side, overlay
from symgraph.match.noise_weights import sizes_of
from symgraph.match.one_function import is_one_function
from symgraph.match.reordered import reordered
from symgraph.match.residue import NOTHING, Null, null_of, residue, rounding
from symgraph.match.same import Same, same
from symgraph.match.verdicts import LIMITS, Figures, settled, verdict
from symgraph.orbit.coordinates import Coordinates, inner
from symgraph.orbit.fitted import drawn, fitted, square
from symgraph.orbit.shearing import added
from symgraph.orbit.steps import rescale
from symgraph.orbit.upright import adopted, mirrored, upright
from symgraph.prove.sample import moved
from symgraph.prove.verify import family_names
from symgraph.tracing.sampling import float64

State = dict[str, Tensor]
FAST = ("mlp-relu", "mlp-tanh", "llama")
ALL = ("mlp-relu", "vit", "gpt2-tied", "gpt2-untied", "llama", "bert", "resnet")


def noised(found: Case, state: State, share: float, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def with_noise(t: Tensor) -> Tensor:
        return t + share * t.square().mean().sqrt() * torch.randn(t.shape, generator=generator, dtype=t.dtype)

    return {n: with_noise(t) if n in found.graph.parameters else t for n, t in state.items()}


def told(found: Case, a: State, b: State) -> Same:
    return same((found.symmetry, a), (found.symmetry, b), symmetry=found.symmetry)


def weights_of(state: State) -> dict[str, float]:
    return {n: 1 / float(t.square().mean().sqrt()) for n, t in state.items() if t.is_floating_point()}


# -- the pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp-relu", "llama"])
def test_coordinates_keep_the_function_and_slopes_are_dual(name: str) -> None:
    found = case(name)
    state = found.state(1)
    at = Coordinates(found.symmetry, state, weights_of(state))
    generator = torch.Generator().manual_seed(0)
    way = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in at.zero.items()}
    near = at.point({n: 0.05 * t for n, t in way.items()})
    before, after = found.run(state), found.run({n: t.detach() for n, t in near.items()})
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)
    change = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in at.here.items()}
    assert inner(at.slope(way), change) == pytest.approx(inner(at.dual(change), way), rel=1e-4)


@pytest.mark.parametrize("name", ["mlp-relu", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_planted_point_is_found_from_near_by(name: str) -> None:
    found = case(name)
    state = found.state(2)
    at = Coordinates(found.symmetry, state, {})
    generator = torch.Generator().manual_seed(0)
    way = {n: 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in at.zero.items()}
    target = {n: t.detach() for n, t in at.point(way).items()}
    result = fitted(found.symmetry, state, target, weights_of(target), tolerance=1e-6)
    assert result.squares[-1] < 1e-6 * result.squares[0]


def test_a_fit_takes_up_as_many_directions_as_the_group_has() -> None:
    found = case("llama")
    state = found.state(1)
    taken = null_of(drawn(found.symmetry, state, weights_of(state), probes=4), list(state)).taken
    assert sum(taken.values()) == pytest.approx(found.symmetry.dimension().number, rel=0.1)


def test_leans_are_taken_out_of_the_canonical_form() -> None:
    found = case("bert")
    state = found.state(1)
    leans = [n for n in family_names(found.symmetry) if n.startswith("lean")]
    other = moved(found.symmetry, state, seed=1, families=leans)
    one, two = (upright(found.symmetry, s).state for s in (state, other))
    for n, t in one.items():
        torch.testing.assert_close(two[n], t, rtol=1e-8, atol=1e-8)


def test_what_is_left_of_noise_is_even_and_of_training_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    here = {n: torch.randn(20, 30, generator=generator, dtype=torch.float64) for n in "abc"}
    noise = {n: t + 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in here.items()}
    left = residue(here, noise, NOTHING, list("abc"), {})
    assert left.share == pytest.approx(0.1, rel=0.05) and left.unevenness < 0.1 and left.peak < 1.1
    null = null_of([(noise, {n: torch.zeros_like(t) for n, t in here.items()})], "abc")
    assert null.taken == dict.fromkeys("abc", 0.0) and null.most[1] == pytest.approx(left.peak, rel=0.3)
    low = {n: t + 0.1 * torch.outer(t[:, 0], t[0]) for n, t in here.items()}
    assert residue(here, low, NOTHING, list("abc"), {}).peak > 2
    one = {**here, "a": noise["a"]}
    assert residue(here, one, NOTHING, list("abc"), {}).unevenness > 1


def test_what_is_no_number_is_no_residue() -> None:
    here = {"a": torch.randn(5, 5, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match="no number"):
        residue(here, {"a": here["a"] * torch.nan}, NOTHING, ["a"], {})
    with pytest.raises(CheckpointError, match="no number"):
        residue(here, {"a": 2 * here["a"]}, Null({"a": torch.nan}, ()), ["a"], {})


def test_slopes_of_a_shear_are_numbers_where_it_is_the_identity() -> None:
    x, along = torch.randn(4, 3), torch.zeros(4, requires_grad=True)
    moved = added(x, 0, along, torch.ones(4))
    torch.testing.assert_close(moved, x)
    (slope,) = torch.autograd.grad(moved.sum(), along)
    torch.testing.assert_close(slope, x.sum().expand(4))


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2-untied", marks=pytest.mark.slow)])
def test_units_are_matched_again_in_the_gauge_that_has_the_noise(name: str) -> None:
    """Of GPT-2 a mean that nothing reads, and a bias behind it, are larger than all that tells the units apart."""
    found = case(name)
    a = float64(moved(found.symmetry, found.state(1), seed=2))
    hidden = [s.name for s in found.symmetry.active if "hidden" in s.name]
    b = noised(found, float64(moved(found.symmetry, a, seed=3, families=hidden, spread=0.0)), 0.1, 4)
    sizes = sizes_of(found.symmetry, b)
    weights = {n: 1 / size for n, size in sizes.items() if size > 0}
    here = fitted(found.symmetry, a, b, weights, steps=4).state
    again = reordered(found.symmetry, here, b, sizes)
    assert again is not None
    left = fitted(found.symmetry, again, b, weights, steps=4).squares[-1]
    assert left < 0.1**2 * sum(b[n].numel() for n in weights)


def test_a_gain_that_noise_carried_through_zero_keeps_its_readers() -> None:
    found = case("llama")
    name, sites = next(iter(found.symmetry.gain_sites.items()))
    factor = torch.ones(len(found.state(1)[name]), dtype=torch.float64)
    factor[0] = 50.0
    a = rescale(found.symmetry, sites, factor).apply(float64(found.state(1)))
    b = {**a, name: a[name] * torch.where(factor > 1, -1.0, 1.0)}
    here = rescale(found.symmetry, sites, torch.where(factor > 1, -1.0, 1.0)).apply(a)
    assert torch.equal(here[name], b[name])
    near = with_nearer_signs(found.symmetry, here, b, weights_of(b))
    before, after = (square(state, b, weights_of(b)) for state in (here, near))
    assert after < 0.01 * before and torch.sign(near[name][0]) == -torch.sign(b[name][0])
    assert with_nearer_signs(found.symmetry, a, a, weights_of(a)) is a


def test_a_tilted_bias_is_adopted_unless_it_turns_its_readers() -> None:
    found = case("gpt2-untied")
    gain, bias = "transformer.ln_f.weight", "transformer.ln_f.bias"
    a = float64(found.state(1))
    far = partial(square, target=a, weights=weights_of(a))
    tilted = float64(moved(found.symmetry, a, seed=2, families=[f"constant {bias}"]))
    assert far(adopted(found.symmetry, tilted, a, far)) < 1e-12 * far(tilted)
    # Nearly in the plane of what norms give: readers of such a bias would have to be steep.
    height = torch.arange(8.0, dtype=torch.float64) - 3.5 + 1e-4
    level = {**a, bias: a[gain] * height}
    apart = partial(square, target=level, weights=weights_of(level))
    assert apart(adopted(found.symmetry, a, level, apart)) < 1.001 * apart(a)
    assert apart(adopted(found.symmetry, a, level, lambda at: float((at[bias] - level[bias]).norm()))) > 100 * apart(a)


def test_a_tilted_bias_is_found_on_the_other_side_of_its_plane() -> None:
    found = case("gpt2-untied")
    a = float64(found.state(3))
    (other,) = mirrored(found.symmetry, a)
    torch.testing.assert_close(found.run(other), found.run(a), rtol=1e-9, atol=1e-9)
    gain, bias = "transformer.ln_f.weight", "transformer.ln_f.bias"
    heights = [float((state[bias] / state[gain]).sum()) for state in (a, other)]
    assert heights[1] == pytest.approx(-heights[0])
    assert torch.equal(other["transformer.wte.weight"], a["transformer.wte.weight"])
    weights = weights_of(a)
    across = fitted(found.symmetry, other, a, weights, steps=6)
    assert across.squares[-1] > 1.0
    assert on_nearest_side(found.symmetry, across, a, weights).squares[-1] < 1e-3


def test_what_is_no_noise_has_to_explain_more() -> None:
    seen = Figures(0.2, 1e-8, 0.2, 0.5, 9.0, 0.0, 0.0, 0.0, 0.0, math.inf)
    uneven = replace(seen, uneven=0.3, evidence=50.0)
    assert verdict(seen) == "noise" and verdict(uneven) == "independent"
    # Training that shows a little in both figures is no noise, whereas what evidence does not show may be chance.
    little = replace(seen, uneven=0.096, evidence=32.0, peak=0.076, explained=0.97)
    assert verdict(little) == "derived" and verdict(replace(little, evidence=3.0)) == "noise"
    assert verdict(replace(little, peak=-0.5)) == "noise"
    assert verdict(replace(uneven, explained=0.8)) == "derived" and verdict(replace(seen, share=1e-8)) == "same"
    assert verdict(replace(seen, explained=0.1)) == verdict(replace(seen, deviations=1.0)) == "independent"
    # The gauge of the other may leave noise where this one does not.
    assert settled(seen) and not settled(uneven) and settled(replace(uneven, explained=0.1))
    # What is left is evidence by itself where it is noise: in some gauges little is explained then.
    assert verdict(replace(seen, explained=0.2)) == "noise"


def test_rounding_is_known() -> None:
    x = torch.randn(200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = x.bfloat16().double()
    known = rounding({"x": rounded}, ["x"], {"x": torch.bfloat16})
    assert float((rounded - x).norm() / x.norm()) == pytest.approx(known, rel=0.05)


# -- whole models --------------------------------------------------------------------------------------------------


def check(name: str, seed: int) -> None:
    found = case(name)
    a = found.state(seed)
    other = moved(found.symmetry, a, seed=seed + 2)
    small = {n: t.bfloat16() if t.is_floating_point() else t for n, t in other.items()}
    assert told(found, a, small).verdict == "same"
    result = told(found, a, noised(found, float64(other), 0.05, seed))
    assert result.verdict == "noise" and result.explained > 0.5
    # An estimate of a standard deviation from so many numbers.
    few = sum(p.directions for p in result.residue.parts)
    assert result.share == pytest.approx(0.05, rel=max(0.1, 3 / (2 * few) ** 0.5))


@pytest.mark.parametrize("name", FAST)
def test_planted_pairs_are_told(name: str) -> None:
    check(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_planted_pairs_of_every_architecture_are_told(name: str, seed: int) -> None:
    check(name, seed)
    found = case(name)
    a = found.state(seed)
    strong = told(found, a, noised(found, float64(moved(found.symmetry, a, seed=seed + 2)), 0.2, seed))
    few = sum(p.directions for p in strong.residue.parts)
    assert strong.verdict == "noise" and strong.share == pytest.approx(0.2, rel=max(0.1, 3 / (2 * few) ** 0.5))
    assert told(found, a, found.state(seed + 100)).verdict == "independent"


def test_another_model_is_independent_and_a_changed_one_derived() -> None:
    found = case("mlp-gelu")
    a = found.state(1)
    other = told(found, a, found.state(101))
    assert other.verdict == "independent" and other.share > LIMITS.far and "independent" in str(other)
    b = float64(moved(found.symmetry, a, seed=3))
    changed = {**b, "2.weight": b["2.weight"] + 0.4 * torch.outer(b["2.weight"][:, 0], b["2.weight"][0])}
    tuned = told(found, a, changed)
    assert tuned.verdict == "derived" and tuned.to_plain()["verdict"] == "derived"


@pytest.mark.slow
def test_noise_that_a_gauge_made_large_is_what_was_added() -> None:
    """In canonical form a share of 0.2 is a distance of almost one."""
    found = case("gpt2-tied")
    a = found.state(2)
    b = noised(found, float64(moved(found.symmetry, a, seed=4)), 0.2, 7)
    names = list(found.graph.parameters)
    over = overlay(found.symmetry, a, b)
    null = null_of(drawn(found.symmetry, over.state, over.weights), names)
    left = residue(over.state, b, null, names, {})
    assert over.distance > 0.4 and left.share == pytest.approx(0.2, rel=0.1)


# -- other widths --------------------------------------------------------------------------------------------------


def perceptron(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 4), nn.Tanh(), nn.Linear(4, 3))


def widened(net: nn.Sequential) -> Iterator[tuple[str, nn.Sequential]]:
    """The same function with three more units: dead ones, copies that share what leaves, parts of one unit."""
    into, bias, out, second = (net.state_dict()[n] for n in ("0.weight", "0.bias", "2.weight", "2.bias"))
    part, size = torch.tensor([0.3, 0.2, 0.4]), torch.tensor([0.5, 2.0, 3.0])
    for kind in ("dead", "copied", "split"):
        scale = size if kind == "split" else torch.ones(3)
        more = {
            "0.weight": into[:3] * scale[:, None],
            "0.bias": bias[:3] * scale,
            "2.weight": out[:, :3] * part / scale,
        }
        rest = torch.cat([out[:, :3] * (1 - part), out[:, 3:]], 1)
        if kind == "dead":
            more, rest = {"0.weight": torch.randn(3, 6), "0.bias": torch.randn(3), "2.weight": torch.zeros(4, 3)}, out
        wide = perceptron(len(bias) + 3)
        state = {
            "0.weight": torch.cat([into, more["0.weight"]]),
            "0.bias": torch.cat([bias, more["0.bias"]]),
            "2.weight": torch.cat([rest, more["2.weight"]], 1),
            "2.bias": second,
        }
        wide.load_state_dict({**net.state_dict(), **state})
        yield kind, wide


def test_surplus_units_are_undone() -> None:
    torch.manual_seed(0)
    net, x = perceptron(8), torch.randn(5, 6)
    for kind, wide in widened(net):
        torch.testing.assert_close(wide(x), net(x))
        found = symgraph.same(net, symgraph.sample(wide, x, seed=1), x)
        assert found.verdict == "same", kind
        assert any("exactly" in note for note in found.notes)
    assert symgraph.same(wide, net, x).verdict == "same"
    assert symgraph.same(net, perceptron(11), x).verdict == "independent"


def test_one_example_serves_two_dtypes() -> None:
    """The second model is traced as well, for its stored statistics are others."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(2, 1, 5, 5)
    net(x)
    small = symgraph.sample(net.eval(), x, seed=2).to(torch.bfloat16)
    assert symgraph.same(net, small, x).verdict == "same"


def test_another_architecture_is_refused() -> None:
    x, net = torch.randn(5, 6), perceptron(8)
    other = copy.deepcopy(net)
    other[1] = nn.GELU()
    with pytest.raises(CheckpointError, match="symmetries"):
        symgraph.same(net, other, x)


class Looped(nn.Module):
    """One map, so many times."""

    def __init__(self, times: int, width: int) -> None:
        super().__init__()
        self.times = times
        self.into, self.again, self.out = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.into(x)
        for _ in range(self.times):
            found = self.again(found).tanh()
        return cast(Tensor, self.out(found))


def test_another_depth_is_refused_even_where_all_weights_are_equal() -> None:
    x, twice, thrice = torch.randn(5, 4), Looped(2, 6), Looped(3, 6)
    thrice.load_state_dict(twice.state_dict())
    with pytest.raises(CheckpointError, match=r"computes otherwise[^$]*one depth"):
        symgraph.same(twice, thrice, x)
    with pytest.raises(CheckpointError, match=r"different operators[^$]*the same depth"):
        symgraph.same(twice, Looped(3, 8), x)
    with pytest.raises(CheckpointError, match=r"only B has 4\.weight[^$]*one depth"):
        symgraph.same(perceptron(8)[:3], perceptron(8), torch.randn(5, 6))


class Bag(nn.Module):
    """A table, the mean of its rows, and two layers: a space of eight dimensions between maps."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(rows, 8), nn.Linear(8, 12), nn.Linear(12, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.down(self.up(self.table(tokens).mean(1)).tanh()))


def test_a_gauge_that_has_no_least_norm_is_known_by_equal_outputs() -> None:
    """Five rows reach five of eight dimensions, so that no balance of what writes and what reads there exists."""
    torch.manual_seed(0)
    net, tokens = Bag(5), torch.randint(0, 5, (3, 4))
    other = symgraph.sample(net, tokens, seed=1)
    found = symgraph.same(net, other, tokens)
    assert found.verdict == "same" and "gauge was not found" in str(found)
    assert symgraph.same(net, Bag(5), tokens).verdict == "independent"
    # What the inputs do not show is not taken to be equal.
    many, tokens = Bag(300), torch.randint(0, 5, (3, 4))
    state = float64(many.state_dict())
    graph = symgraph.trace(many, tokens)
    assert not is_one_function(graph, state, {**state, "table.weight": state["table.weight"] * 1.0})


def test_what_leaves_more_than_there_is_of_it_is_no_noise() -> None:
    """A fit may take up most directions of a small model; what counts is what is left over the others."""
    seen = Figures(0.98, 1e-8, 0.5, 0.2, 4.2, 0.0, 0.0, 0.0, 0.0, 1000.0)
    assert verdict(seen) == "independent" and verdict(replace(seen, share=0.3)) == "noise"
    # So few numbers are that small by chance.
    assert verdict(replace(seen, share=0.3, directions=10.0)) == "independent"
    assert verdict(replace(seen, share=0.05, directions=10.0)) == "noise"
    assert verdict(replace(seen, share=0.05, directions=0.0)) == "independent"
