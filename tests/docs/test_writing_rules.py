"""Everything that `docs/writing-rules.md` shows is loaded, checked and run.

A YAML block names its file in its first line. Where a text block follows, that is what symgraph prints about it;
otherwise its rules are sound and tight. Console blocks run in a folder with all sound blocks before them, and what
stands below a command is its output.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from executed import DOCS, Block, blocks, run_page, write

from symgraph.errors import RuleError
from symgraph.rules.book import default_rules, with_user_rules
from symgraph.rules.check import check
from symgraph.rules.loading import load_file
from symgraph.rules.schema import KEYS

PAGE = (DOCS / "writing-rules.md").read_text(encoding="utf-8")
YAML = [b for b in blocks(PAGE) if b.language == "yaml"]


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
    run_page("writing-rules.md", capsys)


def test_every_key_is_explained() -> None:
    assert "| key | what it says |\n|---|---|\n" + "".join(f"| `{k.name}` | {k.about} |\n" for k in KEYS) in PAGE
