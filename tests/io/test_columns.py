"""Columns become tensors: images, tokens, labels, as the model takes them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import refused
from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.io import data
from symgraph.io.columns import ASSUMED, IGNORED, Source, Tokenizer, language_targets, window_rows
from symgraph.io.models import Model
from symgraph.io.reading import Reading

WORDS = ["[PAD]", "[MASK]", *"abcdefgh"]


class TinyForImageClassification(nn.Module):
    """Stands for a model by its name."""


class TinyForCausalLM(nn.Module):
    """Stands for a model by its name."""


class TinyForMaskedLM(nn.Module):
    """Stands for a model by its name."""


def model(kind: type[nn.Module], folder: Path | None = None, **config: Any) -> Model:
    files = () if folder is None else (folder / "model.safetensors",)
    return Model(kind(), SimpleNamespace(**config), None, "model", "checkpoint", files)


def images(channels: int = 1) -> Model:
    return model(TinyForImageClassification, image_size=4, num_channels=channels, num_labels=3)


def stored(**columns: Any) -> str:
    import datasets

    datasets.Dataset.from_dict(columns).save_to_disk("rows")
    return "rows"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A file of a tokenizer that gives each letter the number of its place."""
    from tokenizers import Tokenizer as Made
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Made(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[PAD]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def only(found: data.Batches) -> dict[str, Tensor]:
    (batch,) = found
    return batch


# -- images ----------------------------------------------------------------------------------------------------------

GREY = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)


def test_bytes_are_scaled_and_normalised() -> None:
    spec = stored(image=[{"bytes": png(g), "path": None} for g in GREY], label=[0, 2])
    found = only(data.load(spec, model=images(), mean=[0.25], std=[0.5]))
    expected = (torch.tensor(GREY).float() / 255 - 0.25) / 0.5
    assert torch.equal(found["pixel_values"], expected[:, None]) and found["labels"].tolist() == [0, 2]


def png(pixels: Any) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def test_nested_lists_and_any_order_of_axes() -> None:
    colour = np.arange(48).reshape(4, 4, 3)
    for pixels in (colour, colour.transpose(2, 0, 1)):
        found = only(data.load(_fresh(img=[pixels.tolist()]), model=images(3), mean=[0.0], std=[1.0]))
        assert torch.equal(found["pixel_values"][0], torch.tensor(colour).permute(2, 0, 1).float() / 255)


def _fresh(**columns: Any) -> str:
    import shutil

    shutil.rmtree("rows", ignore_errors=True)
    return stored(**columns)


def test_floats_are_normalised_unless_they_are_called_what_the_model_takes() -> None:
    pixels = torch.rand(2, 1, 4, 4).tolist()
    shifted = only(data.load(_fresh(img=pixels), model=images(), mean=[0.5], std=[0.5]))["pixel_values"]
    assert torch.allclose(shifted, (torch.tensor(pixels) - 0.5) / 0.5)
    ready = only(data.load(_fresh(pixel_values=pixels), model=images()))["pixel_values"]
    assert torch.equal(ready, torch.tensor(pixels))
    asked = only(data.load("rows", model=images(), mean=[0.0], std=[2.0]))["pixel_values"]
    assert torch.equal(asked, torch.tensor(pixels) / 2)


def test_the_preprocessor_beside_the_weights_says_how(tmp_path: Path) -> None:
    spec = stored(img=[np.full((8, 8), 51).tolist()])
    beside = images_with(tmp_path, {"image_mean": [0.2], "image_std": [0.1], "do_resize": True})
    assert torch.allclose(only(data.load(spec, model=beside))["pixel_values"], torch.zeros(1, 1, 4, 4), atol=1e-6)
    plain = images_with(tmp_path, {"image_mean": [0.2], "do_normalize": False, "do_resize": True})
    assert torch.allclose(only(data.load(spec, model=plain))["pixel_values"], torch.full((1, 1, 4, 4), 0.2))
    with refused(DataError, "rows (all)", "image size mismatch", "8 x 8, the model takes 4 x 4"):
        list(data.load(spec, model=images_with(tmp_path, {}), mean=[0.5], std=[0.5]))


def test_nothing_is_assumed_of_pixels_unless_it_is_asked_for_and_then_it_is_said() -> None:
    spec = stored(img=GREY.tolist(), label=[0, 1])
    with refused(DataError, "rows (all)", "images cannot be normalised", remedy="assume_normalised=True"):
        data.load(spec, model=images())
    found = data.load(spec, model=images(), assume_normalised=True)
    assert found.remarks == (ASSUMED,)
    assert torch.equal(only(found)["pixel_values"], torch.tensor(GREY).float()[:, None] / 255)
    assert data.load(spec, model=images(), assume_normalised=True, mean=[0.0], std=[1.0]).remarks == ()
    assert data.load(_fresh(pixel_values=GREY[:, None].astype("float32").tolist()), model=images()).remarks == ()


