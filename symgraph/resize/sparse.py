"""Small dense equations between few of many unknowns each, and their solution of least norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# A norm sees the scale of its input only through its epsilon, hence the low rank tolerance.
RANK_TOLERANCE = 1e-11
# What keeps the factorisation regular where equations depend on each other; the refinement takes it out again.
DAMPING = 1e-10
REFINEMENTS = 12
# Equations that are kept of many, for each unknown.
SKETCH = 32


@dataclass(frozen=True, slots=True)
class Rows:
    """Independent equations: matrix (k, columns) times the unknowns of these numbers is minus the right side (k,)."""

    columns: Sequence[int]
    matrix: Tensor
    right: Tensor

    @staticmethod
    def of(columns: Sequence[int], slopes: Sequence[Tensor], value: Tensor) -> Rows:
        """Many equations as the few that are independent.

        They hold together or not at all, so each may be weighed as is best for the whole: by the root of what it has.
        Weak ones are then neither lost, nor does their rounding disturb the others.
        """
        whole = _sketch(torch.stack([*slopes, value.nan_to_num(0.0, 0.0, 0.0)], dim=1))
        if len(whole) > len(columns) + 1:
            whole = torch.linalg.qr(whole, mode="r").R
        left, singular, vt = torch.linalg.svd(whole[:, :-1], full_matrices=False)
        kept = singular > RANK_TOLERANCE
        root = singular[kept].sqrt()
        target = left.T @ whole[:, -1]
        return Rows(columns, root.unsqueeze(1) * vt[kept], target[kept] / root)


def _sketch(whole: Tensor) -> Tensor:
    """Sums of many equations with random signs, which span what all of them span: rows in multiples of the columns.

    Source: Clarkson and Woodruff 2013.
    """
    size = SKETCH * whole.shape[1]
    if len(whole) <= 4 * size:
        return whole
    signs = torch.randint(0, 2, (len(whole), 1), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    kept = whole * (2 * signs - 1)
    return whole.new_zeros(size, whole.shape[1]).index_add_(0, torch.arange(len(whole)) % size, kept)


def least_change(rows: Sequence[Rows], size: int) -> Tensor:
    """The solution of least norm of all equations, in the sense of least squares where they contradict: (size,).

    With J x = b it is x = J^T y, hence x - J^T y = 0 beside J x = b: one sparse symmetric system, damped by -1e-10 y
    and refined. Unknowns couple along the graph, so that a factorisation of minimum degree hardly fills in.

    Source: augmented systems of least squares, Bjoerck 1967; proximal refinement, Rockafellar 1976.
    """
    from scipy.sparse import bmat, identity
    from scipy.sparse.linalg import splu

    matrix, target = _assembled(rows, size)
    if not matrix.shape[0]:
        return torch.zeros(size, dtype=torch.float64)
    eye = identity(matrix.shape[0], format="csc")
    whole = bmat([[identity(size), -matrix.T], [matrix, DAMPING * eye]], format="csc")
    solved = splu(whole, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solution, multipliers = np.zeros(size), np.zeros(matrix.shape[0])
    last = np.inf
    for _ in range(REFINEMENTS):
        left, right = matrix.T @ multipliers - solution, target - matrix @ solution
        change = solved.solve(np.concatenate([left, right]))
        solution, multipliers = solution + change[:size], multipliers + change[size:]
        moved = float(np.abs(change[:size]).max())
        if moved <= np.finfo(float).eps or moved >= last:
            break
        last = moved
    return torch.from_numpy(solution)


def _assembled(rows: Sequence[Rows], size: int) -> tuple[csr_matrix, np.ndarray]:
    from scipy.sparse import csr_matrix

    held = [row for row in rows if len(row.right)]
    values, places, ends = [], [], [0]
    for row in held:
        values.append(row.matrix.reshape(-1).numpy())
        places.append(np.tile(np.asarray(row.columns), len(row.right)))
        numbers = np.arange(1, len(row.right) + 1)
        ends.extend(ends[-1] + len(row.columns) * numbers)
    if not held:
        return csr_matrix((0, size)), np.zeros(0)
    entries = (np.concatenate(values), np.concatenate(places), ends)
    matrix = csr_matrix(entries, shape=(len(ends) - 1, size))
    return matrix, -torch.cat([row.right for row in held]).numpy()
