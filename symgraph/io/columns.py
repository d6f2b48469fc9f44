"""Columns of a table turned into tensors: images, tokens, labels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import DataError, argument, one_line
from symgraph.io.models import Model
from symgraph.io.reading import Reading

Batch = dict[str, Tensor]
Rows = Callable[[int, int], Batch]
"""Gives the examples from a first to before a last index as one batch."""

IGNORED = -100
READY = "pixel_values"
ASSUMED = "assumed: the model takes pixels as they are, in [0, 1]; its mean and deviation are not known"
HIDDEN_SHARE = 0.15
_LONGEST_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples come from and which model they are for."""

    spec: str
    split: str
    model: Model | None
    options: Reading

    @property
    def config(self) -> Any:
        """The model's config, or None."""
        return self.model.config if self.model else None

    @property
    def class_name(self) -> str:
        """The model's class, or the empty string."""
        return type(self.model.module).__name__ if self.model else ""

    def error(self, problem: str, cause: str, remedy: str) -> DataError:
        """An error that leads with this source."""
        return DataError(f"{self.spec} ({self.split}): {problem}", cause=cause, remedy=remedy)

    def companion(self, *names: str) -> Path | None:
        """The first of these files that stands beside the model's weights."""
        folders = {file.parent for file in self.model.files} if self.model else set()
        return next((folder / name for name in names for folder in folders if (folder / name).exists()), None)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What turns text into token ids, and the id that stands for a hidden token."""

    encode: Callable[[Any], Sequence[int]]
    mask_id: int | None


def image_rows(table: Any, image: str, label: str | None, source: Source) -> tuple[Rows, tuple[str, ...]]:
    """Batches of `pixel_values` (N, C, H, W), normalised, and `labels` where there is such a column; what was assumed.

    A column of that very name that holds floats is taken as what the model takes, unless a mean or std is asked for.

    Raises:
        DataError: the first image cannot be read, is of another size, or no mean and deviation are known.
    """
    given = source.options.mean is not None or source.options.std is not None
    ready, stored = image == READY and not given, _preprocessor(source)
    known = _statistics(source, stored)
    finish = _finishing(source, ready, stored, known)
    first = _pixels(table[0][image], source, 0)
    # Before any work: what does not fit the first image fits none.
    finish(first)
    assumed = known is None and not (ready and first.is_floating_point())

    def rows(start: int, stop: int) -> Batch:
        values = table[start:stop]
        pixels = [finish(_pixels(value, source, start + number)) for number, value in enumerate(values[image])]
        if len({picture.shape for picture in pixels}) > 1:
            cause = f"{', '.join(sorted({str(tuple(picture.shape)) for picture in pixels}))} in one batch"
            raise source.error("image size mismatch", cause, "resize the images to one size")
        return {"pixel_values": torch.stack(pixels), **_labels(values, label, source, start)}

    return rows, (ASSUMED,) if assumed else ()


def token_rows(table: Any, text: str, label: str | None, source: Source) -> Rows:
    """Batches of `input_ids` (N, T), an `attention_mask` where rows are padded, and `labels`."""
    stored = not isinstance(table[0][text], str)
    tokenizer = Tokenizer(list, None) if stored else load_tokenizer(source)
    size = window_size(source)

    def rows(start: int, stop: int) -> Batch:
        values = table[start:stop]
        ids = [_token_ids(tokenizer, value, source, start + number)[:size] for number, value in enumerate(values[text])]
        masks = _masks(values, text, source, start) if stored else None
        batch = _padded(ids, masks or [torch.ones_like(row) for row in ids])
        check_tokens(batch["input_ids"], source, start)
        labels = {
            name: tensor[:, :size] if tensor.ndim == 2 else tensor
            for name, tensor in _labels(values, label, source, start).items()
        }
        return batch | labels if labels else language_targets(batch, tokenizer, source, start)

    return rows


def window_rows(ids: Tensor, size: int, tokenizer: Tokenizer, source: Source) -> Rows:
    """Batches of windows of `size` consecutive tokens, each token in one window, the incomplete last one left out."""
    windows = ids[: len(ids) // size * size].view(-1, size)

    def rows(start: int, stop: int) -> Batch:
        batch = {"input_ids": windows[start:stop]}
        check_tokens(batch["input_ids"], source, start)
        return language_targets(batch, tokenizer, source, start)

    return rows


def language_targets(batch: Batch, tokenizer: Tokenizer, source: Source, start: int) -> Batch:
    """The batch with labels: its own tokens, or for a masked language model the ones that are hidden from it."""
    labels = batch["input_ids"].clone()
    if "attention_mask" in batch:
        labels[batch["attention_mask"] == 0] = IGNORED
    if not source.class_name.endswith("ForMaskedLM"):
        return {**batch, "labels": labels}
    if tokenizer.mask_id is None:
        raise source.error(
            "no mask token", "the tokenizer has none to hide tokens with", f"name one: {argument('tokenizer', 'FILE')}"
        )
    drawn = torch.stack([_hidden(len(row), start + number) for number, row in enumerate(labels)])
    hidden = drawn & (labels != IGNORED)
    ids = batch["input_ids"].masked_fill(hidden, tokenizer.mask_id)
    return {**batch, "input_ids": ids, "labels": labels.masked_fill(~hidden, IGNORED)}


def window_size(source: Source) -> int:
    """Tokens per window: as asked for, or what the model's positions allow, at most 1,024."""
    positions = getattr(source.config, "max_position_embeddings", None) or _LONGEST_WINDOW
    size = min(positions, _LONGEST_WINDOW) if source.options.block_size is None else source.options.block_size
    if size < 1:
        raise source.error(
            f"windows of {size} tokens", "there is nothing in them", f"give 2 or more, {argument('block_size', 128)}"
        )
    if source.options.block_size and source.config is not None and size > positions:
        cause = f"the model has {positions} positions"
        raise source.error(
            f"windows of {size} tokens are too long", cause, f"{argument('block_size', positions)}, or less"
        )
    return int(size)


