"""The file that a long run leaves behind as it goes: all that it needs to go on to the same bits, step by step."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from symgraph.errors import CheckpointError, UsageError, one_line
from symgraph.io.files import atomic_path
from symgraph.io.ranks import Ranks, current

FORMAT = "symgraph run 4"
# Given what a run is of, its place in a file.
Opened = Callable[[Mapping[str, Any]], "RunSection"]
# Given the name of a part of a run, the place of that part.
Parts = Callable[[str], "RunSection"]


class RunFile:
    """Sections of a file, one for each step of a program that takes long.

    With `resume` what is there is taken up; a file that does not exist begins anew. Of several processes the first one
    reads and writes it, and all know what is in it.

    Raises:
        CheckpointError: the file is something else, or damaged.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self._ranks: Ranks = current()
        self._sections: dict[str, dict[str, Any]] = self._ranks.sent(0, self._there) if resume else {}

    def _there(self) -> dict[str, dict[str, Any]]:
        return _read(self.path) if self.path.exists() else {}

    def section(self, name: str, identity: Mapping[str, Any]) -> RunSection:
        """That of one step; `identity` says of which symmetry, options and models.

        Raises:
            UsageError: what is there belongs to other models or options.
        """
        there = self._sections.get(name, {}).get("identity", identity)
        if other := [k for k, v in identity.items() if there.get(k) != v]:
            raise UsageError(
                f"{self.path} belongs to another run",
                cause=f"it differs in {' and '.join(other)}",
                remedy="resume with the same models and options, or start anew with another file",
            )
        return RunSection(self, name, dict(identity))

    def content(self, name: str) -> dict[str, Any] | None:
        """What a step has left, None where there is nothing."""
        return self._sections[name]["content"] if name in self._sections else None

    def keep(self, name: str, identity: dict[str, Any], content: dict[str, Any]) -> None:
        """Writes the file, in the place of the one before, with what a step leaves now.

        Raises:
            OutputError: it cannot be written.
        """
        self._sections[name] = {"identity": identity, "content": content}
        if not self._ranks.is_first:
            return
        with atomic_path(self.path, overwrite=True) as temporary:
            torch.save({"format": FORMAT, "sections": self._sections}, temporary)


class RunSection:
    """What one step has left in a file, and leaves there as it goes on."""

    def __init__(self, file: RunFile, name: str, identity: dict[str, Any]) -> None:
        self._file, self._name, self._identity = file, name, identity
        self.content = file.content(name) or {}

    def keep(self, **content: Any) -> None:
        """Writes these beside what the step has left before.

        Raises:
            OutputError: the file cannot be written.
        """
        self.content = {**self.content, **content}
        self._file.keep(self._name, self._identity, self.content)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = torch.load(path, weights_only=True)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it does not say {FORMAT!r}")
        sections = found["sections"]
        if not all(s.keys() == {"identity", "content"} for s in sections.values()):
            raise ValueError("a section is incomplete")
    except (OSError, ValueError, LookupError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} holds no run", cause=one_line(error), remedy="start without --resume") from error
    return sections  # type: ignore[no-any-return]


def kept_in(path: str | Path) -> str:
    """How far a run is that was left in a file: the steps of learning, else the sweeps or rounds of the match.

    Raises:
        CheckpointError: the file is something else, or damaged.
    """
    content = [section["content"] for section in _read(Path(path)).values()]
    steps = [c["step"] for c in content if "step" in c]
    sweeps = [len(c["history"]) - 1 for c in content if "history" in c]
    return f"step {steps[-1]}" if steps else f"sweep {max(sweeps[-1], 0)} of the match" if sweeps else "its start"
