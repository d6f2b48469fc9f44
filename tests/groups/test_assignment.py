"""Assignments by candidates are those of the dense solver, whatever the table, or are given up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from symgraph.groups.assignment import assignment, best_signs, by_candidates


def table(kind: str, n: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, 24, generator=generator, dtype=dtype) for _ in range(2))
    if kind == "planted":
        b = a[torch.randperm(n, generator=generator)] + 0.5 * b
    if kind == "uneven":
        a, b = (x * (0.4 * torch.randn(n, 1, generator=generator, dtype=dtype)).exp() for x in (a, b))
    if kind == "ties":
        return torch.randint(0, 3, (n, n), generator=generator).to(dtype)
    return -(a @ b.T) if kind == "negative" else a @ b.T


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["noise", "planted", "uneven", "ties", "negative"]),
    n=st.integers(2, 90),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_candidates_are_worth_what_the_dense_solver_finds(kind: str, n: int, seed: int, dtype: torch.dtype) -> None:
    c = table(kind, n, seed, dtype)
    index = by_candidates(c)
    if index is None:
        return
    assert sorted(index.tolist()) == list(range(n))
    _, columns = linear_sum_assignment(c.numpy(), maximize=True)
    best, found = (float(c.double()[torch.arange(n), torch.as_tensor(i)].sum()) for i in (columns, index))
    assert found == pytest.approx(best, abs=8 * torch.finfo(dtype).eps * n * float(c.abs().max()))


@pytest.mark.parametrize("kind", ["noise", "planted", "uneven"])
def test_large_tables_are_solved_by_candidates(kind: str) -> None:
    c = table(kind, 1100, 0, torch.float64)
    index = by_candidates(c)
    assert index is not None
    assert index.tolist() == linear_sum_assignment(c.numpy(), maximize=True)[1].tolist()
    assert assignment(c.unsqueeze(0))[0].tolist() == index.tolist()


def test_a_constant_table_has_any_assignment() -> None:
    assert sorted(assignment(torch.ones(1, 1050, 1050))[0].tolist()) == list(range(1050))


def test_one_sign_is_that_of_the_entry() -> None:
    c = torch.tensor([[2.0, -3.0]])
    sign, best = best_signs({(1,): c}, 1)
    assert sign.tolist() == [[[1.0, -1.0]]]
    assert best.tolist() == [[2.0, 3.0]]


def test_many_nearly_equal_entries_are_left_to_the_dense_solver() -> None:
    c = table("ties", 300, 0, torch.float64)
    assert by_candidates(c) is None
    assert by_candidates(c + 1e-6 * table("noise", 300, 1, torch.float64)) is None


def test_where_the_best_columns_differ_they_are_the_answer() -> None:
    index = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert assignment(torch.eye(30)[index].unsqueeze(0))[0].tolist() == index.tolist()
    found = by_candidates(torch.eye(30)[index])
    assert found is not None
    assert found.tolist() == index.tolist()


@pytest.mark.parametrize("side", [0, 1], ids=["rows", "columns"])
def test_units_that_are_dead_are_left_to_the_dense_solver(side: int) -> None:
    """What little tells all others apart to them would raise prices in steps of that size."""
    generator = torch.Generator().manual_seed(0)
    both = [torch.randn(128, 32, generator=generator) for _ in range(2)]
    assert by_candidates(both[0] @ both[1].T) is not None
    both[side][:3] *= 1e-6
    assert by_candidates(both[0] @ both[1].T) is None
