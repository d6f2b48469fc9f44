"""Transforms: every step is a symmetry with an inverse, and sequences of them compose."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from models_zoo import ARCHITECTURES, Case, State, case, relative, worst

from symgraph.errors import CheckpointError, SymgraphError
from symgraph.inference.pipeline import infer
from symgraph.orbit.action import random_element
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.steps import Act, Rescale, Transform, rescale
from symgraph.orbit.uneven import Restate, Slant
from symgraph.prove.verify import family_names, random_transform, settled_names, verify
from symgraph.symmetry.axis_parts import Piece
from symgraph.symmetry.families import Constant, Port
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf, Product, over_leaves
from symgraph.tracing import trace

EXACT = 1e-10


def transform(c: Case, seed: int) -> tuple[State, Transform]:
    state = c.state(seed)
    return state, random_transform(c.symmetry, state, torch.Generator().manual_seed(seed), settled_names(c.symmetry))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inverses_composition_and_purity(name: str) -> None:
    c = case(name)
    state, t = transform(c, 1)
    _, u = transform(c, 2)
    kept = {n: x.clone() for n, x in state.items()}
    moved = t.apply(state)
    assert all(torch.equal(kept[n], state[n]) for n in kept), "the input is not written to"
    assert worst(state, t.inverse().apply(moved)) < EXACT
    assert worst(state, t.then(t.inverse()).apply(state)) < EXACT
    assert worst(u.apply(moved), t.then(u).apply(state)) < EXACT
    assert Transform().apply(state).keys() == state.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_step_alone_has_an_inverse_and_a_linear_part(name: str) -> None:
    c = case(name)
    x, t = transform(c, 3)
    y = c.state(4)
    names = list(c.symmetry.graph.parameters)
    for step in t.steps:
        assert worst(x, step.inverse().apply(step.apply(x)), names) < EXACT, step
        a, b = step.apply(x), step.apply(y)
        linear = step.apply({n: x[n] - y[n] for n in names}, linear=True)
        assert max(float((a[n] - b[n] - linear[n]).abs().max()) for n in names) < 1e-9, step


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_carried_to_another_model_it_keeps_that_models_function(name: str) -> None:
    """Elements act where gains are one and moved constants zero: those of the other model are taken out first."""
    c = case(name)
    state, other = c.state(5), c.state(6)
    t = canonicalise(c.symmetry, state).transform
    t = t.then(Transform((Act(random_element(c.symmetry, generator=torch.Generator().manual_seed(5))),)))
    assert worst(t.apply(state), dict(t.carried(state))) < 1e-12
    assert relative(c.run(other), c.run(dict(t.carried(other)))) < 1e-9
    assert relative(c.run(other), c.run(dict(t.inverse().carried(t.carried(other))))) < 1e-9


@pytest.mark.parametrize("name", ["gpt2-untied", "bert", "resnet"])
def test_steps_that_depend_on_the_parameters_keep_the_function_and_have_an_inverse(name: str) -> None:
    c = case(name)
    state, left = c.state(7), family_names(c.symmetry).keys() - settled_names(c.symmetry)
    found = random_transform(c.symmetry, state, torch.Generator().manual_seed(7), left)
    uneven = [s for s in found.steps if isinstance(s, Slant | Shift | Restate)]
    steps = [s for s in uneven if not (isinstance(s, Shift) and s.family.settled)]
    assert len(steps) == len(left) > 0
    for step in steps:
        assert worst(state, step.inverse().apply(step.apply(state))) < EXACT
    moved = found.apply(state)
    assert relative(c.run(state), c.run(moved)) < EXACT < worst(state, moved)


def test_neighbouring_elements_are_multiplied() -> None:
    s = case("llama").symmetry
    acts = [Act(random_element(s, generator=torch.Generator().manual_seed(k))) for k in range(3)]
    joined = Transform((acts[0],)).then(Transform((acts[1], acts[2])))
    assert len(joined.steps) == 1
    x = case("llama").state(0)
    assert worst(acts[2].apply(acts[1].apply(acts[0].apply(x))), joined.apply(x)) < EXACT


# -- gains -------------------------------------------------------------------------------------------------------------


def gain(name: str, parameter: str, factor: torch.Tensor) -> Rescale:
    s = case(name).symmetry
    return rescale(s, s.gain_sites[parameter], factor)


def test_a_zero_factor_divides_nothing_and_has_no_inverse() -> None:
    c = case("gpt2-untied")
    state = c.state(1)
    place = "transformer.ln_f"
    for part in ("weight", "bias"):
        state[f"{place}.{part}"][3] = 0.0
    step = gain("gpt2-untied", f"{place}.weight", state[f"{place}.weight"].clone())
    step.check(state)
    moved = step.apply(state)
    assert torch.equal(moved[f"{place}.weight"], torch.ones(8, dtype=torch.float64))
    assert moved[f"{place}.bias"][3] == 0.0
    assert moved["lm_head.weight"][:, 3].abs().max() == 0.0
    assert relative(c.run(state), c.run(moved)) < EXACT
    with pytest.raises(SymgraphError, match=r"gauge of transformer\.ln_f\.weight is singular"):
        step.inverse()
    state[f"{place}.bias"][3] = 0.5
    with pytest.raises(CheckpointError, match=r"ln_f\.weight has a zero where transformer\.ln_f\.bias has not"):
        step.check(state)
    zero = step.apply({n: torch.zeros_like(t) for n, t in state.items()}, linear=True)
    assert all(float(t.abs().max()) == 0.0 for t in zero.values())


def test_carrying_onto_a_zero_gain_under_a_bias_is_refused() -> None:
    c = case("gpt2-untied")
    t = canonicalise(c.symmetry, c.state(1)).transform
    other = c.state(2)
    other["transformer.ln_f.weight"][1] = 0.0
    with pytest.raises(CheckpointError, match="has a zero where"):
        t.carried(other)


# -- constants ---------------------------------------------------------------------------------------------------------


@cache
def biased_groups() -> tuple[SymmetryGraph, State]:
    """Grouped-query attention with biases: one value bias reaches the output through every query of its group."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=10,
        attention_bias=True,
    )
    model = LlamaForCausalLM(config).double()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return infer(trace(model)), {n: t.detach() for n, t in model.state_dict().items()}


