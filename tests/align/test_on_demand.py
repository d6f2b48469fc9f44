"""States on their way through steps tensor by tensor: the same bits as with the whole state, in little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_zoo import ARCHITECTURES, build, case, worst
from torch import Tensor, nn

import symgraph
from symgraph.errors import VerifyError
from symgraph.io import spool as spooled
from symgraph.io.models import Model
from symgraph.io.spool import Spool
from symgraph.io.sums import inner
from symgraph.match import settle_step
from symgraph.match.match_models import match
from symgraph.match.match_options import MatchOptions
from symgraph.orbit import on_demand
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import State, Transform
from symgraph.prove import eager
from symgraph.prove.same_function import check_unchanged
from symgraph.prove.verify import random_transform
from symgraph.tracing.deferred import Deferred, made


@pytest.fixture
def nothing_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor counts as a large one."""
    monkeypatch.setattr(on_demand, "SMALL", 0)
    monkeypatch.setattr(on_demand, "LAST", 1)
    monkeypatch.setattr(spooled, "SMALL", 0)


def carried_at_once(transform: Transform, state: State) -> State:
    """Every step on all tensors together, with the coefficients that the state calls for."""
    found = dict(state)
    seen: set[object] = {None}
    for step in transform.steps:
        if step.takes not in seen:
            seen.add(step.takes)
            step = step.fitted(found)
        found |= step.apply(found)
    return found


def there_and_away(name: str) -> Alignment:
    """A model to its canonical form, and from there by a random element."""
    c = case(name)
    away = random_transform(c.symmetry, c.state(1), torch.Generator().manual_seed(0))
    return Alignment(c.symmetry, canonicalise(c.symmetry, c.state(1)).transform.then(away), "", "")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("nothing_small")
def test_tensor_by_tensor_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    c, found = case(name), there_and_away(name)
    state = c.state(1)
    for linear in (False, True):
        whole = found.transform.apply(state, linear=True) if linear else carried_at_once(found.transform, state)
        one_by_one = found.transform.carried(state, linear=linear)
        assert list(one_by_one) == list(state) and all(torch.equal(whole[n], one_by_one[n]) for n in state)
    kept = found.apply(state, keep=Spool(tmp_path).put)
    assert all(isinstance(kept[n], Deferred) for n in c.symmetry.terms)
    assert worst(kept, found.apply(state)) == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_module_is_compared_one_tensor_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    c, module = case(name), build((name, "sdpa"))
    before = c.state(1)
    after = random_transform(c.symmetry, before, torch.Generator().manual_seed(0)).apply(before)
    model = Model(module, getattr(module, "config", None), None, name, "factory")
    figures = []
    for large in (0, 2**62):
        monkeypatch.setattr(eager, "LARGE", large)
        figures.append(check_unchanged(model, after, name, before=before, graph=c.symmetry.graph))
    assert figures[0] == pytest.approx(figures[1], abs=1e-9)
    broken = {n: t * 1.01 if t.is_floating_point() else t for n, t in after.items()}
    monkeypatch.setattr(eager, "LARGE", 0)
    with pytest.raises(VerifyError):
        check_unchanged(model, broken, name, before=before, graph=c.symmetry.graph)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("nothing_small")
def test_canonical_forms_of_tensors_on_demand_have_the_same_bits(name: str) -> None:
    c = case(name)
    state = c.state(1)
    whole = canonicalise(c.symmetry, state)
    on_demand = canonicalise(c.symmetry, {n: _later(t) for n, t in state.items()})
    assert on_demand.state.keys() == whole.state.keys() and any(
        isinstance(t, Deferred) for t in on_demand.state.values()
    )
    assert all(torch.equal(made(on_demand.state[n]), t) for n, t in whole.state.items())


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.usefixtures("nothing_small")
def test_models_on_demand_are_matched_as_models_in_memory_are(rounds: int) -> None:
    c = case("mlp-relu")
    states = [canonicalise(c.symmetry, c.state(k, spread=0.5)).state for k in range(2 if rounds == 0 else 3)]
    whole = match(c.symmetry, states, MatchOptions(sweeps=2), rounds)
    waiting = match(c.symmetry, [{n: _later(t) for n, t in s.items()} for s in states], MatchOptions(sweeps=2), rounds)
    assert waiting.objective == pytest.approx(whole.objective, rel=1e-9)
    assert all(isinstance(t, Deferred) for n, t in waiting.states[1].items() if t.is_floating_point())
    assert all(worst(a, b) < 1e-9 for a, b in zip(waiting.states, whole.states, strict=True))


def test_results_in_memory_are_held_in_the_precision_of_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (build(("gpt2-untied", "sdpa")).float() for _ in "ab")
    for k, m in enumerate((a, b)):
        torch.manual_seed(k)
        for p in m.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    found = []
    for large in (1, 2**62):
        monkeypatch.setattr(settle_step, "LARGE", large)
        found.append(symgraph.align(a, b, options=MatchOptions(sweeps=2)))
    one, other = found
    assert all(torch.equal(t, other.state[n]) and not isinstance(t, Deferred) for n, t in one.state.items())
    assert one.growth == pytest.approx(other.growth, rel=1e-4)


def _later(tensor: Tensor) -> Tensor:
    """The tensor as one that is read where it is needed."""
    return Deferred(lambda: tensor.clone(), tensor.shape, tensor.dtype)


def test_what_waits_on_disk_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "SMALL", 0)
    place = Spool(tmp_path)
    tensors = [torch.randn(7, 5, dtype=torch.float64).T, torch.randn(3).bfloat16(), nn.Parameter(torch.randn(4, 2))]
    waiting = [place.put(t) for t in tensors]
    assert all(torch.equal(t, w) and t.dtype == w.dtype for t, w in zip(tensors, waiting, strict=True))


def test_room_that_nothing_needs_any_more_is_filled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "SMALL", 0)
    place, last = Spool(tmp_path), torch.zeros(8)
    kept = place.put(torch.ones(8))
    for i in range(50):
        last = place.put(torch.full((8,), float(i)))
    assert place.size <= 4 * 8 * 4 and bool((kept == 1).all()) and bool((last == 49).all())


@pytest.mark.parametrize("options", [MatchOptions(sweeps=3), MatchOptions(sweeps=3, outer="gram")])
def test_a_match_whose_blocks_wait_on_disk_finds_the_same(
    options: MatchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "SMALL", 0)
    c = case("llama")
    states = [canonicalise(c.symmetry, c.state(k, spread=0.5)).state for k in range(2)]
    held, waiting = (match(c.symmetry, states, options, 0, keep=keep) for keep in (made, Spool(tmp_path).put))
    assert held.objective == pytest.approx(waiting.objective, rel=1e-6)
    assert worst(held.states[1], waiting.states[1]) < 1e-4


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (5, 70_000), (300, 400)])
def test_products_are_summed_piece_by_piece(shape: tuple[int, ...]) -> None:
    x, y = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert inner(x, y) == pytest.approx(float((x.double() * y.double()).sum()), abs=1e-9)
    if len(shape) == 2:
        assert inner(x.T, y.T) == pytest.approx(inner(x, y), abs=1e-9)
