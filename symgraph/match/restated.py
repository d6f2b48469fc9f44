"""A model at other weights than it was given with: what results of several verbs have in common."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from symgraph.inference.sources import with_state
from symgraph.io.shown import Shown

if TYPE_CHECKING:
    from symgraph.io.models import Model


class Restated(Shown):
    """Has a `model`, and a `state` in the place of its weights."""

    model: Model
    state: dict[str, Tensor]

    @cached_property
    def module(self) -> nn.Module:
        """The model with these weights, as a module; the one that was given stays as it is."""
        return with_state(self.model.module, self.state)
