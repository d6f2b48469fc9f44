"""Pages of barriers, end to end: what is written, from which results, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.runner import Cli
from symgraph.measure.result import LossBarrier

DATA = ("--data", "cli_nets:batches", "--points", 3)
PAIR = ("cli_nets:a", "cli_nets:b")
THREE = ("cli_nets:a", "cli_nets:b", "nets.py:c")


@pytest.fixture(autouse=True)
def _third(_work_elsewhere: None) -> None:
    Path("nets.py").write_text("from cli_nets import Net\n\n\ndef c():\n    return Net(2)\n")


def test_a_page_of_a_barrier_with_an_earlier_one_beside(cli: Cli) -> None:
    first = cli("barrier", *PAIR, *DATA, "--out", "first.json", "--html", "first.html")
    assert first.code == 0, first.err
    assert "wrote first.html" in first.err and Path("first.html").exists()
    files = ("--html", "both.html", "--plot", "both.svg", "--json")
    both = cli("barrier", "cli_nets:a", "nets.py:c", *DATA, "--beside", "earlier=first.json", *files)
    assert both.code == 0, both.err
    page = Path("both.html").read_text(encoding="utf-8")
    losses = LossBarrier.from_json(Path("first.json")).losses
    assert '"label":"earlier"' in page and json.dumps(losses, separators=(",", ":")) in page
    assert both.json["loss"]["name"] == "cross-entropy" and "earlier" in Path("both.svg").read_text()


def test_a_plane_in_every_output(cli: Cli) -> None:
    files = ("--html", "plane.html", "--plot", "plane.png", "--plot", "plane.svg", "--out", "plane.json")
    how = ("--resolution", 1, "--plane", 4, "--margin", 0.1, "--emit-program", "plane.yaml")
    found = cli("barrier", *THREE, *DATA[:2], *how, *files)
    assert found.code == 0, found.err
    assert "plane through" in found.out and "4 by 4 points" in found.out
    plain = json.loads(Path("plane.json").read_text())
    assert len(plain["loss_plane"]["quantities"][0]["grid"]) == 4 and "loss_barrier" in plain
    again = cli("run", "plane.yaml", "--overwrite", "--json")
    assert again.code == 0, again.err
    assert again.json["measured"]["loss_plane"] == plain["loss_plane"]
    assert set(again.json["written"].values()) == {"plane.html", "plane.png", "plane.svg", "plane.json"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*PAIR, "--plane", 5), "--plane goes through three models, not 2"),
        ((*THREE, "--plane", 2), "no whole number from 3"),
        ((*PAIR, "--beside", "first.json", "--html", "a.html"), "names no label"),
        ((*PAIR, "--beside", "x=first.json"), "none is asked for"),
        ((*PAIR, "--beside", "x=nets.py", "--html", "a.html"), "holds no loss barrier"),
        ((*PAIR, "--beside", "x=none.json", "--html", "a.html"), "holds no loss barrier"),
        ((*PAIR, "--html", "mine.html"), "mine.html exists already"),
        ((*PAIR, "--html", "mine.html", "--overwrite", "--plot", "a.gif"), "a.gif is no picture"),
        ((*PAIR, "--html", "nets.py/a.html"), "nets.py"),
    ],
)
def test_what_is_refused(cli: Cli, words: tuple[object, ...], said: str) -> None:
    Path("mine.html").write_text("mine")
    found = cli("barrier", *words, *DATA[:2])
    assert found.code != 0 and said in found.err, found.err
    assert Path("mine.html").read_text() == "mine" and not Path("a.html").exists()


# -- alignments ------------------------------------------------------------------------------------------------------


def test_a_page_of_an_alignment(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    measured = ("--data", "cli_nets:images", "--points", 3)
    found = cli("align", *pair, "--out", "moved", "--html", "moved.html", *measured, "--json")
    assert found.code == 0, found.err
    page = Path("moved.html").read_text(encoding="utf-8")
    assert found.json["written"]["page"] == "moved.html" and "<title>vit-1 aligned to vit-0</title>" in page
    said = found.json["helped"]
    assert said["before"] == found.json["loss_barrier"]["before"]["summary"]["cross-entropy"]["barrier"]
    assert json.dumps(said["said"])[1:-1] in page
    text = cli("align", *pair, "--out", "again", *measured)
    assert text.code == 0 and said["said"] in text.out
    without = cli("align", *pair, "--out", "third", "--html", "bare.html")
    assert without.code == 0 and '"by_space":null' in Path("bare.html").read_text(encoding="utf-8")


def test_an_alignment_picks_what_suits_and_says_so(cli: Cli) -> None:
    pair = ("cli_nets:normed_a", "cli_nets:normed_b")
    named = ("--data", "cli_nets:batches", "--train-data", "cli_nets:batches", "--points", 3)
    found = cli("align", *pair, "--out", "moved.pt", *named)
    assert found.code == 0, found.err
    assert "matched by activations, since it has batch norms" in found.out
    assert "statistics of batch norms are computed anew at every mixture, on 2 batches" in found.err
    assert "statistics of cli_nets:batches" in found.out
    planned = cli("align", *pair, "--dry-run", *named)
    assert planned.code == 0 and "by activations" in planned.out
    asked = cli("align", *pair, "--out", "asked.pt", "--method", "weights", *named)
    assert asked.code == 0 and "matched by" not in asked.out and "statistics" not in asked.out + asked.err
    alone = cli("align", *pair, "--out", "alone.pt", "--data", "cli_nets:batches", "--points", 3)
    assert alone.code == 0 and "matched by" not in alone.out
    anew = cli("align", *pair, "--out", "anew.pt", *named[:2], "--recalibrate", "cli_nets:batches", "--points", 3)
    assert anew.code == 0 and "statistics of cli_nets:batches" in anew.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--html", "mine.html"), "mine.html exists already"),
        (("--html", "a.html", "--dry-run"), "--dry-run makes none"),
        (("--recalibrate", "cli_nets:batches"), "there is no data"),
    ],
)
def test_what_an_alignment_refuses(cli: Cli, words: tuple[str, ...], said: str) -> None:
    Path("mine.html").write_text("mine")
    found = cli("align", *PAIR, "--out", "moved.pt", *words)
    assert found.code != 0 and said in found.err, found.err
    assert Path("mine.html").read_text() == "mine" and not Path("moved.pt").exists()
