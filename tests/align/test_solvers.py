"""Solvers: planted elements come back, and nothing in the group does better (exhaustively, at tiny sizes)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from symgraph.groups.assignment import assignment, best_signs
from symgraph.groups.elements import IndexSet
from symgraph.groups.frequency_pairs import best_rotations, rotary_matrix
from symgraph.groups.lattice import SymmetryClass as C
from symgraph.groups.lattice import classes, down, maps
from symgraph.groups.map_class import DenseMaps
from symgraph.groups.rotations import polar, polar_ones
from symgraph.orbit.wreath import Table, Tree, best
from symgraph.symmetry.structure import Space

DENSE = [c for c in classes() if maps(c).dense]
LAYOUTS = ("halves", "interleaved")
SEEDS = range(4)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trace(g: Tensor, c: Tensor) -> Tensor:
    return (g * c).sum((-2, -1))


def optimum(group: C, c: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    found = maps(group)
    assert isinstance(found, DenseMaps)
    return found.optimum(c, layout)


def permutations(n: int) -> Iterator[Tensor]:
    eye = torch.eye(n, dtype=torch.float64)
    yield from (eye[list(p)] for p in itertools.permutations(range(n)))


def rotations(n: int, steps: int) -> Iterator[Tensor]:
    """Every orthogonal 2 x 2 matrix on a grid, with reflections."""
    for k in range(steps):
        a = 2 * math.pi * k / steps
        c, s = math.cos(a), math.sin(a)
        yield torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        yield torch.tensor([[c, s], [s, -c]], dtype=torch.float64)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", DENSE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_planted_matrix_comes_back(group: C, layout: str, seed: int) -> None:
    """A = g B gives the correlation g (B B^T), whose optimum is g; all batched."""
    compact = C.ORTHOGONAL if group is C.INVERTIBLE else group
    g = maps(compact).random(IndexSet(6, layout, (3,)), torch.Generator().manual_seed(seed), 0.0).matrix
    assert g is not None
    b = noise(seed, 3, 6, 9)
    found, value = optimum(group, g @ b @ b.mT, layout)
    assert torch.allclose(found, g, atol=1e-9)
    assert torch.allclose(value, b.square().sum((-2, -1)))


@pytest.mark.parametrize("seed", SEEDS)
def test_assignments_and_signs_are_optimal(seed: int) -> None:
    c = noise(seed, 2, 4, 4)
    found = assignment(c)
    assert found.shape == (2, 4)
    for k in range(2):
        value = c[k][torch.arange(4), found[k]].sum()
        assert value == pytest.approx(max(float(trace(p, c[k])) for p in permutations(4)))
    parts: dict[tuple[int, ...], Tensor] = {
        (0, 1): noise(seed + 9, 1, 3, 3),
        (1, 1): noise(seed + 19, 1, 3, 3),
        (2, 0): noise(seed + 29, 1, 3, 3),
    }
    signs, value = best_signs(parts, 2)
    for i, j in itertools.product(range(3), repeat=2):
        each = {
            s: sum(float(c[0, i, j]) * s[0] ** e[0] * s[1] ** e[1] for e, c in parts.items())
            for s in itertools.product((1, -1), repeat=2)
        }
        assert float(value[0, i, j]) == pytest.approx(max(each.values()))
        assert each[int(signs[0, 0, i, j]), int(signs[1, 0, i, j])] == pytest.approx(max(each.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_polar_factors_are_optimal(seed: int) -> None:
    c = noise(seed, 2, 2)
    found, value = polar(c)
    assert torch.allclose(found @ found.mT, torch.eye(2, dtype=torch.float64))
    assert float(trace(found, c)) == pytest.approx(float(value))
    assert float(value) >= max(float(trace(g, c)) for g in rotations(2, 720)) - 1e-12
    wide = noise(seed, 3, 3)
    found, value = polar_ones(wide)
    one = torch.ones(3, dtype=torch.float64)
    assert torch.allclose(found @ one, one) and torch.allclose(found.mT @ one, one)
    assert float(trace(found, wide)) == pytest.approx(float(value))
    u = torch.tensor([[1, -1, 0], [1, 1, -2]], dtype=torch.float64)
    u = u / u.norm(dim=1, keepdim=True)
    tried = (u.mT @ g @ u + 1 / 3 for g in rotations(2, 720))
    assert float(value) >= max(float(trace(g, wide)) for g in tried) - 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotations_are_optimal_and_turn_each_pair(layout: str) -> None:
    c = noise(5, 4, 4)
    found, value = best_rotations(c, layout)
    assert torch.allclose(found @ found.mT, torch.eye(4, dtype=torch.float64))
    assert float(trace(found, c)) == pytest.approx(float(value))
    best_seen = -math.inf
    for k, m in itertools.product(range(60), repeat=2):
        a, b = 2 * math.pi * k / 60, 2 * math.pi * m / 60
        pairs = torch.tensor([[math.cos(a), math.sin(a)], [math.cos(b), math.sin(b)]], dtype=torch.float64)
        best_seen = max(best_seen, float(trace(rotary_matrix(pairs, 4, layout), c)))
    assert best_seen <= float(value) + 1e-12
    assert best_seen > float(value) - 0.05


def test_a_correlation_of_zero_gives_an_element_of_the_group() -> None:
    zero = torch.zeros(1, 4, 4, dtype=torch.float64)
    for group in DENSE:
        g, value = optimum(group, zero, "halves")
        assert torch.allclose(g @ g.mT, torch.eye(4, dtype=torch.float64)), group
        assert float(value) == 0.0


# -- units -------------------------------------------------------------------------------------------------------------


def space(id: int, name: str, size: int, group: C, fibre: tuple[int, ...] = (), signs: int = 0) -> Space:
    return Space(id, name, size, group, down(group), fibre, 0, signs, "halves")


HEADS, KEY, OUT, MEMBER = 0, 1, 2, 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", [C.ORTHOGONAL, C.ROTARY, C.PERMUTATION])
def test_heads_over_an_inner_group_are_solved_exactly(group: C, seed: int) -> None:
    """All permutations of three heads, each with the best inner element of every pair."""
    inner = Tree(space(KEY, "key", 2, group, (HEADS,)))
    tree = Tree(space(HEADS, "heads", 3, C.PERMUTATION), (inner,))
    c, own = noise(seed, 1, 3, 3, 2, 2), noise(seed + 50, 1, 3, 3)
    found = best([tree], {((HEADS, ()), (KEY, ())): c, ((HEADS, ()),): own}, 1)
    index = found.elements[HEADS].index
    assert index is not None

    def value(i: int, j: int) -> float:
        if group is C.PERMUTATION:
            return max(float(trace(p, c[0, i, j])) for p in permutations(2))
        return float(optimum(group, c[0, i, j], "halves")[1])

    each = {
        p: sum(value(i, j) + float(own[0, i, j]) for i, j in enumerate(p)) for p in itertools.permutations(range(3))
    }
    assert float(found.value) == pytest.approx(max(each.values()))
    assert each[tuple(index[0].tolist())] == pytest.approx(max(each.values()))


def test_two_inner_spaces_and_signs_are_solved_together() -> None:
    key, out = (Tree(space(i, str(i), 2, C.ORTHOGONAL, (HEADS,))) for i in (KEY, OUT))
    tree = Tree(space(HEADS, "heads", 2, C.SIGNED, signs=1), (key, out))
    k, o, own = noise(1, 1, 2, 2, 2, 2), noise(2, 1, 2, 2, 2, 2), noise(3, 1, 2, 2)
    table: Table = {((HEADS, (0,)), (KEY, ())): k, ((HEADS, (0,)), (OUT, ())): o, ((HEADS, (1,)),): own}
    found = best([tree], table, 1)
    pair = torch.linalg.svdvals(k).sum(-1) + torch.linalg.svdvals(o).sum(-1) + own.abs()
    assert float(found.value) == pytest.approx(
        max(float(pair[0][torch.arange(2), list(p)].sum()) for p in ((0, 1), (1, 0)))
    )
    sign, index = found.elements[HEADS].sign, found.elements[HEADS].index
    assert sign is not None and index is not None
    assert torch.equal(sign[0, 0], own[0][torch.arange(2), index[0]].sign())


def grouped(groups: int, members: int, width: int, inner: C) -> Tree:
    """Groups of heads over the members of a group and the key that they share: siblings coupled by the queries."""
    member = Tree(space(MEMBER, "member", members, C.PERMUTATION, (HEADS,)))
    key = Tree(space(KEY, "key", width, inner, (HEADS,)))
    return Tree(space(HEADS, "groups", groups, C.PERMUTATION), (member, key))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("inner", [C.ROTARY, C.ORTHOGONAL])
def test_planted_groups_of_queries_come_back(inner: C, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups, members, width = 3, 4, 4
    q, k = noise(seed, groups, members, width, 7), noise(seed + 50, groups, width, 7)
    g = maps(inner).random(IndexSet(width, "halves", (groups,)), generator, 0.0).matrix
    assert g is not None
    p = torch.randperm(groups, generator=generator)
    r = torch.stack([torch.randperm(members, generator=generator) for _ in range(groups)])
    qa = torch.stack([torch.einsum("ij,mjd->mid", g[i], q[p[i]][r[i]]) for i in range(groups)])
    ka = torch.stack([g[i] @ k[p[i]] for i in range(groups)])
    table: Table = {
        ((HEADS, ()), (MEMBER, ()), (KEY, ())): torch.einsum("gmid,hnjd->ghmnij", qa, q)[None],
        ((HEADS, ()), (KEY, ())): torch.einsum("gid,hjd->ghij", ka, k)[None],
    }
    found = best([grouped(groups, members, width, inner)], table, 1)
    assert float(found.value) == pytest.approx(float(q.square().sum() + k.square().sum()))
    assert torch.equal(found.elements[HEADS].index, p[None])  # type: ignore[arg-type]
    assert torch.equal(found.elements[MEMBER].index, r[None])  # type: ignore[arg-type]
    assert torch.allclose(found.elements[KEY].matrix, g[None])  # type: ignore[arg-type]


@pytest.mark.parametrize("inner", [C.ROTARY, C.ORTHOGONAL])
def test_rows_of_a_batch_take_their_turns_apart(inner: C) -> None:
    """Coupled siblings settle after different numbers of turns, each as if it were alone."""
    siblings = grouped(2, 4, 4, inner).children
    table: Table = {
        ((MEMBER, ()), (KEY, ())): noise(3, 9, 4, 4, 4, 4),
        ((KEY, ()),): noise(5, 9, 4, 4),
    }
    together = best(siblings, table, 9)
    for row in range(9):
        alone = best(siblings, {key: correlation[row : row + 1] for key, correlation in table.items()}, 1)
        assert float(together.value[row]) == pytest.approx(float(alone.value))
        for number, element in alone.elements.items():
            for name, part in element.tensors().items():
                assert torch.allclose(together.elements[number].tensors()[name][row], part[0]), name


def test_coupled_siblings_come_near_the_best_of_all() -> None:
    """Coupled siblings are improved in turn: never above the optimum, and close to it on average."""
    ratios = []
    for seed in range(12):
        table: Table = {
            ((HEADS, ()), (MEMBER, ()), (KEY, ())): noise(seed, 1, 2, 2, 2, 2, 2, 2),
            ((HEADS, ()), (KEY, ())): noise(seed + 99, 1, 2, 2, 2, 2),
        }
        found = float(best([grouped(2, 2, 2, C.ROTARY)], table, 1).value)
        q, k = table[(HEADS, ()), (MEMBER, ()), (KEY, ())][0], table[(HEADS, ()), (KEY, ())][0]
        pair = torch.stack(
            [
                torch.stack(
                    [optimum(C.ROTARY, k + q[:, :, 0, m] + q[:, :, 1, 1 - m], "halves")[1] for m in (0, 1)]
                ).amax(0)
            ]
        )[0]
        highest = max(float(pair.trace()), float(pair.flip(1).trace()))
        assert found <= highest + 1e-9
        ratios.append(found / highest)
    assert sum(ratios) / len(ratios) > 0.9


def test_coupled_matrices_have_an_answer() -> None:
    key, out = (Tree(space(i, str(i), 2, C.ORTHOGONAL, (HEADS,))) for i in (KEY, OUT))
    tree = Tree(space(HEADS, "heads", 2, C.PERMUTATION), (key, out))
    c = noise(4, 1, 2, 2, 2, 2, 2, 2)
    found = best([tree], {((HEADS, ()), (KEY, ()), (OUT, ())): c}, 1)
    identity = sum(float(c[0, h, h, i, i, j, j]) for h, i, j in itertools.product(range(2), repeat=3))
    assert float(found.value) >= identity
    for i in (KEY, OUT):
        g = found.elements[i].matrix
        assert g is not None and torch.allclose(g @ g.mT, torch.eye(2, dtype=torch.float64).expand(1, 2, 2, 2))
