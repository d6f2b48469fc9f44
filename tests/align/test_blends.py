"""Splitting units exactly, and soft permutations that say what they change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_zoo import case
from torch import Tensor, nn

import symgraph
from symgraph.errors import SymgraphError, UsageError
from symgraph.groups.elements import Element
from symgraph.match.blend_steps import Soften, Split
from symgraph.match.blends import blendable, soften, split
from symgraph.match.match_options import LearnOptions
from symgraph.match.program import Program
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.blend import Blend
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of

State = dict[str, Tensor]


def net(width: int, seed: int, act: type[nn.Module] = nn.GELU) -> nn.Module:
    torch.manual_seed(seed)
    found = nn.Sequential(nn.Linear(5, width), act(), nn.Linear(width, 3)).double()
    found.example_inputs = (torch.randn(4, 5, dtype=torch.float64),)  # type: ignore[assignment]
    return found


def weights(symmetry: SymmetryGraph) -> dict[str, float]:
    return dict.fromkeys(symmetry.graph.parameters, 1.0)


def gap(a: State, b: State) -> float:
    return sum(float((a[n] - b[n]).square().sum()) for n in a)


def detached(model: nn.Module) -> State:
    return {n: t.detach().clone() for n, t in state_of(model).items()}


def test_a_planted_split_is_found_with_its_shares() -> None:
    narrow, wide = net(4, 0), net(7, 1)
    b = detached(narrow)
    copies, shares = torch.tensor([0, 1, 2, 3, 0, 2, 2]), torch.tensor([0.7, 1, 0.5, 1, 0.3, 0.2, 0.3]).double()
    with torch.no_grad():
        for name, t in wide.named_parameters():
            x = b[name]
            if name.startswith("0."):
                t.copy_(x[copies])
            else:
                t.copy_(x if t.dim() == 1 else x[:, copies] * shares)
        x = narrow.example_inputs[0]  # type: ignore[index]
        assert torch.allclose(wide(x), narrow(x), atol=1e-12)
    plain, whole = symgraph.align(wide, narrow), symgraph.align(wide, narrow, split=True)
    reference = {n: t.double() for n, t in whole.reference.items()}
    assert gap(reference, plain.state) > 0.1
    assert gap(reference, whole.state) < 1e-16
    assert "hidden: 3 units split into idle ones" in "\n".join(whole.notes)


def copied(net_: nn.Module, copies: list[int], shares: list[float], seed: int) -> nn.Module:
    """A wider network in which some units of the given one are split."""
    found, b = net(len(copies), seed), detached(net_)
    with torch.no_grad():
        for name, t in found.named_parameters():
            x = b[name]
            if name == "2.weight":
                t.copy_(x[:, copies] * torch.tensor(shares).double())
            else:
                t.copy_(x if name == "2.bias" else x[copies])
    return found


def test_equal_units_are_merged_to_free_a_place_for_another_split(tmp_path: Path) -> None:
    narrow = net(4, 0)
    a = copied(narrow, [0, 1, 2, 3, 0], [0.6, 1, 1, 1, 0.4], 1)
    b = copied(narrow, [2, 1, 1, 3, 0], [1, 0.3, 0.7, 1, 1], 2)
    plain, whole = symgraph.align(a, b), symgraph.align(a, b, split=True)
    assert gap({n: t.double() for n, t in whole.reference.items()}, plain.state) > 0.1
    assert gap({n: t.double() for n, t in whole.reference.items()}, whole.state) < 1e-12
    assert "1 units merged with their equals" in "\n".join(whole.notes)
    again = Alignment.load(whole.alignment.save(tmp_path / "x.safetensors"), whole.alignment.symmetry)
    one, other = (x.apply(detached(b)) for x in (whole.alignment, again))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_learning_starts_from_a_split() -> None:
    narrow, wide = net(4, 0, nn.ReLU), net(7, 1, nn.ReLU)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    data = [{"input": x, "labels": wide(x).argmax(1)}] * 2
    options = LearnOptions(steps=4, check_every=2, warmup=0)
    found = symgraph.align(wide, narrow, method="learned", split=True, data=data, validation=data, learning=options)
    assert any("split into idle ones" in n for n in found.notes)
    assert [type(s).__name__ for s in found.program.steps].index("Split") == 4
    with torch.no_grad():
        moved = torch.func.functional_call(found.b.module, found.state, (x,))
        assert torch.allclose(moved, narrow(x), atol=1e-9)


def test_a_split_keeps_the_function_and_lowers_the_distance() -> None:
    a, b = net(12, 0), net(5, 1)
    plain, whole = symgraph.align(a, b), symgraph.align(a, b, split=True)
    assert gap(whole.reference, whole.state) < gap(plain.reference, plain.state)
    x = torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        moved = torch.func.functional_call(whole.b.module, whole.state, (x,))
        assert torch.allclose(moved, b(x), atol=1e-12)
    assert "no unit was split" in "\n".join(symgraph.align(a, net(12, 2), split=True).notes)


@pytest.mark.parametrize("name", ["gpt2-untied", "bert", "vit", "llama"])
def test_heads_and_units_are_split_exactly(name: str) -> None:
    c = case(name)
    spaces = list(blendable(c.symmetry))
    assert any("hidden" in s.name for s in spaces)
    state, before = c.state(1), c.run(c.state(1))
    for space in spaces:
        n = space.size
        idle = {**state}
        blend = Blend(c.symmetry, space.id, Element(torch.arange(n), torch.ones(1, n).double()))
        silent = blend.element.scale
        assert silent is not None
        silent[0, 0] = 0.0
        idle = blend.apply(idle)
        assert not torch.allclose(c.run(idle), before, atol=1e-6), space.name
        index, share = torch.arange(n), torch.ones(1, n).double()
        index[0], share[0, 0], share[0, 1] = 1, 0.3, 0.7
        moved = Blend(c.symmetry, space.id, Element(index, share)).apply(idle)
        assert torch.allclose(c.run(moved), c.run(idle), atol=1e-10), space.name


def test_splits_of_random_states_never_raise_the_distance() -> None:
    c = case("vit")
    w = weights(c.symmetry)
    for seed in range(3):
        b = c.state(seed + 10)
        for space in blendable(c.symmetry):
            n = space.size
            share = torch.ones(1, n).double()
            share[0, n // 2 :] = 0.0
            b = Blend(c.symmetry, space.id, Element(torch.arange(n), share)).apply(b)
        a, noise = dict(b), torch.Generator().manual_seed(seed)
        for space in blendable(c.symmetry):
            n = space.size
            index, share = torch.arange(n), torch.ones(1, n).double()
            index[-1], share[0, -1], share[0, 0] = 0, 0.4, 0.6
            a = Blend(c.symmetry, space.id, Element(index, share)).apply(a)
        a = {k: t + 0.02 * torch.randn(t.shape, generator=noise, dtype=t.dtype) for k, t in a.items()}
        blends, _ = split(c.symmetry, a, b, w)
        assert blends
        moved = b
        for blend in blends:
            moved = blend.apply(moved)
        names = list(w)
        assert gap({n: a[n] for n in names}, moved) < gap({n: a[n] for n in names}, b)
        assert torch.allclose(c.run(moved), c.run(b), atol=1e-10)


def test_soft_permutations_go_over_into_the_matched_one_and_are_announced() -> None:
    a, b = net(6, 0), net(6, 1)
    hard, cold = symgraph.align(a, b), symgraph.align(a, b, soft=0.02)
    warm = symgraph.align(a, b, soft=0.5)
    assert gap(hard.state, cold.state) < 0.2 * gap(hard.state, warm.state)
    note = next(n for n in warm.notes if n.startswith("APPROXIMATE"))
    assert "change the outputs of B by" in note
    x = torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(torch.func.functional_call(b, warm.state, (x,)), b(x), atol=1e-3)
    assert "APPROXIMATE" in str(warm.program)
    assert gap(warm.reference, warm.state) < gap(hard.reference, hard.state)


def test_a_soft_permutation_is_doubly_stochastic() -> None:
    c = case("mlp-gelu")
    for blend in soften(c.symmetry, c.state(0), c.state(1), weights(c.symmetry), 0.3):
        p = blend.element.matrix
        assert p is not None
        assert float(p.min()) >= 0
        for axis in (0, 1):
            assert torch.allclose(p.sum(axis), torch.ones(len(p)).double(), atol=1e-6)


def test_blends_are_saved_read_back_and_not_undone(tmp_path: Path) -> None:
    a, b = net(9, 0), net(5, 1)
    for options in (dict(split=True), dict(soft=0.3)):
        found = symgraph.align(a, b, **options)
        path = found.alignment.save(tmp_path / f"{len(options)}{next(iter(options))}.safetensors")
        again = Alignment.load(path, found.alignment.symmetry)
        state = detached(found.b.module)
        one, other = found.alignment.apply(state), again.apply(state)
        assert all(torch.equal(one[n], other[n]) for n in one)
        with pytest.raises(SymgraphError, match="split or merged, which cannot be undone"):
            found.alignment.inverse()


def test_a_program_with_blends_is_read_back_and_soft_ones_do_not_learn() -> None:
    a, b = net(9, 0), net(5, 1)
    program = symgraph.plan([a, b], split=True, soft=0.2)
    assert [type(s) for s in program.steps if isinstance(s, Split | Soften)] == [Split, Soften]
    assert Program.loads(program.dumps("json")) == program
    with pytest.raises(UsageError, match="not with learning"):
        symgraph.plan([a, b], method="learned", soft=0.1)
    with pytest.raises(UsageError, match=r"soft is -1\.0"):
        symgraph.plan([a, b], soft=-1.0)


def test_a_temperature_that_is_too_low_is_refused() -> None:
    with pytest.raises(UsageError, match="raise the temperature"):
        symgraph.align(net(6, 0), net(6, 1), soft=1e-6)
