"""Every entry in a process of its own, so that a crash, a loop or a leak costs one entry."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from .builder import MAPPINGS

Entry = tuple[str, str, str]
Record = dict[str, Any]
# What is done with every entry.
Task = Literal["stages", "audit", "rotate"]
MEMORY = 10 * 2**30


@dataclass(slots=True)
class Job:
    """One entry under way: its process, the end of the pipe that it reports on, and the last report."""

    entry: Entry
    process: Any
    reports: Connection
    started: float
    last: Record


def sweep(entries: Iterable[Entry], out: Path, jobs: int, timeout: float, *, task: Task = "stages") -> Iterator[Record]:
    """Runs entries and appends their records to a file as they come."""
    context = multiprocessing.get_context("forkserver")
    waiting, running = list(entries)[::-1], list[Job]()
    further = [f"{__package__}.warm_third_party"] if any(e[0] not in MAPPINGS for e in waiting) else []
    context.set_forkserver_preload([f"{__package__}.warm", *further])
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_start(context, waiting.pop(), task))
        wait([j.process.sentinel for j in running] + [j.reports for j in running], timeout=1)
        for job in list(running):
            record = _poll(job, timeout)
            if record is not None:
                running.remove(job)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                yield record


def _start(context: Any, entry: Entry, task: Task) -> Job:
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(entry, theirs, task), daemon=True)
    process.start()
    theirs.close()
    mapping, kind, name = entry
    empty: Record = {"mapping": mapping, "kind": kind, "model": name, "stages": {}, "running": "build", "audit": None}
    return Job(entry, process, mine, time.monotonic(), empty)


def _child(entry: Entry, reports: Connection, task: Task) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())
    os.dup2(quiet, sys.stderr.fileno())
    import torch

    from .rotations import rotated
    from .stages import audited, run

    torch.set_num_threads(1)
    tasks: dict[Task, Callable[..., Record]] = {"stages": run, "audit": audited, "rotate": rotated}
    reports.send(tasks[task](*entry, tell=reports.send))


def _poll(job: Job, timeout: float) -> Record | None:
    """The record of a job that has ended, was killed for its time, or died."""
    try:
        while job.reports.poll():
            job.last = job.reports.recv()
    except EOFError:
        pass
    seconds = time.monotonic() - job.started
    if "running" not in job.last:
        job.process.join(10)
        return job.last
    if job.process.is_alive() and seconds < timeout:
        return None
    died = f"the process ended with code {job.process.exitcode}"
    cause = f"more than {timeout:.0f} s" if job.process.is_alive() else died
    job.process.kill()
    job.process.join()
    stage = job.last.pop("running")
    job.last["stages"][stage] = {"ok": False, "seconds": round(seconds, 2), "cause": cause}
    return job.last
