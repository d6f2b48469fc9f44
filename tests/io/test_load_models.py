"""Loading models: what every name gives, and what every broken checkpoint says."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import HEAD, TABLE, WEIGHTS, copy_with, equal, image_model, refused, save, text_model
from torch import Tensor

from symgraph.errors import CheckpointError
from symgraph.io import models
from symgraph.io.checkpoint import dtypes, read_state
from symgraph.io.files import existing

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied language model in float32."""
    return save(text_model(), tmp_path_factory.mktemp("good") / "model")


# -- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_comes_back_to_the_bit_in_its_own_dtype(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    model = text_model(tie_word_embeddings=tied).to(dtype)
    found = models.load(save(model, tmp_path / "model"))
    assert found.kind == "checkpoint" and found.has_weights and not found.module.training
    assert equal(dict(found.module.state_dict()), dict(model.state_dict()))
    assert (found.module.get_parameter(HEAD) is found.module.get_parameter(TABLE)) is tied


def test_the_files_that_were_read_are_named(good: Path) -> None:
    assert [f.name for f in models.load(good).files] == ["config.json", WEIGHTS]


def test_another_dtype_is_computed_in_and_the_stored_one_is_remembered(tmp_path: Path) -> None:
    stored = text_model().half()
    found = models.load(save(stored, tmp_path / "model"), dtype=torch.float64)
    assert {p.dtype for p in found.module.parameters()} == {torch.float64}
    assert dtypes(found)[TABLE] == torch.float16
    assert torch.equal(read_state(found)[TABLE], stored.state_dict()[TABLE])


