"""The packages of a sweep beside transformers, loaded once: what is not installed has no entries."""

from __future__ import annotations

import importlib
from contextlib import suppress

from .third_party import catalogue, declare_operators

declare_operators()
for package in catalogue().values():
    with suppress(ImportError):
        importlib.import_module(package["needs"])
