"""align, apply, barrier and merge on tiny checkpoints, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.runner import Cli
from symgraph.io import models
from symgraph.measure.mixture import interpolate

State = dict[str, torch.Tensor]


def weights(folder: Path) -> State:
    return load_file(folder / "model.safetensors")


def logits(folder: Path) -> torch.Tensor:
    module: Any = models.load(folder).module.double()
    pixels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found: torch.Tensor = module(pixel_values=pixels).logits
    return found


@pytest.fixture(scope="module")
def planted(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vit-0 after a random element of its group: the same function, far away."""
    from symgraph import api
    from symgraph.io import checkpoint
    from symgraph.prove.verify import random_transform, settled_names

    model = api.model(checkpoints / "vit-0")
    symmetry = api.infer(model)
    state = {n: t.detach().double() for n, t in model.module.state_dict().items()}
    moved = random_transform(symmetry, state, torch.Generator().manual_seed(5), settled_names(symmetry)).apply(state)
    return checkpoint.write(model, moved, tmp_path_factory.mktemp("planted") / "b")


def test_alignment_barrier_and_merge_of_a_planted_pair(cli: Cli, checkpoints: Path, planted: Path) -> None:
    a = checkpoints / "vit-0"
    data = ("--data", "cli_nets:images", "--metrics", "accuracy")
    files = ("--alignment", "ab.safetensors", "--emit-program", "plan.yaml")
    aligned = cli("align", a, planted, "--out", "aligned", *files, *data, "--json")
    assert aligned.code == 0, aligned.err
    found = aligned.json
    assert found["distance"]["before"] > 0.1 and found["distance"]["after"] < 1e-5
    before, after = (found["loss_barrier"][w]["summary"]["cross-entropy"]["barriers"] for w in ("before", "after"))
    # Labels are noise: a mixture may be better than the chord as well as worse, but not the same.
    assert max(map(abs, before)) > 1e-3 and max(map(abs, after)) < 1e-5
    assert all(torch.allclose(t, weights(a)[n], atol=1e-4) for n, t in weights(Path("aligned")).items())
    card = Path("aligned/README.md").read_text()
    assert (
        "symgraph align" in card
        and found["source"] in card
        and "| residual | 8 |" in card
        and "- after alignment: " in card
    )

    again = cli("align", a, planted, "--out", "again", "--program", "plan.yaml")
    assert again.code == 0
    assert all(torch.equal(t, weights(Path("aligned"))[n]) for n, t in weights(Path("again")).items())
    applied = cli("apply", "ab.safetensors", planted, "--out", "applied")
    assert applied.code == 0
    assert all(torch.equal(t, weights(Path("aligned"))[n]) for n, t in weights(Path("applied")).items())
    assert cli("apply", "ab.safetensors", "aligned", "--out", "back", "--inverse").code == 0
    assert all(torch.allclose(t, weights(planted)[n], atol=1e-4) for n, t in weights(Path("back")).items())

    drawn = cli("barrier", a, "aligned", *data, "--points", 5, "--plot", "b.png", "--out", "b.json", "--json")
    assert drawn.code == 0 and drawn.json["loss"]["lambdas"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Path("b.png").read_bytes()[1:4] == b"PNG" and Path("b.json").read_text() == drawn.out.rstrip("\n")

    assert cli("merge", a, planted, "--weights", 0.5, 0.5, "--out", "merged").code == 0
    assert torch.allclose(logits(Path("merged")), logits(a), atol=1e-4)
    assert cli("merge", a, planted, "--weights", 0.5, 0.5, "--out", "plain", "--no-align").code == 0
    assert not torch.allclose(logits(Path("plain")), logits(a), atol=1e-2)


def test_an_alignment_keeps_the_function_of_b(cli: Cli, checkpoints: Path) -> None:
    found = cli("align", checkpoints / "vit-0", checkpoints / "vit-1", "--out", "aligned", "--sweeps", 3)
    assert found.code == 0 and "wrote B aligned to aligned" in found.out
    assert torch.allclose(logits(Path("aligned")), logits(checkpoints / "vit-1"), atol=1e-4)


def test_only_the_chosen_spaces_are_aligned(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    found = cli("align", *pair, "--dry-run", "--spaces", "*.hidden", "--json").json
    assert [u["space"] for s in found["steps"] if s["op"] == "match" for u in s["units"]] == ["layers.0.mlp.hidden"]
    assert list(Path().iterdir()) == []


def test_a_dry_run_prints_the_program_and_writes_it_on_request(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    found = cli("align", *pair, "--dry-run", "--emit-program", "plan.json")
    assert found.out.startswith("program for ") and "canonicalise" in found.out
    assert [p.name for p in Path().iterdir()] == ["plan.json"]


def test_a_dry_run_says_what_it_would_take(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "vit-0", checkpoints / "vit-1")
    size = sum(f.stat().st_size for p in pair for f in p.glob("*.safetensors"))
    merge = ("merge", *pair, "--weights", 0.5, 0.5)
    takes = []
    for words in (("align", *pair), ("universe", *pair), merge, (*merge, "--no-align")):
        found = cli(*words, "--dry-run")
        assert found.code == 0 and "reads " in found.out and "on one thread" in found.out, found.err
        takes.append(cli(*words, "--dry-run", "--json").json["cost"])
        assert size / 2 < takes[-1]["stored"] < size
    assert takes[-1]["memory"] < takes[0]["memory"] and takes[-1]["disk"] < takes[1]["disk"]
    assert list(Path().iterdir()) == []
    nowhere = cli(*merge)
    assert nowhere.code == 2 and "there is no --out FOLDER" in nowhere.err
    assert cli("align", *pair, "--sweeps", 1, "--out", "b", "--alignment", "ab.safetensors").code == 0
    found = cli("apply", "ab.safetensors", pair[1], "--dry-run")
    assert found.code == 0 and "of disk" in found.out, found.err
    assert sorted(p.name for p in Path().iterdir()) == ["ab.safetensors", "b"]


def test_a_singular_gauge_writes_a_beside_the_result(cli: Cli, checkpoints: Path, tmp_path: Path) -> None:
    a = _edited(checkpoints / "vit-0", tmp_path / "a", _without_gain)
    found = cli("align", a, checkpoints / "vit-1", "--out", "aligned")
    assert found.code == 0, found.err
    assert "gains are zero" in found.out and "aligned-reference" in found.out
    assert torch.allclose(logits(Path("aligned-reference")), logits(a), atol=1e-4)
    assert "gains are zero" in Path("aligned/README.md").read_text()
    again = cli("align", a, checkpoints / "vit-1", "--out", "other")
    assert again.code == 0
    (tmp_path / "third-reference").mkdir()
    refused = cli("align", a, checkpoints / "vit-1", "--out", "third")
    assert refused.code == 7 and "third-reference exists already" in refused.err
    assert not Path("third").exists()


def test_tied_embeddings_are_kept_or_untied_at_a_price(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "gpt2-0", checkpoints / "gpt2-1")
    kept = cli("align", *pair, "--out", "kept", "--sweeps", 2)
    assert kept.code == 0 and "kept tied: lm_head.weight" in kept.out and "88 more parameters" in kept.out
    assert "lm_head.weight" not in weights(Path("kept"))
    untied = cli("align", *pair, "--out", "untied", "--sweeps", 2, "--tied", "untie")
    assert untied.code == 0 and "untied lm_head.weight: 88 more parameters" in untied.out
    assert {"lm_head.weight"} <= weights(Path("untied")).keys() & weights(Path("untied-reference")).keys()


def test_half_precision_is_written_back_as_it_came(cli: Cli, checkpoints: Path) -> None:
    pair = (checkpoints / "half-0", checkpoints / "half-1")
    assert cli("merge", *pair, "--weights", 0.25, 0.75, "--out", "merged").code == 0
    assert {t.dtype for t in weights(Path("merged")).values()} == {torch.bfloat16}


def test_a_merge_of_three_says_how_it_was_made(cli: Cli, checkpoints: Path) -> None:
    three = [checkpoints / f"vit-{i}" for i in (0, 1, 0)]
    found = cli("merge", *three, "--weights", 0.5, 0.3, 0.2, "--out", "merged", "--json")
    assert found.code == 0 and [m["weight"] for m in found.json["models"]] == [0.5, 0.3, 0.2]
    card = Path("merged/README.md").read_text()
    assert "symgraph merge" in card and card.count(found.json["models"][0]["hash"]) == 2
    first, _, same = (d["after"] for d in found.json["distances"])
    assert first == pytest.approx(same, abs=1e-5) and first < 0.8


def test_the_models_of_a_factory_go_through(cli: Cli) -> None:
    found = cli("align", "cli_nets:a", "cli_nets:b", "--out", "aligned", "--data", "cli_nets:batches")
    assert found.code == 0 and "cross-entropy barrier after" in found.out
    assert weights(Path("aligned"))["up.weight"].shape == (6, 4)
    assert cli("merge", "cli_nets:a", "cli_nets:b", "--weights", 1, 0, "--out", "merged").code == 0
    assert torch.equal(weights(Path("merged"))["up.bias"], models.load("cli_nets:a").module.state_dict()["up.bias"])


def test_interpolation_keeps_integers_and_infinite_masks() -> None:
    first = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3), "mask": torch.tensor([float("-inf"), 0.0])}
    last = {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(7), "mask": torch.tensor([float("-inf"), 0.0])}
    found = interpolate([first, last], [0.25, 0.75])
    assert found["w"].tolist() == [2.5, 5.0] and int(found["n"]) == 3
    assert torch.equal(found["mask"], first["mask"])


def _without_gain(state: State) -> None:
    for name in (n for n in state if ".layernorm_before." in n):
        state[name][2] = 0.0


def _edited(source: Path, out: Path, edit: Any) -> Path:
    out.mkdir()
    state = weights(source)
    edit(state)
    save_file(state, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text((source / "config.json").read_text())
    return out


def test_a_narrower_model_is_embedded_and_written_in_the_larger_shape(cli: Cli, checkpoints: Path) -> None:
    wide, narrow = checkpoints / "vit-wide", checkpoints / "vit-0"
    planned = cli("align", wide, narrow, "--dry-run")
    assert "embed         B into the shape of A -> B.embedded" in planned.out
    assert "12 -> 16  padded with zeros" in planned.out
    assert cli("align", wide, narrow, "--out", "x", "--alignment", "x.safetensors").code == 0
    assert json.loads(Path("x/config.json").read_text())["intermediate_size"] == 16
    assert not Path("x-reference").exists()
    found = cli("align", narrow, wide, "--out", "y")
    assert "the A to use with it to y-reference" in found.out
    assert json.loads(Path("y-reference/config.json").read_text())["intermediate_size"] == 16
    assert "in the shape of a wider one" in Path("y-reference/README.md").read_text()


def test_a_wider_model_is_reduced_and_said_to_be_approximate(cli: Cli, checkpoints: Path) -> None:
    wide, narrow = checkpoints / "vit-wide", checkpoints / "vit-0"
    planned = cli("align", narrow, wide, "--narrow", "--dry-run")
    assert "reduce        B to the shape of A -> B.reduced (APPROXIMATE" in planned.out
    assert "16 -> 12" in planned.out
    found = cli("align", narrow, wide, "--narrow", "--out", "x")
    assert "B reduced to a narrower shape (APPROXIMATE): outputs change by" in found.out
    assert "of the norm lost" in found.out
    assert json.loads(Path("x/config.json").read_text())["intermediate_size"] == 12
    assert "APPROXIMATE: a wider model reduced" in Path("x/README.md").read_text()
    assert not Path("x-reference").exists()
    merged = cli("merge", wide, narrow, "--weights", 0.5, 0.5, "--out", "z")
    assert merged.code == 0
    assert "embedded into a larger shape" in merged.out
    assert json.loads(Path("z/config.json").read_text())["intermediate_size"] == 16


def test_units_are_split_and_softened_on_request(cli: Cli, checkpoints: Path) -> None:
    wide, narrow = checkpoints / "vit-wide", checkpoints / "vit-0"
    split = cli("align", wide, narrow, "--out", "split", "--split-units")
    assert split.code == 0, split.err
    assert "units split into idle ones" in split.out and "APPROXIMATE" not in split.out
    soft = cli("align", wide, narrow, "--out", "soft", "--soft", 0.2)
    assert soft.code == 0, soft.err
    assert "APPROXIMATE: soft permutations change the outputs of B by" in soft.out
    assert sorted(p.name for p in Path().iterdir()) == ["soft", "split"]
