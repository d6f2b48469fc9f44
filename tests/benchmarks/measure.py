"""Process time, so that other programs on the machine do not count, and ratios of interleaved runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import GPT2Config, GPT2LMHeadModel

if TYPE_CHECKING:
    from collections.abc import Iterator

Batch = dict[str, torch.Tensor]
Job = TypeVar("Job")
VOCABULARY, CONTEXT = 1024, 256


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as process time adds up that of all threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Process time of one call, and its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def ratio(first: Callable[[], Any], second: Callable[[], Any], repetitions: int) -> tuple[float, float, float]:
    """Median ratio of first over second, each repetition one after the other, and the median times of both."""
    pairs = [(seconds(first)[0], seconds(second)[0]) for _ in range(repetitions)]
    return median(a / b for a, b in pairs), median(a for a, _ in pairs), median(b for _, b in pairs)


def language_model(seed: int = 0, **sizes: int) -> GPT2LMHeadModel:
    """GPT-2 with 4 layers of width 128, context 256, vocabulary 1,024, or other sizes, and a head of its own."""
    torch.manual_seed(seed)
    own: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 128, "n_layer": 4, "n_head": 4}
    fixed = {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(**own | sizes | fixed))
    model.train(False)
    return model


def sequences(count: int, batch: int) -> list[Batch]:
    """Random tokens with themselves as labels, in batches."""
    tokens = torch.randint(VOCABULARY, (count, CONTEXT), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": t, "labels": t} for t in torch.split(tokens, batch)]


def in_groups(
    groups: Sequence[Sequence[Job]], prepare: Callable[[Sequence[Job]], None], run: Callable[[Job], str], processes: int
) -> None:
    """Prepares one group of jobs after the other, and runs what is prepared meanwhile, in processes of its own.

    What `run` says of each is printed, or how it failed.
    """
    if processes < 2:
        for group in groups:
            prepare(group)
            for job in group:
                print(run(job), flush=True)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        waiting = []
        for group in groups:
            prepare(group)
            waiting += [(job, pool.submit(run, job)) for job in group]
        for job, done in waiting:
            print(f"{job}: {done.exception()!r}" if done.exception() else done.result(), flush=True)
