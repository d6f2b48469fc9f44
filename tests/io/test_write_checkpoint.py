"""Writing checkpoints: what comes back, what is refused, and what stays when something fails."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import HEAD, TABLE, WEIGHTS, Net, copy_with, equal, image_model, refused, save, text_model
from torch import Tensor, nn

from symgraph.errors import CheckpointError
from symgraph.io import models, shards
from symgraph.io.checkpoint import canonical_state, check_state, read_state, tied_names, write
from symgraph.io.files import OutputError
from symgraph.io.models import Model
from symgraph.io.same_architecture import check_same_architecture

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GAIN = "transformer.ln_f.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied language model in float32."""
    return save(text_model(), tmp_path_factory.mktemp("good") / "model")


def plain(module: nn.Module, **more: Any) -> Model:
    """A model that no checkpoint stands behind."""
    return Model(module, getattr(module, "config", None), None, "nets:made", "factory", **more)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# -- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_written_state_opens_with_transformers_to_the_bit(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    found = models.load(save(text_model(0, tie_word_embeddings=tied).to(dtype), tmp_path / "a"))
    other = dict(text_model(1, tie_word_embeddings=tied).to(dtype).state_dict())
    out = write(found, other, tmp_path / "with a space" / "b")
    with models.quiet():
        opened = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert equal(dict(opened.state_dict()), other)
    assert opened.config.dtype == dtype and opened.config.tie_word_embeddings is tied
    assert (HEAD in load_file(out / WEIGHTS)) is not tied


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_computed_in_float64_is_written_in_the_stored_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    # Of these parameters transformers stores some under other names than they have.
    model = image_model().to(dtype)
    found = models.load(save(model, tmp_path / "a"), dtype=torch.float64)
    assert equal(read_state(found), dict(model.state_dict()))
    wide = {n: t.double() + 1e-3 for n, t in read_state(found).items()}
    opened = models.load(write(found, wide, tmp_path / "b"))
    assert equal(dict(opened.module.state_dict()), {n: t.to(dtype) for n, t in wide.items()})
    assert opened.config.dtype == dtype


def test_the_dtype_of_a_tied_tensor_is_the_stored_one_whatever_its_name(good: Path, tmp_path: Path) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        state[HEAD] = state.pop(TABLE)

    folder = copy_with(good, tmp_path / "a", edit=edit)
    found = models.load(folder, dtype=torch.float64)
    out = write(found, read_state(found), tmp_path / "b")
    assert {t.dtype for t in load_file(out / WEIGHTS).values()} == {torch.float32}


def test_each_tensor_keeps_its_own_dtype(tmp_path: Path) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        state |= {n: t.half() for n, t in state.items() if "ln_" not in n}

    folder = copy_with(save(text_model(), tmp_path / "a"), tmp_path / "mixed", edit=edit)
    found = models.load(folder)
    state = {n: t.double() for n, t in read_state(found).items()}
    assert equal(load_file(write(found, state, tmp_path / "b") / WEIGHTS), load_file(folder / WEIGHTS))


@pytest.mark.parametrize("name", [TABLE, HEAD])
def test_a_tied_tensor_may_come_under_either_name(good: Path, tmp_path: Path, name: str) -> None:
    found = models.load(good)
    state = read_state(found)
    state[name] = state.pop(TABLE) + 1 if name == HEAD else state[TABLE] + 1
    if name == TABLE:
        del state[HEAD]
    written = load_file(write(found, state, tmp_path / "b") / WEIGHTS)
    assert torch.equal(written[TABLE], load_file(good / WEIGHTS)[TABLE] + 1) and HEAD not in written


def test_views_and_shared_memory_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    net = Net()
    storage = torch.randn(64)
    state = {
        "up.weight": storage[:20].view(5, 4),
        "up.bias": storage[:5],
        "down.weight": storage[:15].view(5, 3).t(),
        "down.bias": storage[1:6:2],
        "seen": torch.tensor(3),
    }
    written = load_file(write(plain(net), state, tmp_path / "b") / WEIGHTS)
    assert equal(written, {n: t.contiguous() for n, t in state.items()})


