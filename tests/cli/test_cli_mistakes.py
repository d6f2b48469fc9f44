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
PRUNE = ("prune", "cli_nets:a", "--ratio", "0.5", "--out", "x")
ROTATE = ("rotate", "cli_nets:a", "--out", "x")
CARRY = ("transport", "--base", "cli_nets:a", "--tuned", "cli_nets:b", "--to", "cli_nets:b", "--out", "x")
RECIPE = ("merge", "--out", "x", "--recipe")
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
    (("completion", "powershell"), "use bash or zsh or fish or tcsh"),
    (("prune", "cli_nets:a", "--ratio", "0.4"), "`symgraph prune MODEL --ratio R --out FOLDER`"),
    ((*PRUNE, "--ratio", "40"), "a number between 0 and 1"),
    ((*PRUNE, "--importance", "tayler"), "did you mean `taylor`?"),
    ((*PRUNE, "--importance", "taylor"), "name training data, --data"),
    ((*PRUNE, "--importance", "scores.json"), '{"SPACE": [0.3, 1.2, ...], ...}'),
    ((*PRUNE, *DATA), "leave out --data, give --importance taylor"),
    ((*PRUNE, "--drop"), "--importance l1"),
    ((*PRUNE, "--spaces", "hiden"), "did you mean `hidden`?"),
    ((*ROTATE, "--with", "hadamrd"), "did you mean `hadamard`?"),
    ((*ROTATE, "--steps", "5"), "leave out --steps, or give --with learned"),
    ((*ROTATE, *DATA), "leave out --data, or give --with learned"),
    ((*ROTATE, "--with", "learned", "--inputs", "4"), "leave out --inputs, or name data with --data"),
    ((*ROTATE, "--spaces", "nowhere"), "there is hidden"),
    (ROTATE, "`symgraph explain cli_nets:a hidden`"),
    ((*CARRY[:-4], "--out", "x"), "`symgraph transport --base A --tuned A2 --to B --out FOLDER`"),
    ((*CARRY, "--tuned", "cli_nets:a"), "as --tuned, and the other one as --to"),
    ((*CARRY, "--split", "test"), "leave out --split, or name data with --fit"),
    ((*CARRY, "--alignment", "gone.safetensors"), "--alignment FILE` writes one"),
    ((*CARRY, "--alignment", "ab.safetensors", "--sweeps", "3"), "leave out --sweeps, or leave out --alignment"),
    (("gather", "cli_nets:a", "--out", "x"), "mixtures of experts"),
    (("gather", "cli_nets:a", "--out", "x", "--over", "hiden"), "did you mean `hidden`?"),
    (("compare", *PAIR), "name it with --data"),
    (("compare", *PAIR, *DATA, "--plot", "x.bmp"), "a path that ends in .png"),
    (("compare", *PAIR, *DATA, "--ways", "wieghts"), "did you mean `weights`?"),
    ((*RECIPE, "gone.yaml"), "name a recipe, a file of YAML"),
    ((*RECIPE, "out"), "name a recipe, a file of YAML"),
    ((*RECIPE, "nets.py"), "{merge_method: linear, models: [{model: A}, {model: B}]}"),
    ((*RECIPE, "method.yaml"), "did you mean ties?"),
    ((*RECIPE, "base.yaml"), "name it as `base_model`"),
    ((*RECIPE, "parameter.yaml"), "did you mean weight?"),
    ((*RECIPE, "density.yaml"), "a number from 0 to 1"),
    ((*RECIPE, "twice.yaml"), "leave one of them out"),
    ((*RECIPE, "linear.yaml", "--no-align", "--sweeps", "3"), "leave out --sweeps, or leave out --no-align"),
    ((*RECIPE, "linear.yaml", "--weights", "0.5", "0.5"), "leave out one of them"),
    ((*RECIPE, "linear.yaml", "--dtype", "float32"), "`dtype` in the recipe"),
    ((*RECIPE, "linear.yaml", "--vocabulary", "base"), "`tokenizer: {source: union}`"),
    ((*RECIPE, "linear.yaml", "--by", "someone"), "use symgraph or mergekit"),
    ((*RECIPE, "della.yaml", "--by", "symgraph"), "--by mergekit, or one of linear, slerp"),
    ((*RECIPE, "three.yaml"), "name one beside the base"),
    (("merge", *PAIR, "--out", "x", "--by", "mergekit"), "name a recipe with --recipe"),
    (("merge", *PAIR, "--out", "x", "--vocabulary", "all"), "use union or base"),
    (("merge", *PAIR, "--out", "x", "--vocabulary", "union"), "beside its weights"),
    (("merge", "cli_nets:a", "out+out", "--out", "x"), "name a folder with adapter_config.json after the +"),
    (("merge", *PAIR, "--out", "x", "--recalibrate-limit", "9"), "name data with --recalibrate"),
    (("run",), "`symgraph run PROGRAM`"),
    (("run", "gone.yaml"), "--emit-program FILE"),
    (("run", "linear.yaml"), "--emit-program FILE"),
    (("run", "misspelt.yaml"), "did you mean `canonicalise`?"),
    (("diff", "cli_nets:a"), "--rules-b DIR"),
    (("diff", "cli_nets:a", "--rules-b", "gone"), "give a YAML file or a folder"),
    (("rules",), "use list or show or explain"),
    (("rules", "nwe", "lgamma"), "did you mean `new`?"),
    (("rules", "new", "lgama"), "did you mean aten.lgamma.default?"),
    (("rules", "new", "lgamma", "--args", "q=2"), "leave out --args"),
    (("rules", "new", "cdist", "--args", "p=two"), "--args p=2.0"),
    (("rules", "new", "lgamma", "--name", "My Rule"), "words in lower case joined by `-`"),
    (("rules", "new", "lgamma", "--model", "cli_nets:a"), "`symgraph inspect cli_nets:a --emit graph`"),
    (("rules", "test", "layernorm"), "did you mean `layer-norm`?"),
    (("rules", "test", "--rules", "out"), "put rule files in it"),
    (("rules", "explain", "gleu"), "did you mean `gelu`?"),
    (("rules", "coverage"), "`symgraph rules coverage MODEL`"),
]
LINEAR = "merge_method: linear\nmodels: [{model: cli_nets:a}, {model: cli_nets:b}]\n"
BASE = LINEAR.replace("linear", "ties") + "base_model: cli_nets:a\n"
RECIPES = {
    "misspelt": "symgraph-program: 2\nmodel: Net\nrules: x\nsymmetry: x\nsteps: [{op: canonicalize, model: A}]\n",
    "linear": LINEAR,
    "method": BASE.replace("ties", "tiess"),
    "base": LINEAR.replace("linear", "ties"),
    "parameter": BASE + "parameters: {wieght: 1}\n",
    "density": BASE + "parameters: {density: [0.5, 1.5]}\n",
    "della": BASE.replace("ties", "della"),
    "three": BASE.replace("ties", "slerp").replace("{model: cli_nets:b}", "{model: cli_nets:b}, {model: cli_nets:c}"),
    "twice": BASE.replace("cli_nets:b", "cli_nets:a"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the mistakes are made with."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "nets.py").write_text("")
    (tmp_path / "scores.json").write_text("[1, 2]")
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
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
    assert not re.search(r"\b[a-z_]+=(?!'plain'|2\.0)", said), said


def test_even_weights_are_the_default(cli: Cli) -> None:
    found = cli("merge", *PAIR, "--out", "x", "--json")
    assert found.code == 0 and [m["weight"] for m in found.json["models"]] == [0.5, 0.5]
