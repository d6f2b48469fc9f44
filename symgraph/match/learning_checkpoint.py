"""Checkpoints of learned matching: everything that a run needs to go on to the same bits."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import CheckpointError, UsageError, argument, one_line
from symgraph.io.files import atomic_path

FORMAT = "symgraph learned matching 2"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after some steps; `identity` says of which symmetry, options and models."""

    identity: dict[str, Any]
    step: int
    history: tuple[tuple[int, float], ...]
    best: tuple[int, float, dict[str, Tensor]]
    held: dict[str, Tensor]
    optimiser: dict[str, Any]
    generator: Tensor
    feed: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes the file, in the place of the one before.

        Raises:
            CheckpointError: it cannot be written.
        """
        plain = {n: getattr(self, n) for n in self.__slots__}
        with atomic_path(Path(path), overwrite=True) as temporary:
            torch.save({"format": FORMAT, **plain}, temporary)

    @staticmethod
    def load(path: str | Path, identity: Mapping[str, Any]) -> Checkpoint:
        """Reads the file of the run with this identity.

        Raises:
            CheckpointError: the file is something else, or damaged.
            UsageError: it belongs to other models or options.
        """
        try:
            found = torch.load(path, weights_only=True)
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ValueError(f"it does not say {FORMAT!r}")
            read = Checkpoint(**found)
        except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path} holds no run of learned matching",
                cause=one_line(error),
                remedy=f"start without {argument('resume', True)}",
            ) from error
        if other := [k for k, v in identity.items() if read.identity.get(k) != v]:
            raise UsageError(
                f"{path} belongs to another run",
                cause=f"it differs in {' and '.join(other)}",
                remedy="resume with the same models and options, or start anew with another file",
            )
        return read


def kept_step(path: str | Path) -> int:
    """The step up to which a run is kept in a file that was written by `save`."""
    return int(torch.load(path, weights_only=True)["step"])
