"""Group axioms of elements and of their action on parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.frequency_pairs import pair_indices, rotary_matrix
from symgraph.groups.lattice import SymmetryClass, classes, down, group_of, maps
from symgraph.groups.rotations import ones_complement
from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.orbit.action import GroupElement, neutral, random_element
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Frame, Space
from symgraph.symmetry.terms import Concat, Leaf, Product, Term
from symgraph.tracing import trace

C = SymmetryClass
State = dict[str, Tensor]


def tanh() -> SymmetryGraph:
    layers = nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)
    return infer(trace(nn.Sequential(*layers), (torch.zeros(2, 3),)))


def gpt2() -> SymmetryGraph:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: Any = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 12}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    return infer(trace(GPT2LMHeadModel(config)))


def llama() -> SymmetryGraph:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: Any = {"vocab_size": 9, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 1, "head_dim": 4}
    heads: Any = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 8}
    return infer(trace(LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))))


def nested() -> SymmetryGraph:
    """Permutations over permutations; matrices, scales and signs over both; in products and concatenations."""
    spaces = (
        Space(0, "groups", 3, C.PERMUTATION, down(C.PERMUTATION)),
        Space(1, "heads", 4, C.PERMUTATION, down(C.PERMUTATION), fibre=(0,)),
        Space(2, "key", 2, C.INVERTIBLE, down(C.INVERTIBLE), fibre=(0, 1)),
        Space(3, "value", 3, C.ORTHOGONAL, down(C.ORTHOGONAL), fibre=(0,)),
        Space(4, "units", 5, C.MONOMIAL, down(C.MONOMIAL), fibre=(0, 1), scales=2, signs=1),
        Space(5, "residual", 3, C.INVERTIBLE, down(C.INVERTIBLE)),
        Space(6, "vocabulary", 2, C.IDENTITY, down(C.IDENTITY)),
        Space(7, "pairs", 4, C.PAIRWISE_SIGNED_SCALES, down(C.PAIRWISE_SIGNED_SCALES), (0,), 1, 1, "interleaved"),
        Space(8, "turns", 4, C.PAIRWISE_ROTATIONS, down(C.PAIRWISE_ROTATIONS), fibre=(0, 1), layout="halves"),
    )
    exponents = {4: ((1, 2), (1,)), 7: ((1,), (1,))}
    frames = (
        *(Frame(s.id, s.id, False, *exponents.get(s.id, ((), ()))) for s in spaces),
        Frame(9, 4, False, (0, -1), (0,)),
    )

    def leaf(space: int, dual: bool = False, frame: int | None = None) -> Leaf:
        return Leaf(space, space if frame is None else frame, dual, spaces[space].size)

    terms: dict[str, tuple[Term, ...]] = {
        "query": (Product((leaf(0), leaf(1), leaf(2))), leaf(5, dual=True)),
        "value": (leaf(5), leaf(1), leaf(3, dual=True), leaf(0)),
        "units": (leaf(1), Product((leaf(0), leaf(4)))),
        "units-dual": (Product((leaf(0), leaf(4, dual=True, frame=9))), leaf(1)),
        "fused": (Concat((leaf(5), leaf(6), Product((leaf(0), leaf(1))))),),
        "unfibred": (leaf(6), leaf(0)),
        "pairs": (leaf(0), leaf(7)),
        "pairs-dual": (Product((leaf(0), leaf(7, dual=True))), leaf(5)),
        "turns": (leaf(1), Product((leaf(0), leaf(8, dual=True)))),
    }
    return SymmetryGraph(Graph((), ()), spaces, frames, terms)


GRAPHS: dict[str, Callable[[], SymmetryGraph]] = {f.__name__: f for f in (tanh, gpt2, llama, nested)}
everywhere = pytest.mark.parametrize("name", GRAPHS)


@cache
def symmetry(name: str) -> SymmetryGraph:
    return GRAPHS[name]()


def state(s: SymmetryGraph, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn([t.size for t in axes], generator=generator, dtype=torch.float64) for n, axes in s.terms.items()
    }


def sample(s: SymmetryGraph, seed: int, *spaces: int) -> GroupElement:
    return random_element(s, generator=torch.Generator().manual_seed(seed), spaces=spaces or None)


def assert_same(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    for n in a:
        assert float((a[n] - b[n]).abs().max()) <= 1e-12 * max(1.0, float(a[n].abs().max())), n


# -- axioms ----------------------------------------------------------------------------------------------------------


@everywhere
def test_identity_acts_trivially(name: str) -> None:
    s = symmetry(name)
    one = GroupElement(s, {x.id: neutral(s, x) for x in s.active})
    x = state(s)
    assert all(torch.equal(one(x)[n], x[n]) for n in x)


@everywhere
def test_identity_is_neutral(name: str) -> None:
    s = symmetry(name)
    one, g, x = GroupElement(s, {y.id: neutral(s, y) for y in s.active}), sample(s, 1), state(s)
    assert_same(one.after(g)(x), g(x))
    assert_same(g.after(one)(x), g(x))


@everywhere
def test_elements_move_every_tensor_they_touch(name: str) -> None:
    s = symmetry(name)
    g, x = sample(s, 1), state(s)
    moved = {n for n in x if not torch.equal(g(x)[n], x[n])}
    assert moved == set(g.moves)


@everywhere
@pytest.mark.parametrize("seed", range(3))
def test_inverse_undoes_on_both_sides(name: str, seed: int) -> None:
    s = symmetry(name)
    g, x = sample(s, seed), state(s)
    assert_same(g.inverse()(g(x)), x)
    assert_same(g(g.inverse()(x)), x)
    assert_same(g.inverse().inverse()(x), g(x))


@everywhere
@pytest.mark.parametrize("seed", range(3))
def test_acting_twice_is_acting_by_the_product(name: str, seed: int) -> None:
    s = symmetry(name)
    g, h, x = sample(s, seed), sample(s, seed + 10), state(s)
    assert_same(h.after(g)(x), h(g(x)))


@everywhere
def test_products_are_associative(name: str) -> None:
    s = symmetry(name)
    g, h, k = (sample(s, i) for i in range(3))
    assert_same(k.after(h).after(g)(state(s)), k.after(h.after(g))(state(s)))


@everywhere
def test_inverse_of_a_product_is_the_product_of_inverses_in_turn(name: str) -> None:
    s = symmetry(name)
    g, h, x = sample(s, 1), sample(s, 2), state(s)
    assert_same(h.after(g).inverse()(x), g.inverse().after(h.inverse())(x))


@everywhere
def test_elements_on_some_spaces_only(name: str) -> None:
    """Every pair of spaces, each moved by one element: the fibre of the one may be the other."""
    s, x = symmetry(name), state(symmetry(name))
    for a in s.active:
        for b in s.active:
            g, h = sample(s, 1, a.id), sample(s, 2, b.id)
            assert_same(h.after(g)(x), h(g(x)))
            assert_same(h.after(g).inverse()(h(g(x))), x)


@everywhere
def test_the_whole_element_is_the_product_of_its_parts(name: str) -> None:
    """Outer spaces act first."""
    s, x = symmetry(name), state(symmetry(name))
    g = sample(s, 1)
    parts = x
    for space in s.active:
        parts = GroupElement(s, {space.id: g.elements[space.id]})(parts)
    assert_same(parts, g(x))


@everywhere
def test_dual_axes_contract_to_an_invariant(name: str) -> None:
    """Summed over a space, an axis times its dual moves by the fibre alone."""
    s = symmetry(name)
    g, generator = sample(s, 3), torch.Generator().manual_seed(0)
    for frame in s.frames:
        if frame.space < 0 or s.spaces[frame.space].rigid:
            continue
        space = s.spaces[frame.space]
        outer = tuple(Leaf(f, _frame_of(s, f), False, s.spaces[f].size) for f in space.fibre)
        sizes = [x.size for x in outer] + [space.size]
        x, y = (torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(2))
        moved = [g.on(t, (*outer, Leaf(space.id, frame.id, dual, space.size))) for t, dual in ((x, False), (y, True))]
        inner = (x * y).sum(-1)
        expected = g.on(inner, outer) if outer else inner
        assert torch.allclose((moved[0] * moved[1]).sum(-1), expected, atol=1e-12)


def _frame_of(s: SymmetryGraph, space: int) -> int:
    return next(f.id for f in s.frames if f.space == space and not any(f.scale) and not any(f.sign))


def test_precision_follows_the_tensor() -> None:
    s = symmetry("nested")
    g = sample(s, 1)
    low = {n: t.float() for n, t in state(s).items()}
    assert all(t.dtype is torch.float32 for t in g(low).values())
    parts = [t for e in g.to(dtype=torch.float32, device="cpu").elements.values() for t in e.tensors().values()]
    assert {t.dtype for t in parts} == {torch.float32, torch.int64}


def test_the_action_is_indexed_by_the_fibre_after_it_has_moved() -> None:
    s = symmetry("nested")
    g = sample(s, 4, 0, 1)
    x = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    axes = (Leaf(0, 0, False, 3), Leaf(1, 1, False, 4))
    outer, inner = g.elements[0].index, g.elements[1].index
    assert outer is not None and inner is not None
    expected = [[x[outer[i], inner[i, j]] for j in range(4)] for i in range(3)]
    assert torch.equal(g.on(x, axes), torch.tensor(expected, dtype=torch.float64))


# -- elements of one space -------------------------------------------------------------------------------------------

GROUPS = tuple(c for c in classes() if maps(c).group)
fibres = st.sampled_from([(), (3,), (2, 3)])
everyone = st.sampled_from(GROUPS)
sets = st.builds(IndexSet, st.integers(1, 7), st.sampled_from(["halves", "interleaved"]), fibres)


def on(group: C, index_set: IndexSet) -> IndexSet:
    found = maps(group)
    return replace(index_set, scales=2 * found.scales, signs=found.signs)


def dense(group: C, e: Element) -> Tensor:
    """The element as a matrix, by its first scale and sign."""
    if e.matrix is not None:
        return e.matrix
    assert e.index is not None
    found = torch.eye(e.index.shape[-1], dtype=torch.float64)[e.index]
    for part in (e.scale, e.sign):
        found = found if part is None else part[0].unsqueeze(-1) * found
    return found


def contains(group: C, m: Tensor, layout: str) -> bool:
    """Whether a matrix is of a class, by what defines the class."""
    n = m.shape[-1]
    one = torch.eye(n, dtype=torch.float64)
    orthogonal = bool(torch.allclose(m @ m.mT, one.expand(m.shape)))
    single = bool(((m.abs() > 1e-9).sum(-1) == 1).all() and ((m.abs() > 1e-9).sum(-2) == 1).all())
    fixes = bool(torch.allclose(m.sum(-1), torch.ones(n, dtype=torch.float64)))
    i, j = pair_indices(n, layout)
    pairs = torch.stack([m[..., i, i] + m[..., j, j], m[..., j, i] - m[..., i, j]], dim=-1) / 2
    rotary = bool(torch.allclose(m, rotary_matrix(pairs, n, layout)))
    diagonal = bool(torch.allclose(m, m * one))
    return {
        C.IDENTITY: bool(torch.allclose(m, one)),
        C.PERMUTATION: single and orthogonal and bool((m >= 0).all()),
        C.SIGNED: single and orthogonal,
        C.POSITIVE_MONOMIAL: single and bool((m >= 0).all()),
        C.MONOMIAL: single,
        C.PAIRWISE_SIGNS: rotary and diagonal and orthogonal,
        C.PAIRWISE_SCALES: rotary and diagonal and bool((m >= 0).all()),
        C.PAIRWISE_SIGNED_SCALES: rotary and diagonal,
        C.POSITIVE_DIAGONAL: diagonal and bool((m >= 0).all()),
        C.DIAGONAL: diagonal and bool((m[..., i, i] * m[..., j, j] > 0).all() and (_rest(m, i, j) > 0).all()),
        C.PAIRWISE_ROTATIONS: rotary and orthogonal,
        C.ROTARY: rotary,
        C.ORTHOGONAL_ONES: orthogonal and fixes,
        C.ORTHOGONAL: orthogonal,
        C.INVERTIBLE: bool((torch.linalg.svdvals(m) > 1e-3).all()),
    }[group]


def _rest(m: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The diagonal outside of all pairs."""
    kept = torch.ones(m.shape[-1], dtype=torch.bool)
    kept[torch.cat([i, j])] = False
    return m.diagonal(dim1=-2, dim2=-1)[..., kept]


