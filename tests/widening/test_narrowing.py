"""Models reduced to a narrower shape: what was embedded comes back, copies merge exactly, losses are stated."""

from __future__ import annotations

import copy

import pytest
import torch
from test_widths import graphs, mlp, outputs, pair
from torch import nn

import symgraph
from symgraph.errors import UsageError
from symgraph.groups.elements import Element
from symgraph.match.program import Program
from symgraph.orbit.blend import Blend
from symgraph.prove.verify import TOLERANCE, difference, random_transform, settled_names
from symgraph.resize.embed import embed
from symgraph.resize.narrow import reduce
from symgraph.resize.narrow_clusters import even, merged
from symgraph.resize.narrow_spectra import leading, truncated
from symgraph.tracing import state_of

EXACT = (
    "gpt2",
    "gpt2-tied",
    "gpt2-single",
    "vit",
    "llama",
    "llama-groups",
    "bert",
    "resnet",
    "t5",
    "mlp-relu",
    "mlp-tanh",
)


@pytest.mark.parametrize("name", EXACT)
def test_what_was_embedded_and_moved_comes_back(name: str) -> None:
    (wide, narrow), (outer, inner) = pair(name), graphs(name)
    found = embed(outer, inner, state_of(narrow.module), state_of(wide.module)).state
    moved = random_transform(outer, found, torch.Generator().manual_seed(3), settled_names(outer)).apply(found)
    back = reduce(outer, inner, moved, state_of(narrow.module))
    assert back.exact and back.error <= TOLERANCE
    assert max(f.lost for f in back.spaces) < 1e-6
    assert {n: t.shape for n, t in back.state.items()} == {n: t.shape for n, t in state_of(narrow.module).items()}
    for seed in (5, 6):
        assert difference(outputs(inner, state_of(narrow.module), seed), outputs(inner, back.state, seed)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "space"), [("mlp-relu", "hidden.0"), ("mlp-tanh", "hidden.0"), ("gpt2", "h.0.attn.heads")]
)
def test_units_and_heads_that_were_split_are_merged_exactly(name: str, space: str) -> None:
    (wide, narrow), (outer, inner) = pair(name), graphs(name)
    found = embed(outer, inner, state_of(narrow.module), state_of(wide.module)).state
    s = outer.space(space)
    old = inner.space(space).size
    index, share = torch.arange(s.size), torch.ones(1, s.size, dtype=torch.float64)
    index[old], share[0, 0], share[0, old] = 0, 0.3, 0.7
    doubled = Blend(outer, s.id, Element(index, share)).apply(found)
    moved = random_transform(outer, doubled, torch.Generator().manual_seed(3), settled_names(outer)).apply(doubled)
    assert difference(outputs(outer, found, 5), outputs(outer, moved, 5)) <= TOLERANCE
    back = reduce(outer, inner, moved, state_of(narrow.module))
    assert difference(outputs(inner, state_of(narrow.module), 5), outputs(inner, back.state, 5)) <= TOLERANCE


def test_a_reduction_that_loses_something_says_so_and_beats_cutting() -> None:
    wide, narrow = pair("gpt2")
    found = symgraph.narrow(wide, like=narrow)
    assert not found.reduction.exact
    assert "APPROXIMATE" in str(found) and "of the norm lost" in str(found)
    assert found.model.config.n_embd == narrow.config.n_embd
    assert 0.05 < found.reduction.error < 1.0
    (outer, inner), like = graphs("gpt2"), state_of(narrow.module)
    own = state_of(wide.module)
    cut = {n: own[n][tuple(slice(k) for k in t.shape)] if own[n].shape != t.shape else own[n] for n, t in like.items()}
    before, kept = outputs(outer, own, 5)[0], outputs(inner, found.state, 5)[0]
    assert float((before - kept).norm()) < float((before - outputs(inner, cut, 5)[0]).norm())


def test_merging_beats_dropping_on_a_network_with_near_copies() -> None:
    torch.manual_seed(0)
    narrow, wide = mlp(nn.GELU, 5, 1, depth=0).double(), mlp(nn.GELU, 10, 0, depth=0).double()
    noise = 0.02
    with torch.no_grad():
        first, last = wide[0], wide[2]  # type: ignore[index]
        first.weight[5:] = first.weight[:5] + noise * torch.randn(5, 5)
        first.bias[5:] = first.bias[:5] + noise * torch.randn(5)
        last.weight[:, 5:] = 2 * torch.randn(3, 5)
    found = symgraph.narrow(wide, like=narrow)
    assert found.reduction.error < 3 * noise
    assert found.reduction.spaces[0].how == "merged"


def test_a_wider_model_is_aligned_in_the_narrower_shape() -> None:
    wide, narrow = pair("vit")
    program = symgraph.plan([narrow, wide], narrow=True)
    assert "reduce        B to the shape of A -> B.reduced (APPROXIMATE" in str(program)
    assert Program.loads(program.dumps()) == program
    found = symgraph.align(narrow, wide, narrow=True, program=program)
    assert found.narrowed and not found.embedded
    assert any("APPROXIMATE" in n for n in found.notes)
    assert {n: t.shape for n, t in found.state.items()} == {n: t.shape for n, t in found.reference.items()}
    assert found.after < found.before
    with pytest.raises(UsageError, match="the program reduces B, and no model has to be"):
        symgraph.align(narrow, copy.copy(narrow), program=program)
    with pytest.raises(UsageError, match="is narrower than"):
        symgraph.narrow(narrow, like=wide)


def test_a_rotation_keeps_the_leading_directions_and_the_mean() -> None:
    x = torch.randn(6, 40, dtype=torch.float64) * torch.tensor([9.0, 1, 5, 0.1, 0.2, 3]).double().unsqueeze(1)
    for centred in (False, True):
        m, lost = leading(x @ x.T, 4, centred=centred)
        assert torch.allclose(m @ m.T, torch.eye(6).double(), atol=1e-12)
        assert 0 < lost < 0.2
    assert torch.allclose(m @ torch.ones(6).double(), torch.ones(6).double(), atol=1e-12)


def test_a_truncated_circuit_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 5, n, generator=generator, dtype=torch.float64) for n in (9, 7))
    p, r, lost = truncated(x @ x.mT, y @ y.mT, 3)
    u, s, vt = torch.linalg.svd(x.mT @ y, full_matrices=False)
    best = u[..., :3] * s[..., None, :3] @ vt[..., :3, :]
    assert torch.allclose((p @ x).mT @ (r @ y), best, atol=1e-10)
    assert not (p @ x)[:, 3:].any() and not (r @ y)[:, 3:].any()
    assert abs(lost**2 - float(s[..., 3:].square().sum() / s.square().sum())) < 1e-10


def test_places_are_found_whatever_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    owner = torch.tensor([3, 1, 0, 0, 2, 1, 3, 2])
    found = merged(rows[owner], torch.rand(8, generator=generator, dtype=torch.float64), 4)
    fair = even(rows[owner], 4)
    for c in (found, fair):
        assert c.lost == 0.0
        same = c.place.unsqueeze(0) == c.place.unsqueeze(1)
        assert torch.equal(same, owner.unsqueeze(0) == owner.unsqueeze(1))
    assert torch.equal(fair.place.bincount(), torch.full((4,), 2))
    assert torch.allclose(fair.weight, torch.full((8,), 0.5).double())