def images_with(folder: Path, preprocessor: Any) -> Model:
    text = preprocessor if isinstance(preprocessor, str) else json.dumps(preprocessor)
    (folder / "preprocessor_config.json").write_text(text)
    return model(TinyForImageClassification, folder, image_size=4, num_channels=1, num_labels=3)


@pytest.mark.parametrize(
    ("preprocessor", "options", "texts"),
    [
        ("{", {}, ("preprocessor_config.json cannot be read", "JSONDecodeError")),
        ("[1]", {}, ("preprocessor_config.json cannot be read", "TypeError")),
        ({"image_mean": ["x"], "image_std": [0.5]}, {}, ("images cannot be normalised", "ValueError")),
        ({"image_mean": [0.5], "image_std": [0.0]}, {}, ("images cannot be normalised", "std is [0.0]")),
        (
            {},
            {"mean": [0.1, 0.2], "std": [0.5]},
            ("images cannot be normalised", "1 channels, 2 means and 1 standard deviations"),
        ),
    ],
)
def test_a_normalisation_that_cannot_be(tmp_path: Path, preprocessor: Any, options: Any, texts: Any) -> None:
    spec = stored(img=[np.zeros((4, 4)).tolist()])
    with refused(DataError, "rows (all)", *texts):
        list(data.load(spec, model=images_with(tmp_path, preprocessor), **options))


def test_images_of_several_sizes() -> None:
    spec = stored(img=[np.zeros((4, 4)).tolist(), np.zeros((5, 5)).tolist()])
    with refused(DataError, "rows (all)", "image size mismatch", "(1, 4, 4), (1, 5, 5) in one batch"):
        list(data.load(spec, mean=[0.5], std=[0.5]))


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ([1.0, 2.0], ("example 0 is no image", "its shape is (2,)")),
        ({"bytes": b"no picture", "path": None}, ("example 0 cannot be decoded", "UnidentifiedImageError")),
        (["a", "b"], ("example 0 is no image",)),
    ],
)
def test_what_is_no_image(value: Any, texts: tuple[str, ...]) -> None:
    with refused(DataError, "rows (all)", *texts):
        list(data.load(stored(image=[value]), model=images(), mean=[0.5], std=[0.5]))


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        ([0, 3], ("label outside the model's range", "label 3 of example 1; the model has 3 classes")),
        ([-1, 0], ("label outside the model's range", "label -1 of example 0")),
        (["cat", "dog"], ("column 'label' holds no labels",)),
        ([0, None], ("column 'label' holds no labels",)),
    ],
)
def test_labels_that_do_not_fit(labels: list[Any], texts: tuple[str, ...]) -> None:
    spec = stored(img=GREY.tolist(), label=labels)
    with refused(DataError, "rows (all)", *texts):
        list(data.load(spec, model=images(), mean=[0.5], std=[0.5]))


def test_yes_and_no_are_classes_and_floats_are_targets() -> None:
    spec = stored(img=GREY.tolist(), label=[True, False], height=[0.5, 1.5])
    assert only(data.load(spec, model=images(), mean=[0.5], std=[0.5]))["labels"].tolist() == [1, 0]
    assert only(data.load(spec, label_column="height", mean=[0.5], std=[0.5]))["labels"].dtype.is_floating_point


# -- text ------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 5))
def test_windows_hold_each_token_once_and_in_order(length: int, size: int, batch: int) -> None:
    ids = torch.arange(length)
    source = Source("text", "all", None, Reading())
    rows = window_rows(ids, size, Tokenizer(list, None), source)
    count = length // size
    found = [rows(i, min(i + batch, count)) for i in range(0, count, batch)]
    flat = torch.cat([b["input_ids"].flatten() for b in found]) if found else torch.zeros(0)
    assert flat.tolist() == list(range(count * size))
    assert all(torch.equal(b["input_ids"], b["labels"]) for b in found)


@pytest.mark.parametrize(("positions", "block", "size"), [(4, None, 4), (4, 3, 3), (None, 5, 5), (99, None, 20)])
def test_windows_are_as_long_as_the_model_and_the_text_allow(
    tokenizer: Path, positions: int | None, block: int | None, size: int
) -> None:
    Path("text.txt").write_text("a b c d e f g h a b " * 2)
    tiny = model(TinyForCausalLM, max_position_embeddings=positions, vocab_size=10)
    found = data.load("text.txt", model=tiny, tokenizer=tokenizer, block_size=block)
    assert {tuple(b["input_ids"].shape)[1] for b in found} == {size} and found.examples == 20 // size


@pytest.mark.parametrize(("block", "texts"), [(5, ("too long", "the model has 4 positions")), (0, ("of 0 tokens",))])
def test_windows_that_cannot_be(tokenizer: Path, block: int, texts: tuple[str, ...]) -> None:
    Path("text.txt").write_text("a b c d e f g h")
    tiny = model(TinyForCausalLM, max_position_embeddings=4, vocab_size=10)
    with refused(DataError, "text.txt (all)", *texts, remedy="block_size="):
        data.load("text.txt", model=tiny, tokenizer=tokenizer, block_size=block)


