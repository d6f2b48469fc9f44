"""Plots: what is drawn, and that the file is whole or not there."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plain_loops import refused, segment

from symgraph.errors import UsageError
from symgraph.io.files import OutputError
from symgraph.measure import plots
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier

GRID = (0.0, 0.5, 1.0)
ACCURACY = segment("accuracy", GRID, (0.9, 0.5, 0.8), (0.0, 0.02, 0.0), True)
BEFORE = LossBarrier(segment("cross-entropy", GRID, (1.0, 3.0, 2.0), (0.0, 0.1, 0.0)), (ACCURACY,), ("A", "B"), 12)
AFTER = replace(BEFORE, loss=replace(BEFORE.loss, values=(1.0, 1.25, 2.0)))


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_formats_follow_the_suffix(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / "new folder" / name
    assert BEFORE.plot(path) == path
    content = path.read_bytes()
    assert content.startswith(start) and len(content) > 3000
    assert os.listdir(path.parent) == [name]


def test_the_curves_and_barriers_of_all_results_are_drawn() -> None:
    figure = plots._figure(plots._lines({"as trained": BEFORE, "aligned": AFTER}), "both")
    loss, accuracy = figure.axes
    assert [loss.get_ylabel(), accuracy.get_ylabel()] == ["loss", "accuracy"]
    drawn = [list(line.get_ydata()) for line in loss.lines]
    assert [1.0, 3.0, 2.0] in drawn and [1.0, 1.25, 2.0] in drawn and drawn.count([1.0, 2.0]) == 4
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["as trained: loss barrier 1.5 \u00b1 0.1", "aligned: loss barrier 0 \u00b1 0"]
    assert [t.get_text() for t in loss.texts] == ["", "1.5"] and figure.get_suptitle() == "both"


def test_only_metrics_that_all_results_have_get_a_panel() -> None:
    speed = replace(ACCURACY, name="speed")
    figure = plots._figure(plots._lines({"a": BEFORE, "b": replace(BEFORE, metrics=(speed, ACCURACY))}), "")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert len(plots._figure(plots._lines({"a": BEFORE, "b": replace(BEFORE, metrics=())}), "").axes) == 1


def test_more_results_than_colours() -> None:
    figure = plots._figure(plots._lines({str(i): BEFORE for i in range(9)}), "")
    assert len(figure.axes[0].get_legend().get_texts()) == 9


@pytest.mark.parametrize("text", ["$x", "a $b$ c", "$\\frac{$", "_hidden", "50%_{", "\\alpha", "\u03bb \u2260 0"])
def test_names_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    metric = replace(ACCURACY, name=text)
    result = LossBarrier(replace(BEFORE.loss, name=text), (metric,), ("A", "B"), 12)
    figure = plots._figure(plots._lines({text: result, "other": result}), text)
    assert figure.get_suptitle() == text
    for axes in figure.axes:
        assert len(axes.get_legend().get_texts()) == 2
        assert axes.get_legend().get_texts()[0].get_text().startswith(text)
    barrier_plot({text: result, "other": result}, tmp_path / "a.svg", title=text)
    assert (tmp_path / "a.svg").stat().st_size > 3000


def test_no_display_is_needed_and_no_state_is_shared() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots._figure(plots._lines({"a": BEFORE}), "")
    assert plt.get_fignums() == before


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with refused(UsageError, "a.png: there is nothing to draw"):
        barrier_plot({}, tmp_path / "a.png")
    with refused(UsageError, "a.gif is no picture", "its suffix is '.gif'", ".png, .svg, .pdf"):
        BEFORE.plot(tmp_path / "a.gif")
    with refused(UsageError, "plot is no picture", "it has no suffix"):
        BEFORE.plot(tmp_path / "plot")
    assert os.listdir(tmp_path) == []


def test_a_picture_that_exists_is_replaced_only_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.svg"
    path.write_text("mine")
    with refused(OutputError, "a.svg exists already", "overwrite=True"):
        BEFORE.plot(path)
    assert path.read_text() == "mine"
    BEFORE.plot(path, overwrite=True)
    assert path.read_text().startswith("<?xml") and os.listdir(tmp_path) == ["a.svg"]
    monkeypatch.setattr(plots, "_figure", None)
    with refused(OutputError, "a.svg exists already"):
        BEFORE.plot(path)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_drawing_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    from matplotlib.figure import Figure

    def fails(self: Any, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(Figure, "savefig", fails)
    (tmp_path / "a.png").write_text("old")
    for name in ("a.png", "b.png"):
        with pytest.raises((OutputError, KeyboardInterrupt)):
            BEFORE.plot(tmp_path / name, overwrite=True)
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "old"


def test_drawing_knows_nothing_of_what_evaluates() -> None:
    names = {name for name, value in vars(plots).items() if getattr(value, "__module__", "").startswith("symgraph")}
    modules = {getattr(vars(plots)[n], "__module__", "") for n in names} - {"symgraph.measure.plots"}
    assert (
        modules == {"symgraph.measure.measured", "symgraph.errors", "symgraph.io.files"}
        and "symgraph.measure.plots" in sys.modules
    )
