"""Help, version, and the shape of what every command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import symgraph
from cli.runner import Cli
from symgraph.cli import COMMANDS

GOLDEN = Path(__file__).parent / "help.txt"


def test_the_top_level_help(cli: Cli) -> None:
    found = cli("--help")
    assert (found.code, found.err) == (0, "")
    assert found.out == GOLDEN.read_text()


def test_no_command_prints_the_help(cli: Cli) -> None:
    assert cli().out == GOLDEN.read_text()


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out == f"symgraph {symgraph.__version__}\n"


@pytest.mark.parametrize("command", [c.__name__.rpartition(".")[2].removesuffix("_command") for c in COMMANDS])
def test_every_command_has_a_description_and_examples(cli: Cli, command: str) -> None:
    found = cli(command, "--help")
    assert found.code == 0
    assert f"usage: symgraph {command}" in found.out
    assert f"examples:\n  symgraph {command if command != 'apply' else 'align'}" in found.out
    assert max(map(len, found.out.splitlines())) <= 110


def test_a_mistyped_command_is_guessed(cli: Cli) -> None:
    found = cli("inspcet", "x")
    assert found.code == 2
    assert found.err.startswith("error[usage]: ") and "did you mean `inspect`?" in found.err


def test_the_order_of_names_and_options_is_explained(cli: Cli) -> None:
    found = cli("inspect", "--rules", "mine", "model")
    assert found.code == 2 and "names come before options that take several values" in found.err


@pytest.mark.parametrize("words", [("--json", "rules", "list"), ("rules", "list", "--json")])
def test_json_may_stand_before_or_after_the_command(cli: Cli, words: tuple[str, ...]) -> None:
    assert "layer-norm" in {r["rule"] for r in cli(*words).json}


def test_the_schema_is_json(cli: Cli) -> None:
    assert json.loads(cli("rules", "schema").out)["type"] == "array"


def test_choices_are_those_of_the_library() -> None:
    from symgraph.cli import compare_command, rotate_command
    from symgraph.match import compare, quantiser_mapping, rotate

    assert (compare_command.WAYS, rotate_command.CHOICES) == (compare.WAYS, rotate.CHOICES)
    assert rotate_command.TOOLS == quantiser_mapping.TOOLS


def test_the_options_of_matching_are_those_of_the_library() -> None:
    from symgraph.cli import parser
    from symgraph.cli.parser import chosen
    from symgraph.match.match_options import MatchOptions

    assert chosen(parser().parse_args(["align", "a", "b"]), MatchOptions) == MatchOptions()
