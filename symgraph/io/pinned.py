"""Inputs of programs: models and data by relative paths or names, with hashes, so that a program can move.

The hash of a model is that of its weights, however files hold them; the hash of data is that of its files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from symgraph.errors import CheckpointError, DataError
from symgraph.io.checkpoint import module_hash
from symgraph.io.data import NONE, Batches, NoData
from symgraph.io.data import load as load_data
from symgraph.io.files import existing
from symgraph.io.models import Model
from symgraph.io.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """A model: a path relative to the program, a hub id or a factory, and the hash of its weights ("" for any)."""

    model: str
    sha256: str = ""

    def __str__(self) -> str:
        return _said(self.model, self.sha256)

    def check(self, model: Model) -> None:
        """Raises for a model with other weights.

        Raises:
            CheckpointError: with both hashes.
        """
        if self.sha256 and self.sha256 != (own := module_hash(model.module)):
            raise CheckpointError(f"{model.spec} is not the model of the program", **_others(self.sha256, own))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInput(Reading):
    """Data and how it is read: a path relative to the program or a factory, and the hash of its files ("" for any)."""

    data: str
    split: str | None = None
    limit: int | None = None
    sha256: str = ""

    def __str__(self) -> str:
        split = f", split {self.split}" if self.split else ""
        limit = f", {self.limit} examples" if self.limit else ""
        return _said(f"{self.data}{split}{limit}, batches of {self.batch_size}", self.sha256)

    def check(self) -> None:
        """Raises for data with other contents.

        Raises:
            DataError: with both hashes.
        """
        if self.sha256 and self.sha256 != (own := content_hash(self.data)):
            raise DataError(f"{self.data} is not the data of the program", **_others(self.sha256, own))

    def training(self, model: Model) -> Batches | NoData:
        """What is trained on: the batches, or where "none" is named, that models are to make some.

        Raises:
            DataError: as for `load`.
        """
        if self.data != NONE:
            return self.load(model)
        return NoData(examples=self.limit, batch_size=self.batch_size, length=self.block_size)

    def load(self, model: Model) -> Batches:
        """The batches, as a model takes them.

        Raises:
            DataError: other files are there than were hashed, or they cannot be read.
        """
        self.check()
        reading = {field.name: getattr(self, field.name) for field in fields(Reading)}
        return load_data(self.data, reading, split=self.split, limit=self.limit, model=model)


def content_hash(spec: str) -> str:
    """The SHA-256 of a file, or of names and contents of all files of a folder; "" for what a factory makes."""
    path = existing(spec)
    if path is None:
        return ""
    if path.is_file():
        return _digest(path)
    listed = (f"{file.relative_to(path).as_posix()}\0{_digest(file)}\n" for file in sorted(_files(path)))
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def moved(spec: str, start: Path, end: Path) -> str:
    """The path of an input that was relative to one folder as one relative to another; names of other kinds stay.

    Where a file is, a relative path begins with a dot, so that it is no hub id on a machine that lacks it.
    """
    there = existing(start / Path(spec).expanduser()) if spec else None
    return placed(spec, start, end) if there is not None or spec.startswith(".") else spec


def placed(path: str, start: Path, end: Path) -> str:
    """The same of an output, which need not exist."""
    if not path:
        return path
    relative = Path(os.path.relpath(start / Path(path).expanduser(), end)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def plain_path(spec: str) -> str:
    """A path in the working folder without its dot, where something is there."""
    short = spec.removeprefix("./")
    return short if existing(short) is not None else spec


def _files(folder: Path) -> Iterator[Path]:
    """All files but hidden ones and what `datasets` caches beside its tables."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".", "cache-")) for part in parts):
            yield path


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _said(what: str, sha256: str) -> str:
    return f"{what} (SHA-256 {sha256[:12]}...)" if sha256 else what


def _others(expected: str, found: str) -> dict[str, Any]:
    cause = f"SHA-256 {found[:12]}... instead of {expected[:12]}..." if found else "it is made by code, which has none"
    return {"cause": cause, "remedy": "name the file that was hashed, or take `sha256` out of the program to use any"}