def agree(a: Element, b: Element) -> None:
    for k in ("index", "scale", "sign", "matrix", "dual"):
        x, y = getattr(a, k), getattr(b, k)
        assert (x is None) == (y is None), k
        assert x is None or torch.allclose(x, y, rtol=0, atol=1e-9), k


@given(everyone, sets, st.integers(0, 99))
@settings(deadline=None)
def test_random_elements_are_of_their_class_and_of_all_larger_ones(group: C, index_set: IndexSet, seed: int) -> None:
    m = dense(group, maps(group).random(on(group, index_set), torch.Generator().manual_seed(seed)))
    assert m.shape == (*index_set.fibre, index_set.size, index_set.size)
    for larger in GROUPS:
        if group in down(larger):
            assert contains(larger, m, index_set.layout), larger


@given(everyone, sets, st.integers(0, 99))
@settings(deadline=None)
def test_local_axioms(group: C, index_set: IndexSet, seed: int) -> None:
    generator, where = torch.Generator().manual_seed(seed), on(group, index_set)
    a, b, c = (maps(group).random(where, generator) for _ in range(3))
    one = maps(group).neutral(where)
    agree(c.after(b).after(a), c.after(b.after(a)))
    agree(a.inverse().after(a), one)
    agree(a.after(a.inverse()), one)
    agree(one.after(b), b)
    agree(b.after(one), b)
    agree(b.after(a).inverse(), a.inverse().after(b.inverse()))
    assert contains(group, dense(group, b.after(a)), index_set.layout)
    assert contains(group, dense(group, a.inverse()), index_set.layout)


