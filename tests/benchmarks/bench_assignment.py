"""Assignments by candidates over the dense solver, on correlations as matches have them.

    python tests/benchmarks/bench_assignment.py [1024 3072]

Rows of n/4 entries: "noise" has nothing in common, "decay" nothing but a spectrum, "mixed" has half of the rows in
common (with noise, and of uneven norms), "dead" is not negative with an eighth of its rows near zero, "ties" has many
equal entries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial

import torch
from measure import one_thread, seconds
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from symgraph.groups.assignment import by_candidates

KINDS = ("noise", "decay", "mixed", "dead", "ties")


def table(kind: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    a, b = drawn(n, n // 4), drawn(n, n // 4)
    spectrum = torch.arange(1, n // 4 + 1) ** -0.5
    if kind == "decay":
        a, b = a * spectrum, b * spectrum
    elif kind == "mixed":
        a, b = a * spectrum, b * spectrum
        b[: n // 2] += a[torch.randperm(n, generator=generator)][: n // 2]
        a, b = (x * (0.3 * drawn(n, 1)).exp() for x in (a, b))
    elif kind == "dead":
        a = a.relu()
        a[::8] *= 1e-6
    elif kind == "ties":
        return torch.randint(3, (n, n), generator=generator).float()
    return a @ b.T


def main(sizes: Iterable[int] = (1024, 3072)) -> dict[tuple[str, int], float]:
    """The ratio of times by kind and size."""
    found = {}
    for n in sizes:
        for kind in KINDS:
            c = table(kind, n)
            with one_thread():
                ours, index = seconds(partial(by_candidates, c))
                theirs, _ = seconds(partial(linear_sum_assignment, c.numpy(), maximize=True))
            found[kind, n] = ours / theirs
            said = ", given up" if index is None else ""
            print(f"assignment {kind} {n}: {ours:.2f} s over {theirs:.2f} s, {found[kind, n]:.2f}{said}")
    return found


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or (1024, 3072))
