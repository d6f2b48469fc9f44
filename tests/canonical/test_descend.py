"""Descent over the orbit: a planted element comes back, functions stay, and what cannot be done is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models_zoo import State, case, relative
from torch import Tensor

import symgraph
from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.orbit.action import GroupElement, random_element
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descend import descend
from symgraph.orbit.descent_options import DescentOptions
from symgraph.orbit.steps import Act

OPTIONS = DescentOptions(steps=60, lr=0.01, check_every=20, patience=0, spaces=("residual",), full=False)


def apart(names: list[str], one: State, other: State) -> Tensor:
    return torch.stack([(one[n] - other[n]).square().sum() for n in names]).sum()


def _near(element: GroupElement) -> GroupElement:
    """A rotation of each space that is not far from the identity, and fixes what the given one fixes."""
    near = {}
    for i, e in element.elements.items():
        assert e.matrix is not None
        near[i] = Element.rotation(torch.linalg.matrix_exp((e.matrix - e.matrix.mT) / 40))
    return GroupElement(element.symmetry, near)


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_a_planted_element_comes_back_and_every_function_stays(name: str) -> None:
    c = case(name)
    names = list(c.symmetry.graph.parameters)
    a = canonicalise(c.symmetry, c.state(1)).state
    spaces = {c.symmetry.space("residual").id}
    element = _near(random_element(c.symmetry, generator=torch.Generator().manual_seed(3), spaces=spaces, spread=0.0))
    target = Act(element).apply(a)
    start = float(apart(names, a, target))
    found = descend(c.symmetry, c.state(1), lambda s: apart(names, s, target), OPTIONS)
    values = dict(found.history)
    assert values[0] == pytest.approx(start) and values[found.best] == min(values.values())
    assert values[found.best] <= 0.05 * start
    assert relative(c.run(c.state(1)), c.run({**c.state(1), **found.states[0]})) < 1e-9
    again = found.transforms[0].apply(c.state(1))
    assert float(apart(names, again, found.states[0])) < 1e-16


def test_several_models_move_and_one_stays() -> None:
    c = case("llama")
    names = list(c.symmetry.graph.parameters)
    states = [c.state(k) for k in (1, 2)]
    options = replace(OPTIONS, steps=20, check_every=10)
    found = symgraph.descend([(c.symmetry, s) for s in states], lambda a, b: apart(names, a, b), options, still=(0,))
    assert dict(found.history)[found.best] < found.history[0][1]
    assert float(apart(names, found.states[0], canonicalise(c.symmetry, states[0]).state)) < 1e-18
    for state, moved in zip(states, found.states, strict=True):
        assert relative(c.run(state), c.run({**state, **moved})) < 1e-9


def test_what_cannot_descend_is_said() -> None:
    c = case("vit")
    with pytest.raises(UsageError, match="not finite at the start"):
        descend(c.symmetry, c.state(1), lambda s: torch.tensor(float("nan")), OPTIONS)
    with pytest.raises(UsageError, match="depends on nothing that moves"):
        descend(c.symmetry, c.state(1), lambda s: torch.tensor(1.0), OPTIONS)
    with pytest.raises(UsageError, match="has anything to learn"):
        descend(c.symmetry, c.state(1), lambda s: torch.tensor(1.0), DescentOptions(spaces=("none",)))
    with pytest.raises(UsageError, match=r"there is no option 'stpes'\n  help: did you mean `steps`"):
        symgraph.descend((c.symmetry, c.state(1)), lambda s: torch.tensor(1.0), {"stpes": 3})
