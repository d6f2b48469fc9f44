"""Rows of labels: what each is called, and which tensors have one for each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from symgraph.io.models import Model
from symgraph.resize.token_rows import grown_axes, rebuilt

# What a configuration calls labels that nobody has named.
_UNNAMED = "LABEL_"


def labels_of(model: Model) -> dict[str, int]:
    """The numbers of labels by their names; none where nobody has named them."""
    named: Mapping[Any, Any] = getattr(model.config, "id2label", None) or {}
    labels = {str(text): int(row) for row, text in named.items()}
    return {} if all(text.startswith(_UNNAMED) for text in labels) else labels


def label_axes(models: Sequence[Model]) -> dict[str, int]:
    """The axis of each tensor that has a row for every label, where models call their labels by other names.

    A label is known by its name: as many of them in another order are other rows.
    """
    told = [labels_of(model) for model in models]
    if not all(told) or all(labels == told[0] for labels in told):
        return {}
    first, size = models[0], len(told[0])
    return grown_axes(first, size, lambda: _with_labels(first, size + 1))


def _with_labels(model: Model, count: int) -> nn.Module:
    config = copy.deepcopy(model.config)
    config.num_labels = count
    return rebuilt(model, config, f"{count} labels", "name models with the same labels")
