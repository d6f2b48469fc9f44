"""Many models in one basis: planted universes come back, the order never matters, cycles close, bad input is named."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, Case, State, batches, build, case, network, relative, worst
from torch import nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.match.match_models import match, nearest
from symgraph.match.match_options import LearnOptions, MatchOptions
from symgraph.match.observe import observe
from symgraph.match.one_basis import Universe
from symgraph.match.program import Program
from symgraph.match.program_run import output_change
from symgraph.match.unit_trees import units
from symgraph.measure.mixture import interpolate
from symgraph.orbit.action import random_element
from symgraph.orbit.alignment import distance
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import random_transform, settled_names
from symgraph.tracing import state_of

RECOVERED = 1e-6


def module_of(name: str, state: State, dtype: torch.dtype = torch.float64) -> nn.Module:
    module = build((name, "sdpa")).to(dtype)
    for key, value in state_of(module).items():
        value.data.copy_(state[key])
    return module


def planted(c: Case, count: int) -> list[State]:
    """Random elements of one model's orbit."""
    a, names = c.state(0), settled_names(c.symmetry)
    seeds = (torch.Generator().manual_seed(k) for k in range(count))
    return [random_transform(c.symmetry, a, g, names).apply(a) for g in seeds]


@cache
def unrelated(name: str, count: int = 3) -> Universe:
    c = case(name)
    return symgraph.universe(models(name, count), symmetry=c.symmetry, rounds=2)


def models(name: str, count: int = 3) -> list[nn.Module]:
    return [module_of(name, case(name).state(k, spread=0.4)) for k in range(count)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_five_planted_models_are_one(name: str) -> None:
    c = case(name)
    states = planted(c, 5)
    assert min(distance(a, b) for a, b in itertools.combinations(states, 2)) > 0.1
    found = symgraph.universe([module_of(name, s) for s in states], symmetry=c.symmetry)
    assert max(m.after for m in found.members) < RECOVERED < 0.1 < max(m.before for m in found.members)
    assert found.reference is not None
    own = found.members[found.reference].state
    # A shared tensor stands under one of its names in what was planted; a checkpoint holds no transient buffers.
    kept = {n: t for n, t in states[found.reference].items() if n in own}
    for m in found.members:
        assert distance(kept, {n: m.state[n] for n in kept}) < RECOVERED
    assert all(torch.equal(own[n], t) for n, t in kept.items())


@pytest.mark.parametrize("name", ["mlp-tanh", "gpt2-untied", "resnet"])
def test_the_order_of_the_models_changes_nothing(name: str) -> None:
    given, one = models(name), unrelated(name)
    assert one.reference is not None
    for order in ((1, 0, 2), (2, 0, 1)):
        other = symgraph.universe([given[i] for i in order], symmetry=case(name).symmetry, rounds=2)
        assert other.reference is not None and order[other.reference] == one.reference
        for at, i in enumerate(order):
            assert worst(one.states[i], other.states[at]) < 1e-12
        weights = (0.5, 0.2, 0.3)
        assert worst(one.merged(weights), other.merged([weights[i] for i in order])) < 1e-12


@pytest.mark.parametrize("name", ["mlp-relu", "gpt2-untied", "llama", "resnet"])
def test_every_model_keeps_its_function_and_cycles_close(name: str) -> None:
    c, found = case(name), unrelated(name)
    states = [c.state(k, spread=0.4) for k in range(3)]
    for state, m in zip(states, found.members, strict=True):
        assert relative(c.run(state), c.run({**state, **m.state})) < 1e-9 and m.change < 1e-9
        assert worst(m.state, m.alignment.apply(state), m.state) < 1e-9
    state = states[0]
    around = found.pairwise(0, 1).then(found.pairwise(1, 2))
    assert worst(around.apply(state), found.pairwise(0, 2).apply(state)) < 1e-8
    assert worst(state, around.then(found.pairwise(2, 0)).apply(state)) < 1e-8
    assert found.pairwise(0, 1).target == found.members[1].alignment.source
    for i, j in itertools.permutations(range(3), 2):
        assert relative(c.run(states[i]), c.run(found.pairwise(i, j).apply(states[i]))) < 1e-9


@pytest.mark.parametrize("name", ["mlp-relu", "gpt2-untied", "bert", "resnet"])
def test_the_spread_never_rises_and_is_below_that_of_aligning_all_to_one(name: str) -> None:
    c = case(name)
    states = [canonicalise(c.symmetry, c.state(10 + k, spread=0.5)).state for k in range(4)]
    options = MatchOptions(weighting="uniform")
    found = match(c.symmetry, states, options)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(found.objective))
    moved = [g(s) for g, s in zip(found.elements, states, strict=True)]
    assert spread(c, moved) == pytest.approx(found.objective[-1])
    assert worst(moved[1], found.states[1], c.symmetry.graph.parameters) < 1e-12
    to_one = [states[0], *(nearest(c.symmetry, states[0], s, options).element(s) for s in states[1:])]
    assert found.objective[-1] < min(spread(c, to_one), spread(c, states))