def test_the_model_and_the_state_are_left_as_they_were(good: Path, tmp_path: Path) -> None:
    found = models.load(good, dtype=torch.float64)
    pointers = {n: p.data_ptr() for n, p in found.module.named_parameters()}
    before = {n: t.clone() for n, t in found.module.state_dict().items()}
    write(found, found.module.state_dict(), tmp_path / "b", config_overrides={"tie_word_embeddings": True})
    assert {n: p.data_ptr() for n, p in found.module.named_parameters()} == pointers
    assert equal(dict(found.module.state_dict()), before)


def test_config_overrides_reach_the_file_and_not_the_model(good: Path, tmp_path: Path) -> None:
    found = models.load(good)
    state = {**read_state(found), HEAD: torch.randn(11, 8)}
    out = write(found, state, tmp_path / "b", config_overrides={"tie_word_embeddings": False})
    assert found.config.tie_word_embeddings is True
    opened = models.load(out)
    assert tied_names(opened.module) == {} and torch.equal(opened.module.get_parameter(HEAD), state[HEAD])


def test_the_card_and_the_companions_come_along(good: Path, tmp_path: Path) -> None:
    source = copy_with(good, tmp_path / "a")
    for name in ("tokenizer.json", "vocab.json", "preprocessor_config.json", "notes.txt", "old.safetensors"):
        (source / name).write_text(name)
    out = write(models.load(source), text_model(1).state_dict(), tmp_path / "b", card="# Made by hand\n")
    assert names(out) == {
        "README.md",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "vocab.json",
        "preprocessor_config.json",
    }
    assert (out / "README.md").read_text() == "# Made by hand\n"


