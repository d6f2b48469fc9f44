"""prune, end to end: a stock checkpoint of a smaller config, weights of a module, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

import symgraph
from cli.runner import Cli


def test_a_smaller_checkpoint_is_written(cli: Cli, checkpoints: Path) -> None:
    source = checkpoints / "vit-0"
    found = cli("prune", source, "--ratio", "0.5", "--importance", "l1", "--out", "out", "--json")
    assert found.code == 0, found.err
    ours = symgraph.prune(source, ratio=0.5, importance="l1")
    assert found.json["spaces"] == ours.to_plain()["spaces"] and found.json["error"] == ours.reduction.error
    opened = symgraph.model("out")
    assert opened.config.intermediate_size == symgraph.model(source).config.intermediate_size // 2
    assert all((t == ours.state[n]).all() for n, t in opened.module.state_dict().items())
    card = Path("out/README.md").read_text()
    assert "symgraph prune" in card and "outputs change by" in card
    again = cli("prune", source, "--ratio", "0.5", "--out", "out")
    assert again.code != 0 and "--overwrite" in again.err


def test_of_a_module_the_weights_are_written(cli: Cli) -> None:
    found = cli("prune", "cli_nets:a", "--ratio", "0.5", "--out", "out")
    assert found.code == 0, found.err
    assert "a copy of the module with smaller parameters" in found.out
    assert [p.name for p in Path("out").iterdir()] == ["model.safetensors"]
    before, after = symgraph.model("cli_nets:a").module.state_dict(), load_file("out/model.safetensors")
    assert before.keys() == after.keys() and len(before["up.bias"]) == 2 * len(after["up.bias"])


def test_importance_from_data_and_from_a_file(cli: Cli, checkpoints: Path) -> None:
    source = checkpoints / "vit-0"
    by_data = cli(
        "prune", source, "--ratio", "0.5", "--importance", "taylor", "--data", "cli_nets:images", "--out", "one"
    )
    assert by_data.code == 0, by_data.err
    spaces = {f["space"]: f["before"] for f in symgraph.prune(source, ratio=0.5).to_plain()["spaces"]}
    Path("scores.json").write_text(json.dumps({n: list(range(size)) for n, size in spaces.items()}))
    by_file = cli("prune", source, "--ratio", "0.5", "--importance", "scores.json", "--drop", "--out", "other")
    assert by_file.code == 0, by_file.err
    assert "others dropped" in by_file.out


def test_a_stream_by_what_the_model_invents_and_heads_of_a_copy(cli: Cli, checkpoints: Path) -> None:
    source = checkpoints / "vit-0"
    stream = ["--spaces", "residual", "--data", "none", "--limit", "64", "--batch-size", "32"]
    found = cli("prune", source, "--ratio", "0.25", *stream, "--out", "one")
    assert found.code == 0 and "leading directions of what flows" in found.out, found.err
    heads = ["--spaces", "*.heads", "--importance", "lamp"]
    found = cli("prune", source, "--ratio", "0.34", *heads, "--out", "other")
    assert found.code == 0 and "lamp: the most important kept" in found.out, found.err


def test_what_cannot_be_pruned_is_refused(cli: Cli, checkpoints: Path) -> None:
    source = checkpoints / "vit-0"
    for more, message in (
        (["--ratio", "0.99"], "below one unit"),
        (["--ratio", "0.5", "--importance", "taylor"], "needs data"),
        (["--ratio", "0.5", "--spaces", "nowhere"], "no space is called"),
        (["--ratio", "0.5", "--drop"], "which units to drop"),
        (["--ratio", "0.5", "--importance", "none.json"], "no scores can be read"),
    ):
        found = cli("prune", source, *more, "--out", "out")
        assert found.code != 0 and message in found.err and "help:" in found.err
        assert not Path("out").exists()
