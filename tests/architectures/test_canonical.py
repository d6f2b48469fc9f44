"""The canonical form of whole models: exact, idempotent, invertible, and the same on a whole orbit."""

from __future__ import annotations

import pytest
import torch
from models_zoo import ARCHITECTURES, State, case, relative, worst

from symgraph.errors import CheckpointError, SymgraphError
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.grams import blocks_on, gram
from symgraph.prove.verify import random_transform, settled_names

EXACT = 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exact_idempotent_and_invertible(name: str) -> None:
    c = case(name)
    a = c.state(1)
    found = canonicalise(c.symmetry, a)
    assert found.singular == ()
    assert relative(c.run(a), c.run(found.state)) < EXACT
    assert worst(found.state, canonicalise(c.symmetry, found.state).state) < EXACT
    assert worst(a, found.transform.inverse().apply(found.state)) < EXACT
    assert {n: t.shape for n, t in found.state.items()} == {n: t.shape for n, t in a.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_form_for_a_whole_orbit_up_to_the_compact_part(name: str) -> None:
    c = case(name)
    a = c.state(2)
    g = random_transform(c.symmetry, a, torch.Generator().manual_seed(2), settled_names(c.symmetry))
    b = g.apply(a)
    one, other = canonicalise(c.symmetry, a).state, canonicalise(c.symmetry, b).state
    for parameter in c.symmetry.graph.parameters:
        assert float(one[parameter].norm()) == pytest.approx(float(other[parameter].norm()), rel=1e-8, abs=1e-9), (
            parameter
        )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_each_step_fixes_is_fixed(name: str) -> None:
    c = case(name)
    s, state = c.symmetry, canonicalise(c.symmetry, c.state(3)).state
    for gain in s.gain_sites:
        assert torch.allclose(state[gain], torch.ones_like(state[gain]))
    for constant in s.constants:
        if constant.settled:
            assert constant.source.mean(state).abs().max() < EXACT
    for piece in (p for family in s.centred for p in family.pieces):
        assert state[piece.parameter].mean(piece.axis).abs().max() < EXACT
    for space in s.active:
        if str(space.group) == "invertible":
            sides = {False: torch.zeros(()), True: torch.zeros(())}
            for block in blocks_on(s, space.id, [state], lambda _: True):
                dim = block.dim(space.id)
                moments = gram(block.tensors[0], block.dims(space))
                sides[block.leaves[dim].dual] = sides[block.leaves[dim].dual] + moments
            assert relative(sides[False], sides[True]) < 1e-7, space.name


def canonical_function(name: str, state: State) -> float:
    c = case(name)
    found = canonicalise(c.symmetry, state)
    assert all(bool(t.isfinite().all()) for t in found.state.values())
    assert worst(found.state, canonicalise(c.symmetry, found.state).state, c.symmetry.graph.parameters) < EXACT
    return relative(c.run(state), c.run(found.state))


@pytest.mark.parametrize(
    ("name", "gain", "bias"),
    [
        ("vit", "vit.layers.0.layernorm_before", True),
        ("vit", "vit.layernorm", True),
        ("gpt2-tied", "transformer.h.1.ln_2", True),
        ("gpt2-untied", "transformer.h.0.ln_1", True),
        ("gpt2-untied", "transformer.ln_f", False),
        ("llama", "model.norm", False),
        ("bert", "bert.encoder.layer.1.output.LayerNorm", True),
    ],
)
def test_a_zero_gain_is_not_divided_by(name: str, gain: str, bias: bool) -> None:
    """With a bias in the same entry where that can move into a reader, without one where it cannot."""
    c = case(name)
    state = c.state(4)
    state[f"{gain}.weight"][2] = 0.0
    if not bias and f"{gain}.bias" in state:
        state[f"{gain}.bias"][2] = 0.0
    assert canonical_function(name, state) < EXACT
    found = canonicalise(c.symmetry, state)
    assert found.singular == (f"{gain}.weight",)
    with pytest.raises(SymgraphError, match="singular"):
        found.transform.inverse()


def test_a_zero_gain_under_a_bias_that_cannot_move_is_an_error() -> None:
    c = case("gpt2-untied")
    state = c.state(4)
    state["transformer.ln_f.weight"][2] = 0.0
    with pytest.raises(CheckpointError) as error:
        canonicalise(c.symmetry, state)
    assert str(error.value) == (
        "transformer.ln_f.weight has a zero where transformer.ln_f.bias has not\n"
        "  cause: the bias of that unit can neither be moved into a reader nor divided by its gain\n"
        "  help: set the entry of transformer.ln_f.bias to zero, or the gain to a small number, and try again"
    )


@pytest.mark.parametrize(
    ("name", "zeros"),
    [
        ("mlp-relu", ("0.weight", "0.bias", "2.weight")),
        ("mlp-relu", ("0.weight", "0.bias")),
        ("mlp-relu", ("2.weight",)),
        ("llama", ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight")),
        ("llama", ("model.layers.0.mlp.down_proj.weight",)),
    ],
)
def test_a_dead_unit_is_left_alone(name: str, zeros: tuple[str, ...]) -> None:
    state = case(name).state(5)
    for parameter in zeros:
        axis = -1 if parameter.startswith("2") or "down" in parameter else 0
        state[parameter].select(axis, 3).zero_()
    assert canonical_function(name, state) < EXACT


@pytest.mark.parametrize("zeros", ["q_proj", "o_proj"])
def test_a_dead_head_is_left_alone(zeros: str) -> None:
    state = case("vit").state(6)
    weight = state[f"vit.layers.1.attention.{zeros}.weight"]
    (weight[:, 4:8] if zeros == "o_proj" else weight[4:8]).zero_()
    if zeros != "o_proj":
        state[f"vit.layers.1.attention.{zeros}.bias"][4:8] = 0.0
    assert canonical_function("vit", state) < EXACT


@pytest.mark.parametrize(
    "gain", ["resnet.embedder.embedder.normalization", "resnet.encoder.stages.0.layers.0.layer.1.normalization"]
)
def test_a_zero_gain_of_a_batch_norm_is_left_alone(gain: str) -> None:
    state = case("resnet").state(7)
    state[f"{gain}.weight"].zero_()
    state[f"{gain}.bias"].zero_()
    assert canonical_function("resnet", state) < EXACT
