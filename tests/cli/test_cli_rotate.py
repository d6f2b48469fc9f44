"""rotate, end to end: a checkpoint that computes the same, what is said of it, what is refused."""

from __future__ import annotations

from pathlib import Path

import torch
from models_zoo import network

import symgraph
from cli.runner import Cli
from symgraph.cli import rotate_command
from symgraph.match import quantiser_mapping, rotate


def test_a_rotated_checkpoint_is_written(cli: Cli, checkpoints: Path) -> None:
    found = cli("rotate", checkpoints / "gpt2-0", "--out", "out", "--tied", "untie", "--json")
    assert found.code == 0, found.err
    plain = found.json
    assert plain["by"] == "hadamard" and "residual" in {s["space"] for s in plain["turned"]}
    assert plain["error"]["bits"] == 4 and plain["notes"][0].startswith("untied")
    before, after = (symgraph.model(p).module for p in (checkpoints / "gpt2-0", "out"))
    x = torch.arange(6).reshape(1, 6)
    torch.testing.assert_close(after(x).logits, before(x).logits, rtol=1e-4, atol=1e-4)
    assert "symgraph rotate" in Path("out/README.md").read_text()
    again = cli("rotate", checkpoints / "gpt2-0", "--out", "out")
    assert again.code != 0 and "--overwrite" in again.err


def test_a_rotation_is_learned_for_a_precision(cli: Cli, checkpoints: Path) -> None:
    how = ("--with", "learned", "--bits", 3, "--group", 4, "--steps", 10, "--spaces", "residual", "*.value-output")
    found = cli("rotate", checkpoints / "vit-0", "--out", "out", *how, "--data", "none", "--inputs", 4)
    assert found.code == 0, found.err
    assert "rounding to 3 bits in groups of 4" in found.out and "descent on data: 10 steps" in found.out


def test_more_than_rotations_is_learned(cli: Cli, checkpoints: Path) -> None:
    how = ("--with", "learned", "--steps", 30, "--json")
    rotations, whole = (
        cli("rotate", checkpoints / "vit-0", "--out", f"out{len(more)}", *how, *more) for more in ((), ("--full",))
    )
    assert rotations.code == whole.code == 0, whole.err
    assert whole.json["error"]["after"] < rotations.json["error"]["after"]
    unread = cli("rotate", checkpoints / "vit-0", "--out", "out2", "--full")
    assert unread.code == 2 and "--with learned" in unread.err


def test_what_cannot_be_is_refused(cli: Cli, checkpoints: Path) -> None:
    found = cli("rotate", checkpoints / "vit-0", "--out", "out", "--spaces", "no-such-space")
    assert found.code != 0 and "no space is called" in found.err and "help:" in found.err
    assert cli("rotate", checkpoints / "vit-0", "--out", "out", "--bits", 1).code == 2
    assert not Path("out").exists()


def test_what_a_tool_has_to_be_told_is_written(cli: Cli, checkpoints: Path) -> None:
    refused = cli("rotate", checkpoints / "gpt2-0", "--emit", "llm-compressor", "--out", "recipe.yaml")
    assert refused.code == 2 and "keep the mean of a layer norm" in refused.err and not Path("recipe.yaml").exists()
    unread = cli("rotate", checkpoints / "gpt2-0", "--emit", "auto-round", "--out", "r.py", "--with", "random")
    assert unread.code == 2 and "--with" in unread.err
    symgraph.model(network("llama", 0)).module.save_pretrained("llama")  # type: ignore[operator]
    found = cli("rotate", "llama", "--emit", "llm-compressor", "--out", "recipe.yaml", "--json")
    assert found.code == 0, found.err
    assert "residual" in found.json["turned"] and "SpinQuantModifier" in Path("recipe.yaml").read_text()
    again = cli("rotate", "llama", "--emit", "llm-compressor", "--out", "recipe.yaml")
    assert again.code != 0 and "--overwrite" in again.err


def test_the_help_names_what_there_is() -> None:
    """The command names them by itself, so that its help loads no torch."""
    assert rotate_command.CHOICES == rotate.CHOICES and rotate_command.TOOLS == quantiser_mapping.TOOLS