def spread(c: Case, states: Sequence[State]) -> float:
    names = c.symmetry.graph.parameters
    mean = {n: torch.stack([s[n] for s in states]).mean(0) for n in names}
    return sum(float((s[n] - mean[n]).square().sum()) for s in states for n in names)


def test_a_pair_is_aligned_as_a_pair_is() -> None:
    a, b = models("gpt2-untied", 2)
    found = symgraph.universe([a, b], reference=0)
    aligned = symgraph.align(a, b)
    assert torch.equal(found.states[0]["lm_head.weight"], a.state_dict()["lm_head.weight"])
    assert found.members[1].after == pytest.approx(aligned.after / 2, rel=0.1)


def test_the_gauge_is_that_of_the_reference_and_the_mixture_of_any_gauge_is_one_function() -> None:
    c, weights, mixtures = case("gpt2-untied"), (0.2, 0.5, 0.3), []
    given = models("gpt2-untied")
    for r in range(3):
        found = symgraph.universe(given, reference=r, symmetry=c.symmetry, rounds=0)
        assert found.reference == r
        assert all(torch.equal(t, given[r].state_dict()[n]) for n, t in found.states[r].items())
        mixtures.append(c.run({**c.state(0), **found.merged(weights)}))
    assert relative(mixtures[0], mixtures[1]) < 1e-8 and relative(mixtures[0], mixtures[2]) < 1e-8


def test_the_precision_of_the_computation_is_a_choice() -> None:
    found = symgraph.universe(models("gpt2-untied"), rounds=1, dtype=torch.float32)
    one = unrelated("gpt2-untied")
    assert 1e-9 < max(m.change for m in found.members) < 1e-3
    assert found.reference == one.reference and found.states[0]["lm_head.weight"].dtype is torch.float64


def test_weightings_and_patterns_are_those_of_the_match() -> None:
    c = case("gpt2-untied")
    states = [canonicalise(c.symmetry, c.state(k, spread=0.4)).state for k in range(3)]
    found = match(c.symmetry, states, MatchOptions(spaces=("*.mlp.hidden",)))
    assert {c.symmetry.spaces[s].name for g in found.elements for s in g.elements} == {
        "h.0.mlp.hidden",
        "h.1.mlp.hidden",
    }
    for weighting in ("normalised", {"lm_head.weight": 3.0}):
        found = match(c.symmetry, states, MatchOptions(weighting=weighting))
        assert found.objective[-1] < 0.9 * found.scale and sum(found.after) < sum(found.before)
    with pytest.raises(UsageError, match="a weight for wte, which is no parameter"):
        match(c.symmetry, states, MatchOptions(weighting={"wte": 2.0}))


def test_a_zero_gain_leaves_the_gauge_to_another_model() -> None:
    c = case("vit")
    states = [c.state(k) for k in range(3)]
    reference = symgraph.universe([module_of("vit", s) for s in states], symmetry=c.symmetry, rounds=0).reference
    assert reference is not None
    states[reference]["vit.layernorm.weight"][3] = 0.0
    given = [module_of("vit", s) for s in states]
    found = symgraph.universe(given, symmetry=c.symmetry, rounds=1)
    assert found.reference not in (None, reference)
    for state, m in zip(states, found.members, strict=True):
        assert relative(c.run(state), c.run({**state, **m.state})) < 1e-9
    with pytest.raises(CheckpointError, match=r"zero gains: vit\.layernorm\.weight"):
        found.pairwise(found.reference or 0, reference)
    named = symgraph.universe(given, symmetry=c.symmetry, reference=reference, rounds=0)
    assert named.reference is None and "gains are zero (vit.layernorm.weight)" in str(named)
    assert relative(c.run(states[0]), c.run({**states[0], **named.states[0]})) < 1e-9


