"""compare, end to end: one table, one picture, and what is refused."""

from __future__ import annotations

from pathlib import Path

from cli.runner import Cli

LEARN = ("--train-data", "cli_nets:images", "--validation-data", "cli_nets:images")


def test_a_table_and_a_picture(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    data = ("--data", "cli_nets:images", "--points", 3, "--metrics", "accuracy")
    short = ("--steps", 4, "--check-every", 2)
    found = cli("compare", *pair, *data, *short, *LEARN, "--plot", "all.svg", "--json")
    assert found.code == 0, found.err
    assert list(found.json["ways"]) == ["vanilla", "permutations", "weights", "activations", "learned"]
    assert found.json["best"] in found.json["ways"] and Path(found.json["plot"]).exists()
    text = cli("compare", *pair, *data, "--ways", "vanilla", "weights")
    assert text.code == 0 and "the least barrier by" in text.out and "learned" not in text.out
    made_up = cli("compare", *pair, *data, *short, "--ways", "learned", "--train-data", "none", "--limit", 12)
    assert made_up.code == 0, made_up.err


def test_what_is_missing_is_named(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    assert "--data" in cli("compare", *pair).err
    Path("all.svg").write_text("mine")
    found = cli("compare", *pair, "--data", "cli_nets:images", "--ways", "vanilla", "--plot", "all.svg")
    assert found.code != 0 and "--overwrite" in found.err and Path("all.svg").read_text() == "mine"


def test_a_page_of_all_ways(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    command = ("compare", *pair, "--data", "cli_nets:images", "--points", 3, "--ways", "vanilla", "weights")
    found = cli(*command, "--html", "all.html", "--json")
    assert found.code == 0, found.err
    page = Path("all.html").read_text(encoding="utf-8")
    assert found.json["html"] == "all.html" and '"label":"weights"' in page and '["vit-0","vit-1"]' in page
    again = cli(*command, "--html", "all.html")
    assert again.code != 0 and "--overwrite" in again.err and Path("all.html").read_text(encoding="utf-8") == page
