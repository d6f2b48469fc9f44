"""Ensembles that others trained: the barrier between members, against the ensemble's mean, however they are matched.

    pip install --no-deps torchani==2.2.4 spliceai==1.3.1 h5py lark requests "importlib_metadata<8" "setuptools<81"
    python tests/benchmarks/bench_ensembles.py [torchani] [spliceai] [--pairs 28 2] [--steps 200 0] [--together]

Losses are those at the midpoint of two members, or of all (--together), against the mean prediction of all members, on
made-up molecules and pre-mRNA of a seed of their own; units are matched on others, and statistics of batch norms
computed anew. Mean over the pairs, geometric mean in brackets.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from ensemble_members import ENSEMBLES, Ensemble, shipped
from measure import one_thread, seconds

import symgraph
from symgraph.match.match_options import WEIGHTINGS, MatchOptions
from symgraph.match.suitable import has_statistics

MIDDLE = (0.0, 0.5, 1.0)
# How many pairs of each are measured, and steps of learned matching.
PAIRS, STEPS = {"torchani": 28, "spliceai": 2}, {"torchani": 200, "spliceai": 0}


def ways(ensemble: Ensemble, steps: int) -> dict[str, dict[str, Any]]:
    """Arguments of `align` by what the table calls them."""
    activations = {"method": "activations", "data": ensemble.training}
    found: dict[str, dict[str, Any]] = {
        f"weights, {w}": {"options": MatchOptions(weighting=w)} for w in WEIGHTINGS if w != "inputs"
    }
    found["weights, inputs"] = {"data": ensemble.training, "options": MatchOptions(weighting="inputs")}
    found["activations"] = activations | {"options": MatchOptions(alpha=1.0)}
    found["activations and weights"] = activations | {"options": MatchOptions(alpha=0.5)}
    if steps:
        learning = {"steps": steps, "permutations": True, "patience": 0}
        more = {"start": "activations", "options": MatchOptions(alpha=0.5), "learning": learning}
        found["learned"] = {"method": "learned", "data": ensemble.training, **more}
    return found


def losses(ensemble: Ensemble, states: Sequence[Any], renewed: bool) -> list[float]:
    """Of the members themselves, and of their even mixture."""
    recalibrate = ensemble.training[:2] if renewed else None
    how: dict[str, Any] = {"module": ensemble.members[0], "loss": ensemble.loss, "recalibrate": recalibrate}
    if len(states) == 2:
        first, middle, last = symgraph.loss_barrier(*states, ensemble.test, points=MIDDLE, **how).losses
        return [first, last, middle]
    even = [(1 / len(states),) * len(states)]
    return list(symgraph.loss_barrier(*states, ensemble.test, mixtures=even, **how).losses)


def show(label: str, found: Mapping[bool, Sequence[float]], time: float) -> None:
    figures = [torch.tensor(values) for values in found.values()]
    shown = ", ".join(f"{x.mean():.3f} ({x.clamp_min(1e-9).log().mean().exp():.3f})" for x in figures)
    names = "" if len(figures) == 1 else " with statistics interpolated, computed anew"
    print(f"    {label:<25} {shown}{names}; {time:.1f} s each", flush=True)


def measure(ensemble: Ensemble, pairs: int, steps: int) -> None:
    """Pairs, by every way."""
    example, members = ensemble.training[0][0], ensemble.members
    symmetry = symgraph.infer(members[0], example)
    kinds = (False, True) if has_statistics(symmetry) else (False,)
    chosen = list(combinations(members, 2))[:pairs]
    ends = [losses(ensemble, pair, renewed=False)[:2] for pair in chosen]
    print(f"{ensemble.name}: {len(chosen)} pairs; the members alone {torch.tensor(ends).mean():.3f}", flush=True)
    common: dict[str, Any] = {"symmetry": symmetry, "loss": ensemble.loss}
    for label, how in {"as trained": None, **ways(ensemble, steps)}.items():
        found: dict[bool, list[float]] = {kind: [] for kind in kinds}
        spent = 0.0
        for a, b in chosen:
            states: Sequence[Any] = (a, b)
            if how is not None:
                time, aligned = seconds(partial(symgraph.align, a, b, example, **common, **how))
                states, spent = (aligned.reference, aligned.state), spent + time
            for kind in kinds:
                found[kind].append(losses(ensemble, states, kind)[-1])
        show(label, found, spent / len(chosen))


def together(ensemble: Ensemble) -> None:
    """All members in one basis, and their mean."""
    example, members = ensemble.training[0][0], ensemble.members
    symmetry = symgraph.infer(members[0], example)
    kinds = (False, True) if has_statistics(symmetry) else (False,)
    common: dict[str, Any] = {"symmetry": symmetry, "loss": ensemble.loss}
    activations = {"method": "activations", "data": ensemble.training}
    hows: dict[str, dict[str, Any] | None] = {
        "as trained": None,
        "weights": {},
        "activations and weights": activations | {"options": MatchOptions(alpha=0.5)},
    }
    print(f"{ensemble.name}: the mean of all {len(members)}", flush=True)
    for label, how in hows.items():
        time, states = 0.0, tuple[Any, ...](members)
        if how is not None:
            time, found = seconds(partial(symgraph.universe, members, example=example, **common, **how))
            states = found.states
        show(label, {kind: losses(ensemble, states, kind)[-1:] for kind in kinds}, time)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("packages", nargs="*", default=list(ENSEMBLES))
    parser.add_argument("--pairs", type=int, nargs="+", help="for each package (default: 28 and 2)")
    parser.add_argument("--steps", type=int, nargs="+", help="of learned matching (default: 200 and none)")
    parser.add_argument("--together", action="store_true")
    args = parser.parse_args()
    there = shipped()
    with one_thread():
        pairs_of = args.pairs or [PAIRS[package] for package in args.packages]
        steps_of = args.steps or [STEPS[package] for package in args.packages]
        for package, pairs, steps in zip(args.packages, pairs_of, steps_of, strict=True):
            if package not in there:
                print(f"{package}: not installed")
                continue
            ensemble = there[package]()
            measure(ensemble, pairs, steps)
            if args.together:
                together(ensemble)


if __name__ == "__main__":
    main()
