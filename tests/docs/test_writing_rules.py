"""Everything that `docs/writing-rules.md` shows is loaded, checked and run.

A YAML block names its file in its first line. Where a text block follows, that is what symgraph prints about it;
otherwise its rules are sound and tight. Console blocks run in a folder with all sound blocks before them, and what
stands below a command is its output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from symgraph.cli import main
from symgraph.errors import RuleError
from symgraph.rules.book import default_rules, with_user_rules
from symgraph.rules.check import check
from symgraph.rules.loading import load_file
from symgraph.rules.schema import KEYS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "writing-rules.md").read_text(encoding="utf-8")
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


def blocks() -> list[Block]:
    found = list(FENCE.finditer(PAGE))
    after = [*found[1:], None]
    return [
        Block(m[1], m[2], n[2].removesuffix("\n") if n and n[1] == "text" else "", PAGE[: m.start()].count("\n") + 1)
        for m, n in zip(found, after, strict=True)
        if m[1] != "text"
    ]


YAML = [b for b in blocks() if b.language == "yaml"]


def write(block: Block, folder: Path) -> Path:
    path = folder / block.file
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    return path


def printed(path: str) -> str:
    """What symgraph prints about a rule file: an error, or hints."""
    try:
        with_user_rules(default_rules(), [path])
    except RuleError as error:
        return f"error[{error.title}]: {error}"
    return "\n".join(f"could claim more: {hint}" for rule in load_file(path) for hint in check(rule).hints)


@pytest.mark.parametrize("block", YAML, ids=lambda b: f"line-{b.line}")
def test_yaml_block(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(block, tmp_path)
    assert printed(block.file) == block.printed


def test_there_are_sound_refused_and_loose_rules() -> None:
    kinds = [b.printed.split(":")[0] for b in YAML]
    assert kinds.count("") >= 6 and kinds.count("error[rule]") >= 3 and kinds.count("could claim more") >= 1


def test_the_whole_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks():
        if block.file and not block.printed:
            write(block, tmp_path)
        if block.language == "console":
            for entry in block.text.split("$ ")[1:]:
                command, _, output = entry.partition("\n")
                run(command, output, capsys)
        elif block.language == "python" and not block.file:
            exec(compile(block.text, f"writing-rules.md:{block.line}", "exec"), {"__name__": "__main__"})


def run(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = command.split()
    assert program == "symgraph"
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert not output or shown == output


def test_every_key_is_explained() -> None:
    assert "| key | what it says |\n|---|---|\n" + "".join(f"| `{k.name}` | {k.about} |\n" for k in KEYS) in PAGE