def test_a_value_bias_reaches_the_output_through_its_whole_group() -> None:
    s, state = biased_groups()
    found = {c.source.piece.parameter: [x.port.piece.parameter for x in c.shares] for c in s.constants if c.moves}
    assert found == {"model.layers.0.self_attn.v_proj.bias": ["model.layers.0.self_attn.o_proj.bias"]}
    buffers = {
        n: torch.tensor(0.5, dtype=torch.float64).expand(node.shape)
        for n, node in s.graph.state.items()
        if n not in state
    }
    (move,) = [c for c in s.constants if c.moves]
    step = Shift(s, move, -torch.arange(8, dtype=torch.float64))
    moved = step.apply(state)
    added = moved["model.layers.0.self_attn.o_proj.bias"] - state["model.layers.0.self_attn.o_proj.bias"]
    weight = state["model.layers.0.self_attn.o_proj.weight"].reshape(16, 2, 2, 4)
    assert torch.allclose(added, torch.einsum("dgmk,gk->d", weight, torch.arange(8.0).double().reshape(2, 4)))
    assert verify(s, {**buffers, **state}, samples=1).passed


def test_vectors_are_spread_over_the_leaves_they_lack() -> None:
    heads, group, width = Leaf(0, 0, False, 2), Leaf(1, 1, False, 3), Leaf(2, 2, False, 2)
    vector = torch.arange(4.0)
    wide = over_leaves(vector, Product((heads, width)), Product((heads, group, width)))
    assert wide is not None and wide.tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    same = over_leaves(vector, Product((heads, width)), Product((heads, width)))
    assert same is not None and torch.equal(same, vector)
    assert over_leaves(vector, Product((heads, width)), Product((group, width))) is None


def test_an_offset_is_constant_along_the_other_axes() -> None:
    symmetry, state = infer(trace(torch.nn.Linear(3, 2), (torch.rand(1, 3),))), {"w": torch.zeros(2, 3)}
    unseen = Constant(Port(Piece("w", 1, 0, 3, Leaf(-1, -1, False, 3))))
    step = Shift(symmetry, unseen, torch.tensor([1.0, 2.0, 3.0]))
    assert step.apply(state)["w"].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert torch.equal(step.apply(state, linear=True)["w"], state["w"])
    assert step.inverse().apply(step.apply(state))["w"].abs().max() == 0
    assert step.apply({"other": torch.ones(1)}) == {"other": torch.ones(1)}
