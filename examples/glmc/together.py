"""Training where launching kernels takes longer than running them: whole steps are captured, several models at once.

A step draws its batch from images or texts that stay on the device, augments it there, computes in bf16 where that is
faster, and updates by a rate that is read from a table: nothing of it comes from the host, so that on a GPU one replay
of a graph is all there is to launch. Every model has a stream of its own, as the steps of one do not fill the device.
Elsewhere the same steps run one operator after the other.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from corpora import Augmentation, Corpus
from settings import Setting
from torch.nn import functional
from training import measured, rates
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

WARM = 3
# Attention without masks but for the causal one of a model that has it.
UNMASKED = "unmasked_sdpa"
AttentionInterface.register(UNMASKED, sdpa_attention_forward)
VALIDATED = 64


def train_together(
    models: Sequence[PreTrainedModel], s: Setting, corpus: Corpus, seeds: Sequence[int], compiled: bool = False
) -> None:
    """Trains all in place, on the device where they are; with `stop_early` each keeps the state with its best loss.

    A last batch that is not full is left out; in every epoch it is another one.
    """
    device = next(models[0].parameters()).device
    placed = corpus.to(device)
    each = [Trained(m, s, placed, seed, compiled) for m, seed in zip(models, seeds, strict=True)]
    steps, done = len(each[0].order), 0
    start = time.perf_counter()
    while done < each[0].total:
        count = min(steps, each[0].total - done)
        for trained in each:
            trained.shuffle()
        for _ in range(count):
            for trained in each:
                trained.step()
        done += count
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if done == count:
            print(
                f"  {len(each)} models, {1000 * (time.perf_counter() - start) / count:.2f} ms for a step of all",
                flush=True,
            )
        if s.stop_early:
            for trained in each:
                trained.keep_if_best()
            # What is kept is copied in the device's own stream, and steps run beside it.
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    for trained in each:
        trained.end()


class Trained:
    """One model in training: `step` is one replay on a GPU."""

    def __init__(self, model: PreTrainedModel, s: Setting, corpus: Corpus, seed: int, compiled: bool) -> None:
        self.model, self.setting, self.corpus = model, s, corpus
        self.device = next(model.parameters()).device
        self.graphed = self.device.type == "cuda"
        inputs = corpus.train[0]
        steps = max(1, len(inputs) // s.batch)
        self.total = max(1, round(s.epochs * steps))
        self.order = torch.zeros(steps, min(s.batch, len(inputs)), dtype=torch.int64, device=self.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.device)
        # Warming up takes a few steps of a training that may be shorter.
        factors = torch.tensor([*rates(s, self.total), *[0.0] * WARM])
        self.rates = (s.rate * factors).to(self.device)
        rate: Any = torch.zeros((), device=self.device) if self.graphed else s.rate
        how: dict[str, Any] = {"capturable": True, "fused": True} if self.graphed else {}
        self.optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=s.decay, **how)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.augment = Augmentation(inputs.shape[-1], self.device) if corpus.augmented else None
        self.network: Callable[..., Any] = torch.compile(model) if compiled else model
        self.stream = torch.cuda.Stream(self.device) if self.graphed else None
        self.best, self.kept = math.inf, {}  # type: tuple[float, dict[str, Tensor]]
        # Whether a mask is needed is asked of its numbers, which are not there while a graph is captured.
        model.set_attn_implementation(UNMASKED)
        model.train()
        if self.graphed:
            self.graph = self._captured()

    def shuffle(self) -> None:
        """Another order for the next epoch."""
        with self._beside():
            drawn = torch.randperm(len(self.corpus.train[0]), generator=self.generator, device=self.device)
            self.order.copy_(drawn[: self.order.numel()].view_as(self.order))

    def step(self) -> None:
        if not self.graphed:
            self._step()
            return
        with self._beside():
            self.graph.replay()

    def keep_if_best(self) -> None:
        found, _ = measured(self.model, self.corpus, "validation", VALIDATED if self.corpus.text else None)
        if found < self.best:
            self.best, self.kept = found, copy.deepcopy(self.model.state_dict())
        self.model.train()

    def end(self) -> None:
        if self.kept:
            self.model.load_state_dict(self.kept)
        self.model.set_attn_implementation("sdpa")
        self.model.eval()

    def _step(self) -> None:
        chosen = self.order.index_select(0, self.at % len(self.order)).flatten()
        inputs, labels = (t.index_select(0, chosen) for t in self.corpus.train)
        if self.augment is not None:
            # A graph knows the default generator alone; on the host there is no other reason to have one.
            inputs = self.augment(inputs, None if self.graphed else self.generator)
        rate = self.rates.index_select(0, self.at).squeeze(0)
        group = self.optimiser.param_groups[0]
        group["lr"] = group["lr"].copy_(rate) if self.graphed else float(rate)
        self.at += 1
        self.optimiser.zero_grad(set_to_none=True)
        with self._halves():
            more: dict[str, Any] = (
                {"input_ids": inputs, "use_cache": False} if self.corpus.text else {"pixel_values": inputs}
            )
            logits = self.network(**more).logits
        if self.corpus.text:
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _halves(self) -> AbstractContextManager[Any]:
        # Casts of weights that are kept from one step to the next would be missing from the graph.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if self.graphed else nullcontext()

    def _beside(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream) if self.graphed else nullcontext()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The graph of one step; what warming up has changed is as it was before, but for random numbers."""
        now = torch.cuda.current_stream(self.device)
        assert self.stream is not None
        self.stream.wait_stream(now)
        with own_numbers(self.generator, self.device):
            with torch.cuda.stream(self.stream):
                planned, self.rates = self.rates, torch.zeros_like(self.rates)
                for _ in range(WARM):
                    self._step()
                self.rates.copy_(planned)
            torch.cuda.synchronize(self.device)
            self.optimiser.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self._step()
        torch.cuda.synchronize(self.device)
        self.at.zero_()
        for state in self.optimiser.state.values():
            for tensor in state.values():
                tensor.zero_()
        torch.cuda.synchronize(self.device)
        return graph


@contextmanager
def own_numbers(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """The device's default random numbers are those of a generator, in graphs captured inside for ever."""
    usual = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    before = usual.graphsafe_get_state()
    usual.graphsafe_set_state(generator.graphsafe_get_state())
    try:
        yield
    finally:
        usual.graphsafe_set_state(before)
