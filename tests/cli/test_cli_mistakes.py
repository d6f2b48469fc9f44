"""Plausible mistakes: one message each, whose remedy can be followed where it is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cli.runner import Cli

PAIR = ("cli_nets:a", "cli_nets:b")
DATA = ("--data", "cli_nets:batches")
LEARN = (*PAIR, "--out", "x", "--method", "learned", *DATA, "--validation-data", "cli_nets:batches")
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("inspct", "cli_nets:a"), "did you mean `inspect`?"),
    (("inspect", "cli_nets:a", "--strct"), "did you mean `--strict`?"),
    (("barrier", *PAIR, *DATA, "--loss", "mse"), "`symgraph barrier --help`"),
    (("inspect", "nets.py"), "name a function in it that makes the model: nets.py:make"),
    (("inspect", "cli_nets:Net"), "arguments are given as in cli_nets:Net(4, kind='plain')"),
    (("inspect", "out"), "path/file.py:make@out/model.safetensors"),
    (("verify", "cli_nets:a@whole.pt"), "save model.state_dict() with torch.save"),
    (("explain", "cli_nets:a", "hiden"), "did you mean `hidden`"),
    (("align", *PAIR), "--dry-run"),
    (("align", *PAIR, "--out", "out"), "choose another path, or replace it, --overwrite"),
    (("align", *PAIR, "--out", "x", "--tied", "cut"), "use keep or untie"),
    (("align", *PAIR, "--out", "x", "--seed", "one"), "`symgraph align --help`"),
    (("align", *PAIR, "--out", "x", "--method", "learned"), "name it with --data, or with --train-data"),
    (("align", *PAIR, "--out", "x", "--weighting", "inputs"), "name it with --data, or with --train-data"),
    (("align", *PAIR, "--out", "x", "--alpha", "2"), "give a share from 0 (weights) to 1 (activations), or auto"),
    (("align", *PAIR, "--out", "x", "--program", "broken.yaml"), "--emit-program FILE"),
    (("align", *PAIR, "--out", "x", "--program", "gone.yaml"), "--emit-program FILE"),
    (("align", *PAIR, "--out", "x", "--device", "gpu"), "--device cpu"),
    (("align", *LEARN, "--relax", "hidden"), "--learn-permutations"),
    (("align", *LEARN, "--compact"), "leave out --compact"),
    (("align", *LEARN, "--train-split", "train"), "leave out --train-split"),
    (("universe", *PAIR, "--out", "x", "--weighting", "inputs"), "--weighting inputs-halved"),
    (("universe", *PAIR, "--out", "x", "--method", "activations"), "name it with --data, or with --train-data"),
    (("barrier", *PAIR, *DATA, "--split", "test"), "leave out --split"),
    (("barrier", *PAIR, *DATA, "--metrics", "acc"), "use accuracy, perplexity"),
    (("barrier", *PAIR, "cli_nets:b", *DATA, "--refine"), "--resolution or --samples"),
    (("barrier", *PAIR, *DATA, "--product"), "leave out --product"),
    (("merge", *PAIR, "--weights", "0.5", "0.6", "--out", "x"), "in these proportions: 0.454545 0.545455"),
    (("apply", "cli_nets:a", "ab.safetensors", "--out", "x"), "symgraph apply ab.safetensors cli_nets:a --out x"),
    (("apply", "out/model.safetensors", "cli_nets:a", "--out", "x"), "--alignment FILE` writes one"),
    (("completion", "elvish"), "use bash or zsh or fish or tcsh"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the mistakes are made with."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "nets.py").write_text("")
    (tmp_path / "broken.yaml").write_text("steps: [\n")
    (tmp_path / "ab.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    return tmp_path


@pytest.mark.parametrize(("words", "remedy"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_one_message_with_a_remedy(cli: Cli, folder: Path, words: tuple[str, ...], remedy: str) -> None:
    found = cli(*words, "-q")
    assert found.code not in (0, 70) and found.out == "" and not Path("x").exists()
    message, _, said = found.err.partition("\n  help: ")
    assert message.count("error[") == 1 and remedy in said, found.err
    # No argument of Python, unless it is one of a factory.
    assert not re.search(r"\b[a-z_]+=(?!'plain')", said), said


def test_even_weights_are_the_default(cli: Cli) -> None:
    found = cli("merge", *PAIR, "--out", "x", "--json")
    assert found.code == 0 and [m["weight"] for m in found.json["models"]] == [0.5, 0.5]
