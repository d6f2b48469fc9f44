"""Weights that stay in their files: the same model, read tensor by tensor, and written as tensors are done."""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import WEIGHTS, refused, save, text_model
from torch import nn

import symgraph
from symgraph.cli import main
from symgraph.cli.parser import byte_size
from symgraph.errors import CheckpointError
from symgraph.io import models
from symgraph.io.checkpoint import check_state, dtypes, module_hash, read_state, tied_names, write
from symgraph.io.files import OutputError
from symgraph.io.models import Model
from symgraph.io.shards import INDEX, write_tensors
from symgraph.match.merge import merge, write_merged
from symgraph.tracing.deferred import Deferred, cast, later, made_as

GAIN = "transformer.ln_f.weight"


@pytest.fixture(params=["float32", "bfloat16", "tied", "sharded"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of each kind."""
    model = text_model(tie_word_embeddings=request.param == "tied")
    model = model.to(torch.bfloat16) if request.param == "bfloat16" else model
    model.save_pretrained(tmp_path / "a", max_shard_size="1KB" if request.param == "sharded" else "1GB")
    assert (tmp_path / "a" / INDEX).exists() == (request.param == "sharded")
    return tmp_path / "a"


def both(folder: Path) -> tuple[Model, Model]:
    return models.load(folder), models.load(folder, deferred=True)


def test_the_same_model_is_read(stored: Path) -> None:
    loaded, deferred = both(stored)
    assert all(isinstance(p, Deferred) for p in deferred.module.parameters())
    assert module_hash(deferred.module) == module_hash(loaded.module)
    assert dtypes(deferred) == dtypes(loaded) and tied_names(deferred.module) == tied_names(loaded.module)
    assert read_state(deferred).keys() == read_state(loaded).keys()
    assert all(torch.equal(t, read_state(deferred)[n]) for n, t in read_state(loaded).items())
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(loaded.module(tokens).logits, deferred.module(tokens).logits)


def test_the_same_symmetries_are_inferred(stored: Path) -> None:
    loaded, deferred = both(stored)
    assert symgraph.infer(deferred).fingerprint == symgraph.infer(loaded).fingerprint


def test_the_same_file_is_written(stored: Path, tmp_path: Path) -> None:
    loaded, deferred = both(stored)
    for model, name in ((loaded, "x"), (deferred, "y")):
        write(model, read_state(model), tmp_path / name)
    assert (tmp_path / "x" / WEIGHTS).read_bytes() == (tmp_path / "y" / WEIGHTS).read_bytes()


def test_files_are_those_of_the_library(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    tensors = {f"{i}.\u00fc": (torch.arange(7) % 2).to(d) for i, d in enumerate((*kinds, *kinds))}
    tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    write_tensors(tmp_path / "ours", tensors)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    model = models.load(save(text_model(), tmp_path / "a"), deferred=True)
    out = write(model, read_state(model), tmp_path / "b", shard_size=1000)
    files = sorted(out.glob("model-*.safetensors"))
    index = json.loads((out / INDEX).read_text())
    assert len(files) > 2 and not (out / WEIGHTS).exists()
    assert set(index["weight_map"].values()) == {f.name for f in files}
    whole = load_file(tmp_path / "a" / WEIGHTS)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    parts = [load_file(f) for f in files]
    assert all(len(p) == 1 or sum(t.nbytes for t in p.values()) <= 1000 for p in parts)
    held = {n: t for p in parts for n, t in p.items()}
    assert held.keys() == whole.keys() and all(torch.equal(t, held[n]) for n, t in whole.items())
    assert module_hash(models.load(out).module) == module_hash(model.module)


def test_a_merge_of_deferred_models_is_that_of_loaded_ones(tmp_path: Path) -> None:
    folders = [save(text_model(i).to(torch.bfloat16), tmp_path / str(i)) for i in range(3)]
    written = []
    for deferred in (False, True):
        found = merge([models.load(f, deferred=deferred) for f in folders], [0.5, 0.3, 0.2], align=False)
        assert any(isinstance(t, Deferred) for t in found.state.values()) == deferred
        written.append(write_merged(found, tmp_path / f"merged-{deferred}") / WEIGHTS)
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_mean_that_overflows_is_an_error_before_anything_is_there(tmp_path: Path) -> None:
    large = [text_model().to(torch.float16), text_model().to(torch.float16)]
    for m, folder in zip(large, ("a", "b"), strict=True):
        m.get_parameter(GAIN).data.fill_(60000.0 if folder == "a" else -60000.0)
        save(m, tmp_path / folder)
    found = merge([models.load(tmp_path / f, deferred=True) for f in "ab"], [1.5, -0.5], align=False)
    with pytest.raises(CheckpointError, match=GAIN):
        write_merged(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("harm", ["gone", "cut", "replaced"])
def test_a_file_that_changes_meanwhile_is_one_clear_error(tmp_path: Path, harm: str) -> None:
    folder = save(text_model(), tmp_path / "a")
    model, file = models.load(folder, deferred=True), folder / WEIGHTS
    state, kept = read_state(model), dtypes(model)
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        os.truncate(file, file.stat().st_size - 100)
    else:
        shutil.copyfile(save(text_model(1), tmp_path / "b") / WEIGHTS, file)
        os.utime(file, ns=(1, 1))
    with refused(CheckpointError, file, "has changed while it was read", remedy="nothing was written"):
        write(model, state, tmp_path / "out", stored=kept)
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.load(save(text_model(), tmp_path / "a"), deferred=True)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with refused(OutputError, tmp_path / "out", "does not fit on its disk", remedy="make room"):
        write(model, read_state(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_deferred_tensors_are_made_anew_and_never_written_to() -> None:
    made: list[int] = []
    tensor = Deferred(lambda: made.append(0) or torch.arange(6.0).reshape(2, 3), (2, 3), torch.float32)  # type: ignore[func-returns-value]
    assert torch.equal(tensor @ torch.ones(3), torch.tensor([3.0, 12.0])) and len(made) == 1
    assert torch.equal(torch.zeros(2, 3).copy_(tensor), torch.arange(6.0).reshape(2, 3)) and len(made) == 2
    for kept in (tensor.detach(), copy.deepcopy(tensor), nn.Parameter(tensor), cast(tensor, torch.float64)):
        assert isinstance(kept, Deferred) and len(made) == 2
    assert isinstance(copy.deepcopy(nn.Parameter(tensor)), nn.Parameter)
    with pytest.raises(RuntimeError, match="writes to a tensor that is read"):
        tensor.add_(1)


def test_commands_say_that_a_disk_is_too_small_before_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(save(text_model(i), tmp_path / str(i))) for i in range(2))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(models, "load", None)
    out = str(tmp_path / "out")
    commands = (["align", a, b], ["merge", a, b, "--weights", ".5", ".5"], ["apply", "ab.safetensors", b])
    for command in commands:
        assert main([*command, "--out", out]) == 7
        assert "does not fit on its disk" in capsys.readouterr().err
    assert not Path(out).exists()


def test_sizes_of_shards_are_given() -> None:
    sizes = {"500MB": 5 * 10**8, "5gb": 5 * 10**9, "1KiB": 1024, "17": 17}
    assert {text: byte_size(text) for text in sizes} == sizes
    for text in ("", "GB", "-1MB", "0", "5 apples"):
        with pytest.raises(argparse.ArgumentTypeError, match="500MB"):
            byte_size(text)


def test_tied_tensors_are_compared_by_what_they_stand_for() -> None:
    shared = nn.Linear(2, 2)
    tied = nn.Sequential(shared, shared)

    def state(second: float) -> dict[str, torch.Tensor]:
        fills = {n: 1.0 if n.startswith("0") else second for n in tied.state_dict()}
        given = tied.state_dict().items()
        return {n: Deferred(partial(torch.full_like, t, fills[n]), t.shape, t.dtype) for n, t in given}

    check_state(tied, state(1.0), "here")
    with pytest.raises(CheckpointError, match=r"tied but different: 1\.weight and 0\.weight"):
        check_state(tied, state(2.0), "here")


def test_entries_are_picked_before_they_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, at = torch.randn(6, 5), torch.tensor([3, 0, 5])
    wide = later(narrow, torch.float64)
    assert torch.equal(wide.index_select(0, at), narrow.double().index_select(0, at))
    assert wide.index_select(1, at[:2]).dtype == torch.float64
    # What was rounded and not widened stays so.
    halves = later(narrow.double(), torch.bfloat16)
    assert torch.equal(halves.index_select(0, at), narrow.bfloat16().index_select(0, at))
    monkeypatch.setattr(wide, "_make", lambda: pytest.fail("the whole was widened"))
    wide.index_select(0, at)


def test_what_was_only_widened_is_taken_as_it_was() -> None:
    narrow = torch.randn(6, 5)
    assert made_as(later(narrow, torch.float64), torch.float32).data_ptr() == narrow.data_ptr()
    rounded = later(narrow.double() / 3, torch.float32)
    assert torch.equal(made_as(rounded, torch.float64), (narrow.double() / 3).float().double())
    assert torch.equal(made_as(narrow, torch.float64), narrow.double())


def test_what_is_held_rounded_is_not_rounded_again() -> None:
    wide = torch.randn(6, 5, dtype=torch.float64)
    held = wide.float()
    found = Deferred(lambda: pytest.fail("it was made"), wide.shape, wide.dtype, rounded=held)
    assert later(found, torch.float32) is held
    assert isinstance(later(found, torch.bfloat16), Deferred)
