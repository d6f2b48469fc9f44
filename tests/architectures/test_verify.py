"""Random elements of everything inferred keep the function of whole models; a group one class too large does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models_zoo import ARCHITECTURES, VARIANTS, case

from symgraph.errors import VerifyError
from symgraph.groups.lattice import SymmetryClass as C
from symgraph.inference.pipeline import infer
from symgraph.prove.verify import family_names, verify
from symgraph.rules.book import RuleBook
from symgraph.rules.proof import Proof
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing import trace

LARGER = {
    C.PERMUTATION: C.ORTHOGONAL_ONES,
    C.SIGNED: C.ORTHOGONAL,
    C.POSITIVE_MONOMIAL: C.INVERTIBLE,
    C.MONOMIAL: C.INVERTIBLE,
    C.ROTARY: C.INVERTIBLE,
    C.ORTHOGONAL_ONES: C.ORTHOGONAL,
    C.ORTHOGONAL: C.INVERTIBLE,
}
ENLARGED = [
    (name, space.name)
    for name in ARCHITECTURES
    for space in case(name).symmetry.active
    if space.group in LARGER and not any(f"{part}.1." in space.name for part in ("layers", "layer", "h"))
]


def enlarged(s: SymmetryGraph, space: Space) -> SymmetryGraph:
    """The same graph with the next larger class on one space."""
    # On two units, rotations that fix the ones vector are the permutations.
    group = C.ORTHOGONAL if space.size == 2 else LARGER[space.group]
    wrong = replace(space, group=group, scales=0, signs=0)
    return replace(s, spaces=tuple(wrong if x.id == space.id else x for x in s.spaces))


@pytest.mark.parametrize(("name", "implementation"), VARIANTS)
def test_every_family_keeps_the_function(name: str, implementation: str) -> None:
    c = case(name, implementation)
    found = verify(c.symmetry, c.state(), c.inputs, samples=2)
    assert found.passed, str(found)
    assert found.tolerance == 1e-9
    assert {x.name for x in found.checks} == set(family_names(c.symmetry))
    found.raise_if_failed()


@pytest.mark.parametrize(("name", "space"), ENLARGED)
def test_a_group_that_is_too_large_fails_and_is_named(name: str, space: str) -> None:
    c = case(name)
    found = verify(enlarged(c.symmetry, c.symmetry.space(space)), c.state(), c.inputs, samples=1)
    assert not found.passed
    assert found.together > 1e-6
    assert [f.name for f in found.failures] == [space]
    with pytest.raises(VerifyError, match=space.replace(".", r"\.")):
        found.raise_if_failed()


@pytest.mark.parametrize("name", ["gpt2-untied", "resnet"])
def test_a_config_alone_is_enough(name: str) -> None:
    assert verify(case(name).symmetry, samples=1).passed


def test_perturbation_shows_what_initial_values_hide() -> None:
    c = case("vit")
    plain = {n: torch.zeros_like(t) if n.endswith("bias") else t for n, t in c.state(spread=0.0).items()}
    found = verify(c.symmetry, plain, c.inputs, samples=1, perturb=0.1)
    assert found.passed
    assert found.together > 0


def test_the_same_seed_gives_the_same_verdict() -> None:
    c = case("bert")
    assert verify(c.symmetry, c.state(), c.inputs, seed=3) == verify(c.symmetry, c.state(), c.inputs, seed=3)


def test_the_report_has_a_line_for_every_family() -> None:
    c = case("mlp-relu")
    text = str(verify(enlarged(c.symmetry, c.symmetry.space("hidden.1")), c.state(), c.inputs))
    lines = [line.split() for line in text.splitlines()]
    assert [(x[0], x[2] if x[0] != "all" else x[4]) for x in lines] == [
        ("all", "FAILS"),
        ("hidden.0", "ok"),
        ("hidden.1", "FAILS"),
    ]


def test_outputs_that_are_nan_never_pass() -> None:
    """NaN compares as smaller than every tolerance, so it has to be looked for."""
    c = case("resnet")
    state = c.state()
    state["resnet.embedder.embedder.normalization.running_var"][0] = -1.0
    with pytest.raises(VerifyError, match="NaN before anything is changed"):
        verify(c.symmetry, state, c.inputs)


class Masked(torch.nn.Module):
    """Attention under a mask that is an input: a query may see no key."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.view(2, 4, 2, 3).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: torch.Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return result


def test_verify_draws_masks_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (torch.randn(2, 4, 6), torch.ones(2, 1, 4, 4, dtype=torch.bool))
    monkeypatch.setattr(RuleBook, "proof", lambda self, binding, *call: Proof(binding.rule))
    believed = infer(trace(Masked(), inputs))
    assert any("v.bias" in name for name in family_names(believed))
    assert verify(believed, inputs=inputs).passed
    assert not verify(believed).passed
