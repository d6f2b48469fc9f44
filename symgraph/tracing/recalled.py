"""Traces found by the text of a config, in a process that has imported no class of the model.

Beside the name of the trace stand the stamps of all files that the process which made it had loaded: of transformers,
torch, ourselves and everything else. The key has what could be imported and the settings that libraries look up. Where
any of them is another one, the model is built and its `fingerprint` decides.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import nn

from symgraph.ir import Graph
from symgraph.tracing import kept
from symgraph.tracing.fingerprint import fingerprint

_KIND = "configs"
_SETTINGS = ("HF_", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TRANSFORMERS_", "USE_")
_IMPORTABLE = (".dist-info", ".egg-info", ".egg-link", ".pth", ".py", ".pyd", ".so", ".zip")
# Nanoseconds by which clocks of file systems may be behind.
_COARSE = 2 * 10**9

Stamp = tuple[int, int, int] | None
Numbers = tuple[str, tuple[int, ...], bytes]


@dataclass(frozen=True, slots=True)
class _Entry:
    """The key of a trace, the stamps of all that decides about it, and what the buffers of its model hold."""

    trace: str
    files: dict[str, Stamp]
    numbers: dict[str, Numbers]


class Recalled:
    """The trace that is kept of the model of a config.

    Args:
        config: its file.
        since: seconds of the clock before which nothing was loaded that decides about the trace.
    """

    def __init__(self, config: Path, since: float) -> None:
        self._config, self._text, self._since = config, config.read_bytes(), since
        # What is imported from now on may change the environment.
        self._key = _key(self._text)

    def graph(self) -> Graph | None:
        """The trace, if it is kept and nothing has changed since it was made."""
        text = kept.read(_KIND, self._key)
        # Whatever is wrong with a file, the model is there to be traced.
        with suppress(ValueError, TypeError, AttributeError, RuntimeError):
            entry = None if text is None else msgspec.json.decode(text, type=_Entry)
            if entry and all(_stamp(path) == stamp for path, stamp in entry.files.items()):
                graph = kept.kept(entry.trace)
                return graph and replace(graph, known={name: _tensor(*held) for name, held in entry.numbers.items()})
        return None

    def note(self, model: nn.Module, graph: Graph) -> None:
        """Notes where the trace of the model is kept, if it is.

        Of a file that has changed meanwhile nobody knows whether it was loaded as it is; nothing is noted then.
        """
        key = fingerprint(model, graph.model) if kept.folder(_KIND) else None
        if key is None or kept.read(kept.TRACES, key) is None or self._config.read_bytes() != self._text:
            return
        files = {path: _stamp(path) for path in sorted(_loaded())}
        latest = max((max(stamp[1:]) for stamp in files.values() if stamp), default=0)
        if latest < self._since * 10**9 - _COARSE:
            entry = _Entry(key, files, {name: _numbers(tensor) for name, tensor in graph.known.items()})
            kept.write(_KIND, self._key, msgspec.json.encode(entry))


def _key(config: bytes) -> str:
    """A hash of a config and of what surrounds it."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(_SETTINGS))
    places = [(place, _importable(place)) for place in sys.path]
    around = (sys.version, tuple(sys.flags), str(torch.get_default_dtype()), settings, places)
    return hashlib.sha256(repr(around).encode() + config).hexdigest()


def _importable(place: str) -> list[str] | Stamp:
    """What can be imported from a place of `sys.path`."""
    try:
        names = sorted(os.listdir(place or "."))
    except OSError:
        return _stamp(place)
    return [n for n in names if n.endswith(_IMPORTABLE) or Path(place, n, "__init__.py").is_file()]


def _loaded() -> set[str]:
    """The files of all modules; what has another name there is part of one of them."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file for file in files if isinstance(file, str) and os.path.isabs(file)}


def _stamp(path: str) -> Stamp:
    """What is another one after a file was written, replaced or removed."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


def _numbers(tensor: torch.Tensor) -> Numbers:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digits = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), digits


def _tensor(dtype: str, shape: tuple[int, ...], digits: bytes) -> torch.Tensor:
    kind = getattr(torch, dtype)
    flat = torch.frombuffer(bytearray(digits), dtype=torch.uint8).view(kind) if digits else torch.empty(0, dtype=kind)
    return flat.reshape(shape)
