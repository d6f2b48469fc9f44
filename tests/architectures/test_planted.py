"""Planted recovery: B = g A for a random g of all families is brought back to A, in A's own gauge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models_zoo import ARCHITECTURES, Case, State, build, case, pair_program, relative
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError
from symgraph.io.checkpoint import canonical_state, tied_names
from symgraph.match.align import align
from symgraph.match.match_options import MatchOptions
from symgraph.orbit.alignment import distance
from symgraph.prove.verify import random_transform, settled_names
from symgraph.tracing import state_of

RECOVERED = 1e-6


def planted(c: Case, seed: int) -> tuple[State, State]:
    a = c.state(seed)
    g = random_transform(c.symmetry, a, torch.Generator().manual_seed(seed), settled_names(c.symmetry))
    return a, g.apply(a)


def module_of(name: str, state: State, dtype: torch.dtype = torch.float64) -> nn.Module:
    module = build((name, "sdpa")).to(dtype)
    for key, value in state_of(module).items():
        value.data.copy_(state[key])
    return module


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("seed", range(5))
def test_the_planned_program_returns_to_a(name: str, seed: int) -> None:
    c = case(name)
    a, b = planted(c, seed)
    run = pair_program(c.symmetry, MatchOptions(seed=seed)).run(c.symmetry, {"A": a, "B": b})
    assert distance(a, b) > 0.1
    assert distance(a, run.states["B.aligned"]) < RECOVERED
    assert relative(c.run(b), c.run(dict(run.states["B.aligned"]))) < RECOVERED
    assert run.together["matched"].matched.objective[-1] < 1e-12


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("seed", range(5))
def test_two_modules_are_aligned_and_a_is_untouched(name: str, seed: int) -> None:
    c = case(name)
    a, b = planted(c, seed)
    ma, mb = module_of(name, a), module_of(name, b)
    before = {k: v.detach().clone() for k, v in ma.state_dict().items()}
    found = align(ma, mb, symmetry=c.symmetry)
    assert found.singular == ()
    assert [n.split(":")[0] for n in found.notes] == ["kept tied"] * bool(found.alignment.symmetry.graph.tied)
    assert distance(before, canonical_state(mb, found.state)) < RECOVERED
    assert found.after < RECOVERED
    assert found.state.keys() == before.keys() and found.reference.keys() >= before.keys() - tied_names(ma).keys()
    for state in (ma.state_dict(), found.reference):
        assert all(torch.equal(before[k], state[k]) for k in state)


def test_alignment_infers_by_itself_and_keeps_the_dtype() -> None:
    state = planted(case("mlp-relu"), 0)
    ma, mb = (module_of("mlp-relu", s, torch.float32) for s in state)
    ma.example_inputs = torch.zeros(2, 5)
    found = align(ma, mb)
    assert {t.dtype for t in found.state.values()} == {torch.float32}
    assert distance(dict(ma.named_parameters()), found.state) < 1e-5
    assert str(found).startswith("distance in canonical form")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float64_and_written_back(dtype: torch.dtype) -> None:
    c = case("llama")
    a, b = planted(c, 1)
    found = align(module_of("llama", a, dtype), module_of("llama", b, dtype), symmetry=c.symmetry)
    assert {t.dtype for n, t in found.state.items() if n in c.symmetry.graph.parameters} == {dtype}
    assert distance(a, found.state) < 0.02


def test_a_singular_gauge_gives_the_reference_in_canonical_form_and_says_so() -> None:
    c = case("vit")
    a, b = planted(c, 2)
    a["vit.layernorm.weight"][3] = 0.0
    found = align(module_of("vit", a), module_of("vit", b), symmetry=c.symmetry)
    assert found.singular == ("vit.layernorm.weight",)
    assert found.notes == (
        "gains are zero (vit.layernorm.weight): the models are in canonical form, which is no gauge of theirs",
    )
    assert found.notes[0] in str(found)
    assert not torch.equal(found.reference["vit.layernorm.weight"], a["vit.layernorm.weight"])
    assert relative(c.run(a), c.run({**a, **found.reference})) < 1e-9
    assert relative(c.run(b), c.run({**b, **found.state})) < 1e-9


def test_patterns_leave_other_spaces_alone() -> None:
    c = case("gpt2-untied")
    a = c.state(3)
    gentle = random_transform(c.symmetry, a, torch.Generator().manual_seed(3), {"h.0.mlp.hidden"})
    b = gentle.apply(a)
    ma, mb = module_of("gpt2-untied", a), module_of("gpt2-untied", b)
    found = align(ma, mb, symmetry=c.symmetry, options=MatchOptions(spaces=("*.mlp.hidden",)))
    assert distance(a, found.state) < RECOVERED
    left = align(ma, mb, symmetry=c.symmetry, options=MatchOptions(spaces=("residual",)))
    assert distance(a, left.state) > 0.1


def with_value(m: nn.Module, value: float) -> nn.Module:
    next(iter(m.parameters())).data.view(-1)[0] = value
    return m


def test_bad_pairs_are_refused_by_name() -> None:
    c = case("mlp-gelu")
    a = c.state(0)
    m = module_of("mlp-gelu", a)
    m.example_inputs = torch.zeros(2, 5)
    with pytest.raises(CheckpointError, match=r"0\.weight: 1 of 35 values"):
        align(m, with_value(module_of("mlp-gelu", a), float("nan")))
    with pytest.raises(CheckpointError):
        align(m, nn.Linear(5, 3))
    with pytest.raises(UsageError, match="no method 'magic'"):
        align(m, m, method="magic")
    with pytest.raises(UsageError, match=r"tied is 'cut'\n.*'keep' or 'untie'"):
        align(m, m, tied="cut")
    with pytest.raises(UsageError, match="no weights"):
        align(m, build(("mlp-gelu", "sdpa")).to("meta"))


def test_untying_enlarges_the_group_and_prints_its_price() -> None:
    c = case("gpt2-tied")
    a, b = planted(c, 1)
    ma, mb = module_of("gpt2-tied", a), module_of("gpt2-tied", b)
    kept, cut = (align(ma, mb, tied=t) for t in ("keep", "untie"))
    assert str(kept.alignment.symmetry.space("residual").group) == "permutation"
    assert str(cut.alignment.symmetry.space("residual").group) == "orthogonal fixing ones"
    assert "88 more parameters" in str(cut)
    assert cut.a.config.tie_word_embeddings is False and ma.config.tie_word_embeddings is True  # type: ignore[union-attr]
    reference: dict[str, Tensor] = {k: v for k, v in cut.reference.items() if v.is_floating_point()}
    assert distance(reference, canonical_state(cut.b.module, cut.state)) < RECOVERED


def test_the_symmetry_may_come_from_either_implementation() -> None:
    c = case("vit")
    a, b = planted(c, 4)
    eager = replace(case("vit", "eager").symmetry)
    assert align(module_of("vit", a), module_of("vit", b), symmetry=eager).after < RECOVERED