@given(everyone, sets, st.integers(0, 99))
@settings(deadline=None)
def test_what_is_dual_contracts_with_what_is_not(group: C, index_set: IndexSet, seed: int) -> None:
    e = maps(group).random(on(group, index_set), torch.Generator().manual_seed(seed))
    one = torch.eye(index_set.size, dtype=torch.float64)
    if e.matrix is not None:
        assert e.dual is not None and e.dual is e.dual
        assert torch.allclose(
            e.dual.mT @ e.matrix, torch.eye(index_set.size, dtype=torch.float64).expand(e.matrix.shape)
        )
        assert e.is_rotation == (group in down(C.ORTHOGONAL))
    sample = maps(group).sample(IndexSet(index_set.size, index_set.layout), torch.Generator().manual_seed(seed))
    assert torch.allclose(sample.dual.T @ sample.co, one)
    assert contains(group, sample.co, index_set.layout)


@given(everyone, sets)
@settings(deadline=None)
def test_generators_are_as_many_as_the_dimension_says_and_exponentiate_into_the_class(
    group: C, index_set: IndexSet
) -> None:
    found = maps(group).generators(IndexSet(index_set.size, index_set.layout))
    assert len(found) == maps(group).dimension(index_set.size, maps(group).scales)
    if found:
        assert rank(found) == len(found)
        assert contains(group, torch.matrix_exp(0.3 * torch.stack(found)), index_set.layout)


def rank(matrices: list[Tensor]) -> int:
    return int(torch.linalg.matrix_rank(torch.stack([m.reshape(-1) for m in matrices]))) if matrices else 0


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
@pytest.mark.parametrize("n", [4, 6])
def test_the_lattice_is_closed_under_meets(n: int, layout: str) -> None:
    """What two groups have in common is the group of their meet: their Lie algebras meet in its Lie algebra."""
    algebras = {c: maps(c).generators(IndexSet(n, layout)) for c in GROUPS}
    for a in GROUPS:
        for b in GROUPS:
            common = rank(algebras[a]) + rank(algebras[b]) - rank(algebras[a] + algebras[b])
            meet = group_of(down(a) & down(b))
            assert common == len(algebras[meet]), (a, b, meet)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_complement_of_the_ones_is_orthonormal(n: int) -> None:
    basis = ones_complement(n)
    assert torch.allclose(basis.T @ basis, torch.eye(n - 1, dtype=torch.float64))
    assert torch.allclose(basis.sum(0), torch.zeros(n - 1, dtype=torch.float64), atol=1e-12)
