"""Programs at the command line: barriers as programs, one program for everything, inputs that are not those hashed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cli.runner import Cli, Outcome
from symgraph.io.models import load
from symgraph.measure.barrier import loss_barrier

IMAGES = ("--data", "cli_nets:images", "--metrics", "accuracy")


@pytest.fixture
def text(checkpoints: Path) -> Path:
    """A text as tokens in a file."""
    rows = [{"input_ids": [(i * j + j) % 11 for j in range(9)]} for i in range(7)]
    path = Path("rows.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def refused(found: Outcome, code: int, *words: str) -> None:
    """One clear error, with a remedy."""
    assert (found.code, found.out) == (code, ""), found.err
    assert found.err.count("error[") == 1 and "help: " in found.err, found.err
    for word in words:
        assert word in found.err, found.err


def saved(path: str) -> Any:
    """A program as plain data."""
    return yaml.safe_load(Path(path).read_text())


def change(path: str, **fields: Any) -> None:
    """Change the top of a program."""
    Path(path).write_text(yaml.safe_dump(saved(path) | fields))


@pytest.mark.parametrize("count", [2, 3])
def test_a_barrier_as_a_program_is_that_of_the_library(cli: Cli, checkpoints: Path, count: int) -> None:
    from cli_nets import images  # type: ignore[import-not-found]

    models = [checkpoints / f"vit-{i}" for i in range(count)]
    how = ("--points", 4, "--refine", "--dtype", "float64") if count == 2 else ("--resolution", 2, "--samples", 2)
    first = cli("barrier", *models, *IMAGES, *how, "--emit-program", "plan.yaml", "--json")
    assert first.code == 0, first.err
    options: dict[str, Any] = {"points": 4, "refine": True, "dtype": torch.float64}
    options = options if count == 2 else {"resolution": 2, "samples": 2}
    expected = loss_barrier(*[load(m) for m in models], batches=cli_batches(images()), metrics=["accuracy"], **options)
    # To the last digit, but for the name of the data.
    assert first.json["loss"] == json.loads(json.dumps(expected.to_plain()["loss"]))
    for words in (("barrier", "--program"), ("barrier", *models, "--program"), ("run",)):
        again = cli(*words, "plan.yaml", "--json")
        assert again.code == 0, again.err
        measured = again.json if words[0] == "barrier" else again.json["measured"]["loss barrier"]
        assert measured == first.json


def cli_batches(made: Any) -> Any:
    """Batches as the command line reads them."""
    from symgraph.io.data import from_batches

    return from_batches(made)


def test_all_options_of_a_barrier_are_in_the_program(cli: Cli, checkpoints: Path) -> None:
    from cli_nets import batches

    assert batches
    words = ("--recalibrate", "cli_nets:batches", "--batch-size", 3, "--limit", 9, "--seed", 4, "--out", "old.json")
    found = cli(
        "barrier",
        "cli_nets:normed_a",
        "cli_nets:normed_b",
        "--data",
        "cli_nets:batches",
        *words,
        "--emit-program",
        "in/plan.json",
    )
    assert found.code == 0, found.err
    plain = json.loads(Path("in/plan.json").read_text())
    expected = {"batch_size": 3, "assume_normalised": False, "data": "cli_nets:batches", "limit": 9}
    assert plain["data"]["data"] == expected
    assert [s["op"] for s in plain["steps"]] == ["interpolate", "recalibrate", "evaluate", "report"]
    assert plain["steps"][0]["seed"] == 4 and plain["steps"][-1]["out"] == "../old.json"
    refused(cli("run", "in/plan.json"), 7, "old.json exists already")
    first = Path("old.json").read_text()
    assert cli("run", "in/plan.json", "--overwrite").code == 0
    assert Path("old.json").read_text() == first
    elsewhere = cli("barrier", "--program", "in/plan.json", "--out", "new.json")
    assert elsewhere.code == 0 and Path("new.json").read_text() == first, elsewhere.err


def test_product_form_is_a_second_measurement(cli: Cli, checkpoints: Path, text: Path) -> None:
    models = (checkpoints / "gpt2-0", checkpoints / "gpt2-1")
    first = cli("barrier", *models, "--data", text, "--points", 3, "--product", "--emit-program", "p.yaml", "--json")
    assert first.code == 0, first.err
    assert first.json.keys() == {"loss_barrier", "product_form"}
    again = cli("barrier", "--program", "p.yaml")
    assert "\n\nin product form, which is no model" in again.out, again.err


def test_a_dry_run_prints_the_steps(cli: Cli, checkpoints: Path) -> None:
    found = cli("barrier", checkpoints / "vit-0", checkpoints / "vit-1", *IMAGES, "--dry-run")
    assert found.code == 0, found.err
    assert found.out == (
        "program for ViTForImageClassification\n"
        "  data: cli_nets:images, batches of 32\n"
        "  1  interpolate   A, B -> mixtures (11 points of the segment)\n"
        "  2  evaluate      mixtures on data -> loss barrier (cross-entropy, accuracy; the precision of the checkpoint"
        " on cpu)\n"
        "  3  report        loss barrier\n"
    )


# -- one program for everything, and on another machine ------------------------------------------------------------

STEPS: list[dict[str, Any]] = [
    {"op": "interpolate", "models": ["A", "B"], "into": "as given", "points": 3},
    {"op": "interpolate", "models": ["A.aligned", "B.aligned"], "into": "aligned", "points": 3},
    {"op": "evaluate", "mixtures": "as given", "data": "test", "into": "before", "dtype": "float64"},
    {"op": "evaluate", "mixtures": "aligned", "data": "test", "into": "after", "dtype": "float64"},
    {"op": "report", "measured": ["before", "after"], "out": "found.json", "plot": "found.png"},
    {"op": "write", "model": "B.aligned", "out": "b-aligned", "alignment": "ab.safetensors"},
]


@pytest.fixture
def whole(cli: Cli, checkpoints: Path, text: Path) -> Path:
    """A folder `here` with models, data, and a program that aligns, measures and writes."""
    here = Path("here")
    for name in ("gpt2-0", "gpt2-1"):
        shutil.copytree(checkpoints / name, here / "models" / name)
    shutil.copy(text, here / "rows.jsonl")
    models = (here / "models" / "gpt2-0", here / "models" / "gpt2-1")
    words = ("--sweeps", 2, "--dry-run", "--emit-program", here / "plan.yaml")
    assert cli("align", *models, *words).code == 0
    plain = saved("here/plan.yaml")
    assert plain["inputs"]["A"]["model"] == "./models/gpt2-0" and len(plain["inputs"]["A"]["sha256"]) == 64
    data = {"test": {"data": "./rows.jsonl", "batch_size": 4}}
    change("here/plan.yaml", steps=plain["steps"] + STEPS, data=data)
    return here


def test_one_program_aligns_measures_and_writes_and_moves(cli: Cli, whole: Path, checkpoints: Path) -> None:
    found = cli("run", whole / "plan.yaml", "--json")
    assert found.code == 0, found.err
    assert sorted(p.name for p in whole.iterdir() if p.name not in ("models", "rows.jsonl", "plan.yaml")) == [
        "ab.safetensors",
        "b-aligned",
        "found.json",
        "found.png",
    ]
    plain = json.loads((whole / "found.json").read_text())
    assert found.json["measured"] == plain and list(plain) == ["before", "after"]
    models = (checkpoints / "gpt2-0", checkpoints / "gpt2-1")
    assert cli("align", *models, "--sweeps", 2, "--out", "direct").code == 0
    one, other = (load_file(Path(f) / "model.safetensors") for f in (whole / "b-aligned", "direct"))
    assert all(torch.equal(one[n], other[n]) for n in other)
    # The barrier is that between what was written.
    again = cli(
        "barrier",
        models[0],
        whole / "b-aligned",
        "--data",
        whole / "rows.jsonl",
        "--points",
        3,
        "--batch-size",
        4,
        "--dtype",
        "float64",
        "--json",
    )
    assert again.json["loss"]["values"] == pytest.approx(plain["after"]["loss"]["values"], rel=1e-6)
    shutil.rmtree(whole / "b-aligned")
    for name in ("found.json", "found.png", "ab.safetensors"):
        (whole / name).unlink()
    Path("there").mkdir()
    whole.rename(Path("there") / "moved")
    moved = cli("run", "there/moved/plan.yaml")
    assert moved.code == 0, moved.err
    there = json.loads(Path("there/moved/found.json").read_text())
    assert all(there[n]["loss"] == plain[n]["loss"] for n in plain)
    assert "before\n\n" in moved.out and "wrote B.aligned to there/moved/b-aligned" in moved.out
    assert "- after: cross-entropy barrier" in Path("there/moved/b-aligned/README.md").read_text()


def test_other_weights_and_other_data_are_refused(cli: Cli, whole: Path) -> None:
    weights = whole / "models" / "gpt2-1" / "model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, weights, {"format": "pt"})
    refused(cli("run", whole / "plan.yaml"), 7, "is not the model of the program", "SHA-256", "instead of")
    save_file(tensors, weights, {"format": "pt"})
    plain = saved("here/plan.yaml")
    data = {"test": {**plain["data"]["test"], "sha256": "0" * 64}}
    change("here/plan.yaml", data=data)
    refused(cli("run", whole / "plan.yaml"), 8, "is not the data of the program", "instead of 000000000000")
    assert not (whole / "found.json").exists()


def test_what_a_program_lacks_is_said_before_any_work(cli: Cli, whole: Path) -> None:
    plain = saved("here/plan.yaml")
    (whole / "b-aligned").mkdir()
    refused(cli("run", whole / "plan.yaml"), 7, "b-aligned exists already")
    (whole / "b-aligned").rmdir()
    cases: list[tuple[int, dict[str, Any], str]] = [
        (2, {"data": {}}, "reads data 'test', which there is not"),
        (2, {"inputs": {}}, "names no models"),
        (7, {"inputs": plain["inputs"] | {"A": {"model": "./gone"}}}, "no such file or folder"),
        (2, {"inputs": plain["inputs"] | {"A": {"model": "x", "hash": ""}}}, "'hash' is unknown"),
        (2, {"steps": [*STEPS[-1:], *STEPS[-1:]]}, "twice"),
        (2, {"steps": [{**STEPS[-1], "model": "C"}]}, "reads 'C'"),
        (7, {"steps": [{**STEPS[-1], "out": "models/gpt2-0"}]}, "which is read"),
        (2, {"steps": STEPS[-2:-1]}, "reads 'before', which no step before it makes"),
    ]
    for code, changes, words in cases:
        change("here/plan.yaml", **plain | changes)
        refused(cli("run", whole / "plan.yaml"), code, words)
    change("here/plan.yaml", **plain)
    refused(cli("align", "x", "y", "--program", "here/plan.yaml", "--out", "z"), 7)
    models = (whole / "models" / "gpt2-0", whole / "models" / "gpt2-1")
    refused(cli("align", *models, "--program", "here/plan.yaml", "--out", "z"), 2, "symgraph run")
    refused(cli("barrier", *models, "--program", "here/plan.yaml"), 2, "symgraph run")
    refused(cli("barrier", "--program", "here/plan.yaml", "--data", "x"), 2, "leave out --data")
    refused(cli("barrier", *models), 2, "there is no data")


def test_a_learned_program_names_its_data(cli: Cli, checkpoints: Path) -> None:
    models = (checkpoints / "vit-0", checkpoints / "vit-1")
    learn = (
        "--method",
        "learned",
        "--train-data",
        "cli_nets:images",
        "--validation-data",
        "cli_nets:images",
        "--steps",
        2,
        "--sweeps",
        1,
    )
    assert cli("align", *models, *learn, "--out", "b", "--emit-program", "p.yaml").code == 0
    plain = saved("p.yaml")
    read = {"batch_size": 32, "assume_normalised": False, "data": "cli_nets:images"}
    assert plain["data"] == {"train": read, "validation": read}
    change("p.yaml", steps=[*plain["steps"], {"op": "write", "model": "B.aligned", "out": "again"}])
    found = cli("run", "p.yaml")
    assert found.code == 0, found.err
    one, other = (load_file(Path(f) / "model.safetensors") for f in ("b", "again"))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_code_of_an_alignment_moves_a_checkpoint_as_apply_does(cli: Cli, checkpoints: Path) -> None:
    import subprocess
    import sys

    models = (checkpoints / "half-0", checkpoints / "half-1")
    found = cli(
        "align", *models, "--sweeps", 1, "--out", "b", "--emit-program", "moved.py", "--alignment", "ab.safetensors"
    )
    assert found.code == 0 and "wrote code to moved.py" in found.out, found.err
    assert cli("apply", "ab.safetensors", models[1], "--out", "applied").code == 0
    done = subprocess.run(
        [sys.executable, "moved.py", str(models[1]), "out.safetensors"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one, other = load_file("out.safetensors"), load_file("applied/model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in other)
    again = ("--out", "c", "--emit-program", "moved.py")
    refused(cli("align", *models, *again), 7, "moved.py exists already")
    refused(cli("align", *models, "--dry-run", "--emit-program", "x.py"), 2, "no code of a plan that is not run")
    refused(cli("universe", *models, "--out", "c", "--emit-program", "x.py"), 2, "no code of several alignments")
    refused(cli("barrier", *models, *IMAGES, "--emit-program", "x.py"), 2, "no code of a loss barrier")


def test_a_disk_too_small_is_said_before_a_program_reads_anything(
    cli: Cli, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(whole)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    refused(cli("run", whole / "plan.yaml"), 7, "b-aligned does not fit on its disk", "make room")
    assert not (whole / "b-aligned").exists()
