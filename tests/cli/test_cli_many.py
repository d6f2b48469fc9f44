"""universe, barrier and merge of three models, end to end; batch norms recalibrated; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cli.runner import Cli, Outcome

DATA = ("--data", "cli_nets:images", "--metrics", "accuracy")
LEARN = ("--method", "learned", "--train-data", "cli_nets:images", "--validation-data", "cli_nets:images")


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def equal(one: Path | str, other: Path | str) -> bool:
    return all(torch.equal(t, weights(other)[n]) for n, t in weights(one).items())


@pytest.fixture
def three(checkpoints: Path) -> list[Path]:
    return [checkpoints / name for name in ("vit-0", "vit-1", "vit-2")]


def refused(found: Outcome, code: int, *texts: str) -> None:
    assert found.code == code, found.err
    for text in texts:
        assert text in found.err, found.err
    assert "help:" in found.err


def test_a_universe_of_three(cli: Cli, three: list[Path]) -> None:
    found = cli("universe", *three, "--out", "together", *DATA, "--json")
    assert found.code == 0, found.err
    plain = found.json
    assert len(plain["models"]) == 3 and all(m["after"] < m["before"] for m in plain["models"])
    before, after = (plain["loss_barrier"][w]["summary"]["cross-entropy"] for w in ("before", "after"))
    assert set(before) == set(after) and json.loads(Path("together/universe.json").read_text())["models"]
    reference = plain["reference"]
    assert equal(three[reference], f"together/{reference}")
    card = Path("together/1/README.md").read_text()
    assert "symgraph universe" in card and all(m["hash"] in card for m in plain["models"])
    assert "- after alignment: cross-entropy barrier" in card and "of the even mixture" in card

    other = (reference + 1) % 3
    file = f"together/alignments/{other}.safetensors"
    assert cli("apply", file, three[other], "--out", "applied").code == 0
    assert equal("applied", f"together/{other}")

    turned = cli("universe", *three[::-1], "--out", "turned")
    assert turned.code == 0 and "3 models in one basis" in turned.out
    assert all(equal(f"together/{i}", f"turned/{2 - i}") for i in range(3))

    named = cli("universe", *three, "--out", "named", "--reference", other)
    assert named.code == 0 and equal(three[other], f"named/{other}")
    assert cli("universe", *three, "--out", "named", "--rounds", 0, "--overwrite").code == 0


def test_the_plan_of_a_universe_is_written_and_run(cli: Cli, three: list[Path]) -> None:
    short = ("--rounds", 1, "--sweeps", 2)
    dry = cli("universe", *three, *short, "--dry-run", "--emit-program", "plan.yaml")
    assert dry.code == 0 and "4  match" in dry.out and "5  settle" in dry.out, dry.err
    assert cli("universe", *three, "--out", "planned", "--program", "plan.yaml").code == 0
    again = cli("universe", *three, "--out", "direct", *short, "--emit-program", "again.json")
    assert again.code == 0 and "wrote program to again.json" in again.out
    assert all(equal(f"planned/{i}", f"direct/{i}") for i in range(3))
    refused(cli("universe", *three), 2, "there is no --out FOLDER", "all models")
    refused(cli("universe", *three[:2], "--out", "x", "--program", "plan.yaml"), 2, "does not bring 2 models")


def test_a_universe_by_activations(cli: Cli, three: list[Path]) -> None:
    seen = ("--method", "activations", "--train-data", "cli_nets:images")
    found = cli("universe", *three, "--out", "seen", *seen, "--alpha", 0.5, "--rounds", 1, "--sweeps", 2)
    assert found.code == 0 and "activations of" in found.out, found.err
    assert "activation matching of each" in Path("seen/1/README.md").read_text()
    refused(cli("universe", *three, "--out", "x", *seen, "--alpha", 2), 2, "--alpha is 2")


def test_a_universe_is_trained_and_resumed(cli: Cli, three: list[Path]) -> None:
    short = (*LEARN, "--steps", 8, "--check-every", 4, "--checkpoint", "run.pt")
    found = cli("universe", *three, "--out", "one", *short)
    assert found.code == 0, found.err
    assert "learned over 8 steps" in found.out and "of the even mixture" in found.out
    assert cli("universe", *three, "--out", "two", *short, "--resume").code == 0
    assert all(equal(f"one/{i}", f"two/{i}") for i in range(3))
    assert "then learned matching" in Path("one/0/README.md").read_text()


def test_the_barrier_of_three(cli: Cli, three: list[Path]) -> None:
    found = cli("barrier", *three, *DATA, "--plot", "b.png", "--out", "b.json", "--samples", 3, "--json")
    assert found.code == 0, found.err
    assert len(found.json["loss"]["mixtures"]) == 19 and found.json["models"] == ["vit-0", "vit-1", "vit-2"]
    assert Path("b.png").read_bytes()[1:4] == b"PNG" and Path("b.json").read_text() == found.out.rstrip("\n")
    mixtures = ("--mixture", 0.5, 0.25, 0.25, "--mixture", 0, 0.5, 0.5)
    text = cli("barrier", *three, *DATA, *mixtures)
    assert text.code == 0 and "0.5 0.25 0.25" in text.out and "over 6 examples" in text.out


def test_a_merge_does_not_depend_on_the_order(cli: Cli, three: list[Path]) -> None:
    assert cli("merge", *three, "--weights", 0.5, 0.3, 0.2, "--out", "one").code == 0
    assert cli("merge", *three[::-1], "--weights", 0.2, 0.3, 0.5, "--out", "two").code == 0
    assert all(torch.allclose(t, weights("two")[n], atol=1e-6) for n, t in weights("one").items())
    assert "brought into one basis" in Path("one/README.md").read_text()


def test_a_merge_goes_on_from_its_file(cli: Cli, three: list[Path]) -> None:
    common = (*three[:2], "--weights", "0.5", "0.5", "--sweeps", "2", "--checkpoint", "run.pt")
    assert cli("merge", *common, "--out", "one").code == 0 and Path("run.pt").exists()
    refused(cli("merge", *common, "--out", "two"), 7, "run.pt exists already")
    assert cli("merge", *common, "--out", "two", "--resume").code == 0
    assert equal("one", "two")


def test_batch_norms_are_recalibrated(cli: Cli) -> None:
    pair = ("cli_nets:normed_a", "cli_nets:normed_b")
    plain = cli("barrier", *pair, "--data", "cli_nets:batches", "--points", 3, "--json").json
    again = ("--recalibrate", "cli_nets:batches")
    found = cli("barrier", *pair, "--data", "cli_nets:batches", "--points", 3, *again, "--json")
    assert found.code == 0, found.err
    assert found.json["recalibrated"] == "cli_nets:batches"
    assert found.json["loss"]["values"][::2] == plain["loss"]["values"][::2]
    assert found.json["loss"]["values"][1] != plain["loss"]["values"][1]
    for out, more in (("plain", ()), ("new", again)):
        assert cli("merge", *pair, "--weights", 0.5, 0.5, "--out", out, *more).code == 0
    differ = [n for n, t in weights("new").items() if not torch.equal(t, weights("plain")[n])]
    assert differ == ["norm.running_mean", "norm.running_var"]
    nothing = cli("barrier", "cli_nets:a", "cli_nets:b", "--data", "cli_nets:batches", *again)
    refused(nothing, 2, "there is nothing to recalibrate", "no batch norm of this model")


def test_what_is_refused(cli: Cli, three: list[Path], checkpoints: Path) -> None:
    refused(cli("universe", three[0], "--out", "x"), 2, "1 model is no universe")
    refused(cli("universe", *three, "--out", "x", "--reference", 3), 2, "no model 3 among 3")
    refused(cli("universe", *three, "--out", "x", "--method", "learned"), 2, "needs training data")
    refused(cli("universe", *three, "--out", "x", *LEARN, "--concentration", 0), 2, "concentration is 0.0")
    refused(cli("universe", *three, "--out", "x", "--resume"), 2, "nothing to resume")
    other = checkpoints / "gpt2-0"
    refused(cli("universe", *three, other, "--out", "x"), 7, "gpt2-0 are of different architectures")
    curved = cli("universe", "cli_nets:a", "cli_nets:b", "cli_nets:smooth", "--out", "x")
    refused(curved, 7, "cli_nets:smooth has other symmetries than cli_nets:a")
    refused(cli("barrier", three[0], *DATA), 2, "1 model has no barrier")
    refused(cli("barrier", *three, *DATA, "--refine"), 2, "--refine is for two models, not 3")
    refused(cli("barrier", *three[:2], *DATA, "--samples", 2), 2, "--points")
    refused(cli("barrier", *three, *DATA, "--mixture", 0.5, 0.4, 0.2), 2, "sum to 1.1, not to one")
    refused(cli("merge", *three, "--weights", 0.5, 0.4, 0.2, "--out", "x"), 2, "sum to 1.1, not to one")
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    refused(cli("universe", *three, "--out", "taken", "--overwrite"), 7, "taken is not replaced", "universe.json")
    assert [p.name for p in Path().rglob("*")] == ["taken", "mine.txt"]


def test_a_recipe_is_merged_in_one_basis(cli: Cli, three: list[Path]) -> None:
    lines = ["merge_method: ties", f"base_model: {three[0]}", "models:", *(f"  - model: {p}" for p in three[1:])]
    Path("recipe.yaml").write_text("\n".join([*lines, "parameters: {weight: 0.5, density: 0.5}"]))
    found = cli("merge", "--recipe", "recipe.yaml", "--out", "merged", "--json")
    assert found.code == 0, found.err
    assert found.json["method"] == "ties" and found.json["aligned"] is True
    assert "ties of vit-0, vit-1, vit-2" in Path("merged/README.md").read_text()
    assert weights("merged").keys() == weights(three[0]).keys()
    refused(cli("merge", "--recipe", "recipe.yaml", *three, "--out", "other"), 2, "a recipe and more than that")
    inside = cli("merge", "--recipe", "recipe.yaml", "--out", three[1], "--overwrite")
    refused(inside, 7, "is not written", "which is read")
    refused(cli("merge", "--out", "other"), 2, "nothing to merge", "--recipe")
    refused(cli("merge", "--recipe", "no.yaml", "--out", "other"), 2, "no such file")
