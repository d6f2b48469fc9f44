"""Assignments, and signs beside them: what matching index spaces comes down to.

C is a correlation: C[i, j] = sum of A's slice i times B's slice j.

Large tables are solved by candidates, where the best columns of the rows are not all different already. An auction that
is broken off gives prices; the entries that are nearly worth them are the candidates; the sparse problem is solved
exactly, and its dual prices certify that no entry left out would do better, or name those that would, which join. What
does not come to an end so, and tables with many nearly equal entries, on which prices say little, are solved densely.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Below this size the dense solver takes less than the search for candidates.
DENSE = 1000
# Increment of a bid, as a share of by how much the best entry of a row is above its mean; bids in one auction.
INCREMENT = 0.01
BIDS = 100
# An auction that would need more bids than so many for each row is given up.
BUDGET = 16
# So are tables where more than this share of the rows has two best entries within this share of an increment.
TIED, TIE = 0.25, 1.0
# So are tables with a row or a column whose best entry is above its mean by less than this share of what is usual: to
# a unit that is dead all others are alike, and the sparse solver raises prices by what little tells them apart.
FLAT = 0.03
# An auction is broken off when this share of the rows is left without a column.
LEFT = 0.01
# So many candidates for each row, at most so many, and so many rounds of further ones.
NEAR, MOST, ROUNDS = 12, 64, 3
# Entries that are looked at to find out how near the candidates are.
LOOKED_AT = 200_000
# Passes over the candidates for their dual prices.
PASSES = 5000

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def assignment(correlations: Tensor) -> Tensor:
    """Permutations p with maximal sum_i C[i, p_i]: (P, n, n) -> (P, n).

    Source: Kuhn 1955, by scipy; auction, Bertsekas 1988; candidates with a certificate, Volgenant 1996.
    """
    flat = correlations.detach().reshape(-1, *correlations.shape[-2:]).cpu()
    indices = [torch.from_numpy(_solved(table)) for table in flat]
    return torch.stack(indices).reshape(correlations.shape[:-1]).to(correlations.device)


def _solved(table: Tensor) -> Indices:
    index = by_candidates(table) if len(table) > DENSE else None
    return _dense(table) if index is None else index


def _dense(table: Tensor) -> Indices:
    # Scipy takes longer to import than the rest of the package, and few commands solve anything.
    from scipy.optimize import linear_sum_assignment

    columns: Indices = linear_sum_assignment(table.numpy(), maximize=True)[1]
    return columns


def by_candidates(table: Tensor) -> Indices | None:
    """The optimal assignment of one table (n, n) by candidates; None where they would be too many."""
    size = len(table)
    first: Indices = table.numpy().argmax(1)
    if len(np.unique(first)) == size:
        return first
    # The only other table of this size: making one costs more than a pass over it.
    rest = torch.empty_like(table)
    sold = _auction(table, rest)
    if sold is None:
        return None
    prices, owners = sold
    largest = max(abs(float(entry)) for entry in table.aminmax())
    # What the rounding of the table's own entries comes to.
    exact = 4 * torch.finfo(table.dtype).eps * largest
    torch.sub(table, prices, out=rest)
    near = _nearest_entries(rest.sub_(rest.amax(1, keepdim=True)), NEAR * size)
    if near is None:
        return None
    held = torch.unique(torch.cat([near, torch.arange(size) * size + _completed(owners)]))
    columns = prices.double().numpy()
    for _ in range(ROUNDS):
        optimum = _sparse(table, held, columns, largest)
        if optimum is None:
            return None
        rows, columns, index = optimum
        torch.sub(table, torch.from_numpy(rows).to(table).unsqueeze(1), out=rest).sub_(
            torch.from_numpy(columns).to(table)
        )
        better = torch.from_numpy(np.flatnonzero(rest.numpy() > exact))
        if not len(better):
            return index
        if len(better) > size:
            return None
        held = torch.unique(torch.cat([held, better]))
    return None


def _auction(table: Tensor, space: Tensor) -> tuple[Tensor, Tensor] | None:
    """Prices of the columns, and the row that holds each (-1: none), when nearly all rows have one; None: too long.

    Args:
        space: a table that is written to.
    """
    size = len(table)
    ahead_of_mean = [table.amax(dim) - table.mean(dim) for dim in (1, 0)]
    usual = float(ahead_of_mean[0].mean())
    if min(float(lead.min()) for lead in ahead_of_mean) < FLAT * usual:
        return None
    increment = usual * INCREMENT
    prices, owners, free = table.new_zeros(size), torch.full((size,), -1), torch.arange(size)
    left = BUDGET * size
    for bid in range(BIDS):
        left -= len(free)
        if left < 0:
            return None
        worth = torch.index_select(table, 0, free, out=space[: len(free)])
        wanted, ahead = _best_two(worth.sub_(prices) if bid else worth)
        if not bid and float((ahead < TIE * increment).double().mean()) > TIED:
            return None
        bids = ahead + increment
        highest = table.new_full((size,), -torch.inf).scatter_reduce(0, wanted, bids, "amax")
        last = owners.clone()
        won = torch.nonzero(bids == highest[wanted]).squeeze(1)
        owners[wanted[won]] = free[won]
        sold = highest > -torch.inf
        prices[sold] += highest[sold]
        # Of equal bids one is taken; the others, and who held a column before, bid again.
        free = torch.cat([free[owners[wanted] != free], last[sold & (last >= 0)]])
        if len(free) <= LEFT * size:
            break
    return prices, owners


def _best_two(worth: Tensor) -> tuple[Tensor, Tensor]:
    """The best column of each row, and how far it is ahead of the next; the best entries are overwritten."""
    # Numpy's search is several times faster than sorting two out.
    table, rows = worth.numpy(), np.arange(len(worth))
    wanted = table.argmax(1)
    best = table[rows, wanted]
    table[rows, wanted] = -np.inf
    return torch.from_numpy(wanted), torch.from_numpy(best - table.max(1))


def _completed(owners: Tensor) -> Tensor:
    """A permutation, the column of each row, that agrees with the owners of columns: there is always a solution."""
    held = owners >= 0
    columns = torch.full_like(owners, -1)
    columns[owners[held]] = torch.nonzero(held).squeeze(1)
    columns[columns < 0] = torch.nonzero(~held).squeeze(1)
    return columns


def _nearest_entries(rest: Tensor, count: int) -> Tensor | None:
    """Flat positions of about so many entries with the largest reduced worth; None where far more are as large."""
    flat = rest.flatten()
    step = max(1, len(flat) // LOOKED_AT)
    # An odd stride, so that not the same columns are looked at in every row.
    sample = flat[:: step + 1 - step % 2]
    share = max(1, round(count * len(sample) / len(flat)))
    bound = float(sample.topk(min(share, len(sample))).values[-1])
    near = torch.from_numpy(np.flatnonzero(flat.numpy() >= bound))
    return near if len(near) <= MOST * len(rest) else None


def _sparse(table: Tensor, held: Tensor, prices: Floats, largest: float) -> tuple[Floats, Floats, Indices] | None:
    """The optimum over candidates, in order of their flat positions: dual prices of rows and columns, and the index.

    What the candidates are worth is taken beside the prices, which shortens the search and changes no optimum.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    size = len(table)
    values = table.flatten()[held].double().numpy()
    rows, columns = (places.numpy() for places in (held // size, held % size))
    worth = values - prices[columns]
    # No weight may be zero, which would be no entry.
    costs = worth.max() - worth + max(largest, 1.0)
    _, index = min_weight_full_bipartite_matching(csr_matrix((costs, (rows, columns)), shape=(size, size)))
    index = index.astype(np.int64)
    order = np.argsort(columns, kind="stable")
    duals = _duals(rows[order], columns[order], values[order], index, prices, 1e-12 * largest)
    return None if duals is None else (*duals, index)


def _duals(
    rows: Indices, columns: Indices, values: Floats, index: Indices, prices: Floats, exact: float
) -> tuple[Floats, Floats] | None:
    """Prices u of rows and v of columns with u_i + v_j >= C_ij for all candidates, equal where they are assigned.

    The least such v above the given prices, as longest paths from them (Bellman and Ford); candidates are in order of
    their columns, and every column has one. None where rounding does not come to rest.
    """
    own = np.empty(len(index))
    assigned = index[rows] == columns
    own[rows[assigned]] = values[assigned]
    gain, source = values - own[rows], index[rows]
    first = np.searchsorted(columns, np.arange(len(index)))
    duals = prices
    for _ in range(PASSES):
        raised = np.maximum(duals, np.maximum.reduceat(gain + duals[source], first))
        if float((raised - duals).max()) <= exact:
            return own - duals[index], duals
        duals = raised
    return None


def best_signs(parts: Mapping[tuple[int, ...], Tensor], generators: int) -> tuple[Tensor, Tensor]:
    """Signs that maximise sum_e prod_k s_k^e_k C_e for every entry: {e: (...)} -> (q, ...), (...)."""
    first = next(iter(parts.values()))
    if not generators:
        return first.new_ones(0, *first.shape), _total(parts, ())
    if len(parts) == 1 and generators == 1:
        exponents, part = next(iter(parts.items()))
        signs = torch.where(part < 0, -1.0, 1.0).to(part) if exponents[0] % 2 else torch.ones_like(part)
        return signs.unsqueeze(0), part.abs() if exponents[0] % 2 else part
    best = torch.full_like(first, -torch.inf)
    signs = first.new_ones(generators, *first.shape)
    for choice in itertools.product((1.0, -1.0), repeat=generators):
        total = _total(parts, choice)
        better = total > best
        torch.maximum(best, total, out=best)
        for generator in range(generators):
            signs[generator].masked_fill_(better, choice[generator])
    return signs, best


def _total(parts: Mapping[tuple[int, ...], Tensor], choice: tuple[float, ...]) -> Tensor:
    """The sum of the parts with chosen signs; of one part whose sign stays, that itself."""
    if len(parts) == 1:
        exponents, part = next(iter(parts.items()))
        return part if _sign(choice, exponents) > 0 else -part
    signed = [(_sign(choice, exponents), part) for exponents, part in parts.items()]
    total = signed[0][0] * signed[0][1]
    for sign, part in signed[1:]:
        total.add_(part, alpha=sign)
    return total


def _sign(choice: tuple[float, ...], exponents: tuple[int, ...]) -> float:
    odd = [sign for sign, exponent in zip(choice, exponents, strict=False) if exponent % 2]
    return -1.0 if odd.count(-1.0) % 2 else 1.0