@pytest.mark.parametrize("make", [text_model, image_model])
def test_a_config_of_another_dtype_does_not_narrow_the_weights(tmp_path: Path, make: Any) -> None:
    folder = copy_with(save(make(), tmp_path / "a"), tmp_path / "b", {"dtype": "float16"})
    assert equal(read_state(models.load(folder)), dict(make().state_dict()))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    model = text_model(tie_word_embeddings=False)
    folder = save(model, tmp_path / "model", max_shard_size="1KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    found = models.load(folder)
    assert equal(dict(found.module.state_dict()), dict(model.state_dict()))
    assert len(found.files) == 1 + len(list(folder.glob("*.safetensors")))
    assert set(dtypes(found)) == set(model.state_dict())


def test_a_pytorch_file_of_plain_tensors_is_read(good: Path, tmp_path: Path) -> None:
    folder = copy_with(good, tmp_path / "old")
    (folder / WEIGHTS).unlink()
    state = text_model().state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    assert equal(dict(models.load(folder).module.state_dict()), dict(state))


@pytest.mark.parametrize("name", ["config.json", "other name.json"])
def test_a_config_gives_the_architecture_without_memory(good: Path, tmp_path: Path, name: str) -> None:
    # Beside a config.json of another size, which must not be taken in its place.
    read = json.loads((good / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(read | {"n_embd": 4}))
    (tmp_path / name).write_text(json.dumps(read | {"n_embd": 16}))
    found = models.load(tmp_path / name)
    assert found.kind == "config" and not found.has_weights and all(p.is_meta for p in found.module.parameters())
    assert found.config.n_embd == 16 and found.module.get_parameter(TABLE).shape == (11, 16)
    with refused(CheckpointError, name, "has no weights", "only its config was read"):
        read_state(found)


def test_a_folder_with_a_config_alone_is_an_architecture(good: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((good / "config.json").read_text())
    assert models.load(tmp_path).kind == "config"


def test_without_weights_nothing_is_allocated(good: Path) -> None:
    found = models.load(good, weights=False)
    assert found.kind == "checkpoint" and not found.has_weights and found.config.n_embd == 8


def test_paths_with_links_and_spaces_and_the_home_folder(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a link").symlink_to(good)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in (tmp_path / "a link", "~/a link"):
        assert equal(dict(models.load(spec).module.state_dict()), dict(text_model().state_dict()))


def test_a_head_may_be_stored_under_either_name(good: Path, tmp_path: Path) -> None:
    def rename(state: dict[str, Tensor]) -> None:
        state[HEAD] = state.pop(TABLE)

    found = models.load(copy_with(good, tmp_path / "renamed", edit=rename))
    assert torch.equal(found.module.get_parameter(TABLE), text_model().get_parameter(TABLE))


def test_what_transformers_says_is_restored() -> None:
    from transformers.utils import logging as log

    before = log.get_verbosity(), log.is_progress_bar_enabled()
    with pytest.raises(KeyError), models.quiet():
        assert log.get_verbosity() == logging.CRITICAL and not log.is_progress_bar_enabled()
        raise KeyError
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


# -- names of nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["no/such/place", "x:" * 200, "~nobody-of-this-name/model", "a\0b", "", "C:/models:x"])
def test_a_name_of_nothing(spec: str) -> None:
    with refused(CheckpointError, spec, "no such file or folder", remedy="package.module:factory"):
        models.load(spec)


def test_a_place_that_may_not_be_looked_at_is_not_called_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path) -> bool:
        raise PermissionError(13, "Permission denied", "locked/model")

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(PermissionError):
        existing("locked/model")


@pytest.mark.parametrize("spec", ["nobody/nothing", "x" * 300])
def test_a_hub_id_without_the_hub(spec: str) -> None:
    with refused(CheckpointError, spec, "no such file or folder", "HF_HUB_OFFLINE", remedy="network"):
        models.load(spec)


# -- broken folders --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with refused(CheckpointError, tmp_path, "is not a checkpoint", "it holds nothing", remedy="save_pretrained"):
        models.load(tmp_path)
    (tmp_path / "notes.md").touch()
    with refused(CheckpointError, tmp_path, "it holds notes.md"):
        models.load(tmp_path)


def test_a_file_of_weights_is_no_model(good: Path) -> None:
    with refused(CheckpointError, good / WEIGHTS, "is not a checkpoint", "single file", remedy="config.json"):
        models.load(good / WEIGHTS)


BAD_CONFIGS: list[tuple[dict[str, Any], str, str]] = [
    ({"architectures": []}, "does not say which class", "missing or empty"),
    ({"architectures": "GPT2LMHeadModel"}, "does not say which class", "no list of names"),
    ({"architectures": [3]}, "does not say which class", "no list of names"),
    ({"architectures": ["NoSuchModel"]}, "unknown architecture NoSuchModel", "has no such model class"),
    ({"architectures": ["NoSuchModel"], "auto_map": None}, "unknown architecture NoSuchModel", "no such model class"),
    ({"architectures": ["pipeline"]}, "unknown architecture pipeline", "has no such model class"),
    ({"architectures": ["AutoModel"]}, "unknown architecture AutoModel", "has no such model class"),
    ({"model_type": "no-such-type"}, "the config cannot be used", "no-such-type"),
    ({"n_embd": "wide"}, "the config cannot be used", "n_embd"),
    ({"n_head": 3}, "the model cannot be built", "divisible"),
    ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised", "(gptq)"),
    ({"quantization_config": "gptq"}, "the weights are quantised", "(gptq)"),
]


@pytest.mark.parametrize(("change", "what", "cause"), BAD_CONFIGS)
def test_a_config_that_is_wrong(good: Path, tmp_path: Path, change: dict[str, Any], what: str, cause: str) -> None:
    folder = copy_with(good, tmp_path / "bad", change)
    with refused(CheckpointError, folder, what, cause):
        models.load(folder, weights=False)


@pytest.mark.parametrize(("text", "what"), [("{", "cannot be read"), ("[1]", "is not a config")])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with refused(CheckpointError, tmp_path / "config.json", what):
        models.load(tmp_path)


def test_a_config_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with refused(CheckpointError, tmp_path / "config.json", "cannot be read", "UnicodeDecodeError"):
        models.load(tmp_path)


def test_remote_code_is_not_run_unless_trusted(good: Path, tmp_path: Path) -> None:
    change = {"architectures": ["Strange"], "auto_map": {"AutoModelForCausalLM": "strange.Strange"}}
    folder = copy_with(good, tmp_path / "remote", change)
    ran = tmp_path / "ran"
    (folder / "strange.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with refused(CheckpointError, folder, "Strange needs remote code", remedy="trust_remote_code=True"):
        models.load(folder)
    assert not ran.exists()


# -- broken weights --------------------------------------------------------------------------------------------------


def test_no_weights_beside_the_config(good: Path, tmp_path: Path) -> None:
    folder = copy_with(good, tmp_path / "empty")
    (folder / WEIGHTS).rename(folder / "weights.dat")
    with refused(CheckpointError, folder, "not a complete checkpoint", WEIGHTS, remedy=str(folder / "config.json")):
        models.load(folder)
    (folder / "adapter_config.json").touch()
    with refused(CheckpointError, folder, "not a complete checkpoint", remedy="merge the adapter"):
        models.load(folder)


def test_a_shard_that_is_gone(tmp_path: Path) -> None:
    folder = save(text_model(), tmp_path / "model", max_shard_size="2KB")
    first = min(folder.glob("*.safetensors"))
    first.unlink()
    with refused(CheckpointError, folder, "not a complete checkpoint", first.name):
        models.load(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors"])
def test_an_index_that_leads_out_of_its_folder(good: Path, tmp_path: Path, name: str) -> None:
    folder = copy_with(good, tmp_path / "a")
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with refused(CheckpointError, "is not read", "outside of the folder"):
        models.load(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["x"]}, {"weight_map": {"a": 3}}])
def test_an_index_that_lists_nothing(good: Path, tmp_path: Path, index: dict[str, Any]) -> None:
    folder = copy_with(good, tmp_path / "model")
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with refused(CheckpointError, folder, "not a complete checkpoint", "weight_map"):
        models.load(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_that_were_cut_short(good: Path, tmp_path: Path, kept: int) -> None:
    folder = copy_with(good, tmp_path / "cut")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:kept])
    with refused(CheckpointError, folder / WEIGHTS, "is not a safetensors file", remedy="cut short"):
        models.load(folder)


def test_a_pytorch_file_that_was_cut_short(good: Path, tmp_path: Path) -> None:
    folder = copy_with(good, tmp_path / "cut")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with refused(CheckpointError, folder, "the weights cannot be read", remedy="plain tensors"):
        models.load(folder)


class Runs:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_code_in_a_pytorch_file_is_not_run(good: Path, tmp_path: Path) -> None:
    folder = copy_with(good, tmp_path / "pickled")
    (folder / WEIGHTS).unlink()
    torch.save({TABLE: Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with refused(CheckpointError, folder, "the weights cannot be read", "weights_only"):
        models.load(folder)
    assert not (tmp_path / "ran").exists()


GAIN = "transformer.ln_f.weight"


def _set(value: float) -> Any:
    def edit(state: dict[str, Tensor]) -> None:
        state[GAIN][2:4] = value

    return edit


BAD_WEIGHTS: list[tuple[Any, tuple[str, ...]]] = [
    (lambda s: s.pop(GAIN), ("do not fit", f"missing {GAIN}")),
    (lambda s: s.update(surplus=torch.zeros(2)), ("do not fit", "unexpected surplus")),
    (lambda s: s.update({GAIN: torch.ones(9)}), ("do not fit", f"wrong shapes: {GAIN} (9,) instead of (8,)")),
    (lambda s: s.update({GAIN: torch.ones(8, dtype=torch.int8)}), ("quantised", GAIN)),
    (lambda s: s.update({GAIN: torch.ones(8).to(torch.float8_e4m3fn)}), ("quantised", GAIN)),
    (_set(float("nan")), ("not finite", f"{GAIN}: 2 of 8 values")),
    (_set(float("-inf")), ("not finite", f"{GAIN}: 2 of 8 values")),
]


@pytest.mark.parametrize(("edit", "texts"), BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_named(good: Path, tmp_path: Path, edit: Any, texts: tuple[str, ...]) -> None:
    folder = copy_with(good, tmp_path / "bad", edit=edit)
    with refused(CheckpointError, folder, *texts):
        models.load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn])
def test_integers_are_refused_under_names_that_transformers_changes(tmp_path: Path, dtype: torch.dtype) -> None:
    renamed = "vit.encoder.layer.0.intermediate.dense.weight"
    source = save(image_model(), tmp_path / "a")
    folder = copy_with(source, tmp_path / "b", edit=lambda s: s.update({renamed: s[renamed].to(dtype)}))
    with refused(CheckpointError, folder, "quantised", renamed, remedy="float32"):
        models.load(folder)


def test_a_mask_of_bytes_that_old_checkpoints_hold_is_no_weight(good: Path, tmp_path: Path) -> None:
    mask = torch.ones(1, 1, 9, 9, dtype=torch.uint8)
    folder = copy_with(good, tmp_path / "b", edit=lambda s: s.update({"transformer.h.0.attn.bias": mask}))
    assert equal(dict(models.load(folder).module.state_dict()), dict(text_model().state_dict()))


def test_all_that_does_not_fit_is_said_at_once(good: Path, tmp_path: Path) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        del state[GAIN]
        state["surplus"] = torch.zeros(2)

    with refused(CheckpointError, "", f"missing {GAIN}; unexpected surplus"):
        models.load(copy_with(good, tmp_path / "bad", edit=edit))


def test_weights_of_another_class(good: Path, tmp_path: Path) -> None:
    folder = copy_with(save(image_model(), tmp_path / "image"), tmp_path / "mixed")
    (folder / "config.json").write_text((good / "config.json").read_text())
    with refused(CheckpointError, folder, "missing", "and", "more", remedy="belong together"):
        models.load(folder)


def test_a_checkpoint_is_not_changed_by_loading_it(good: Path) -> None:
    before = {p.name: p.read_bytes() for p in good.iterdir()}
    state = models.load(good).module.state_dict()
    state[GAIN].zero_()
    assert {p.name: p.read_bytes() for p in good.iterdir()} == before
    assert not equal(dict(state), load_file(good / WEIGHTS))


def test_a_file_without_metadata_is_read_all_the_same(good: Path, tmp_path: Path) -> None:
    folder = copy_with(good, tmp_path / "plain")
    save_file(load_file(good / WEIGHTS), folder / WEIGHTS)
    assert equal(dict(models.load(folder).module.state_dict()), dict(text_model().state_dict()))
