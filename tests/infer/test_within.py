"""A symmetry graph with a smaller group is one: sound, and what is planted in it is found."""

from __future__ import annotations

import pytest
import torch
from models_zoo import case

import symgraph
from symgraph.errors import UsageError
from symgraph.groups.lattice import SymmetryClass, down
from symgraph.match.match_models import nearest
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import random_transform, settled_names, verify


@pytest.mark.parametrize("inside", ["permutation", "signed permutation", "orthogonal"])
@pytest.mark.parametrize("name", ["vit", "gpt2-untied", "llama", "resnet"])
def test_a_smaller_group_holds_and_is_recovered(name: str, inside: str) -> None:
    c = case(name)
    symmetry = c.symmetry.within(inside)
    assert all(s.group in down(SymmetryClass(inside)) for s in symmetry.spaces)
    assert len({s.id for s in symmetry.active}) > 1
    state = c.state(1)
    assert verify(symmetry, state, each=False).together < 1e-9
    g = random_transform(symmetry, state, torch.Generator().manual_seed(0), settled_names(symmetry))
    a, b = (canonicalise(symmetry, s).state for s in (state, g.apply(state)))
    found = nearest(symmetry, a, b)
    assert (found.initial / found.scale) ** 0.5 > 1e-2
    assert (found.objective[-1] / found.scale) ** 0.5 < 1e-9


def test_a_rotation_is_not_undone_by_permutations() -> None:
    c = case("vit")
    state = c.state(1)
    g = random_transform(c.symmetry, state, torch.Generator().manual_seed(0), {"residual"})
    a, b = (canonicalise(c.symmetry, s).state for s in (state, g.apply(state)))
    found = nearest(c.symmetry.within("permutation"), a, b)
    assert (found.objective[-1] / found.scale) ** 0.5 > 0.1


def test_signs_come_with_what_was_a_rotation() -> None:
    found = case("llama").symmetry.within("signed permutation")
    residual = found.space("residual")
    assert (residual.group, residual.signs) == (SymmetryClass.SIGNED, 1)
    assert {f.sign for f in found.frames if f.space == residual.id} == {(1,)}


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(UsageError, match="no class 'rotation'"):
        case("vit").symmetry.within("rotation")


def test_plain_modules_are_aligned_within_a_smaller_group() -> None:
    x, sizes = torch.randn(3, 4), ((4, 6), (6, 2))
    a, b = (torch.nn.Sequential(torch.nn.Linear(*sizes[0]), torch.nn.ReLU(), torch.nn.Linear(*sizes[1])) for _ in "ab")
    found = symgraph.align(a, b, x, symmetry=symgraph.infer(a, x).within("permutation"))
    torch.testing.assert_close(found.module(x), b(x))