def check_tokens(ids: Tensor, source: Source, start: int) -> None:
    """Raise if a token id is outside the model's vocabulary.

    Raises:
        DataError: naming the example and the id.
    """
    size = getattr(source.config, "vocab_size", None)
    if size is None or (int(ids.min()) >= 0 and int(ids.max()) < size):
        return
    row, column = ((ids < 0) | (ids >= size)).nonzero()[0].tolist()
    cause = f"token id {int(ids[row, column])} of example {start + row}; the vocabulary has {size} tokens"
    raise source.error("token id outside the vocabulary", cause, "use the tokenizer the model was trained with")


def load_tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that was asked for, or the one beside the weights.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    given = source.options.tokenizer
    path = Path(given) if given else source.companion("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    if path is None:
        cause = "the checkpoint brings no tokenizer"
        raise source.error(
            "text needs a tokenizer", cause, f"name a file of the tokenizers library, {argument('tokenizer', 'FILE')}"
        )
    try:
        return (
            _tokenizer_file(path) if path.suffix == ".json" and _is_tokenizers_file(path) else _tokenizer_folder(path)
        )
    except Exception as e:
        remedy = "name a tokenizer.json written by the tokenizers library, or a folder with one"
        raise source.error(f"the tokenizer {path} cannot be read", one_line(e), remedy) from e


def _is_tokenizers_file(path: Path) -> bool:
    return "model" in json.loads(path.read_text(encoding="utf-8"))


def _tokenizer_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(path))
    mask_id = next(
        (token_id for token in ("[MASK]", "<mask>") if (token_id := fast.token_to_id(token)) is not None), None
    )
    return Tokenizer(lambda text: fast.encode(text, add_special_tokens=False).ids, mask_id)


