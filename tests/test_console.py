"""Results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import sys

import pytest

from symgraph.cli.console import Console, table


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result("text", {"a": 1})
    Console(as_json=True).result("text", {"a": 1})
    Console(as_json=True).result("text", '{"a": 1}')
    assert capsys.readouterr().out == 'text\n{\n  "a": 1\n}\n{"a": 1}\n'


def test_progress_is_one_line_in_a_log_and_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for console in (Console(), Console(quiet=True)):
        with console.bar("measuring") as count:
            count(1, 2)
        with console.steps("aligning") as show:
            show("sweep 1")
        console.remark("by the way")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 3 and lines[2] == "by the way"
    assert lines[0].startswith("measuring ... ") and lines[1].startswith("aligning ... ")


def test_an_error_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Console().bar("measuring"):
        raise ValueError
    assert capsys.readouterr().err == "measuring ...\n"


def test_bars_are_drawn_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().bar("measuring") as count:
        for i in range(1, 5):
            count(i, 4)
    with Console().steps("aligning") as show:
        show("sweep 1: distance 3")
    out, err = capsys.readouterr()
    assert out == "" and "4/4" in err and "sweep 1: distance 3" in err


def test_a_table_has_even_columns() -> None:
    assert table([("a", "bb"), ("ccc", 1)], indent=1) == " a    bb\n ccc  1"
    assert table([]) == ""
