"""The workbench for rules: made by measurement, explained, watched, and ranked by what their lack freezes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from cli.runner import Cli
from symgraph.cli import rule_testing
from symgraph.cli.console import Console
from symgraph.rules.loading import load_file
from symgraph.rules.schema import schema_text

ODD = "aten.special_bessel_j0.default"
RULE = """\
- rule: bessel
  about: A nonlinear function of each entry.
  source: "proof: f acts on each entry alone"
  ops: [aten.special_bessel_j0.default]
  signature: "self[*] -> [*]"
  admits: {"*": CLASS}
"""


def test_from_a_missing_rule_to_a_symmetry(cli: Cli) -> None:
    """What a new user does: see what is missing, measure it, test it, use it."""
    missing = cli("inspect", "cli_nets:odd").out
    assert f"symgraph rules new {ODD} --model MODEL" in missing and "0 active" in missing
    made = cli("rules", "new", ODD, "--model", "cli_nets:odd", "--out", "my-rules/bessel.yaml")
    assert made.code == 0 and "rule special-bessel-j0, sound and tight" in made.out
    text = Path("my-rules/bessel.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert Path("my-rules/schema.json").read_text() == schema_text()
    assert cli("rules", "test", "--rules", "my-rules").out == "special-bessel-j0: ok\n1 of 1 rules hold\n"
    # An even function: signs are not seen, but what is written need not be even.
    assert "hidden" in cli("inspect", "cli_nets:odd", "--rules", "my-rules").out


def test_a_rule_is_printed_without_a_file(cli: Cli) -> None:
    found = cli("rules", "new", "special_bessel_j0")
    assert found.out.startswith("- rule: special-bessel-j0\n  about: ")
    assert f"ops: [{ODD}]" in found.out and not list(Path().iterdir())
    assert cli("rules", "new", "relu", "--json").json["ops"] == ["aten.relu.default"]


def test_what_shipped_rules_say_already_is_remarked_upon(cli: Cli) -> None:
    assert (
        "the shipped rule positively-homogeneous is about aten.relu.default as well" in cli("rules", "new", "relu").err
    )


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("lgama",), ("torch has no operator 'lgama'", "did you mean aten.lgamma.default?")),
        (("no_such_thing",), ("name it as NAMESPACE.OPERATOR", "--model")),
        (("lgamma", "--args", "p"), ("write it as NAME=VALUE",)),
        (("cdist", "--args", "pp=2"), ("has no argument 'pp' that is no tensor", "`p`")),
        (("lgamma", "--model", "cli_nets:a"), ("the model never calls aten.lgamma.default",)),
    ],
)
def test_mistakes(cli: Cli, words: tuple[str, ...], texts: tuple[str, ...]) -> None:
    found = cli("rules", "new", *words)
    assert found.code == 2 and found.out == ""
    assert all(text in found.err for text in texts), found.err


def test_nothing_is_overwritten(cli: Cli) -> None:
    Path("mine.yaml").write_text("# mine\n")
    found = cli("rules", "new", "relu", "--out", "mine.yaml")
    assert found.code == 7 and Path("mine.yaml").read_text() == "# mine\n"
    assert cli("rules", "new", "relu", "--out", "mine.yaml", "--overwrite").code == 0
    assert [r.rule for r in load_file("mine.yaml")] == ["relu"]


# -- explain -----------------------------------------------------------------------------------------------------------


def test_a_rule_in_words_and_numbers(cli: Cli) -> None:
    text = cli("rules", "explain", "layer-norm").out
    assert "d: orthogonal fixing ones: any rotation or reflection that leaves the vector of ones in its place" in text
    assert "moved by the permutation in g alone: weight" in text
    assert "The mean along d is neither seen nor produced." in text
    found, expected = (text.split(f"  {name} = 2x3\n")[1].splitlines()[:2] for name in ("f(g x)", "g f(x)"))
    assert found == expected
    assert "with a random element of the next larger class, semi-permutation: they differ by" in text


def test_the_numbers_of_an_example_are_those_of_the_operator(cli: Cli) -> None:
    import torch

    (plain,) = cli("rules", "explain", "softmax", "--json").json
    example: dict[str, Any] = plain["example"]
    before, after = (torch.tensor(example["operands"]["self"][k]) for k in ("before", "after"))
    element = torch.tensor(example["element"])
    assert torch.allclose(before @ element.T, after, atol=1e-6)
    assert torch.allclose(after.softmax(-1), torch.tensor(example["f(g x)"]), atol=1e-6)
    assert torch.allclose(before.softmax(-1) @ element.T, torch.tensor(example["g f(x)"]), atol=1e-6)
    assert example["error"] < 1e-9 and all(error > 1e-3 for error in example["breaks"].values())


def test_the_rules_about_an_operator(cli: Cli) -> None:
    text = cli("rules", "explain", "layer_norm").out
    assert "layer-norm (" in text and "layer-norm-over-two-axes (" in text


def test_a_rule_that_is_not_there(cli: Cli) -> None:
    found = cli("rules", "explain", "layernorm")
    assert found.code == 4 and "did you mean `layer-norm`?" in found.err


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_ranked(cli: Cli) -> None:
    text = cli("rules", "coverage", "cli_nets:odd", "cli_nets:a").out
    assert text.splitlines()[1].split() == [ODD, "48", "94.1%", "1", "1"]
    (gap,) = cli("rules", "coverage", "cli_nets:odd", "--json").json
    assert (gap["operator"], gap["frozen"], gap["models"][0]["calls"]) == (ODD, 48, 1)
    assert cli("rules", "coverage", "cli_nets:a").out == "every operator of 1 model has a rule\n"


# -- watch -------------------------------------------------------------------------------------------------------------


def test_files_are_tested_as_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("mine.yaml")
    file.write_text(RULE.replace("CLASS", "permutation"))
    edits = ["signed permutation", "semi-permutaton", "semi-permutation", None]
    shown: list[str] = []

    def pause(seconds: float) -> None:
        shown.append("".join(capsys.readouterr()))
        cls = edits.pop(0)
        if cls is None:
            raise KeyboardInterrupt
        file.write_text(RULE.replace("CLASS", cls) + "#" * len(shown))

    args = argparse.Namespace(rules=["mine.yaml"], names=[])
    with pytest.raises(KeyboardInterrupt):
        rule_testing.watch(args, Console(), pause)
    loose, false, misspelt, right = shown
    assert "bessel: ok" in loose and "could claim more" in loose and "watching 1 files" in loose
    assert "bessel: FAILS" in false and "0 of 1 rules hold" in false
    assert "did you mean `semi-permutation`?" in misspelt and "error[rule]" in misspelt
    assert "bessel: ok" in right and "could claim more" not in right


def test_only_what_changed_is_tested_again(capsys: pytest.CaptureFixture[str]) -> None:
    other = RULE.replace("CLASS", "semi-permutation").replace("rule: bessel", "rule: other").replace("bessel_j0", "i0")
    Path("mine.yaml").write_text(RULE.replace("CLASS", "semi-permutation"))
    Path("other.yaml").write_text(other)
    rounds: list[str] = []

    def pause(seconds: float) -> None:
        rounds.append(capsys.readouterr().out)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        Path("other.yaml").write_text(
            other + "\n" * len(rounds) if len(rounds) == 2 else other.replace("A non", "Some non")
        )

    with pytest.raises(KeyboardInterrupt):
        rule_testing.watch(argparse.Namespace(rules=["mine.yaml", "other.yaml"], names=[]), Console(), pause)
    assert rounds[0].startswith("bessel: ok\nother: ok\n")
    assert rounds[1].startswith("other: ok\n1 of 1")
    assert rounds[2].startswith("other: ok\n1 of 1")


def test_watching_is_no_document(cli: Cli) -> None:
    found = cli("rules", "test", "relu", "--watch", "--json")
    assert found.code == 2 and "--watch prints a text after each change" in found.err


def test_operators_of_ones_own_are_tested_with_their_model(cli: Cli) -> None:
    Path("own.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        '@torch.library.custom_op("workbench::double", mutates_args=())\n'
        "def double(x: torch.Tensor) -> torch.Tensor:\n    return 2 * x\n\n\n"
        "@double.register_fake\ndef _(x):\n    return torch.empty_like(x)\n\n\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)\n\n"
        "    def forward(self, x):\n        return self.down(double(self.up(x)))\n\n\n"
        "def make():\n    return Net(), (torch.randn(2, 4),)\n"
    )
    made = cli("rules", "new", "workbench.double", "--model", "own.py:make", "--out", "mine/double.yaml")
    assert made.code == 0, made.err
    assert "admits: {'*': invertible}" in Path("mine/double.yaml").read_text()
    assert cli("rules", "test", "--rules", "mine", "--model", "own.py:make").out == "double: ok\n1 of 1 rules hold\n"
    assert json.loads(cli("inspect", "own.py:make", "--rules", "mine", "--json").out)["uncovered"] == []
