"""Results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import logging
import re
import sys

import pytest

from symgraph.cli.console import Console
from symgraph.io.shown import in_columns
from symgraph.tracing.progress import Told, tell


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result("text", {"a": 1})
    Console(as_json=True).result("text", {"a": 1})
    Console(as_json=True).result("text", '{"a": 1}')
    assert capsys.readouterr().out == 'text\n{\n  "a": 1\n}\n{"a": 1}\n'


LOG = logging.getLogger("symgraph.match.test")


def steps(count: int = 3) -> None:
    tell(LOG, None, "matching")
    for i in range(1, count + 1):
        tell(LOG, None, f"sweep {i}: distance 3", i, count)


def test_progress_is_one_line_in_a_log_and_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for console in (Console(), Console(quiet=True)):
        with console.listening(), console.working("aligning"):
            steps()
        console.remark("by the way")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2 and lines[1] == "by the way"
    assert re.fullmatch(r"aligning \.\.\. \d+\.\d s", lines[0])


@pytest.mark.parametrize(("verbose", "listed"), [(1, ["matching"]), (2, ["matching", "sweep 1: distance 3"])])
def test_stages_and_steps_are_listed_on_request(
    capsys: pytest.CaptureFixture[str], verbose: int, listed: list[str]
) -> None:
    console = Console(verbose=verbose)
    with console.listening(), console.working("aligning"):
        steps(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "aligning ..." and re.fullmatch(r"aligning done: \d+\.\d s", lines[-1])
    assert [line.partition("symgraph.match.test: ")[2] for line in lines[1:-1]] == listed
    steps()
    assert capsys.readouterr().err == "" and not logging.getLogger("symgraph").handlers


def test_an_error_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Console().working("measuring"):
        raise ValueError
    assert capsys.readouterr().err == "measuring ...\n"


def test_a_bar_on_a_terminal_counts_each_stage_and_estimates_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().working("aligning"):
        steps(4)
        steps(2)
    out, err = capsys.readouterr()
    drawn = err.split("\r")
    assert out == "" and any("4/4" in d for d in drawn) and any("50%" in d and "1/2" in d for d in drawn)
    assert any(re.search(r"aligning:  75%.*3/4 \[00:00<00:00\].*sweep 3: distance 3", d) for d in drawn)


def test_a_caller_is_told_how_much_is_done() -> None:
    told: list[Told] = []
    tell(LOG, told.append, "sweep 1", 1, 3)  # type: ignore[arg-type]
    tell(LOG, told.append, "matching")  # type: ignore[arg-type]
    assert told == ["sweep 1", "matching"]
    assert [(t.done, t.total) for t in told] == [(1, 3), (None, None)]


def test_a_table_has_even_columns() -> None:
    assert in_columns([("a", "bb"), ("ccc", 1)], indent=1) == " a    bb\n ccc  1"
    assert in_columns([("a", "bb"), ("ccc", 1)], left=1) == "a    bb\nccc   1"
    assert in_columns([]) == ""
