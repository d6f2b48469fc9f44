"""How a space can be embedded into a larger one of its class."""

from __future__ import annotations

from enum import StrEnum


class Way(StrEnum):
    """How a space is embedded, what changes least first."""

    PADDED = "padded with zeros"
    ISOMETRIC = "isometry, zeros added"
    CENTRED = "isometry that keeps the mean"
    REPEATED = "every unit repeated"
    CONSTANT = "a gain of one"
