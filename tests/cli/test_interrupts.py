"""Ctrl-C says what was kept and how to go on; failures are JSON where JSON was asked for."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.runner import Cli
from symgraph.match.learned_matching import _Run

LEARN = (
    "--method",
    "learned",
    "--data",
    "cli_nets:batches",
    "--validation-data",
    "cli_nets:batches",
    "--steps",
    6,
    "--check-every",
    2,
    "--patience",
    0,
)
SHORT = ("--learn-permutations", "--match-batches", 2)
PAIR = ("align", "cli_nets:a", "cli_nets:b", "--out", "x", *LEARN, *SHORT)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone interrupts at the fifth step, once."""
    taken, before = _Run._loss, list[int]()

    def loss(run: _Run) -> object:
        if run.descent.step == 4 and not before:
            before.append(run.descent.step)
            raise KeyboardInterrupt
        return taken(run)

    monkeypatch.setattr(_Run, "_loss", loss)


def test_what_was_learned_is_kept_and_the_command_that_is_named_goes_on(cli: Cli, interrupted: None) -> None:
    found = cli(*PAIR, "--checkpoint", "run.pt")
    assert found.code == 130 and "interrupted: the run up to step 4 is kept in run.pt\n" in found.err
    command = found.err.partition("go on from there: ")[2].splitlines()[0]
    assert command.endswith("--checkpoint run.pt --resume") and not Path("x").exists()
    again = cli(*shlex.split(command)[1:])
    assert again.code == 0 and "learned over 6 steps" in again.out, again.err


def test_without_a_checkpoint_nothing_is_kept(cli: Cli, interrupted: None) -> None:
    found = cli(*PAIR)
    assert found.code == 130 and "interrupted: nothing was written" in found.err
    assert "--checkpoint FILE" in found.err and list(Path().glob("x*")) == []


def test_an_interrupt_is_json_too(cli: Cli) -> None:
    found = cli("inspect", "cli_nets:interrupted", "--json")
    assert found.code == 130 and found.json["error"]["kind"] == "interrupted"
    assert found.json["error"]["help"] == "start again: symgraph inspect cli_nets:interrupted --json"


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (("inspect", "no/such/model", "--json"), "checkpoint", 7),
        (("--json", "align", "cli_nets:a", "cli_nets:b"), "usage", 2),
        (("inspct", "--json"), "usage", 2),
        (("inspect", "cli_nets:branching", "--json"), "trace", 3),
    ],
)
def test_failures_are_json_where_json_was_asked_for(cli: Cli, words: tuple[str, ...], kind: str, code: int) -> None:
    found = cli(*words)
    assert found.code == code == found.json["error"]["exit_code"]
    assert found.json["error"]["kind"] == kind and found.json["error"]["help"]
    assert found.json["error"]["what"] in found.err


def test_a_result_is_the_one_document_even_if_it_fails_then(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from symgraph.prove.verify import Verification

    monkeypatch.setattr(Verification, "passed", False)
    found = cli("verify", "cli_nets:a", "--json")
    assert found.code == 6 and found.json["passed"] is False and "error[unsound]" in found.err


def test_stages_are_listed_on_request(cli: Cli) -> None:
    found = cli("align", "cli_nets:a", "cli_nets:b", "--out", "x", "-v")
    assert found.code == 0
    assert "symgraph.inference.sources: tracing Net" in found.err and "symgraph.match.program: match " in found.err
    assert "sweep 1: distance" not in found.err
    quiet = cli("align", "cli_nets:a", "cli_nets:b", "--out", "y", "-q")
    assert quiet.code == 0 and quiet.err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_shells_are_told_the_commands_and_their_options(cli: Cli, shell: str) -> None:
    found = cli("completion", shell)
    assert found.code == 0 and "universe" in found.out and "emit-program" in found.out
    assert "did you mean `bash`?" in cli("completion", "bsh").err


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_commands_choices_and_paths(cli: Cli) -> None:
    Path("symgraph.fish").write_text(cli("completion", "fish").out)
    Path("model-0").mkdir()
    for typed, meant in (("ru", "rules"), ("align --method l", "learned"), ("transport --tuned mod", "model-0/")):
        script = f"source symgraph.fish; complete -C 'symgraph {typed}'"
        found = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True)
        assert meant in [line.split("\t")[0] for line in found.stdout.splitlines()], found.stderr
