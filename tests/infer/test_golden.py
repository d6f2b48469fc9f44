"""What commands print, compared with files: each begins with `$ symgraph ...`, and what follows is what that prints.

A case is added without Python: write its first line, and run `pytest tests/infer/test_golden.py --regenerate`.
Commands run in the folder of the files, where `golden_nets.py` has models and `*.json` configs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from symgraph.cli import inspect_command, main
from symgraph.inference.pipeline import STAGES

FOLDER = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(FOLDER.glob("*.txt"))


def command(case: Path) -> str:
    return case.read_text(encoding="utf-8").partition("\n")[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_text_is_that_of_the_file(
    case: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, program, *words = shlex.split(command(case))
    assert (prompt, program) == ("$", "symgraph")
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(FOLDER)
    code = main([*words, "--quiet"])
    printed = capsys.readouterr()
    found = f"{command(case)}\n{printed.out}" + (f"{printed.err}exit code {code}\n" if code else "")
    if request.config.getoption("--regenerate"):
        case.write_text(found, encoding="utf-8")
    assert found == case.read_text(encoding="utf-8")


def test_every_stage_has_a_case() -> None:
    emitted = {words[words.index("--emit") + 1] for words in map(str.split, map(command, CASES)) if "--emit" in words}
    assert {"graph", *(stage.name for stage in STAGES)} <= emitted


def test_the_help_names_every_stage() -> None:
    words = re.sub(r"\(.*?\)", "", inspect_command.STAGES)
    assert [word.strip() for word in words.split(",")] == ["graph", *(stage.name for stage in STAGES)]
