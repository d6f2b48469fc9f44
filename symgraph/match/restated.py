"""A model at other weights than it was given with: what results of several verbs have in common."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from symgraph.inference.sources import with_state
from symgraph.io import checkpoint
from symgraph.io.files import SHARD_SIZE
from symgraph.io.shown import Shown
from symgraph.match.cards import card_of_one

if TYPE_CHECKING:
    from symgraph.io.models import Model
    from symgraph.orbit.alignment import Alignment


class Restated(Shown):
    """Has a `model`, and a `state` in the place of its weights."""

    model: Model
    state: dict[str, Tensor]

    @cached_property
    def module(self) -> nn.Module:
        """The model with these weights, as a module; the one that was given stays as it is."""
        return with_state(self.model.module, self.state)


class Reformed(Restated):
    """One model at other weights with the same function; `alignment` leads there.

    Of a class of results `what` names it in the title of a model card, and `about` says what it is.
    """

    what: ClassVar[str]
    about: ClassVar[str]
    alignment: Alignment

    @abstractmethod
    def made(self) -> tuple[str, tuple[str, ...]]:
        """By which method, and what there is to say of it."""

    def save_pretrained(
        self, folder: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
    ) -> Path:
        """Writes it as a checkpoint of its class, with a model card.

        Args:
            command: the words at the command line that it was made by, for the card.
            shard_size: how many bytes a file of weights has at most.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        method, notes = self.made()
        said = {"about": self.about, "method": method, "command": command, "notes": notes}
        card = str(card_of_one(self.model, self.alignment, self.what, **said))
        return checkpoint.write(self.model, self.state, folder, card=card, overwrite=overwrite, shard_size=shard_size)
