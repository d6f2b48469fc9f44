"""One method on one pair is a job: several processes share them, and each writes what it found."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from corpora import EVALUATED, Corpus, images, text
from settings import Setting
from together import train_together
from torch import nn
from training import endpoint, fresh, keep
from transformers.utils.logging import disable_progress_bar

import symgraph
from symgraph.match.match_options import LearnOptions, MatchOptions


def aligned(method: str, a: nn.Module, b: nn.Module, s: Setting, corpus: Corpus, device: torch.device) -> Any:
    """The two endpoints of the line, and the module to evaluate them in."""
    if method == "vanilla":
        return dict(a.state_dict()), dict(b.state_dict())
    if method == "weights":
        found = symgraph.align(a, b, device=device)
        return found.reference, found.state
    data: dict[str, Any] = {
        "data": corpus.lesson(s.learning_batch),
        "validation": corpus.batches("validation", EVALUATED if not corpus.text else 64),
    }
    if method in ("activations", "mixed"):
        options = MatchOptions(alpha=1.0 if method == "activations" else "auto")
        found = symgraph.align(a, b, method="activations", options=options, device=device, **data)
        return found.reference, found.state
    only = method.endswith("permutations only")
    symmetry = symgraph.infer(a)
    learning = LearnOptions(
        steps=s.steps,
        lr=s.learning_rate,
        dual=method.endswith("dual"),
        patience=0,
        permutations=only,
        full=not only,
        autocast=device.type != "cpu",
    )
    found = symgraph.align(
        a,
        b,
        method="learned",
        symmetry=symmetry.within("permutation") if only else symmetry,
        learning=learning,
        device=device,
        dtype=torch.float64 if device.type == "cpu" else torch.float32,
        **data,
    )
    return found.reference, found.state


@dataclass(frozen=True, slots=True)
class Job:
    """One method on one pair, or with no method the training of the endpoints of so many pairs."""

    setting: Setting
    data: Path
    out: Path
    tokenizer: str | None
    limit: int | None
    device: torch.device
    pair: int
    method: str

    @property
    def folder(self) -> Path:
        return self.out / self.setting.name

    @property
    def path(self) -> Path:
        return self.folder / f"pair-{self.pair}" / f"{file_name(self.method)}.json"


_read: dict[Path, Corpus] = {}


def corpus_of(job: Job) -> Corpus:
    """What a job reads: once in a process."""
    key, s = job.folder, job.setting
    if key not in _read:
        if s.kind == "images":
            found = images(job.data, s, job.folder, job.limit)
        else:
            found = text(job.data, s, job.tokenizer, job.folder, job.limit)
        _read[key] = found
    return _read[key]


def train_all(job: Job, pairs: int, compiled: bool) -> None:
    """The endpoints that are not there yet: on a GPU all at once."""
    s, corpus = job.setting, corpus_of(job)
    missing = [i for i in range(2 * pairs) if not (job.folder / f"{i}" / "config.json").exists()]
    if job.device.type == "cpu":
        for i in missing:
            endpoint(s, corpus, i, job.folder / f"{i}", job.device)
    elif missing:
        start = time.perf_counter()
        models = [fresh(s, corpus, i).to(job.device) for i in missing]
        train_together(models, s, corpus, missing, compiled)
        for i, model in zip(missing, models, strict=True):
            keep(model, corpus, job.folder / f"{i}", time.perf_counter() - start)


def measure(job: Job) -> None:
    """Aligns one pair by one method, and writes what the barrier is."""
    if job.path.exists():
        return
    s, corpus, device = job.setting, corpus_of(job), job.device
    ends = [endpoint(s, corpus, 2 * job.pair + i, job.folder / f"{2 * job.pair + i}", device) for i in range(2)]
    start = time.perf_counter()
    model = [e.cpu() for e in ends]
    first, second = aligned(job.method, model[0], model[1], s, corpus, device)
    taken = time.perf_counter() - start
    metrics = () if corpus.text else ("accuracy",)
    test = corpus.batches("test", EVALUATED if not corpus.text else 16)
    plain = endpoint(s, corpus, 2 * job.pair, job.folder / f"{2 * job.pair}", torch.device("cpu"))
    found = symgraph.loss_barrier(first, second, test, module=plain, metrics=metrics, device=device)
    record = {"barrier": found.barrier, "error": found.standard_error, "midpoint": found.midpoint}
    record |= {"minimum": found.interior_min, "seconds": taken, "curve": json.loads(found.to_json())}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    partial = job.path.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.rename(job.path)
    print(
        f"  {s.name} pair {job.pair}  {job.method:<28} barrier {found.barrier:.4f} \u00b1 {found.standard_error:.4f}"
        f"  midpoint {found.midpoint:.4f}  {taken:.0f} s",
        flush=True,
    )


@contextmanager
def workers(processes: int) -> Iterator[Executor | None]:
    """Processes for the methods, which import all that they need while the endpoints are trained; None: just this one.

    They are spawned, as a device that is in use cannot be taken into a fork.
    """
    if processes < 2:
        yield None
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for _ in range(processes):
            pool.submit(_ready)
        yield pool


def _ready() -> None:
    """To have been called takes the imports of this module."""


def run_all(jobs: Sequence[Job], pool: Executor | None, end: float) -> None:
    """The methods, several at once if there are processes for it; none is begun after `end`, a monotonic time."""
    todo = [job for job in jobs if not job.path.exists()]
    if pool is None:
        for job in todo:
            if _in_time(job, end):
                measure(job)
        return
    # What takes longest comes first, so that no process is left alone with it at the end.
    todo.sort(key=lambda job: not job.method.startswith("learned"))
    for job, failed in zip(todo, [pool.submit(_measured_in_time, job, end) for job in todo], strict=True):
        if failed.exception() is not None:
            print(f"  {job.setting.name} pair {job.pair}  {job.method}: {failed.exception()}", flush=True)


def _measured_in_time(job: Job, end: float) -> None:
    disable_progress_bar()
    if _in_time(job, end):
        measure(job)


def _in_time(job: Job, end: float) -> bool:
    left = time.monotonic() < end
    if not left:
        print(f"  {job.setting.name} pair {job.pair}  {job.method}: no time left", flush=True)
    return left


def file_name(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")
