"""Scales and signs on spaces that are linked by pointwise products: dimensional analysis over units.

If c = a * b pointwise and the permutation parts agree, the scales satisfy s_c = s_a + s_b (in logarithms) and the signs
the same equation modulo two. Frames whose class has no scale contribute s = 0. The free scales of a group of linked
frames are a basis of the null space of these equations: the gated MLP comes out as one free scale on `up`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

from sympy import Matrix

Vector = tuple[int, ...]
Equation = dict[int, int]


def integer_basis(size: int, equations: Sequence[Equation]) -> list[Vector]:
    """Integer basis of {x in Q^size : sum_i e[i] x_i = 0 for every equation e}."""
    rows = [[equation.get(i, 0) for i in range(size)] for equation in equations if equation]
    if not rows:
        return [tuple(int(i == j) for i in range(size)) for j in range(size)]
    basis = []
    for column in Matrix(rows).nullspace():
        scale = lcm(*(int(entry.q) for entry in column))
        basis.append(tuple(int(entry * scale) for entry in column))
    return basis


def binary_basis(size: int, equations: Sequence[Equation]) -> list[Vector]:
    """Basis of the solutions modulo two of the same equations."""
    rows = [sum((power & 1) << i for i, power in equation.items()) for equation in equations]
    pivots: dict[int, int] = {}
    for row in rows:
        for column, pivot in pivots.items():
            if row >> column & 1:
                row ^= pivot
        if not row:
            continue
        lead = row.bit_length() - 1
        pivots = {other: mask ^ row if mask >> lead & 1 else mask for other, mask in pivots.items()}
        pivots[lead] = row
    free = [i for i in range(size) if i not in pivots]
    return [_solution(size, unknown, pivots) for unknown in free]


def _solution(size: int, free: int, pivots: dict[int, int]) -> Vector:
    bits = 1 << free
    for column, row in pivots.items():
        if row >> free & 1:
            bits |= 1 << column
    return tuple(bits >> i & 1 for i in range(size))
