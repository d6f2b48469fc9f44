"""The demo: in miniature, and (slow) as users run it."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from symgraph.cli import demo_run as demo
from symgraph.cli import main
from symgraph.cli.console import Console
from symgraph.io import models
from symgraph.io.files import OutputError

MINIATURE = demo.Settings(width=16, hidden=16, layers=1, heads=2, epochs=2, learned_steps=4)
CHECKPOINTS = ("a", "b", "b-aligned", "b-aligned-reference", "midpoint")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    """A demo with networks too small to learn much."""
    return demo.run(tmp_path_factory.mktemp("demo") / "with a space", settings=MINIATURE)


def module(folder: Path) -> Any:
    return models.load(folder).module


def commands(text: str) -> list[list[str]]:
    """What the last lines tell the user to try, without the program's name and the one with a placeholder."""
    lines = text.split("try next\n")[1].splitlines()
    words = [shlex.split(line.split("symgraph ", 1)[1]) for line in lines if "YOUR-CHECKPOINT" not in line]
    return [w for w in words if w]


def test_it_writes_all_that_it_promises(found: demo.Demo) -> None:
    assert {p.name for p in found.folder.iterdir()} == {
        *CHECKPOINTS,
        "alignment.safetensors",
        "program.yaml",
        "barrier.png",
        "demo.json",
    }
    assert (found.folder / "barrier.png").stat().st_size > 20_000
    assert json.loads((found.folder / "demo.json").read_text())["loss_barrier"]["learned"]["examples"] == 360


def test_the_checkpoints_are_stock_and_the_midpoint_is_between(found: demo.Demo) -> None:
    from transformers import AutoModelForImageClassification

    for name in CHECKPOINTS:
        assert AutoModelForImageClassification.from_pretrained(found.folder / name).config.image_size == 8
        assert "## How to load it" in (found.folder / name / "README.md").read_text()
    a, b, middle = (module(found.folder / n).state_dict() for n in ("b-aligned-reference", "b-aligned", "midpoint"))
    assert all(torch.allclose(middle[n], (a[n] + b[n]) / 2, atol=1e-6) for n in a)


def test_alignment_keeps_the_function(found: demo.Demo) -> None:
    pixels = demo.held_out()[0]["pixel_values"]
    for pair in (("a", "b-aligned-reference"), ("b", "b-aligned")):
        with torch.no_grad():
            first, second = (module(found.folder / n)(pixel_values=pixels).logits for n in pair)
        assert torch.allclose(first, second, atol=1e-4)
    assert found.verified < 1e-9 and found.distances[1] < found.distances[0]


def test_the_commands_it_suggests_work(
    found: demo.Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried = commands(str(found))
    assert [c[0] for c in tried] == ["explain", "barrier", "merge"]
    for words in tried:
        assert main(words) == 0, capsys.readouterr().err


def test_it_never_replaces_what_is_not_its_own(found: demo.Demo, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        demo.run(found.folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match="not the folder of an earlier demo"):
        demo.run(tmp_path / "other", overwrite=True)


def test_a_second_run_takes_another_folder(found: demo.Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken: list[Path] = []

    def computed(folder: Path, *_: object) -> tuple[demo.Demo, None]:
        taken.append(folder)
        return found, None

    monkeypatch.setattr(demo, "_compute", computed)
    monkeypatch.setattr(demo, "_write", lambda *_: None)
    demo.run()
    demo.run()
    assert [p.name for p in taken] == ["symgraph-demo", "symgraph-demo-2"]


def test_the_held_out_digits_are_apart_from_the_training_digits() -> None:
    batches = demo.held_out()
    assert sum(len(b["labels"]) for b in batches) == 360
    assert torch.equal(batches[0]["pixel_values"], demo.held_out()[0]["pixel_values"])
    assert float(batches[0]["pixel_values"].min()) == -1.0 and float(batches[0]["pixel_values"].max()) == 1.0


@pytest.mark.slow
def test_the_whole_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    assert main(["demo"]) == 0
    assert time.process_time() - start < 120
    text = capsys.readouterr().out
    assert "orthogonal fixing ones" in text and "verified: " in text
    found = json.loads(Path("symgraph-demo/demo.json").read_text())["loss_barrier"]
    before, matched, learned = (found[name] for name in ("before", "matched", "learned"))
    accuracies = [m["values"][i] for r in (before, matched, learned) for m in r["metrics"] for i in (0, -1)]
    assert min(accuracies) > 0.95 and len(before["loss"]["lambdas"]) == 11
    loss = [r["summary"]["cross-entropy"]["barrier"] for r in (before, matched, learned)]
    assert loss[0] > 1.5 and loss[1] < 0.4 * loss[0]
    # The mean of both is as good as either, up to the error of the few images that there are.
    assert loss[2] < 2 * learned["summary"]["cross-entropy"]["standard_error"]
    assert min(learned["metrics"][0]["values"]) > 0.95
    for words in commands(text):
        assert main(words) == 0, capsys.readouterr().err


def test_the_account_is_left_out_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True, quiet=True).say("training")
    assert capsys.readouterr() == ("", "")