class Plain(nn.Module):
    def __init__(self, act: nn.Module, width: int = 7) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(5, width), act, nn.Linear(width, 3)
        self.example_inputs = (torch.zeros(2, 5),)

    def forward(self, x: torch.Tensor) -> Any:
        return self.down(self.act(self.up(x)))


def test_a_narrower_model_is_embedded_first_in_any_order() -> None:
    torch.manual_seed(0)
    models = [Plain(nn.GELU(), width) for width in (7, 9, 7)]
    one, other = symgraph.universe(models), symgraph.universe(models[::-1])
    for i, found in ((0, one), (2, other)):
        assert all(m.state["up.weight"].shape == (9, 5) for m in found.members)
        assert sum("padded" in n for n in found.notes) == 2
        assert found.members[i].change < 1e-6
    x = torch.randn(4, 5)
    for given, member in zip(models, one.members, strict=True):
        there = Plain(nn.GELU(), 9)
        there.load_state_dict(member.state)
        assert float((there(x) - given(x)).detach().abs().max()) < 1e-5
    assert worst(one.merged([0.2, 0.3, 0.5]), other.merged([0.5, 0.3, 0.2])) < 1e-6


def test_bad_universes_are_refused_by_name() -> None:
    one = Plain(nn.ReLU())
    with pytest.raises(UsageError, match="1 model is no universe"):
        symgraph.universe([one])
    with pytest.raises(UsageError, match="no model 3 among 2"):
        symgraph.universe([one, Plain(nn.ReLU())], reference=3)
    with pytest.raises(UsageError, match="no weighting 'inputs'"):
        symgraph.universe([one, one], options=MatchOptions(weighting="inputs"))
    with pytest.raises(CheckpointError, match="different architectures"):
        symgraph.universe([one, Plain(nn.ReLU()), nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))])
    third = symgraph.Model(Plain(nn.Tanh()), None, (torch.zeros(2, 5),), "the third", "factory")
    with pytest.raises(CheckpointError, match=r"the third has other symmetries than Plain"):
        symgraph.universe([one, Plain(nn.ReLU()), third])
    deeper = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    deep = symgraph.Model(deeper, None, (torch.zeros(2, 5),), "deep", "factory")
    plain = [nn.Sequential(nn.Linear(5, 7), nn.ReLU()) for _ in "ab"]
    with pytest.raises(CheckpointError, match=r"only model 3 \(deep\) has 2\.weight, 2\.bias"):
        symgraph.universe([*plain, deep], torch.zeros(2, 5))
    broken = Plain(nn.ReLU())
    broken.up.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        symgraph.universe([one, broken])
    found = symgraph.universe([one, Plain(nn.ReLU())])
    with pytest.raises(UsageError, match=r"sum to 1\.2, not to one"):
        found.merged([0.6, 0.6])
    with pytest.raises(UsageError, match="2 models and 3 weights"):
        found.merged([0.2, 0.2, 0.6])
    assert worst(found.merged([0.25, 0.75]), interpolate(found.states, [0.25, 0.75])) == 0.0


# -- activations, and programs ---------------------------------------------------------------------------------------

SEEN = MatchOptions(rows=0, batches=0, alpha=1.0)
SHORT = LearnOptions(
    sampler="dirichlet", concentration=1.0, steps=12, check_every=4, retract_every=3, lr=0.02, warmup=2, patience=0
)


def values(name: str, count: int = 12, size: int = 16, labels: bool = False) -> list[dict[str, torch.Tensor]]:
    """Batches in double precision, by the names of the graph's inputs."""
    c, generator = case(name), torch.Generator().manual_seed(9)
    found = []
    for _ in range(count):
        batch = {}
        for node, like in zip(c.graph.inputs, c.inputs, strict=True):
            shape = (size, *like.shape[1:])
            drawn = torch.randint(0, int(like.max()) + 1, shape, generator=generator)
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            batch[node.target] = noise if like.is_floating_point() else drawn
        found.append(batch | ({"labels": torch.randint(5, (size,), generator=generator)} if labels else {}))
    return found


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize(
    "name",
    [
        "mlp-relu",
        "mlp-tanh",
        "gpt2-untied",
        "resnet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "llama")),
    ],
)
def test_five_planted_models_are_one_by_activations(name: str, alpha: float) -> None:
    c = case(name)
    given = [module_of(name, s) for s in planted(c, 5)]
    options = replace(SEEN, alpha=alpha)
    found = symgraph.universe(given, method="activations", data=values(name), options=options, symmetry=c.symmetry)
    assert max(m.after for m in found.members) < RECOVERED < 0.1 < max(m.before for m in found.members)
    assert any(n.startswith("activations of 192 examples") for n in found.notes)


