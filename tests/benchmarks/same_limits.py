"""The limits of `same`, from pairs of which it is known what they are.

    python tests/benchmarks/same_limits.py --seeds 0 1 --lines FILE

Pairs are those of `bench_same.py`, of seeds that are used for nothing else. Each model is laid over the other in the
gauges that count, and what is measured is appended to the file (what stands there is not measured again). The limits
are then set one after the other, until none changes: each to where the fewest verdicts are wrong, and there to the
middle of what is free, as far from the pairs on either side as it can be. A limit that pairs bound on one side alone
stays as it is.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_same import ARCHITECTURES, Case, cases, example_of
from measure import one_thread, seconds

from symgraph.inference.sources import ready
from symgraph.match.same import both_ways, in_one_shape
from symgraph.match.verdicts import DERIVED, LIMITS, ORDER, Figures, Limits, settled, verdict

# So wide that all figures are measured wherever a limit may come to lie.
WIDE = replace(LIMITS, far=1.0, related=0.0, deviations=0.0, derived=0.0)
# The limits that are set, and what they may be.
FITTED = {"far": (0.0, 1.0), "related": (0.0, 1.0), "deviations": (0.0, math.inf), "derived": (0.0, 1.0)}
FITTED |= dict.fromkeys(("even", "evidence"), (0.0, math.inf))
# The figures that are held against limits of other names.
SIDE = {"far": "left", "related": "explained", "derived": "explained", "even": "apart"}


@dataclass(frozen=True)
class Pair:
    """What a pair is, and what was measured in the gauges that could be taken."""

    architecture: str
    kind: str
    seed: int
    truth: str
    gauges: tuple[Figures, ...]

    def told(self, limits: Limits) -> str:
        """What is said of it: the other gauge is looked at where the first leaves no noise."""
        found = [verdict(figures, limits) for figures in self.gauges]
        return found[0] if settled(self.gauges[0], limits) else min(found, key=ORDER.index)


def measured(case: Case, example: Any) -> tuple[Figures, ...]:
    """What is found in the gauge of B, and in that of A where the verdict may depend on it."""
    models, _ = ready((case.a, case.make()), "keep", ("A", "B"), example, None)
    laid = both_ways(in_one_shape(models), WIDE)
    first = next(laid).figures
    return (first, *(other.figures for other in laid if case.verdict == DERIVED or not settled(first)))


def wrong(pairs: Sequence[Pair], limits: Limits) -> int:
    """How many verdicts are wrong."""
    return sum(pair.told(limits) != pair.truth for pair in pairs)


def middle(pairs: Sequence[Pair], limits: Limits, name: str) -> float:
    """Where one limit has the fewest verdicts wrong, as far from what was measured as possible, the others fixed."""
    low, high = FITTED[name]
    key = SIDE.get(name, name)
    seen = sorted({v for p in pairs for f in p.gauges if low < (v := getattr(f, key)) < high})
    ends = [low, *seen, high]
    between = list(pairwise(ends))
    errors = [wrong(pairs, replace(limits, **{name: _inside(a, b)})) for a, b in between]
    least = min(errors)
    best, start = (0.0, 0.0, 0.0), 0
    for place, error in enumerate([*errors, least + 1]):
        if error == least:
            continue
        if place > start:
            a, b = between[start][0], between[place - 1][1]
            best = max(best, (_width(a, b), a, b))
        start = place + 1
    _, a, b = best
    return getattr(limits, name) if math.isinf(b) or a == low or b == high else math.sqrt(a * b)


def _inside(a: float, b: float) -> float:
    return 2 * a + 1 if math.isinf(b) else (a + b) / 2


def _width(a: float, b: float) -> float:
    """How many times one end is the other."""
    return math.log(b / max(a, 1e-3))


def fitted(pairs: Sequence[Pair], limits: Limits = LIMITS) -> Limits:
    """The limits that the pairs set."""
    for _ in range(10):
        before = limits
        for name in FITTED:
            limits = replace(limits, **{name: middle(pairs, limits, name)})
        if limits == before:
            break
    return limits


def told(pairs: Sequence[Pair], limits: Limits) -> Iterator[str]:
    """The limits, and the pairs of which something wrong is said with them."""
    for name in FITTED:
        yield f"{name:<12} {getattr(limits, name):.3g} (was {getattr(LIMITS, name):.3g})"
    for pair in pairs:
        if (found := pair.told(limits)) != pair.truth:
            yield f"{pair.architecture}, {pair.kind}, seed {pair.seed}: {found}, not {pair.truth}: {pair.gauges}"
    yield f"{len(pairs)} pairs, {wrong(pairs, limits)} wrong, {wrong(pairs, LIMITS)} with the limits before"


def read(file: Path) -> list[Pair]:
    """The pairs of a file that was written before."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [Pair(**row | {"gauges": tuple(Figures(**figures) for figures in row["gauges"])}) for row in rows]


def main() -> None:
    """Measure what is missing, and print the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--kinds", nargs="+", help="these kinds of pairs alone")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--lines", type=Path, required=True)
    args = parser.parse_args()
    pairs = read(args.lines)
    known = {(pair.architecture, pair.kind, pair.seed) for pair in pairs}
    with one_thread():
        for seed in args.seeds:
            for name in args.only:
                example = example_of(name)
                for case in cases(name, seed, example, args.draws):
                    wanted = args.kinds is None or any(case.kind.startswith(kind) for kind in args.kinds)
                    if not wanted or (name, case.kind, seed) in known:
                        continue
                    took, figures = seconds(partial(measured, case, example))
                    pairs.append(Pair(name, case.kind, seed, case.verdict, figures))
                    print(f"{name:<12} {case.kind:<20} {pairs[-1].told(LIMITS):<12} {took:.1f} s", flush=True)
                    with args.lines.open("a") as file:
                        file.write(json.dumps(asdict(pairs[-1])) + "\n")
    print("\n".join(told(pairs, fitted(pairs))))


if __name__ == "__main__":
    main()
