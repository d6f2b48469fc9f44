"""Licences of models: what each says in its card, and which one holds for a model that was made of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from symgraph.io.models import Model

# From each licence on to stricter ones, under all of which a work may stand that holds something under those before.
_FREE = ("cc0-1.0", "unlicense", "mit", "bsd-2-clause", "bsd-3-clause", "apache-2.0")
_STRICTER = (
    (*_FREE, "lgpl-3.0", "gpl-3.0", "agpl-3.0"),
    (*_FREE, "cc-by-4.0", "cc-by-sa-4.0"),
    (*_FREE, "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
# What cards say that name none.
_NONE = ("other", "unknown", "")


def licence_of(model: Model) -> str | None:
    """The licence that a model has by its card, and that of its adapter; None where one of them does not say."""
    said = [_said(folder / "README.md") for folder in sorted({file.parent for file in model.files})]
    return strictest(said)


def strictest(licences: Sequence[str | None]) -> str | None:
    """The licence of what is made of parts with these: the strictest; None where it cannot be told.

    >>> strictest(["mit", "apache-2.0"]), strictest(["gpl-3.0", "cc-by-nc-4.0"]), strictest(["mit", None])
    ('apache-2.0', None, None)
    """
    told = [licence for licence in licences if licence is not None]
    if not told or len(told) < len(licences):
        return None
    if len(set(told)) == 1:
        return told[0]
    ways = (way for way in _STRICTER if set(told) <= set(way))
    return next((max(told, key=way.index) for way in ways), None)


def _said(card: Path) -> str | None:
    """The licence that a model card names at its head."""
    from huggingface_hub import metadata_load

    try:
        head = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = head.get("license")
    named = found.strip().lower() if isinstance(found, str) else ""
    return None if named in _NONE else named