@pytest.mark.parametrize("name", ["mlp-gelu", "gpt2-untied"])
def test_activations_of_many_models_in_any_order(name: str) -> None:
    given, data = models(name), values(name, 4)
    more: dict[str, Any] = {"method": "activations", "data": data, "rounds": 2, "symmetry": case(name).symmetry}
    options = MatchOptions(rows=0, alpha=0.5)
    one = symgraph.universe(given, options=options, **more)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(one.objective))
    assert max(m.change for m in one.members) < 1e-9
    order = (2, 0, 1)
    other = symgraph.universe([given[i] for i in order], options=options, **more)
    for at, i in enumerate(order):
        assert worst(one.states[i], other.states[at]) < 1e-12


def test_the_mean_of_the_others_is_seen_as_it_would_be_of_moved_models() -> None:
    """Moving the sums is observing moved models, with A and B in either place."""
    c = case("vit")
    a, b = (canonicalise(c.symmetry, c.state(k)).state for k in (1, 2))
    g, h = (random_element(c.symmetry, generator=torch.Generator().manual_seed(k), spread=0.0) for k in (3, 4))
    trees, given = units(c.symmetry), [tuple(c.inputs)]
    seen, moved, turned = (
        observe(c.symmetry, c.symmetry, (x, y), given, trees, dtype=torch.float64, rows=0)[0, 1]
        for x, y in ((a, b), (g(a), h(b)), (b, a))
    )
    for unit, sums in seen.after(g, h).correlations.items():
        assert all(torch.allclose(t, moved.correlations[unit][k], atol=1e-9) for k, t in sums.items())
    for unit, sums in seen.turned().correlations.items():
        assert all(torch.allclose(t, turned.correlations[unit][k], atol=1e-9) for k, t in sums.items())


def test_the_share_is_chosen_for_many_models_too() -> None:
    c, given, data = case("vit"), models("vit"), values("vit", 3, labels=True)
    more: dict[str, Any] = {"method": "activations", "data": data, "rounds": 1, "symmetry": c.symmetry}
    found = symgraph.universe(given, options=MatchOptions(rows=0, sweeps=2), **more)
    (note,) = (n for n in found.notes if n.startswith("chosen by the barrier of the even mixture"))
    best = min(float(x.split()[0]) for x in note.split("(of ")[1].split("; "))
    even = symgraph.loss_barrier(*found.states, data, mixtures=[(1 / 3,) * 3], module=given[0]).midpoint
    assert even == pytest.approx(best, abs=1e-4)


def test_a_program_of_a_universe_is_saved_and_run_again(tmp_path: Path) -> None:
    given = models("vit")
    planned = symgraph.plan(given, rounds=1)
    for form in ("yaml", "json"):
        program = Program.load(planned.save(tmp_path / f"plan.{form}"))
        assert program == planned
    assert [s.op for s in program.steps] == ["canonicalise"] * 3 + ["match", "settle"]
    assert "0.canonical, 1.canonical, 2.canonical -> matched" in str(program)
    one, other = symgraph.universe(given, rounds=1), symgraph.universe(given, program=program)
    assert one.program == program == other.program
    for x, y in zip(one.states, other.states, strict=True):
        assert worst(x, y) == 0.0
    with pytest.raises(UsageError, match="does not bring 2 models into one basis"):
        symgraph.universe(given[:2], program=program)
    with pytest.raises(UsageError, match="does not bring 2 models"):
        symgraph.universe(given[:2], program=symgraph.align(*given[:2]).program)


def test_a_plan_is_the_program_that_is_run() -> None:
    pair = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    x = torch.randn(5, 6)
    assert symgraph.plan(pair, x).steps == symgraph.align(pair[0], pair[1], x).program.steps
    assert symgraph.plan(pair, x, common=True).steps == symgraph.universe(pair, x).program.steps
    with pytest.raises(UsageError, match="1 model is no universe"):
        symgraph.plan(pair[:1])
    with pytest.raises(UsageError, match=r"plan takes its models in one list.*\n.*plan\(\[a, b, \.\.\.\]\)"):
        symgraph.plan(*pair)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no option 'rounds'"):
        symgraph.plan(pair, rounds=1)


