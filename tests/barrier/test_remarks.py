"""What is worth knowing of a measurement stands in its text, its JSON, its card and its picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from symgraph.io.data import from_batches
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier

ASSUMED = "assumed: something"


def separable(count: int = 60) -> tuple[Tensor, Tensor]:
    """Examples of three classes, most of them of the first."""
    labels = torch.arange(count) % 5 % 3
    return nn.functional.one_hot(labels, 3).float() + 0.01, labels


class Reader(nn.Module):
    """Reads the class where it stands, or one beside it."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3).roll(shift, 0) * 5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def measured(*shifts: int) -> LossBarrier:
    data = replace(from_batches([separable()]), remarks=(ASSUMED,))
    return loss_barrier(*map(Reader, shifts), data, points=3)


def test_a_model_that_guesses_no_better_than_chance_is_named() -> None:
    good, bad = measured(0, 0), measured(0, 1)
    assert good.remarks == (ASSUMED,)
    assert len(bad.remarks) == 2 and bad.remarks[1].startswith("B is near chance: it meets 0% of the labels")
    assert "always giving the most frequent one 40%" in bad.remarks[1]


def test_labels_of_one_kind_and_losses_without_labels_say_nothing() -> None:
    x, _ = separable()
    same = from_batches([(x, torch.zeros(len(x), dtype=torch.long))])
    assert loss_barrier(Reader(1), Reader(2), same, points=3).remarks == ()
    floats = from_batches([(x, x)])
    assert loss_barrier(Reader(1), Reader(2), floats, points=3, loss="mse").remarks == ()
    assert loss_barrier(Reader(1), Reader(2), floats, points=3).remarks == ()


def test_remarks_are_in_the_text_the_json_and_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    found = measured(0, 1)
    assert str(found).endswith("\n".join(found.remarks))
    assert LossBarrier.from_json(found.to_json()) == found
    printed: list[str] = []
    monkeypatch.setattr(Figure, "supxlabel", lambda self, text, **how: printed.append(text))
    barrier_plot({"loss": found}, tmp_path / "a.png")
    assert printed[0].startswith(ASSUMED) and "most frequent one" in printed[0].replace("\n", " ")
