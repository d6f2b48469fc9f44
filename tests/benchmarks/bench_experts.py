"""Orders of experts: the rank of the found one among all, and what is left of the loss that naive averaging costs.

    python tests/benchmarks/bench_experts.py --data CIFAR_FOLDER --out FOLDER [--from scratch tuned]
        [--layers first last all] [--gates dense top-1 top-2 'top-2, shared'] [--experts 4 8 16]
        [--ways weights gate gram inputs 'activations 1/2' activations loss] [--ranked 'activations 1/2' weights inputs]
        [--pairs 1] [--steps 600] [--batch 128] [--jobs 1] [--device cpu]

Pairs of small vision transformers on CIFAR-10 (three layers of width 64), with mixtures of experts in the place of
the first, the last, or all feed-forward layers: trained whole from two seeds, or, as in the paper, one trained backbone
with mixtures of two seeds that alone are fine-tuned. Every way of matching gives an order of the experts; where there
are four, all 24 orders are solved in the same way, with everything else that moves, and ranked by the test loss at the
midpoint. From the way that is best on validation data (the last 2,000 images of training, or a tenth) the element is
then learned down the loss: of models from scratch both move, of fine-tuned ones the hidden units of one alone. One file
for each pair under --out, and a table of all of them.

Source: the setting of Tran et al., arXiv 2509.11348 (rank 2.5 of 24 and 2.1 % left in the first of twelve layers).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from pathlib import Path
from statistics import mean
from typing import Any

import expert_models
import torch
from expert_models import GATES, LAYERS, Case, Mixture, Setup, add_setup, backbone, setup
from measure import in_groups
from torch import Tensor, nn

import symgraph
from symgraph.match.activations import Activations
from symgraph.match.descent import Descent
from symgraph.match.input_moments import weighted
from symgraph.match.learned_matching import Lesson, learn
from symgraph.match.match_options import LearnOptions, MatchOptions
from symgraph.match.observe_batches import observe_models
from symgraph.match.order_by_loss import exchanged
from symgraph.match.unit_trees import units
from symgraph.measure.objective import EvenMixture, Objective
from symgraph.orbit.action import GroupElement
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.steps import Act
from symgraph.orbit.wreath import Tree
from symgraph.rules.book import default_rules
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64
from symgraph.tracing.wrap import evaluating

State = dict[str, Tensor]
# Batches that activations are read from, and of training images that orders are chosen on beside validation data.
READ, JUDGED = 30, 8


class Ordered(Descent):
    """A descent in which some outer spaces have a given order, whatever has moved before."""

    orders: Mapping[int, Tensor] = {}

    def _outer_order(self, unit: Tree, found: object) -> Tensor | None:
        order = self.orders.get(unit.space.id)
        if order is None:
            return None
        element = self.element.elements.get(unit.space.id)
        return order if element is None or element.index is None else element.index.flatten().argsort()[order]


class Judge(EvenMixture):
    """The barrier of the even mixture, computed elsewhere than the models are matched."""

    def __init__(self, net: nn.Module, states: Sequence[State], batches: Any, device: torch.device) -> None:
        self.device = device
        super().__init__(Objective(net), [self._there(s) for s in states], batches, "held-out data")

    def barrier(self, states: Sequence[Mapping[str, Tensor]]) -> float:
        return super().barrier([self._there(s) for s in states])

    def _there(self, state: Mapping[str, Tensor]) -> State:
        return {n: t.to(self.device, torch.float32 if t.is_floating_point() else None) for n, t in state.items()}


@dataclass
class Pair:
    """Two models in canonical form, what was seen of them, and what judges them.

    Matching small models is a matter of many small operators, which the host does sooner than a GPU.
    """

    symmetry: SymmetryGraph
    net: nn.Module
    states: tuple[State, State]
    given: tuple[State, State]
    validation: Judge
    test: Judge
    names: tuple[str, ...]
    mixtures: tuple[Tree, ...]
    seen: Activations
    lesson: Lesson
    results: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, nets: Sequence[nn.Module], data: Any) -> Pair:
        net, device = nets[0], torch.device(job.device)
        symmetry = symgraph.infer(net, {"pixel_values": torch.zeros(2, 3, 32, 32)})
        first, second = (float64(state_of(m)) for m in nets)
        states = (canonicalise(symmetry, first).state, canonicalise(symmetry, second).state)
        inside = tuple(s.name for s in symmetry.active if _in_mixture(symmetry, s.name, net))
        names = ("*",) if job.case.scratch else inside
        trees = units(symmetry, names)
        read = [{n: t.cpu() for n, t in b.items()} for b in data.batches("train", 128)[:READ]]
        seen = observe_models(symmetry, net, default_rules(), states, read, trees, moments=True)[0, 1]
        mixtures = tuple(t for t in trees if t.children and t.space.name in inside)
        net.to(device)
        held_out = data.batches("validation", 500)
        judged = Judge(net, (first, second), [*held_out, *data.batches("train", 500)[:JUDGED]], device)
        test = Judge(net, (first, second), data.batches("test", 500), device)
        lesson = Lesson(net, data.lesson(job.batch), held_out, device=device)
        return cls(symmetry, net, states, (first, second), judged, test, names, mixtures, seen, lesson)

    def naive(self) -> float:
        return self.test.barrier(self.given)

    def barrier(self, judge: Judge, element: GroupElement) -> float:
        return judge.barrier((self.states[0], Act(element).apply(self.states[1])))

    def solved(self, options: MatchOptions, orders: Mapping[int, Tensor] | None = None) -> GroupElement:
        """What a match finds, with given orders of some spaces or its own."""
        first, second = self.states
        if options.weighting == "inputs":
            first, second = (weighted(s, self.seen.moments, side) for side, s in enumerate(self.states))
        seen = self.seen if float(options.alpha) else None
        run = Ordered(self.symmetry, first, second, replace(options, spaces=self.names), 0, seen)
        run.orders = orders or {}
        return run.run(None).element

    def order(self, element: GroupElement, tree: Tree) -> tuple[int, ...]:
        found = element.elements.get(tree.space.id)
        return tuple(range(tree.space.size)) if found is None or found.index is None else _listed(found.index)


def _listed(index: Tensor) -> tuple[int, ...]:
    return tuple(index.flatten().tolist())


def _in_mixture(symmetry: SymmetryGraph, name: str, net: nn.Module) -> bool:
    """Whether what stands on a space belongs to a mixture, and nothing else does but the stream."""
    held = symmetry.acting_on[symmetry.by_name[name].id]
    inside = tuple(f"{n}." for n, m in net.named_modules() if isinstance(m, Mixture))
    return all(n.startswith(inside) for n in held)


WAYS = {
    "weights": MatchOptions(alpha=0.0),
    "gate": MatchOptions(alpha=0.0, outer="gate"),
    "gram": MatchOptions(alpha=0.0, outer="gram"),
    "inputs": MatchOptions(alpha=0.0, weighting="inputs"),
    "activations 1/2": MatchOptions(alpha=0.5),
    "activations": MatchOptions(alpha=1.0),
}
BY_LOSS = "loss"
RANKED = ("activations 1/2", "weights", "inputs")
# Of each of the orders that are ranked.
SWEEPS = 8
# What else is ranked among orders that one of these has solved.
ALIKE = {"gate": "weights", "gram": "weights", "activations": "activations 1/2"}


def by_costs(pair: Pair, ways: Sequence[str]) -> dict[str, GroupElement]:
    """What every way of matching finds, and from the best on validation data the order by loss."""
    found = {}
    for way in (w for w in ways if w != BY_LOSS):
        start = time.process_time()
        found[way] = pair.solved(WAYS[way])
        _note(pair, way, found[way], time.process_time() - start)
    if BY_LOSS in ways:
        best = best_of(pair.results)
        found[BY_LOSS] = _by_loss(pair, BY_LOSS, best, found[best])
        if "weights" in found and pair.results[best]["orders"] != pair.results["weights"]["orders"]:
            from_weights = f"{BY_LOSS}, from weights"
            found[from_weights] = _by_loss(pair, from_weights, "weights", found["weights"])
    return found


def best_of(results: Mapping[str, Any]) -> str:
    """The way with the least loss on validation data."""
    return min(results, key=lambda way: float(results[way]["validation"]))


def _by_loss(pair: Pair, name: str, way: str, element: GroupElement) -> GroupElement:
    """Exchanges from what a way has found."""
    options = replace(WAYS[way], outer="joint", spaces=pair.names)
    start = time.process_time()
    seen = pair.seen if float(options.alpha) or options.weighting == "inputs" else None
    found = exchanged(pair.symmetry, pair.states, element, options, pair.validation, seen)
    _note(pair, name, found.element, time.process_time() - start)
    pair.results[name]["from"], pair.results[name]["tried"] = way, found.tried
    return found.element


def _note(pair: Pair, name: str, element: GroupElement, seconds: float) -> None:
    pair.results[name] = {
        "orders": {t.space.name: pair.order(element, t) for t in pair.mixtures},
        "validation": pair.barrier(pair.validation, element),
        "test": pair.barrier(pair.test, element),
        "seconds": seconds,
    }


def ranked(pair: Pair, way: str) -> dict[str, Any]:
    """All orders of each mixture, the others as they were found: the test loss of each, solved alike."""
    options, found = replace(WAYS[way], sweeps=SWEEPS), pair.results[way]["orders"]
    every = {}
    for tree in pair.mixtures:
        others = {t.space.id: torch.tensor(found[t.space.name]) for t in pair.mixtures if t is not tree}
        orders = {}
        for order in permutations(range(tree.space.size)):
            element = pair.solved(options, {**others, tree.space.id: torch.tensor(order)})
            orders[" ".join(map(str, order))] = pair.barrier(pair.test, element)
        every[tree.space.name] = orders
    return every


def learned(pair: Pair, element: GroupElement, steps: int, scratch: bool) -> dict[str, Any]:
    """Learned from an order on: the element moves everything that the models do not share.

    Where they share the rest of the network there is nothing to learn but which hidden unit is which.
    """
    start = time.process_time()
    both = (pair.states[0], Act(element).apply(pair.states[1]))
    states = [{n: t.to(pair.test.device, torch.float32) for n, t in s.items()} for s in both]
    moves: dict[str, Any] = {"dual": scratch, "permutations": not scratch, "spaces": pair.names}
    with evaluating(pair.net):
        options = LearnOptions(steps=steps, patience=0, check_every=100, **moves)
        found = learn(pair.symmetry, states, pair.lesson, options)
    moved = [s if t is None else t.apply(s) for t, s in zip(found.transforms, states, strict=True)]
    history = {str(step): value for step, value in found.history}
    test = pair.test.barrier(moved)
    return {"test": test, "validation": history, "seconds": time.process_time() - start}


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job(Setup):
    """One pair."""

    case: Case
    number: int
    batch: int
    ways: tuple[str, ...]
    ranked: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.case)

    @property
    def path(self) -> Path:
        return self.out / f"{self.case.name}-{self.number}.json"


def run(job: Job) -> str:
    """Measures one pair that is trained; what is known is written as it comes."""
    if job.path.exists():
        return described(json.loads(job.path.read_text()))
    if time.monotonic() > job.end:
        return f"{job.case}: no time left"
    start, data = time.process_time(), job.images
    nets = expert_models.pair(job.case, job.number, job.scratch, data)
    pair = Pair.of(job, nets, data)
    record: dict[str, Any] = {"case": str(job.case), "number": job.number}
    record |= {"ends": pair.test.chord, "naive": pair.naive(), "ways": pair.results}
    elements = by_costs(pair, job.ways)
    _write(job, record)
    if job.steps and time.monotonic() < job.end:
        best = best_of(pair.results)
        record["learned"] = {"from": best, **learned(pair, elements[best], job.steps, job.case.scratch)}
        _write(job, record)
    if job.case.experts == 4:
        record["ranked"] = {}
        for way in job.ranked:
            if time.monotonic() < job.end:
                record["ranked"][way] = ranked(pair, way)
                _write(job, record)
    record["seconds"] = time.process_time() - start
    _write(job, record, done=True)
    return described(record)


def _write(job: Job, record: Mapping[str, Any], done: bool = False) -> None:
    partial = job.path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    if done:
        partial.rename(job.path)


def described(record: Mapping[str, Any]) -> str:
    """A line on each way of one pair."""
    naive = record["naive"]
    lines = [f"{record['case']}: ends {record['ends']:.3f}, naive averaging {naive:.4f} above them"]
    for way, found in record["ways"].items():
        ranks = [str(r) for r in ranks_of(record, way)]
        rank = f", rank {' '.join(ranks)} of 24" if ranks else ""
        lines.append(f"    {way:<20} {found['test']:.4f} ({100 * found['test'] / naive:.2f} %){rank}")
    if "learned" in record:
        left = record["learned"]["test"]
        lines.append(f"    {'learned from there':<20} {left:.4f} ({100 * left / naive:.2f} %)")
    return "\n".join(lines)


def ranks_of(record: Mapping[str, Any], way: str) -> list[int]:
    """Of a way's order in each mixture among all: solved as that way does, or as one that solved all of them."""
    ranked = record.get("ranked", {})
    solved = record["ways"][way].get("from", way)
    every = ranked.get(ALIKE.get(solved, solved), next(iter(ranked.values()), {}))
    orders = record["ways"][way]["orders"]
    return [_rank(losses, orders[name]) for name, losses in every.items()]