def test_a_text_column_is_one_text(tokenizer: Path) -> None:
    spec = stored(text=["a b c", "", None, "d"])
    tiny = model(TinyForCausalLM, tokenizer.parent, max_position_embeddings=2, vocab_size=10)
    assert only(data.load(spec, model=tiny))["input_ids"].tolist() == [[2, 3], [4, 5]]


def test_a_text_that_is_too_short(tokenizer: Path) -> None:
    Path("text.txt").write_text("a")
    with refused(DataError, "text.txt (all): no examples", "the text has 1 tokens"):
        data.load("text.txt", tokenizer=tokenizer)


@pytest.mark.parametrize("content", [None, "{", '{"model": 3}'])
def test_a_tokenizer_that_cannot_be_read(content: str | None) -> None:
    Path("text.txt").write_text("a b c")
    if content is not None:
        Path("own.json").write_text(content)
    with refused(DataError, "text.txt (all)", "the tokenizer own.json cannot be read"):
        data.load("text.txt", tokenizer="own.json")


def test_a_token_outside_the_vocabulary() -> None:
    spec = stored(input_ids=[[1, 2], [3, 99]])
    tiny = model(TinyForCausalLM, max_position_embeddings=4, vocab_size=10)
    with refused(DataError, "rows (all)", "token id outside the vocabulary", "token id 99 of example 1"):
        list(data.load(spec, model=tiny))


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        ([[1, 2], []], ("example 1 has no tokens",)),
        ([[1, 2], None], ("example 1 holds no text or token ids",)),
        ([[1.5, 2.0]], ("example 0 is no list of token ids", "torch.float32 of shape (2,)")),
        ([[[1], [2]]], ("example 0 is no list of token ids", "of shape (2, 1)")),
    ],
)
def test_rows_that_hold_no_tokens(rows: list[Any], texts: tuple[str, ...]) -> None:
    with refused(DataError, "rows (all)", *texts):
        list(data.load(stored(input_ids=rows)))


def test_rows_of_several_lengths_are_padded_and_masked() -> None:
    found = only(data.load(stored(input_ids=[[1, 2, 3], [4]])))
    assert found["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found["labels"].tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]


def test_rows_that_were_padded_before_bring_their_mask() -> None:
    spec = stored(input_ids=[[1, 2, 3], [4, 0, 0]], attention_mask=[[1, 1, 1], [1, 0, 0]])
    found = only(data.load(spec))
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found["labels"].tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]
    with refused(DataError, "rows (all)", "example 0 is not whole", "3 tokens and an attention_mask of 2"):
        list(data.load(_fresh(input_ids=[[1, 2, 3]], attention_mask=[[1, 1]])))


def test_labels_of_each_token_are_cut_with_the_tokens() -> None:
    spec = stored(input_ids=[[1, 2, 3], [4, 5]], labels=[[0, 1, 0], [1, 1]])
    found = only(data.load(spec, block_size=2))
    assert found["input_ids"].tolist() == [[1, 2], [4, 5]] and found["labels"].tolist() == [[0, 1], [1, 1]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 4))
def test_the_hidden_tokens_do_not_depend_on_the_batches(lengths: list[int], batch: int) -> None:
    source = Source("text", "all", model(TinyForMaskedLM), Reading())
    length = max(lengths)
    ids = torch.arange(2, 2 + len(lengths) * length).view(len(lengths), length)
    mask = torch.tensor([[int(i < n) for i in range(length)] for n in lengths])

    def rows(start: int, stop: int) -> dict[str, Tensor]:
        given = {"input_ids": ids[start:stop], "attention_mask": mask[start:stop]}
        return language_targets(given, Tokenizer(list, 1), source, start)

    whole = rows(0, len(lengths))
    parts = [rows(i, i + batch) for i in range(0, len(lengths), batch)]
    for key in ("input_ids", "labels"):
        assert torch.equal(torch.cat([p[key] for p in parts]), whole[key])
    hidden = whole["labels"] != IGNORED
    assert torch.equal(whole["labels"][hidden], ids[hidden]) and bool((whole["input_ids"][hidden] == 1).all())
    assert torch.equal(whole["input_ids"][~hidden], ids[~hidden]) and not bool((hidden & (mask == 0)).any())


def test_a_masked_language_model_hides_at_least_one_token_of_each_row(tokenizer: Path) -> None:
    Path("text.txt").write_text("a b c d e f g h " * 4)
    tiny = model(TinyForMaskedLM, max_position_embeddings=4, vocab_size=10)
    found = only(data.load("text.txt", model=tiny, tokenizer=tokenizer))
    assert bool(((found["labels"] != IGNORED).sum(1) > 0).all()) and bool((found["labels"] == IGNORED).any())


def test_nothing_to_hide_tokens_with() -> None:
    spec = stored(input_ids=[[1, 2]])
    with refused(DataError, "rows (all)", "no mask token", remedy="tokenizer="):
        list(data.load(spec, model=model(TinyForMaskedLM, vocab_size=10)))