def test_a_program_that_trains_says_so_and_needs_data() -> None:
    given, data = [network("gpt2-untied", k) for k in range(3)], batches("gpt2-untied")[:4]
    learning = replace(SHORT, steps=4, check_every=2, estimate="worst")
    program = Program.loads(symgraph.plan(given, rounds=1, method="learned", learning=learning).dumps())
    assert "estimates of the worst mixture every 2 steps" in str(program) and program.reads_data
    with pytest.raises(UsageError, match="there is no training data"):
        symgraph.universe(given, program=program)
    found = symgraph.universe(given, program=program, data=data, validation=data)
    assert found.learned is not None and "of the worst mixture" in str(found.learned)
    best = dict(found.learned.history)[found.learned.best]
    pairs = [(0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (1 / 3,) * 3]
    measured = symgraph.loss_barrier(*found.states, data, mixtures=pairs, module=given[0]).loss
    between = [b for m, b in zip(measured.mixtures, measured.barriers, strict=True) if max(m) < 1]
    assert len(between) == 4 and best == pytest.approx(max(between), abs=2e-5)


# -- trained -----------------------------------------------------------------------------------------------------------


def trained(name: str, options: LearnOptions, order: Sequence[int] = (0, 1, 2)) -> Universe:
    given = [network(name, k) for k in range(3)]
    data = batches(name)[:4]
    more: dict[str, Any] = {"data": data, "validation": data, "learning": options, "rounds": 1}
    return symgraph.universe([given[i] for i in order], method="learned", **more)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt2-untied", SHORT),
        ("resnet", SHORT),
        ("gpt2-untied", replace(SHORT, dual=True)),
        ("gpt2-untied", replace(SHORT, gauge=True)),
    ],
    ids=["gpt2", "resnet", "dual", "gauge"],
)
def test_the_loss_of_the_even_mixture_falls_and_the_models_stay(name: str, options: LearnOptions) -> None:
    found = trained(name, options)
    lesson = found.learned
    assert lesson is not None and len(lesson.transforms) == 3
    values = dict(lesson.history)
    assert values[lesson.best] == min(values.values()) < values[0]
    data, module = batches(name)[:4], network(name, 0)
    even = symgraph.loss_barrier(*found.states, data, mixtures=[(1 / 3,) * 3], module=module).midpoint
    assert even == pytest.approx(values[lesson.best], abs=2e-5)
    assert max(m.change for m in found.members) < 1e-9
    assert (found.reference is None) == options.gauge
    if found.reference is not None:
        kept = network(name, found.reference).state_dict()
        assert all(torch.equal(t, kept[n]) for n, t in found.states[found.reference].items())
    graph = found.symmetry
    for k, state in enumerate(found.states):
        before = dict(state_of(network(name, k)))
        assert output_change(graph, before, before | state) < 1e-4


def test_training_does_not_depend_on_the_order_either() -> None:
    one, other = (trained("gpt2-untied", replace(SHORT, steps=6), o) for o in ((0, 1, 2), (2, 0, 1)))
    for at, i in enumerate((2, 0, 1)):
        assert worst(one.states[i], other.states[at]) == 0.0


def test_training_that_cannot_be_is_refused() -> None:
    data = batches("gpt2-untied")
    given = [network("gpt2-untied", k) for k in range(3)]
    with pytest.raises(UsageError, match="'uniform' draws between 2 models, not 3"):
        symgraph.universe(given, method="learned", data=data, learning=LearnOptions(), rounds=0)
    with pytest.raises(UsageError, match="needs data"):
        symgraph.universe(given, method="learned")
    with pytest.raises(UsageError, match="'activations' needs data"):
        symgraph.universe(given, method="activations")
    with pytest.raises(UsageError, match="there is no method 'magic'"):
        symgraph.universe(given, method="magic")
    with pytest.raises(UsageError, match="estimate is 'mean'"):
        LearnOptions(estimate="mean")


def test_two_models_are_trained_on_dirichlet_mixtures_too() -> None:
    data = batches("gpt2-untied")[:4]
    pair = [network("gpt2-untied", k) for k in range(2)]
    found = symgraph.align(*pair, method="learned", data=data, validation=data, learning=SHORT)
    assert found.learned is not None and "Dirichlet(1)" in str(found.program)
    values = dict(found.learned.history)
    assert values[found.learned.best] < values[0]
