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


def assignment(c: Tensor) -> Tensor:
    """Permutations p with maximal sum_i C[i, p_i]: (P, n, n) -> (P, n).

    Source: Kuhn 1955, by scipy; auction, Bertsekas 1988; candidates with a certificate, Volgenant 1996.
    """
    flat = c.detach().reshape(-1, *c.shape[-2:]).cpu()
    found = [torch.from_numpy(_solved(m)) for m in flat]
    return torch.stack(found).reshape(c.shape[:-1]).to(c.device)


def _solved(c: Tensor) -> Indices:
    found = by_candidates(c) if len(c) > DENSE else None
    return _dense(c) if found is None else found


def _dense(c: Tensor) -> Indices:
    # Scipy takes longer to import than the rest of the package, and few commands solve anything.
    from scipy.optimize import linear_sum_assignment

    found: Indices = linear_sum_assignment(c.numpy(), maximize=True)[1]
    return found


def by_candidates(c: Tensor) -> Indices | None:
    """The optimal assignment of one table (n, n) by candidates; None where they would be too many."""
    n = len(c)
    first: Indices = c.numpy().argmax(1)
    if len(np.unique(first)) == n:
        return first
    # The only other table of this size: making one costs more than a pass over it.
    rest = torch.empty_like(c)
    sold = _auction(c, rest)
    if sold is None:
        return None
    prices, owners = sold
    largest = max(abs(float(v)) for v in c.aminmax())
    # What the rounding of the table's own entries comes to.
    exact = 4 * torch.finfo(c.dtype).eps * largest
    torch.sub(c, prices, out=rest)
    near = _nearest_entries(rest.sub_(rest.amax(1, keepdim=True)), NEAR * n)
    if near is None:
        return None
    held = torch.unique(torch.cat([near, torch.arange(n) * n + _completed(owners)]))
    columns = prices.double().numpy()
    for _ in range(ROUNDS):
        found = _sparse(c, held, columns, largest)
        if found is None:
            return None
        rows, columns, index = found
        torch.sub(c, torch.from_numpy(rows).to(c).unsqueeze(1), out=rest).sub_(torch.from_numpy(columns).to(c))
        better = torch.from_numpy(np.flatnonzero(rest.numpy() > exact))
        if not len(better):
            return index
        if len(better) > n:
            return None
        held = torch.unique(torch.cat([held, better]))
    return None


def _auction(c: Tensor, space: Tensor) -> tuple[Tensor, Tensor] | None:
    """Prices of the columns, and the row that holds each (-1: none), when nearly all rows have one; None: too long.

    Args:
        space: a table that is written to.
    """
    n = len(c)
    ahead_of_mean = [c.amax(d) - c.mean(d) for d in (1, 0)]
    usual = float(ahead_of_mean[0].mean())
    if min(float(x.min()) for x in ahead_of_mean) < FLAT * usual:
        return None
    increment = usual * INCREMENT
    prices, owners, free = c.new_zeros(n), torch.full((n,), -1), torch.arange(n)
    left = BUDGET * n
    for bid in range(BIDS):
        left -= len(free)
        if left < 0:
            return None
        worth = torch.index_select(c, 0, free, out=space[: len(free)])
        wanted, ahead = _best_two(worth.sub_(prices) if bid else worth)
        if not bid and float((ahead < TIE * increment).double().mean()) > TIED:
            return None
        bids = ahead + increment
        highest = c.new_full((n,), -torch.inf).scatter_reduce(0, wanted, bids, "amax")
        last = owners.clone()
        won = torch.nonzero(bids == highest[wanted]).squeeze(1)
        owners[wanted[won]] = free[won]
        sold = highest > -torch.inf
        prices[sold] += highest[sold]
        # Of equal bids one is taken; the others, and who held a column before, bid again.
        free = torch.cat([free[owners[wanted] != free], last[sold & (last >= 0)]])
        if len(free) <= LEFT * n:
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


def _sparse(c: Tensor, held: Tensor, prices: Floats, largest: float) -> tuple[Floats, Floats, Indices] | None:
    """The optimum over candidates, in order of their flat positions: dual prices of rows and columns, and the index.

    What the candidates are worth is taken beside the prices, which shortens the search and changes no optimum.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n = len(c)
    values = c.flatten()[held].double().numpy()
    rows, columns = (x.numpy() for x in (held // n, held % n))
    worth = values - prices[columns]
    # No weight may be zero, which would be no entry.
    costs = worth.max() - worth + max(largest, 1.0)
    _, index = min_weight_full_bipartite_matching(csr_matrix((costs, (rows, columns)), shape=(n, n)))
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
    found = prices
    for _ in range(PASSES):
        raised = np.maximum(found, np.maximum.reduceat(gain + found[source], first))
        if float((raised - found).max()) <= exact:
            return own - found[index], found
        found = raised
    return None


def best_signs(parts: Mapping[tuple[int, ...], Tensor], generators: int) -> tuple[Tensor, Tensor]:
    """Signs that maximise sum_e prod_k s_k^e_k C_e for every entry: {e: (...)} -> (q, ...), (...)."""
    first = next(iter(parts.values()))
    if not generators:
        return first.new_ones(0, *first.shape), _total(parts, ())
    if len(parts) == 1 and generators == 1:
        exponents, c = next(iter(parts.items()))
        signs = torch.where(c < 0, -1.0, 1.0).to(c) if exponents[0] % 2 else torch.ones_like(c)
        return signs.unsqueeze(0), c.abs() if exponents[0] % 2 else c
    best = torch.full_like(first, -torch.inf)
    signs = first.new_ones(generators, *first.shape)
    for choice in itertools.product((1.0, -1.0), repeat=generators):
        total = _total(parts, choice)
        better = total > best
        torch.maximum(best, total, out=best)
        for k in range(generators):
            signs[k].masked_fill_(better, choice[k])
    return signs, best


def _total(parts: Mapping[tuple[int, ...], Tensor], choice: tuple[float, ...]) -> Tensor:
    """The sum of the parts with chosen signs; of one part whose sign stays, that itself."""
    if len(parts) == 1:
        exponents, c = next(iter(parts.items()))
        return c if _sign(choice, exponents) > 0 else -c
    signed = [(_sign(choice, e), c) for e, c in parts.items()]
    total = signed[0][0] * signed[0][1]
    for sign, c in signed[1:]:
        total.add_(c, alpha=sign)
    return total


def _sign(choice: tuple[float, ...], exponents: tuple[int, ...]) -> float:
    odd = [s for s, e in zip(choice, exponents, strict=False) if e % 2]
    return -1.0 if odd.count(-1.0) % 2 else 1.0
