"""Connectivity where the paper has figures and no tables: many models, unequal widths, tasks that differ in part.

    python tests/benchmarks/bench_connectivity.py --data CIFAR_FOLDER --out FOLDER [--tables many widths tasks]
        [--pairs 2] [--steps 1000] [--jobs 1] [--device cpu]

Small vision transformers on CIFAR-10 (three layers; 5 epochs), trained here, and matched by each method ("mixed" is by
weights and activations, with the best share for two models and one half for more).
many: 3, 5 and 8 models of width 64 in a universe, the barrier over the simplex (pairs, even mixture, multiples of 1/4,
or of 1/2 for more than four), and the accuracy of the even mixture.
widths: a model of width 128 and one of 64 or 32, embedded into the shape of the first; the barrier on the line.
tasks: two models of width 64, each trained on the images of its own classes, of which so many are common; the loss and
the accuracy on the test images of all classes at the midpoint, and of the mean of the two models' probabilities.

Source: Theus et al., arXiv 2506.22712, figures on many models and unequal widths; tables are not in the paper.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import expert_models
import torch
from expert_models import Setup, add_setup, setup
from measure import in_groups
from together import train_together  # type: ignore[import-not-found]
from torch import nn
from training import fresh  # type: ignore[import-not-found]

import symgraph
from symgraph.match.match_options import LearnOptions, MatchOptions

METHODS = ("as trained", "weights", "mixed", "learned")
# Classes of the first and of the second model, by how many they have in common.
SPLITS = {0: (range(5), range(5, 10)), 2: (range(6), range(4, 10)), 6: (range(8), range(2, 10))}
WIDE = 128


@dataclass(frozen=True)
class Trained:
    """One model: its width, its seed, and the classes that it has seen."""

    width: int
    seed: int
    classes: tuple[int, ...] = tuple(range(10))

    @property
    def name(self) -> str:
        """As its file is called."""
        return f"{self.width}-{self.seed}-{''.join(map(str, self.classes))}"


@dataclass(frozen=True, kw_only=True)
class Job(Setup):
    """Some models matched by one method."""

    table: str
    what: int
    number: int
    method: str
    models: tuple[Trained, ...]

    def __str__(self) -> str:
        return f"{self.table} {self.what} ({self.number}) {self.method}"

    @property
    def path(self) -> Path:
        return self.out / f"{self.table}-{self.what}-{self.number}-{self.method.replace(' ', '-')}.json"


def setting(width: int, epochs: float) -> Any:
    return replace(expert_models.setting(epochs), width=width, hidden=2 * width)


def train(jobs: Sequence[Job]) -> None:
    """All models of some jobs that are not there yet, those of one shape and one task at once."""
    kinds: dict[tuple[int, tuple[int, ...]], list[Trained]] = {}
    for model in dict.fromkeys(m for job in jobs for m in job.models):
        if not (jobs[0].scratch / f"{model.name}.pt").exists() and time.monotonic() < jobs[0].end:
            kinds.setdefault((model.width, model.classes), []).append(model)
    for (width, classes), models in kinds.items():
        start, data, device = time.perf_counter(), jobs[0].images, torch.device(jobs[0].device)
        images, labels = data.train
        seen = torch.isin(labels, torch.tensor(classes, device=labels.device))
        s = setting(width, jobs[0].epochs)
        nets = [fresh(s, data, m.seed).to(device) for m in models]
        train_together(nets, s, replace(data, train=(images[seen], labels[seen])), [m.seed for m in models])
        for model, net in zip(models, nets, strict=True):
            torch.save({n: t.cpu() for n, t in net.state_dict().items()}, jobs[0].scratch / f"{model.name}.pt")
        print(f"{len(models)} models of width {width}: {time.perf_counter() - start:.0f} s of training", flush=True)


def run(job: Job) -> str:
    """Matches, measures, and writes what was found."""
    if not job.path.exists():
        if time.monotonic() > job.end:
            return f"{job}: no time left"
        data, start = job.images, time.perf_counter()
        nets = [_loaded(job, m, data) for m in job.models]
        states, module, notes = matched(job, nets, data)
        record = {"seconds": time.perf_counter() - start, "notes": notes, **measured(job, states, module, nets, data)}
        partial = job.path.with_suffix(".partial")
        partial.write_text(json.dumps({"table": job.table, "what": job.what, "method": job.method, **record}))
        partial.rename(job.path)
    found = json.loads(job.path.read_text())
    return f"{job}: barrier {found['barrier']:.4f}, even mixture {found['even']:.4f}, {found['seconds']:.0f} s"


def _loaded(job: Job, model: Trained, data: Any) -> nn.Module:
    net: nn.Module = fresh(setting(model.width, 0), data, 0)
    net.load_state_dict(torch.load(job.scratch / f"{model.name}.pt", weights_only=True))
    return net.eval()


def matched(job: Job, nets: Sequence[nn.Module], data: Any) -> tuple[list[Any], nn.Module, list[str]]:
    """States in one basis, the module that they are of, and what was said."""
    held_out = data.batches("validation", 500)
    if job.method == "as trained":
        return [_in_shape(nets[0], n) for n in nets], nets[0], []
    # A share for each set of candidates would be many matches of many models.
    how: dict[str, Any] = {"options": MatchOptions(alpha="auto" if len(nets) == 2 else 0.5)}
    if job.method == "mixed":
        host = [{n: t.cpu() for n, t in b.items()} for b in data.batches("train", 128)[:30]]
        how |= {
            "method": "activations",
            "data": host,
            "validation": [{n: t.cpu() for n, t in b.items()} for b in held_out],
        }
    if job.method == "learned":
        many = len(nets) > 2
        more: dict[str, Any] = {"sampler": "dirichlet", "estimate": "worst"} if many else {}
        how |= {"method": "learned", "data": data.lesson(128), "validation": held_out, "device": job.device}
        how |= {"learning": LearnOptions(steps=job.steps, patience=0, check_every=100, dual=not many, **more)}
        how |= {"dtype": torch.float64 if job.device == "cpu" else torch.float32}
    if len(nets) > 2:
        found = symgraph.universe(nets, **how)
        return list(found.states), nets[0], list(found.notes)
    pair = symgraph.align(*nets, **how)
    return [pair.reference, pair.state], nets[0], list(pair.notes)


def _in_shape(wide: nn.Module, net: nn.Module) -> Any:
    """The state of a model, embedded exactly where it is narrower."""
    same = all(p.shape == q.shape for p, q in zip(wide.parameters(), net.parameters(), strict=True))
    return dict(net.state_dict()) if same else symgraph.embed(net, like=wide).model.module.state_dict()


def measured(job: Job, states: list[Any], module: nn.Module, nets: Sequence[nn.Module], data: Any) -> dict[str, Any]:
    """The barrier, and loss and accuracy of the even mixture and of the models."""
    test = data.batches("test", 500)
    found = symgraph.loss_barrier(*states, test, module=module, metrics=["accuracy"], device=job.device)
    loss, accuracy = found.loss, found.metrics[0]
    count = len(states)
    even = accuracy.mixtures.index((1 / count,) * count) if count > 2 else len(loss.values) // 2
    corners = [tuple(row) for row in torch.eye(count).tolist()]
    ends = [loss.mixtures.index(c) for c in corners] if count > 2 else [0, -1]
    record = {
        "barrier": found.barrier,
        "error": loss.standard_error,
        "even": loss.values[even],
        "even_over_mean": loss.midpoint,
        "accuracy": accuracy.values[even],
        "ends": [loss.values[i] for i in ends],
        "accuracies": [accuracy.values[i] for i in ends],
        "curve": json.loads(found.to_json()),
    }
    return record | (_ensemble(nets, test) if job.table == "tasks" else {})


@torch.no_grad()
def _ensemble(nets: Sequence[nn.Module], test: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and accuracy of the mean of the models' probabilities."""
    lost = right = count = 0.0
    for batch in test:
        images, labels = batch["pixel_values"], batch["labels"]
        each = [n.to(images.device)(pixel_values=images).logits.softmax(-1) for n in nets]
        chance = torch.stack(each).mean(0)
        lost += float(nn.functional.nll_loss(chance.clamp_min(1e-12).log(), labels, reduction="sum"))
        right += float((chance.argmax(-1) == labels).sum())
        count += len(labels)
    return {"ensemble": lost / count, "ensemble_accuracy": right / count}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Means over the pairs (or sets)."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for r in records:
        groups.setdefault((r["table"], r["what"], r["method"]), []).append(r)
    lines = ["table   what  method      barrier  even mixture (its accuracy)  mean of the models (accuracy)"]
    for (kind, what, method), some in groups.items():
        barrier, even, right = (mean(r[k] for r in some) for k in ("barrier", "even", "accuracy"))
        ends, accuracies = (mean(mean(r[k]) for r in some) for k in ("ends", "accuracies"))
        line = f"{kind:<7} {what:>4}  {method:<10} {barrier:>8.4f}  {even:.3f} ({right:.1%})"
        line += f"  {ends:.3f} ({accuracies:.1%})"
        if "ensemble" in some[0]:
            loss, accuracy = (mean(r[k] for r in some) for k in ("ensemble", "ensemble_accuracy"))
            line += f"  ensemble {loss:.3f} ({accuracy:.1%})"
        lines.append(f"{line}  {len(some)} sets")
    return "\n".join(lines)


