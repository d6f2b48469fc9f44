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

from symgraph.errors import DataError
from symgraph.messages import one_line
from symgraph.models import Model

Batch = dict[str, Tensor]
Rows = Callable[[int, int], Batch]
"""Gives the examples from a first to before a last index as one batch."""

IGNORED = -100
HIDDEN_SHARE = 0.15
_LONGEST_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """Columns to use instead of the usual ones, and how they become tensors; None follows from the checkpoint."""

    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    tokenizer: str | Path | None = None
    block_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples come from and which model they are for."""

    spec: str
    split: str
    model: Model | None
    options: Options

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
        folders = {f.parent for f in self.model.files} if self.model else set()
        return next((f / name for name in names for f in folders if (f / name).exists()), None)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What turns text into token ids, and the id that stands for a hidden token."""

    encode: Callable[[Any], Sequence[int]]
    mask_id: int | None


def image_rows(table: Any, image: str, label: str | None, source: Source) -> Rows:
    """Batches of `pixel_values` (N, C, H, W), normalised, and `labels` where there is such a column."""
    normalise = _normalisation(source)

    def rows(start: int, stop: int) -> Batch:
        values = table[start:stop]
        pixels = [normalise(_pixels(v, source, start + i)) for i, v in enumerate(values[image])]
        if len({p.shape for p in pixels}) > 1:
            cause = f"{', '.join(sorted({str(tuple(p.shape)) for p in pixels}))} in one batch"
            raise source.error("image size mismatch", cause, "resize the images to one size")
        return {"pixel_values": torch.stack(pixels), **_labels(values, label, source, start)}

    return rows


def token_rows(table: Any, text: str, label: str | None, source: Source) -> Rows:
    """Batches of `input_ids` (N, T), an `attention_mask` where rows differ in length, and `labels`."""
    tokenizer = load_tokenizer(source) if isinstance(table[0][text], str) else Tokenizer(list, None)
    size = window_size(source)

    def rows(start: int, stop: int) -> Batch:
        values = table[start:stop]
        ids = [torch.as_tensor(tokenizer.encode(v)[:size], dtype=torch.int64) for v in values[text]]
        batch = _padded(ids)
        check_tokens(batch["input_ids"], source, start)
        labels = _labels(values, label, source, start)
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
        raise source.error("no mask token", "the tokenizer has none to hide tokens with", "name one with --tokenizer")
    hidden = torch.stack([_hidden(len(row), start + i) for i, row in enumerate(labels)]) & (labels != IGNORED)
    ids = batch["input_ids"].masked_fill(hidden, tokenizer.mask_id)
    return {**batch, "input_ids": ids, "labels": labels.masked_fill(~hidden, IGNORED)}


def window_size(source: Source) -> int:
    """Tokens per window: as asked for, or what the model's positions allow, at most 1,024."""
    positions = getattr(source.config, "max_position_embeddings", None) or _LONGEST_WINDOW
    size = source.options.block_size or min(positions, _LONGEST_WINDOW)
    if source.options.block_size and source.config is not None and size > positions:
        cause = f"the model has {positions} positions"
        raise source.error(f"windows of {size} tokens are too long", cause, f"pass --block-size {positions} or less")
    return int(size)


def check_tokens(ids: Tensor, source: Source, start: int) -> None:
    """Raise if a token id is outside the model's vocabulary.

    Raises:
        DataError: naming the example and the id.
    """
    size = getattr(source.config, "vocab_size", None)
    if not ids.numel():
        raise source.error(f"example {start} has no tokens", "the text is empty", "drop empty rows")
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
        raise source.error("text needs a tokenizer", cause, "name a tokenizers file with --tokenizer FILE")
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
    mask_id = next((i for token in ("[MASK]", "<mask>") if (i := fast.token_to_id(token)) is not None), None)
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


def _padded(rows: list[Tensor]) -> Batch:
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence(rows, batch_first=True)
    if len({len(row) for row in rows}) == 1:
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)}


def _labels(values: Mapping[str, Any], label: str | None, source: Source, start: int) -> Batch:
    if label is None:
        return {}
    try:
        labels = _label_tensor(values[label])
    except (TypeError, ValueError) as e:
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

        return pad_sequence([torch.as_tensor(v) for v in values], batch_first=True, padding_value=IGNORED)
    return torch.as_tensor(values)


def _pixels(value: Any, source: Source, index: int) -> Tensor:
    """One image as floats, channels first: in [0, 1] if it came as integers, untouched if it came as floats."""
    import numpy as np

    if isinstance(value, dict):
        value = _decode(value, source, index)
    if hasattr(value, "convert"):
        value = value.convert("L" if getattr(source.config, "num_channels", 3) == 1 else "RGB")
    try:
        array = torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as e:
        raise source.error(f"example {index} is no image", one_line(e), "name the column with --image-column") from e
    if array.ndim not in (2, 3):
        cause = f"its shape is {tuple(array.shape)}"
        raise source.error(f"example {index} is no image", cause, "name the column with --image-column")
    if array.ndim == 2:
        array = array[None]
    elif array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = array.permute(2, 0, 1)
    return array.float() if array.is_floating_point() else array.float() / 255


def _decode(value: Mapping[str, Any], source: Source, index: int) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
    except Exception as e:
        remedy = "store images as PNG or JPEG bytes"
        raise source.error(f"example {index} cannot be decoded", one_line(e), remedy) from e


def _normalisation(source: Source) -> Callable[[Tensor], Tensor]:
    file = source.companion("preprocessor_config.json")
    stored = json.loads(file.read_text(encoding="utf-8")) if file else {}
    mean = torch.tensor(source.options.mean or stored.get("image_mean") or [0.5])[:, None, None]
    std = torch.tensor(source.options.std or stored.get("image_std") or [0.5])[:, None, None]
    size = _image_size(source.config)

    def normalise(pixels: Tensor) -> Tensor:
        found = (int(pixels.shape[1]), int(pixels.shape[2]))
        if size and found != size and stored.get("do_resize"):
            pixels = torch.nn.functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
        elif size and found != size:
            cause = f"images are {found[0]} x {found[1]}, the model takes {size[0]} x {size[1]}"
            raise source.error("image size mismatch", cause, "resize them, or name the data the model was trained on")
        return (pixels - mean) / std

    return normalise


def _image_size(config: Any) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None
