"""Small networks and batches, and the loss barrier between them in plain loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import SymgraphError
from symgraph.measure.measured import Measured

Batch = dict[str, Tensor]
State = dict[str, Tensor]


class Net(nn.Module):
    """A classifier with a normalisation, so that there are buffers of both kinds."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.up, self.down = nn.Linear(3, 5), nn.Linear(5, 4)
            self.norm = nn.BatchNorm1d(5)
            self.norm.running_mean = torch.randn(5)
            self.norm.running_var = torch.rand(5) + 0.5
            self.norm.num_batches_tracked = torch.tensor(seed)
        self.to(dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x)).relu())  # type: ignore[no-any-return]


class Words(nn.Module):
    """A language model without attention: each token says what comes next."""

    def __init__(self, seed: int, tied: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.head(self.table(input_ids))}


def segment(name: str, lambdas: Sequence[float], values: tuple[float, ...], *rest: Any) -> Measured:
    """A quantity along the segment between two models."""
    return Measured(name, tuple((1 - x, x) for x in lambdas), values, *rest)


def pairs(sizes: Sequence[int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Inputs and labels for `Net`; those of all batches together depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (sum(sizes),), generator=generator)
    return list(zip(torch.split(x, list(sizes)), torch.split(y, list(sizes)), strict=True))


def between(a: State, b: State, x: float) -> State:
    """The state at `x` on the segment, integers from A."""
    return {n: (1 - x) * a[n] + x * b[n] if a[n].is_floating_point() else a[n] for n in a}


def per_example(a: nn.Module, b: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], x: float) -> list[float]:
    """The cross-entropy of each example at `x`, from a model that is made for this point."""
    model = copy.deepcopy(a)
    model.load_state_dict(between(a.state_dict(), b.state_dict(), x))
    found = []
    with torch.no_grad():
        for inputs, labels in batches:
            for row, label in zip(model(inputs), labels, strict=True):
                found.append(float(torch.logsumexp(row, 0) - row[label]))
    return found


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean."""
    if len(values) < 2:
        return 0.0
    center = mean(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / (len(values) - 1) / len(values))


def chord(first: float, last: float, x: float) -> float:
    """The value at `x` on the straight line between the values at the ends."""
    return (1 - x) * first + x * last


@contextmanager
def refused(kind: type[SymgraphError], *texts: str) -> Iterator[None]:
    """Expects an error of exactly this kind that says all these texts, and what to do."""
    with pytest.raises(SymgraphError) as caught:
        yield
    assert type(caught.value) is kind, repr(caught.value)
    for text in texts:
        assert text in str(caught.value), str(caught.value)
    assert caught.value.remedy
