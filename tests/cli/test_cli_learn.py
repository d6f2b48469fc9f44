"""align --method learned: data, options, outputs, resume, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cli.runner import Cli

LEARN = ("--method", "learned", "--train-data", "cli_nets:images", "--validation-data", "cli_nets:images")
SHORT = ("--steps", 8, "--check-every", 4, "--lr", 0.02)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_learned_matching_reports_and_writes(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    data = ("--data", "cli_nets:images", "--metrics", "accuracy")
    found = cli("align", *pair, "--out", "out", *LEARN, *SHORT, *data, "--emit-program", "plan.yaml", "--json")
    assert found.code == 0, found.err
    learned = found.json["learned"]
    assert [e["step"] for e in learned["validation"]] == [0, 4, 8] and learned["ended"] == "all steps"
    text = cli("align", *pair, "--out", "again", "--program", "plan.yaml", *LEARN[2:], *data)
    assert text.code == 0, text.err
    assert "learned over 8 steps" in text.out and "every model computes what it computed" in text.out
    assert "midpoint" in text.out and "on cli_nets:images" in text.out
    assert all(torch.equal(t, weights("out")[n]) for n, t in weights("again").items())
    card = Path("out/README.md").read_text()
    assert "learned over 8 steps" in card and "learned matching (8 steps" in card


def test_dual_writes_both_and_a_run_resumes(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    run = (*LEARN, *SHORT, "--dual", "--checkpoint", "run.pt")
    assert cli("align", *pair, "--out", "out", *run).code == 0
    assert Path("out-reference/model.safetensors").exists() and Path("run.pt").exists()
    card = Path("out-reference/README.md").read_text()
    assert "moved towards" in card
    assert not torch.equal(*(next(iter(weights(p).values())) for p in ("out-reference", pair[0])))
    assert cli("align", *pair, "--out", "again", *run).code != 0
    assert cli("align", *pair, "--out", "again", *run, "--resume").code == 0
    assert all(torch.equal(t, weights("out")[n]) for n, t in weights("again").items())


def test_without_data_models_make_it_up(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "gpt2-0", checkpoints / "gpt2-1")
    made = ("--data", "none", "--batch-size", 4, "--block-size", 6)
    found = cli("align", *pair, "--out", "out", "--method", "learned", *SHORT, *made, "--emit-program", "plan.yaml")
    assert found.code == 0, found.err
    assert "learned over 8 steps" in found.out and "barrier before" not in found.out
    assert "data: none" in Path("plan.yaml").read_text()
    again = cli("align", *pair, "--out", "again", "--program", "plan.yaml", *made)
    assert again.code == 0, again.err
    assert all(torch.equal(t, weights("out")[n]) for n, t in weights("again").items())
    measured = cli("barrier", *pair, *made)
    assert measured.code != 0 and "none" in measured.err


def test_the_plan_says_what_is_trained(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    found = cli("align", *pair, "--dry-run", "--method", "learned", "--compact", "--chart", "exponential")
    assert found.code == 0, found.err
    assert "lambda U(0.4, 0.6)" in found.out and "exponential chart (compact part)" in found.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "learned"), "needs training data"),
        (("--method", "learned", "--train-data", "cli_nets:images", "--optimiser", "Foo"), "no optimiser 'Foo'"),
        (("--method", "learned", "--train-data", "cli_nets:images"), "cannot be divided"),
        (("--method", "learned", "--train-data", "cli_nets:nothing"), "nothing"),
        (("--resume",), "nothing to resume"),
        (("--method", "learnt"), "did you mean `learned`"),
        ((*LEARN, "--lambdas", "0.7", "0.2"), "--lambdas is"),
        ((*LEARN, "--spaces", "*.heads"), "has anything to learn"),
    ],
)
def test_what_is_refused(cli: Cli, checkpoints: Path, words: tuple[str, ...], message: str) -> None:
    found = cli("align", checkpoints / "vit-0", checkpoints / "vit-1", "--out", "out", *words)
    assert found.code != 0 and message in found.err and not Path("out").exists()


def test_data_without_splits_is_trained_on_but_for_its_last_tenth(cli: Cli) -> None:
    words = ("--method", "activations", "--alpha", 1, "--data", "cli_nets:batches", "--points", 3)
    found = cli("align", "cli_nets:a", "cli_nets:b", "--out", "x", *words, "--json")
    assert found.code == 0, found.err
    assert "cli_nets:batches has no splits: its last tenth is set apart" in found.err
    measured = found.json["loss_barrier"]["after"]
    assert (measured["split"], measured["examples"]) == ("tail", 5)
    assert any("activations of 5 examples" in note for note in found.json["notes"])
    whole = cli("align", "cli_nets:a", "cli_nets:b", "--out", "y", *words, "--train-data", "cli_nets:batches", "--json")
    assert whole.json["loss_barrier"]["after"]["examples"] == 10 and "set apart" not in whole.err