def test_a_generation_config_that_transformers_would_not_save_is_copied(good: Path, tmp_path: Path) -> None:
    source = copy_with(good, tmp_path / "a")
    odd = json.dumps({"do_sample": False, "temperature": 0.6, "bos_token_id": 0})
    (source / "generation_config.json").write_text(odd)
    found = models.load(source)
    assert (write(found, read_state(found), tmp_path / "b") / "generation_config.json").read_text() == odd
    found.module.generation_config.temperature = 0.7  # type: ignore[union-attr]
    with refused(CheckpointError, found.spec, "cannot be saved", "temperature", remedy="generation config"):
        write(replace(found, files=()), read_state(found), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_factory_s_model_is_a_file_of_weights(tmp_path: Path) -> None:
    net = Net()
    out = write(plain(net), net.state_dict(), tmp_path / "b", card="not written")
    assert names(out) == {WEIGHTS} and equal(load_file(out / WEIGHTS), dict(net.state_dict()))
    with refused(CheckpointError, "nets:made", "no config to override"):
        write(plain(net), net.state_dict(), tmp_path / "c", config_overrides={"x": 1})


def test_a_mask_of_infinities_is_no_fault(tmp_path: Path) -> None:
    net = Net().half()
    net.register_buffer("mask", torch.full((2,), float("-inf"), dtype=torch.float16))
    state = {n: t.float() if t.is_floating_point() else t for n, t in net.state_dict().items()}
    assert load_file(write(plain(net), state, tmp_path / "b") / WEIGHTS)["mask"].isinf().all()


# -- states that are refused -----------------------------------------------------------------------------------------


def _without(name: str) -> Any:
    return lambda s: {n: t for n, t in s.items() if n != name}


BAD_STATES: list[tuple[Any, tuple[str, ...]]] = [
    (_without(GAIN), ("does not fit", f"missing {GAIN}")),
    (lambda s: {n: t for n, t in s.items() if n not in (TABLE, HEAD)}, (f"missing {TABLE}, {HEAD}",)),
    (lambda s: {**s, "surplus": torch.zeros(1)}, ("unexpected surplus",)),
    (lambda s: {**s, GAIN: torch.ones(9)}, (f"wrong shapes: {GAIN} (9,) instead of (8,)",)),
    (lambda s: {**s, HEAD: s[TABLE] + 1}, (f"tied but different: {HEAD} and {TABLE}",)),
    (lambda s: {**s, GAIN: torch.full((8,), float("nan"))}, ("not finite", f"{GAIN}: 8 of 8 values")),
]


@pytest.mark.parametrize(("change", "texts"), BAD_STATES)
def test_a_state_that_does_not_fit_is_not_written(
    good: Path, tmp_path: Path, change: Any, texts: tuple[str, ...]
) -> None:
    found, out = models.load(good), tmp_path / "new" / "b"
    with refused(CheckpointError, out, *texts):
        write(found, change(read_state(found)), out)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("given", [(TABLE, HEAD), (TABLE,), (HEAD,)])
def test_what_overflows_its_dtype_is_not_written(tmp_path: Path, given: tuple[str, ...]) -> None:
    found = models.load(save(text_model().half(), tmp_path / "a"))
    state = {n: t.float() for n, t in read_state(found).items() if n not in (TABLE, HEAD)}
    state |= dict.fromkeys(given, torch.full((11, 8), 1e5))
    with refused(CheckpointError, tmp_path / "b", "after conversion to the stored dtype", f"{TABLE}: 88 of 88"):
        write(found, state, tmp_path / "b")
    assert names(tmp_path) == {"a"}


def test_a_state_may_be_checked_without_writing_it() -> None:
    net = Net()
    check_state(net, net.state_dict(), "here")
    with refused(CheckpointError, "here", "missing seen"):
        check_state(net, dict(net.named_parameters()), "here")


def test_tied_tensors_are_kept_once() -> None:
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert list(canonical_state(net, net.state_dict())) == ["0.weight", "0.bias"]
    later = {n: t for n, t in net.state_dict().items() if n.startswith("2.")}
    assert equal(canonical_state(net, later), {"0.weight": shared.weight.detach(), "0.bias": shared.bias.detach()})


# -- places that are refused, and failures half-way ------------------------------------------------------------------


def test_an_output_that_exists_is_kept_unless_overwriting_is_asked_for(good: Path, tmp_path: Path) -> None:
    found, out = models.load(good), tmp_path / "b"
    write(found, read_state(found), out, card="old")
    with refused(OutputError, out, "exists already", remedy="overwrite=True"):
        write(found, text_model(1).state_dict(), out)
    assert torch.equal(load_file(out / WEIGHTS)[TABLE], load_file(good / WEIGHTS)[TABLE])
    write(found, text_model(1).state_dict(), out, overwrite=True)
    assert torch.equal(load_file(out / WEIGHTS)[TABLE], text_model(1).state_dict()[TABLE])
    assert "README.md" not in names(out) and names(tmp_path) == {"b"}


def test_only_a_checkpoint_or_an_empty_folder_is_overwritten(good: Path, tmp_path: Path) -> None:
    found, thesis = models.load(good), tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter-1.tex").write_text("long")
    with refused(OutputError, thesis, "is not replaced", "it holds chapter-1.tex"):
        write(found, read_state(found), thesis, overwrite=True)
    assert (thesis / "chapter-1.tex").read_text() == "long"
    (thesis / "chapter-1.tex").unlink()
    assert WEIGHTS in names(write(found, read_state(found), thesis, overwrite=True))


@pytest.mark.parametrize("place", ["a", "a/inside", "."], ids=["equal", "inside", "around"])
def test_an_input_is_never_written_into(good: Path, tmp_path: Path, place: str) -> None:
    folder = copy_with(good, tmp_path / "a")
    found, before = models.load(folder), names(folder)
    with pytest.raises(CheckpointError, match="which is read"):
        write(found, read_state(found), tmp_path / place, overwrite=True)
    assert names(folder) == before


def test_a_linked_output_is_replaced_and_what_it_linked_to_is_kept(good: Path, tmp_path: Path) -> None:
    kept, link = copy_with(good, tmp_path / "kept"), tmp_path / "link"
    link.symlink_to(kept)
    found = models.load(good)
    write(found, text_model(1).state_dict(), link, overwrite=True)
    assert not link.is_symlink() and names(tmp_path) == {"kept", "link"}
    assert (kept / WEIGHTS).read_bytes() == (good / WEIGHTS).read_bytes()
    assert torch.equal(models.load(link).module.get_parameter(GAIN), text_model(1).get_parameter(GAIN))


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("stage", ["raw_bytes", "copyfile", "write_text"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_what_was_there(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, failure: BaseException, existing: bool
) -> None:
    out = tmp_path / "deep" / "b"
    found = models.load(good)
    if existing:
        write(found, read_state(found), out, card="old")
    before = {p.name: p.read_bytes() for p in out.iterdir()} if existing else {}
    monkeypatch.setattr(*_broken(stage, failure))
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        write(found, text_model(1).state_dict(), out, overwrite=True, card="new")
    if isinstance(failure, OSError):
        assert str(out) in str(caught.value) and "No space left on device" in str(caught.value)
    monkeypatch.undo()
    assert names(tmp_path) == ({"deep"} if existing else set())
    if existing:
        assert names(tmp_path / "deep") == {"b"} and {p.name: p.read_bytes() for p in out.iterdir()} == before


def _broken(stage: str, failure: BaseException) -> tuple[Any, str, Any]:
    def fail(*_: object, **__: object) -> None:
        raise failure

    places: dict[str, tuple[Any, str]] = {"raw_bytes": (shards, "raw_bytes"), "copyfile": (shutil, "copyfile")}
    place, name = places.get(stage, (Path, "write_text"))
    return place, name, fail


def test_an_output_under_a_file_is_refused(good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = models.load(good)
    with refused(OutputError, tmp_path / "file" / "b", "could not be written", remedy="permissions"):
        write(found, read_state(found), tmp_path / "file" / "b")
    with refused(OutputError, tmp_path / "file", "is a file, and a folder is to be written"):
        write(found, read_state(found), tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


# -- one architecture ------------------------------------------------------------------------------------------------


def test_models_of_one_architecture_may_differ_in_what_does_not_matter(good: Path, tmp_path: Path) -> None:
    other = {"resid_pdrop": 0.3, "use_cache": False, "task_specific_params": {"x": 1}, "initializer_range": 0.5}
    check_same_architecture(models.load(good), models.load(copy_with(good, tmp_path / "b", other)))


@pytest.mark.parametrize(
    ("other", "texts"),
    [
        (lambda: text_model(n_inner=16), ("the configs differ in n_inner (12 and 16)", "shapes differ: ")),
        (lambda: text_model(layer_norm_epsilon=1e-3), ("the configs differ in layer_norm_epsilon (1e-05 and 0.001)",)),
        (lambda: text_model(n_layer=2), ("n_layer (1 and 2)", "has transformer.h.1.ln_1.weight, ")),
        (lambda: image_model(), ("the classes are ",)),
    ],
)
def test_architectures_that_differ(good: Path, other: Any, texts: tuple[str, ...]) -> None:
    a, b = models.load(good), plain(other())
    with refused(CheckpointError, f"{a.spec} and {b.spec}", "different architectures", *texts):
        check_same_architecture(a, b)
    with pytest.raises(CheckpointError):
        check_same_architecture(b, a)


def test_modules_without_a_config_are_compared_by_their_shapes() -> None:
    check_same_architecture(plain(Net()), plain(Net()))
    with refused(CheckpointError, "nets:made", "shapes differ: up.weight (5, 4) and (6, 4)"):
        check_same_architecture(plain(Net()), plain(Net(6)))