def _rank(losses: Mapping[str, float], order: Sequence[int]) -> int:
    own = losses[" ".join(map(str, order))]
    return 1 + sum(loss < own - 1e-6 for loss in losses.values())


HEAD = ("from", "experts in", "gate", "experts", "naive averaging", "best way", "its rank of 24", "left", "learned")


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each kind of pair, means over the pairs, and the means over all rows of models that began alike.

    What is left is in percent of naive averaging's barrier; below zero the mean model is better than the two are.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        kinds.setdefault(record["case"], []).append(record)
    rows = [[*_words(case), *_figures(some)] for case, some in kinds.items()]
    for start in dict.fromkeys(row[0] for row in rows):
        rows.append([start, "mean of all", "", "", *_figures([r for r in records if r["case"].startswith(start)])])
    lines = [" | ".join(row) for row in (HEAD, ["---"] * len(HEAD), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _words(case: str) -> list[str]:
    start, layers, *gate, experts = case.split(" ")
    return [start, layers, " ".join(gate), experts]


def _figures(records: Sequence[Mapping[str, Any]]) -> list[str]:
    best = [best_of(r["ways"]) for r in records]
    ranks = [rank for r, way in zip(records, best, strict=True) for rank in ranks_of(r, way)]
    left = [100 * r["ways"][way]["test"] / r["naive"] for r, way in zip(records, best, strict=True)]
    learned = [100 * r["learned"]["test"] / r["naive"] for r in records if "learned" in r]
    return [
        f"{mean(r['naive'] for r in records):.4f}",
        ", ".join(dict.fromkeys(best)),
        f"{mean(ranks):.2f}" if ranks else "",
        f"{mean(left):.1f} %",
        f"{mean(learned):.2f} %" if learned else "",
    ]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_setup(parser, pairs=1, steps=600)
    parser.add_argument("--from", dest="starts", nargs="+", default=["scratch", "tuned"], choices=["scratch", "tuned"])
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--gates", nargs="+", default=list(GATES), choices=list(GATES))
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--batch", type=int, default=128, help="images in a step of learning")
    every = (*WAYS, BY_LOSS)
    parser.add_argument("--ways", nargs="+", default=list(every), choices=every)
    parser.add_argument("--ranked", nargs="*", default=list(RANKED), choices=RANKED, help="ways that solve all orders")
    args = parser.parse_args(arguments)
    own = {"batch": args.batch, "ways": tuple(args.ways), "ranked": tuple(args.ranked)}
    common = {**vars(setup(args)), **own}
    groups = []
    for experts, number, start in product(args.experts, range(args.pairs), args.starts):
        cases = (Case(start == "scratch", layers, gate, experts) for layers, gate in product(args.layers, args.gates))
        groups.append([Job(case=case, number=number, **common) for case in cases])
    in_groups(groups, train, run, args.jobs)
    records = [json.loads(job.path.read_text()) for group in groups for job in group if job.path.exists()]
    print(table(records))
    return records


def train(jobs: Sequence[Job]) -> None:
    """All pairs of a group that are not there yet."""
    if time.monotonic() > jobs[0].end:
        return
    first, start, device = jobs[0], time.perf_counter(), torch.device(jobs[0].device)
    data = first.images
    if not first.case.scratch:
        backbone(first.scratch, first.epochs, data, device)
    expert_models.train([(job.case, job.number) for job in jobs], first.scratch, first.epochs, data, device)
    print(f"{len(jobs)} pairs like {first.case}: {time.perf_counter() - start:.0f} s of training", flush=True)


if __name__ == "__main__":
    main()