def _tokenizer_folder(path: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    folder = path if path.is_dir() else path.parent
    slow: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return Tokenizer(lambda text: slow.encode(text, add_special_tokens=False), slow.mask_token_id)


def _hidden(length: int, seed: int) -> Tensor:
    # Seeded by the example, so that every point and every batch size sees the same tokens hidden.
    scores = torch.rand(length, generator=torch.Generator().manual_seed(seed))
    return (scores < HIDDEN_SHARE) | (scores == scores.min())


def _token_ids(tokenizer: Tokenizer, value: Any, source: Source, index: int) -> Tensor:
    try:
        ids = torch.as_tensor(tokenizer.encode(value))
    except Exception as e:
        remedy = _another("text_column")
        raise source.error(f"example {index} holds no text or token ids", one_line(e), remedy) from e
    if not ids.numel():
        raise source.error(f"example {index} has no tokens", "the text is empty", "drop empty rows")
    if ids.ndim != 1 or ids.is_floating_point():
        cause = f"it holds {ids.dtype} of shape {tuple(ids.shape)}"
        raise source.error(
            f"example {index} is no list of token ids", cause, f"name the column, {argument('text_column', 'NAME')}"
        )
    return ids.long()


def _masks(values: Mapping[str, Any], text: str, source: Source, start: int) -> list[Tensor] | None:
    """Tokens that were padded before they were stored bring the mask that says so."""
    if "attention_mask" not in values:
        return None
    for number, (row, mask) in enumerate(zip(values[text], values["attention_mask"], strict=True)):
        if mask is None or len(mask) != len(row):
            cause = f"{len(row)} tokens and an attention_mask of {len(mask or ())}"
            raise source.error(f"example {start + number} is not whole", cause, "tokenize the data again")
    return [torch.as_tensor(mask, dtype=torch.int64) for mask in values["attention_mask"]]


def _padded(rows: list[Tensor], masks: list[Tensor]) -> Batch:
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([mask[: len(row)] for mask, row in zip(masks, rows, strict=True)], batch_first=True)
    return {"input_ids": ids} if bool(mask.all()) else {"input_ids": ids, "attention_mask": mask}


def _labels(values: Mapping[str, Any], label: str | None, source: Source, start: int) -> Batch:
    if label is None:
        return {}
    try:
        labels = _label_tensor(values[label])
    except (TypeError, ValueError, RuntimeError) as e:
        remedy = "encode labels as class numbers from 0, or as floats for regression"
        raise source.error(f"column {label!r} holds no labels", one_line(e), remedy) from e
    classes = getattr(source.config, "num_labels", 0) if source.class_name.endswith("Classification") else 0
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
    if classes > 1 and not labels.is_floating_point() and bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        cause = f"label {int(labels[tuple(at)])} of example {start + at[0]}; the model has {classes} classes"
        raise source.error("label outside the model's range", cause, "use the data the model was trained on")
    return {"labels": labels}


def _label_tensor(values: Sequence[Any]) -> Tensor:
    if values and isinstance(values[0], list | tuple):
        from torch.nn.utils.rnn import pad_sequence

        return pad_sequence([torch.as_tensor(value) for value in values], batch_first=True, padding_value=IGNORED)
    labels = torch.as_tensor(values)
    return labels.long() if labels.dtype == torch.bool else labels


def _pixels(value: Any, source: Source, index: int) -> Tensor:
    """One image as it was stored, channels first."""
    import numpy as np

    if isinstance(value, dict):
        value = _decode(value, source, index)
    if hasattr(value, "convert"):
        value = value.convert("L" if getattr(source.config, "num_channels", 3) == 1 else "RGB")
    try:
        array = torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as e:
        raise source.error(f"example {index} is no image", one_line(e), _another("image_column")) from e
    if array.ndim not in (2, 3):
        cause = f"its shape is {tuple(array.shape)}"
        raise source.error(f"example {index} is no image", cause, _another("image_column"))
    if array.ndim == 2:
        array = array[None]
    elif array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = array.permute(2, 0, 1)
    return array


def _decode(value: Mapping[str, Any], source: Source, index: int) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
    except Exception as e:
        remedy = "store images as PNG or JPEG bytes"
        raise source.error(f"example {index} cannot be decoded", one_line(e), remedy) from e


def _finishing(
    source: Source, ready: bool, stored: Mapping[str, Any], statistics: tuple[Tensor, Tensor] | None
) -> Callable[[Tensor], Tensor]:
    """From pixels as stored to what the model takes: floats of its size, in [0, 1] and then normalised."""
    size = _image_size(source.config)

    def finish(stored_pixels: Tensor) -> Tensor:
        floats = stored_pixels.is_floating_point()
        pixels = stored_pixels.float() if floats else stored_pixels.float() / 255
        size_here = (int(pixels.shape[1]), int(pixels.shape[2]))
        if size and size_here != size and stored.get("do_resize"):
            pixels = torch.nn.functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
        elif size and size_here != size:
            cause = f"images are {size_here[0]} x {size_here[1]}, the model takes {size[0]} x {size[1]}"
            raise source.error("image size mismatch", cause, "resize them, or name the data the model was trained on")
        if ready and floats:
            return pixels
        if statistics is None:
            return _unnormalised(pixels, source)
        mean, std = statistics
        if not {len(mean), len(std)} <= {1, len(pixels)}:
            cause = f"{len(pixels)} channels, {len(mean)} means and {len(std)} standard deviations"
            raise source.error("images cannot be normalised", cause, _statistics_given())
        return (pixels - mean) / std

    return finish


def _unnormalised(pixels: Tensor, source: Source) -> Tensor:
    """Pixels as they are, if someone says that the model takes them so."""
    if source.options.assume_normalised:
        return pixels
    remedy = f"give those that it was trained with, {argument('mean', (0.5,))} {argument('std', (0.5,))}; "
    remedy += f"or take pixels as they are, {argument('assume_normalised', True)}"
    cause = "the checkpoint brings no preprocessor_config.json with a mean and a deviation"
    raise source.error("images cannot be normalised", cause, remedy)


def _preprocessor(source: Source) -> dict[str, Any]:
    file = source.companion("preprocessor_config.json")
    if file is None:
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as e:
        raise source.error(f"{file} cannot be read", one_line(e), "fetch it again, or remove it") from e


def _another(column: str) -> str:
    return f"name the column, {argument(column, 'NAME')}"


def _statistics_given() -> str:
    return f"give one number for each channel, {argument('mean', (0.5,))} and {argument('std', (0.5,))}"


def _statistics(source: Source, stored: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation for each channel, from options or the checkpoint; None where nothing says them."""
    plain = stored.get("do_normalize") is False
    mean = source.options.mean or ([0.0] if plain else stored.get("image_mean"))
    std = source.options.std or ([1.0] if plain else stored.get("image_std"))
    if not mean or not std:
        return None
    try:
        statistics = torch.tensor([float(part) for part in mean]), torch.tensor([float(part) for part in std])
    except (TypeError, ValueError) as e:
        remedy = _statistics_given()
        raise source.error("images cannot be normalised", one_line(e), remedy) from e
    if not bool((statistics[1] > 0).all()):
        raise source.error(
            "images cannot be normalised", f"std is {std}", f"give positive numbers, {argument('std', (0.5,))}"
        )
    return statistics[0][:, None, None], statistics[1][:, None, None]


def _image_size(config: Any) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None