def groups_of(args: argparse.Namespace) -> list[list[Job]]:
    """Jobs by what has to be trained for them."""
    shared = vars(setup(args))
    groups = []
    for kind in args.tables:
        jobs = []
        if kind == "many":
            sets = [(count, 0, tuple(Trained(64, s) for s in range(count))) for count in args.models]
        elif kind == "widths":
            sets = [
                (ratio, i, (Trained(WIDE, 10 + i), Trained(WIDE // ratio, 20 + i)))
                for ratio in (2, 4)
                for i in range(args.pairs)
            ]
        else:
            sets = [
                (common, i, tuple(Trained(64, 30 + 2 * i + k, tuple(c)) for k, c in enumerate(classes)))
                for common, classes in SPLITS.items()
                for i in range(args.pairs)
            ]
        for what, number, models in sets:
            about = {"table": kind, "what": what, "number": number, "models": models}
            jobs += [Job(**about, method=method, **shared) for method in args.methods]
        # What takes longest comes first, so that no process is left alone with it at the end.
        groups.append(sorted(jobs, key=lambda job: (job.method != "learned", -len(job.models))))
    return groups


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_setup(parser, pairs=2, steps=1000)
    parser.add_argument("--tables", nargs="+", default=["many", "widths", "tasks"], choices=["many", "widths", "tasks"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--models", type=int, nargs="+", default=[3, 5, 8])
    args = parser.parse_args(arguments)
    groups = groups_of(args)
    in_groups(groups, train, run, args.jobs)
    records = [json.loads(job.path.read_text()) for group in groups for job in group if job.path.exists()]
    print(table(records))
    return records


if __name__ == "__main__":
    main()
