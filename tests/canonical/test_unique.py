"""The canonical form is one point of each orbit: models that differ by the group, and by all families, come to it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models_zoo import ARCHITECTURES, Case, State, case, relative, worst
from torch import Tensor, nn

import symgraph
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of


def form(found: Case, state: State) -> State:
    return symgraph.canonicalise(found.graph, state=state, symmetry=found.symmetry).state


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_form_for_each_orbit(name: str) -> None:
    found = case(name)
    state = found.state(3)
    moved = symgraph.sample(found.graph, state=state, symmetry=found.symmetry, seed=4)
    assert worst(state, moved) > 0.1
    assert worst(form(found, state), form(found, moved)) < 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_same_function_and_can_be_undone(name: str) -> None:
    found = case(name)
    state = found.state(5)
    one = symgraph.canonicalise(found.graph, state=state, symmetry=found.symmetry)
    assert relative(found.run(state), found.run(one.state)) < 1e-9
    assert worst(one.state, one.transform.apply(state)) < 1e-9
    assert worst(state, one.transform.inverse().apply(one.state)) < 1e-7


def test_models_of_two_orbits_have_two_forms() -> None:
    found = case("llama")
    assert worst(form(found, found.state(0)), form(found, found.state(1))) > 0.1


def test_units_come_by_their_norms() -> None:
    found = case("mlp-gelu")
    state = found.state(2)
    one = form(found, state)
    hidden = one["0.weight"].square().sum(1) + one["0.bias"].square() + one["2.weight"].square().sum(0)
    assert bool((hidden.diff() <= 0).all())
    kept = symgraph.canonicalise(found.graph, state=state, symmetry=found.symmetry, unique=False).state
    assert worst(kept, state) < 1e-12


def test_experts_of_one_model_come_into_one_basis() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=13, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.MixtralConfig(**sizes, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2)
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config)
    experts = model.model.layers[0].mlp.experts
    order, factor = torch.randperm(12), torch.linspace(-2, 2, 12)
    with torch.no_grad():
        gate, up = experts.gate_up_proj[0].chunk(2)
        experts.gate_up_proj[1] = torch.cat([gate[order], (factor[:, None] * up)[order]])
        experts.down_proj[1] = (experts.down_proj[0] / factor)[:, order]
    state = symgraph.canonicalise(model).state
    up_name, down_name = (next(n for n in state if n.endswith(end)) for end in ("gate_up_proj", "down_proj"))
    # The router may put experts into another order: those two are next to each other or not.
    for name in (up_name, down_name):
        apart = [float((state[name][i] - state[name][j]).abs().max()) for i in range(3) for j in range(i)]
        assert min(apart) < 1e-6 < sorted(apart)[1]


def test_where_no_point_has_the_least_norm_the_function_stays() -> None:
    """Five units between four inputs and three outputs: some of what is written is never read."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5, bias=False), torch.nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    symmetry = symgraph.infer(net, (x,))
    assert [space.group for space in symmetry.active] == ["invertible"]
    one = symgraph.canonicalise(net, (x,), symmetry=symmetry).state
    assert worst(dict(net.state_dict()), one) > 0.1
    torch.testing.assert_close(torch.func.functional_call(net, one, (x,)), net(x), rtol=1e-9, atol=1e-9)


def test_lengths_and_balance_do_not_depend_on_one_another() -> None:
    """What is divided by its length stands beside units of which the scales are balanced against it."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read, self.prototypes = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            found = F.normalize(self.read(F.relu(self.write(x))), dim=-1)
            return found @ F.normalize(self.prototypes.weight, dim=-1).mT

    torch.manual_seed(0)
    net, x = Cosines().double(), torch.randn(7, 5, dtype=torch.float64)
    symmetry, state = symgraph.infer(net, x), state_of(net)
    longer = {name: 3.0 * tensor if name.startswith("read") else tensor for name, tensor in state.items()}
    one, other = (canonicalise(symmetry, s).state for s in (state, longer))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-11
    assert float((torch.func.functional_call(net, one, (x,)) - net(x)).abs().max()) < 1e-12
