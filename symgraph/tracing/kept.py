"""Graphs, and what is inferred of them, kept on disk: each in a file of its own under the hash of what it depends on.

A file appears complete or not at all; one that is damaged, or of something else, is as good as none. The folder is that
of the platform for caches, or `SYMGRAPH_CACHE`; `SYMGRAPH_CACHE=off` keeps nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from symgraph.ir import Graph
from symgraph.tracing.graph_text import dump, load
from symgraph.tracing.uncollected import uncollected

# Bytes of all files of a kind; beyond them those go that were not read for longest.
LARGEST = 2**28
_OFF = "off"
TRACES = "traces"
_forgone: ContextVar[bool] = ContextVar("_forgone", default=False)


@contextmanager
def without_cache() -> Iterator[None]:
    """Inside the block nothing is read from the cache, and nothing is written."""
    token = _forgone.set(True)
    try:
        yield
    finally:
        _forgone.reset(token)


def folder(kind: str = TRACES) -> Path | None:
    """Where things of a kind are kept; None where nothing is."""
    named = os.environ.get("SYMGRAPH_CACHE", "")
    if named == _OFF or _forgone.get():
        return None
    if named:
        return Path(named) / kind
    # There may be no home.
    with suppress(RuntimeError):
        return _platform_folder() / "symgraph" / kind
    return None


def _platform_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def kept(key: str) -> Graph | None:
    """The graph under a key, if there is one."""
    text = read(TRACES, key)
    if text is not None:
        # Whatever is wrong with a file, the model is there to be traced.
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError), uncollected():
            return load(text)
    return None


def keep(key: str, graph: Graph) -> None:
    """Puts a graph under a key, if it has a text and there is room for it."""
    if folder() is not None:
        with suppress(TypeError):
            write(TRACES, key, dump(graph))


def read(kind: str, key: str) -> bytes | None:
    """The text of this kind under a key, if there is one that is whole."""
    place = folder(kind)
    if place is None:
        return None
    path = place / key
    with suppress(OSError, ValueError):
        said, _, text = path.read_bytes().partition(b"\n")
        if said.decode() == _hash(key, text):
            os.utime(path)
            return text
    return None


def write(kind: str, key: str, text: bytes) -> None:
    """Puts a text under a key, if there is room for it."""
    place = folder(kind)
    if place is None:
        return
    # A cache that cannot be written is no error of what is computed.
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as beside:
            path = Path(beside) / key
            path.write_bytes(f"{_hash(key, text)}\n".encode() + text)
            path.replace(place / key)
        _clear(place)


def _hash(key: str, text: bytes) -> str:
    return hashlib.sha256(key.encode() + text).hexdigest()


def _clear(place: Path) -> None:
    """Removes what was not read for longest."""
    files = sorted(
        ((path.stat().st_mtime, path.stat().st_size, path) for path in place.iterdir() if path.is_file()), reverse=True
    )
    room = LARGEST
    for _, size, path in files:
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)
