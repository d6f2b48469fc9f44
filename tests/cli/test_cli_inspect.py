"""inspect, explain, verify and rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.runner import Cli
from symgraph.rules.book import rules_folder

UNSOUND = """
- rule: my-softmax
  about: A claim that is false.
  source: "proof: none"
  ops: [aten._softmax.default]
  signature: "self[... d] -> [... d]"
  admits: {d: orthogonal, "...": semi-permutation}
  examples:
    - {sizes: {d: 4}, args: {dim: -1, half_to_float: false}}
"""


def test_inspect_prints_the_spaces(cli: Cli, checkpoints: Path) -> None:
    found = cli("inspect", checkpoints / "vit-0")
    assert found.code == 0
    assert "residual" in found.out and "orthogonal fixing ones" in found.out and "mlp.hidden" in found.out


def test_inspect_needs_the_config_only(cli: Cli, checkpoints: Path) -> None:
    whole = cli("inspect", checkpoints / "vit-0", "--quiet")
    config = cli("inspect", checkpoints / "vit-0" / "config.json", "--quiet")
    assert config.out == whole.out and config.err == ""


def test_inspect_as_json(cli: Cli) -> None:
    assert {s["name"]: s["size"] for s in cli("inspect", "cli_nets:a", "--json").json["spaces"]}["hidden"] == 6


def test_inspect_lists_rigid_spaces_on_request(cli: Cli) -> None:
    plain, rigid = cli("inspect", "cli_nets:a"), cli("inspect", "cli_nets:a", "--rigid")
    assert "identity" not in plain.out and "identity" in rigid.out


def test_inspect_prints_the_dimension(cli: Cli) -> None:
    found = cli("inspect", "cli_nets:a", "--dimension")
    assert found.code == 0 and len(found.out) > len(cli("inspect", "cli_nets:a").out)


def test_inspect_emits_the_graph(cli: Cli) -> None:
    assert "aten.relu.default" in cli("inspect", "cli_nets:a", "--emit", "graph").out
    targets = [n["target"] for n in cli("inspect", "cli_nets:a", "--emit", "graph", "--json").json["nodes"]]
    assert "aten.relu.default" in targets and "up.weight" in targets


def test_inspect_writes_a_page(cli: Cli, tmp_path: Path) -> None:
    found = cli("inspect", "cli_nets:a", "--html", "page.html")
    assert found.code == 0 and "hidden" in found.out and "wrote page.html" in found.err
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["--html", "--overlay"])
def test_a_file_that_is_there_is_refused_before_any_work(cli: Cli, tmp_path: Path, option: str) -> None:
    (tmp_path / "there").write_text("kept")
    found = cli("inspect", "cli_nets:branching", option, "there")
    assert found.code == 7 and "there exists already" in found.err and "--overwrite" in found.err
    assert (tmp_path / "there").read_text() == "kept"
    assert cli("inspect", "cli_nets:a", option, "there", "--overwrite").code == 0
    assert (tmp_path / "there").read_text() != "kept"


def test_a_page_is_not_written_where_inference_fails(cli: Cli, tmp_path: Path) -> None:
    assert cli("inspect", "cli_nets:branching", "--html", "page.html").code == 3
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("form", "start"),
    [("dot", "digraph"), ("mermaid", "flowchart LR"), ("graphml", "<graphml"), ("json", '{"version"')],
)
def test_inspect_prints_other_forms(cli: Cli, form: str, start: str) -> None:
    found = cli("inspect", "cli_nets:a", "--format", form)
    assert found.code == 0 and found.out.startswith(start) and "hidden" in found.out


def test_the_forms_are_those_of_the_library() -> None:
    from symgraph.cli.inspect_command import FORMATS
    from symgraph.symmetry import drawn

    assert set(FORMATS) == {"table", "json", *drawn.FORMATS}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "--format", "dot"], "two forms"),
        (["--legend", "--json"], "--legend explains a table"),
        (["--emit", "spaces", "--html", "page.html"], "--html shows the symmetry graph"),
        (["--emit", "graph", "--format", "dot"], "--format dot shows the symmetry graph"),
        (["--format", "mermiad"], "did you mean `mermaid`?"),
    ],
)
def test_options_that_do_not_fit_together(cli: Cli, options: list[str], said: str) -> None:
    found = cli("inspect", "cli_nets:a", *options)
    assert found.code == 2 and said in found.err and "help:" in found.err


def test_the_legend_explains_the_table(cli: Cli) -> None:
    found = cli("inspect", "cli_nets:a", "--legend")
    assert found.code == 0 and "Positions in any order, each with a positive scale" in found.out


def test_explain_a_term(cli: Cli) -> None:
    assert "any rotation or reflection" in cli("explain", "orthogonal").out.lower()
    assert cli("explain", "dim", "--json").json[0]["term"] == "dimension"
    assert len(cli("explain", "glossary", "--json").json) > 40
    found = cli("explain", "orthogonl")
    assert found.code == 2 and "did you mean orthogonal" in found.err


def test_explain_a_model_without_a_space(cli: Cli, checkpoints: Path) -> None:
    found = cli("explain", checkpoints / "vit-0")
    assert found.code == 2 and "NAME" in found.err


def test_strict_refuses_an_operator_without_a_rule(cli: Cli) -> None:
    assert cli("inspect", "cli_nets:odd").code == 0
    found = cli("inspect", "cli_nets:odd", "--strict")
    assert found.code == 5 and found.err.count("error[uncovered]") == 1 and "bessel_j0" in found.err


def test_a_model_that_cannot_be_traced(cli: Cli) -> None:
    found = cli("inspect", "cli_nets:branching")
    assert found.code == 3 and "error[trace]" in found.err and "cli_nets.py" in found.err


def test_explain_names_rules_and_places(cli: Cli) -> None:
    found = cli("explain", "cli_nets:a", "hidden")
    assert found.code == 0 and "relu" in found.out
    plain = cli("explain", "cli_nets:a", "hidden", "--json").json
    assert plain["space"] == "hidden" and any("relu" in e["where"] for e in plain["evidence"])


def test_explain_suggests_near_names(cli: Cli) -> None:
    found = cli("explain", "cli_nets:a", "hiden")
    assert found.code == 2 and "did you mean `hidden` or" in found.err


def test_verify_passes_and_says_by_how_much(cli: Cli, checkpoints: Path) -> None:
    found = cli("verify", checkpoints / "vit-0", "--samples", 1, "--json").json
    assert found["passed"] and found["together"] < 1e-9 and not found["random_weights"]
    assert {"residual", "layers.0.mlp.hidden"} <= {c["name"] for c in found["checks"]}


def test_verify_without_each_and_without_weights(cli: Cli, checkpoints: Path) -> None:
    found = cli("verify", checkpoints / "vit-0" / "config.json", "--no-each", "--samples", 1)
    assert found.code == 0 and "verified at random ones" in found.err and "residual" not in found.out


def test_verify_fails_with_its_own_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from symgraph import api
    from symgraph.prove.verify import Check, Verification

    bad = Verification(0.5, (Check("hidden", "permutation", 0.5),), 1, 1e-9)
    monkeypatch.setattr(api, "verify", lambda *_, **__: bad)
    found = cli("verify", "cli_nets:a")
    assert found.code == 6 and "error[unsound]" in found.err and "hidden" in found.err and "FAILS" in found.out


def test_rules_are_listed_and_shown(cli: Cli) -> None:
    assert "layer-norm" in cli("rules", "list").out
    text = cli("rules", "show", "layer-norm").out
    assert text.splitlines()[1] == "- rule: layer-norm" and "rms-norm" not in text
    assert text.split("\n", 1)[1].strip() in (rules_folder() / "norm.yaml").read_text()
    assert cli("rules", "show", "layer-norm", "--json").json["gain"] == "weight"


def test_a_rule_that_does_not_exist(cli: Cli) -> None:
    assert cli("rules", "show", "layr-norm").code == 4


def test_rules_are_tested_by_name(cli: Cli) -> None:
    found = cli("rules", "test", "layer-norm", "--json")
    assert found.code == 0 and found.json == [
        {"rule": "layer-norm", "sound": True, "tight": True, "failures": [], "hints": []}
    ]


def test_a_false_rule_of_a_user_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rules.yaml").write_text(UNSOUND)
    found = cli("rules", "test", "--rules", "mine")
    assert found.code == 4 and "my-softmax: FAILS" in found.out and "error[rule]" in found.err
    refused = cli("inspect", "cli_nets:a", "--rules", "mine")
    assert refused.code == 4 and "axis `d`" in refused.err and refused.out == ""


def test_a_typo_in_a_rule_file_is_shown_with_its_place(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(UNSOUND.replace("admits:", "admit:"))
    found = cli("inspect", "cli_nets:a", "--rules", "mine.yaml")
    assert found.code == 4 and "mine.yaml:7:3" in found.err and "\n  ^" in found.err.replace("    ^", "  ^")
    assert "Traceback" not in found.err


# -- explain and diff --------------------------------------------------------------------------------------------------


def test_explain_takes_parameters_and_classes(cli: Cli) -> None:
    assert "W -> A W" in cli("explain", "cli_nets:a", "up.weight").out
    assert cli("explain", "cli_nets:a", "up.weight", "--json").json["shape"] == [6, 4]
    assert "here it acts on hidden" in cli("explain", "cli_nets:a", "positive monomial").out


def test_two_models_are_compared(cli: Cli) -> None:
    found = cli("diff", "cli_nets:a", "cli_nets:smooth")
    assert found.code == 0
    assert (
        "hidden\n      positive monomial, dimension 6, size 6 -> signed permutation, dimension 0, size 6" in found.out
    )
    assert cli("diff", "cli_nets:a", "cli_nets:b", "--json").json["changes"] == []


def test_two_sets_of_rules_are_compared(cli: Cli) -> None:
    made = cli("rules", "new", "special_bessel_j0", "--out", "mine.yaml")
    assert made.code == 0
    found = cli("diff", "cli_nets:odd", "--rules-b", "mine.yaml")
    assert found.out.startswith("cli_nets:odd -> cli_nets:odd with mine.yaml: ") and "gained:" in found.out
    Path("before.json").write_text(cli("inspect", "cli_nets:odd", "--json").out)
    again = cli("diff", "before.json", "cli_nets:odd", "--rules-b", "mine.yaml")
    assert again.out.splitlines()[1:] == found.out.splitlines()[1:]


def test_a_model_is_not_compared_with_itself(cli: Cli) -> None:
    found = cli("diff", "cli_nets:a")
    assert found.code == 2 and "--rules-b DIR" in found.err
