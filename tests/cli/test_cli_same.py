"""same, end to end: what is said of two checkpoints, what is expected of them, what is refused."""

from __future__ import annotations

from pathlib import Path

from cli.runner import Cli


def test_a_verdict_with_its_figures(cli: Cli, checkpoints: Path) -> None:
    found = cli("same", checkpoints / "vit-0", checkpoints / "vit-0", "--json", "--expect", "same", "noise")
    assert found.code == 0, found.err
    assert found.json["verdict"] == "same" and found.json["outputs"] == 0.0
    other = cli("same", checkpoints / "vit-0", checkpoints / "vit-1", "--expect", "same")
    assert other.code == 6 and "not same" in other.err and "deviations" in other.out


def test_another_architecture_is_refused(cli: Cli, checkpoints: Path) -> None:
    """In words that hold for the command that was given: each takes other models."""
    one, other, wide = (checkpoints / name for name in ("vit-0", "gpt2-0", "vit-wide"))
    found = cli("same", one, other)
    assert found.code == 7 and "only widths can differ" in found.err and not found.out
    deep = cli("same", "cli_nets:a", "cli_nets:deep")
    assert deep.code == 7 and "only B has down.0." in deep.err and "embedded" not in deep.err
    carried = cli("transport", "--base", one, "--tuned", one, "--to", wide, "--out", "out")
    assert carried.code == 7 and "one class and one size" in carried.err
    assert not any(word in found.err + carried.err for word in ("align ", "merge"))


def test_the_verdicts_are_those_of_the_library() -> None:
    from symgraph.cli import same_command
    from symgraph.match.verdicts import ORDER

    assert same_command.VERDICTS == ORDER
