"""Blocks of a page, and running them: files are written, Python runs in one namespace, commands of ours are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from symgraph.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block and, for a YAML block, what symgraph prints about it."""

    language: str
    text: str
    printed: str
    line: int

    @property
    def file(self) -> str:
        """The file named in the first line, or ''."""
        found = re.match(r"# (\S+\.(?:yaml|py))\n", self.text)
        return found[1] if found else ""


def blocks(page: str) -> list[Block]:
    """The blocks of a page, by its text; a block of text belongs to what stands before it."""
    found = list(FENCE.finditer(page))
    after = [*found[1:], None]
    return [
        Block(m[1], m[2], n[2].removesuffix("\n") if n and n[1] == "text" else "", page[: m.start()].count("\n") + 1)
        for m, n in zip(found, after, strict=True)
        if m[1] != "text"
    ]


def write(block: Block, folder: Path) -> Path:
    """Writes the file that a block is."""
    path = folder / block.file
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    return path


def run_page(name: str, capsys: pytest.CaptureFixture[str], held: Mapping[str, object] | None = None) -> str:
    """Runs all blocks of a page in the working folder, from where modules are imported, and gives what they print.

    Args:
        held: names that its Python finds.
    """
    state = torch.random.get_rng_state()
    namespace, printed = {"__name__": "__main__", **(held or {})}, ""
    for block in blocks((DOCS / name).read_text(encoding="utf-8")):
        if block.file and not block.printed:
            write(block, Path())
        elif block.language == "console":
            for entry in block.text.split("$ ")[1:]:
                command, _, output = entry.partition("\n")
                printed += run_command(command, output, capsys)
        elif block.language == "python":
            exec(compile(block.text, f"{name}:{block.line}", "exec"), namespace)
            printed += capsys.readouterr().out
    torch.random.set_rng_state(state)
    return printed


def run_command(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Calls one command, which has to succeed and, where a page says what it prints, to print that."""
    program, *words = command.split()
    assert program == "symgraph"
    assert main(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert not output or shown == output
    return shown
