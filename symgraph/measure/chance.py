"""Whether a model is better on data than one that always gives the most frequent label.

One that is not was hardly trained on such data, or does not get it as it was trained: other labels, another order of
them, pixels that are normalised in another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from symgraph.io.columns import IGNORED
from symgraph.measure.losses import NoLossFits, guesses

# So many standard errors above chance are none, up to such a share of the labels.
NEAR, NEAR_SHARE = 2.0, 0.05


class Chance:
    """What models one after the other have guessed, and the labels; a quantity of outputs and a batch that is zero."""

    def __init__(self) -> None:
        self.hits: list[int] = []
        self.labels: Counter[int] = Counter()

    def begin(self) -> None:
        """The next model."""
        self.hits.append(0)
        self.labels.clear()

    def __call__(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Counts a batch of the model; where it has no labels to guess, nothing."""
        try:
            given, targets = guesses(outputs, batch)
        except NoLossFits:
            return torch.zeros(())
        counts = targets != IGNORED
        self.hits[-1] += int((given == targets)[counts].sum())
        values, counted = targets[counts].unique(return_counts=True)  # type: ignore[no-untyped-call]
        self.labels.update(dict(zip(values.tolist(), counted.tolist(), strict=True)))
        return torch.zeros(())

    def remarks(self, models: Sequence[str]) -> Iterator[str]:
        """A line for each model that guesses no better than chance."""
        total = self.labels.total()
        if len(self.labels) < 2:
            return
        most = max(self.labels.values()) / total
        limit = most + min(NEAR * (most * (1 - most) / total) ** 0.5, NEAR_SHARE)
        for name, hits in zip(models, self.hits, strict=True):
            if hits / total <= limit:
                yield (
                    f"{name} is near chance: it meets {hits / total:.0%} of the labels, always giving the most "
                    f"frequent one {most:.0%}; is this the data, and the preprocessing, that it was trained with?"
                )
