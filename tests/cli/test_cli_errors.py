"""Bad input: one clear message on standard error, the exit code of its kind, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.runner import Cli, Outcome
from symgraph.inference import sources

State = dict[str, torch.Tensor]
GAIN = "vit.layernorm.weight"


def refused(found: Outcome, code: int, title: str, *texts: str) -> None:
    assert found.code == code, found.err
    assert found.err.count("error[") == 1 and f"error[{title}]: " in found.err
    assert "Traceback" not in found.err and found.out == ""
    for text in texts:
        assert text in found.err, found.err


def edited(source: Path, out: Path, edit: Callable[[State], Any]) -> Path:
    out.mkdir()
    state = load_file(source / "model.safetensors")
    edit(state)
    save_file(state, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text((source / "config.json").read_text())
    return out


def test_a_wrong_path(cli: Cli) -> None:
    refused(cli("inspect", "no/where/at-all"), 7, "checkpoint", "no/where/at-all: no such file or folder", "help:")


def test_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.md").write_text("")
    refused(cli("inspect", "notes"), 7, "checkpoint", "notes is not a checkpoint", "it holds todo.md")
    refused(cli("inspect", "notes/todo.md"), 7, "checkpoint", "it is a single file")


def test_a_config_where_weights_are_needed(cli: Cli, checkpoints: Path) -> None:
    config = checkpoints / "vit-0" / "config.json"
    refused(cli("align", checkpoints / "vit-0", config, "--out", "x"), 2, "usage", "has no weights")
    refused(cli("barrier", config, config, "--data", "cli_nets:images"), 2, "usage", "has no weights")


@pytest.mark.parametrize("command", ["align", "merge", "barrier"])
def test_two_architectures(cli: Cli, checkpoints: Path, command: str) -> None:
    more = {
        "align": ("--out", "x"),
        "merge": ("--out", "x", "--weights", 0.5, 0.5),
        "barrier": ("--data", "cli_nets:images"),
    }
    pair = (checkpoints / "vit-0", checkpoints / "gpt2-0")
    refused(cli(command, *pair, *more[command]), 7, "checkpoint", "different architectures", "the classes are")
    pair = (checkpoints / "vit-0", checkpoints / "vit-wide")
    if command == "barrier":
        refused(cli(command, *pair, *more[command]), 7, "checkpoint", "different architectures", "intermediate_size")
    assert list(Path().iterdir()) == []


def test_models_of_another_depth_cannot_be_embedded(cli: Cli, checkpoints: Path) -> None:
    for more in (("--out", "x"), ("--dry-run",)):
        found = cli("align", "cli_nets:a", "cli_nets:deep", *more)
        refused(found, 7, "checkpoint", "only A has down.", "only B has down.0.", "depth")
    assert list(Path().iterdir()) == []


def test_missing_and_extra_parameters(cli: Cli, checkpoints: Path, tmp_path: Path) -> None:
    a = checkpoints / "vit-0"
    missing = edited(a, tmp_path / "missing", lambda s: s.pop(GAIN))
    refused(cli("verify", missing), 7, "checkpoint", f"missing {GAIN}")
    extra = edited(a, tmp_path / "extra", lambda s: s.update(surplus=torch.zeros(2)))
    refused(cli("verify", extra), 7, "checkpoint", "unexpected surplus")
    shape = edited(a, tmp_path / "shape", lambda s: s.update({GAIN: torch.ones(5)}))
    refused(cli("align", a, shape, "--out", "x"), 7, "checkpoint", f"{GAIN} (5,) instead of (8,)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(cli: Cli, checkpoints: Path, tmp_path: Path, value: float) -> None:
    bad = edited(checkpoints / "vit-1", tmp_path / "bad", lambda s: s[GAIN].__setitem__(2, value))
    for command in (("align", "--out", "x"), ("merge", "--out", "x", "--weights", "0.5", "0.5")):
        found = cli(command[0], checkpoints / "vit-0", bad, *command[1:])
        refused(found, 7, "checkpoint", "weights are not finite", f"{GAIN}: 1 of 8 values")


def test_integer_weights(cli: Cli, checkpoints: Path, tmp_path: Path) -> None:
    whole = edited(checkpoints / "vit-0", tmp_path / "int8", lambda s: s.update({GAIN: s[GAIN].to(torch.int8)}))
    refused(cli("verify", whole), 7, "checkpoint", "quantised", GAIN)


def test_remote_code_stays_off(cli: Cli, checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    config = json.loads((checkpoints / "vit-0" / "config.json").read_text())
    config |= {"architectures": ["Odd"], "auto_map": {"AutoModel": "modeling_odd.Odd"}}
    (tmp_path / "remote" / "config.json").write_text(json.dumps(config))
    (tmp_path / "remote" / "modeling_odd.py").write_text("raise SystemExit('it ran')")
    refused(cli("inspect", "remote"), 7, "checkpoint", "needs remote code, which is off", "--trust-remote-code")


@pytest.mark.parametrize("command", ["align", "merge", "apply"])
def test_an_output_folder_that_exists(cli: Cli, checkpoints: Path, command: str) -> None:
    Path("taken").mkdir()
    (Path("taken") / "mine.txt").write_text("mine")
    a, b = checkpoints / "vit-0", checkpoints / "vit-1"
    words = {"align": (a, b), "merge": (a, b, "--weights", 0.5, 0.5), "apply": ("ab.safetensors", b)}[command]
    refused(cli(command, *words, "--out", "taken"), 7, "output", "taken exists already", "--overwrite")
    assert [p.name for p in Path("taken").iterdir()] == ["mine.txt"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(cli: Cli) -> None:
    Path("taken").mkdir()
    (Path("taken") / "mine.txt").write_text("mine")
    found = cli("align", "cli_nets:a", "cli_nets:b", "--out", "taken", "--overwrite")
    assert found.code == 7 and "taken is not replaced" in found.err
    assert (Path("taken") / "mine.txt").read_text() == "mine"


def test_files_that_exist(cli: Cli) -> None:
    Path("kept").write_text("mine")
    pair = ("cli_nets:a", "cli_nets:b")
    for option in ("--alignment", "--emit-program"):
        refused(cli("align", *pair, "--out", "x", option, "kept"), 7, "output", "kept exists already")
    for option in ("--plot", "--out"):
        refused(cli("barrier", *pair, "--data", "cli_nets:batches", option, "kept"), 7, "output", "kept exists already")
    assert Path("kept").read_text() == "mine" and not Path("x").exists()


def test_overwrite_replaces_a_checkpoint(cli: Cli) -> None:
    words = ("align", "cli_nets:a", "cli_nets:b", "--out", "x")
    assert cli(*words).code == 0
    assert cli(*words).code == 7
    assert cli(*words, "--overwrite").code == 0


def test_a_full_disk_leaves_nothing_behind(cli: Cli, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from symgraph.io import checkpoint

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_folder", full)
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    found = cli("merge", *pair, "--weights", 0.5, 0.5, "--out", "deep/down/merged", "--no-align")
    refused(found, 7, "output", "could not be written", "No space left on device")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "text"),
    [((0.5, 0.6), "sum to 1.1, not to one"), ((1,), "2 models and 1 weights"), ((1.5, -0.5), "no number from 0")],
)
def test_weights_that_do_not_fit(cli: Cli, weights: tuple[float, ...], text: str) -> None:
    refused(cli("merge", "cli_nets:a", "cli_nets:b", "--weights", *weights, "--out", "x"), 2, "usage", text, "help:")


def test_nothing_to_merge_with(cli: Cli) -> None:
    refused(cli("merge", "cli_nets:a", "--weights", 1, "--out", "x"), 2, "usage", "nothing to merge it with")


def test_data_that_cannot_be_used(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    refused(cli("barrier", *pair, "--data", "no-data"), 8, "data", "no-data: no such file or folder")
    refused(cli("barrier", *pair, "--data", "cli_nets:batches"), 8, "data", "the model cannot be evaluated")
    refused(cli("barrier", *pair, "--data", "cli_nets:images", "--metrics", "speed"), 2, "usage", "no metric 'speed'")
    refused(cli("barrier", *pair, "--data", "cli_nets:images", "--split", "test"), 8, "data", "no split 'test'")


@pytest.mark.parametrize("option", [("--points", "2"), ("--batch-size", "0"), ("--points", "many")])
def test_numbers_that_make_no_sense(cli: Cli, option: tuple[str, str]) -> None:
    found = cli("barrier", "cli_nets:a", "cli_nets:b", "--data", "cli_nets:batches", *option)
    refused(found, 2, "usage", option[0], "no whole number from")


def test_a_device_that_does_not_exist(cli: Cli) -> None:
    found = cli("align", "cli_nets:a", "cli_nets:b", "--out", "x", "--device", "abacus")
    refused(found, 2, "usage", "device abacus cannot be used", "--device cpu")


def test_no_place_to_write_to(cli: Cli) -> None:
    refused(cli("align", "cli_nets:a", "cli_nets:b"), 2, "usage", "there is no --out FOLDER")


def test_a_program_that_is_none(cli: Cli) -> None:
    Path("plan.yaml").write_text("steps: 3\n")
    Path("empty.yaml").write_text("symgraph-program: 2\nsteps: []\n")
    pair = ("cli_nets:a", "cli_nets:b", "--out", "x", "--program")
    refused(cli("align", *pair, "plan.yaml"), 2, "usage", "not a symgraph program")
    refused(cli("align", *pair, "empty.yaml"), 2, "usage", "the program does not bring 2 models into one basis")
    refused(cli("align", *pair, "gone.yaml"), 2, "usage", "gone.yaml")


def test_an_alignment_for_another_architecture(cli: Cli) -> None:
    assert cli("align", "cli_nets:a", "cli_nets:b", "--out", "x", "--alignment", "ab.safetensors").code == 0
    refused(cli("apply", "ab.safetensors", "cli_nets:wide", "--out", "y"), 7, "checkpoint", "another architecture")
    refused(cli("apply", "x/model.safetensors", "cli_nets:b", "--out", "y"), 7, "checkpoint", "holds no alignment")


def test_a_factory_that_fails(cli: Cli) -> None:
    refused(cli("inspect", "cli_nets:fails"), 7, "checkpoint", "the factory failed", "no such thing")
    refused(cli("inspect", "cli_nets:gone"), 7, "checkpoint", "cannot be imported")


def test_an_interrupt(cli: Cli) -> None:
    found = cli("inspect", "cli_nets:interrupted")
    assert (found.code, found.out) == (130, "") and found.err.startswith("\ninterrupted: nothing was written")


def test_a_bug_is_called_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(sources, "trace", broken)
    found = cli("inspect", "cli_nets:a")
    refused(found, 70, "bug", "SYMGRAPH_DEBUG=1", "ZeroDivisionError: oh")
    monkeypatch.setenv("SYMGRAPH_DEBUG", "1")
    assert "Traceback" in cli("inspect", "cli_nets:a").err


def test_a_reader_that_leaves(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None: ...

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    from symgraph.cli import main

    assert main(["rules", "list"]) == 141


def test_too_little_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sources, "trace", huge)
    refused(cli("inspect", "cli_nets:a"), 1, "error", "not enough memory")
