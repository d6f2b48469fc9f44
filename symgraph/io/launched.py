"""Which process of several this is, as those that start them say; known before torch is."""

from __future__ import annotations

import os


def started() -> tuple[int, int]:
    """Which process this is, and of how many that were started together."""
    count = int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1
    return (int(os.environ.get("RANK", "0")), count) if count > 1 else (0, 1)
