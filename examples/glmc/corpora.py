"""Images and texts in three splits: the endpoints and the matching learn on one, stop on another, are measured on test.

Images come from parquet files as on the Hugging Face hub (columns `img` and `label`), texts from a file in UTF-8.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from settings import Setting
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from symgraph.io.data import load

Batch = dict[str, Tensor]
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
EVALUATED = 500


@dataclass(frozen=True)
class Corpus:
    """Three splits of inputs (N, ...) and, for images, their labels; `classes`: of images, or of tokens."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    text: bool
    augmented: bool = False

    def batches(self, split: str, size: int) -> list[Batch]:
        """A split in its order, as it is."""
        inputs, labels = getattr(self, split)
        return [self._batch(*p) for p in zip(inputs.split(size), labels.split(size), strict=True)]

    def _batch(self, inputs: Tensor, labels: Tensor) -> Batch:
        return {"input_ids" if self.text else "pixel_values": inputs, "labels": labels}

    def epoch(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One pass over the training split in a random order, images augmented where they are to be."""
        inputs, labels = self.train
        augment = Augmentation(inputs.shape[-1]) if self.augmented else None
        for chosen in torch.randperm(len(inputs), generator=generator).split(size):
            found = inputs[chosen]
            yield self._batch(augment(found, generator) if augment else found, labels[chosen])

    def to(self, device: torch.device) -> Corpus:
        """The same on a device."""
        train, validation, test = (
            tuple(t.to(device) for t in split) for split in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)

    def lesson(self, size: int) -> Lesson:
        """The training split for learned matching."""
        return Lesson(self, size)


class Lesson:
    """Batches by number; images are augmented anew at every visit, in a way that depends on nothing but the seed."""

    def __init__(self, corpus: Corpus, size: int) -> None:
        self.corpus, self.size = corpus, size
        inputs = corpus.train[0]
        self.generator = torch.Generator(inputs.device).manual_seed(0)
        self.augment = Augmentation(inputs.shape[-1], inputs.device) if corpus.augmented else None

    def __len__(self) -> int:
        return math.ceil(len(self.corpus.train[0]) / self.size)

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < len(self):
            raise IndexError(i)
        inputs, labels = (t[i * self.size : (i + 1) * self.size] for t in self.corpus.train)
        found = self.augment(inputs, self.generator) if self.augment else inputs
        return self.corpus._batch(found, labels)


# -- images ------------------------------------------------------------------------------------------------------------


def images(folder: Path, setting: Setting, out: Path, limit: int | None) -> Corpus:
    """The images of `train.parquet` and `test.parquet`; the last 2,000 of training (or a tenth) are for validation.

    Decoding takes longer than reading what was decoded: that is kept in `out`, as bytes.
    """
    kept = out / ("images.pt" if limit is None else f"images-{limit}.pt")
    if not kept.exists():
        parts = []
        for split in ("train", "test"):
            found = list(load(folder / f"{split}.parquet", batch_size=1000, mean=[0.0] * 3, std=[1.0] * 3, limit=limit))
            pixels, labels = (torch.cat([b[k] for b in found]) for k in ("pixel_values", "labels"))
            parts.append(((pixels * 255).round().byte(), labels))
        partial = kept.with_suffix(f".{os.getpid()}")
        torch.save(parts, partial)
        partial.rename(kept)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    read = torch.load(kept, weights_only=True)
    (pixels, labels), test = (((pixels.float() / 255 - mean) / std, labels) for pixels, labels in read)
    kept = len(pixels) - min(2000, len(pixels) // 10)
    classes = int(max(labels.max(), test[1].max())) + 1
    train, validation = (pixels[:kept], labels[:kept]), (pixels[kept:], labels[kept:])
    return Corpus(train, validation, test, classes, text=False, augmented=setting.augmented)


class Augmentation:
    """Crop after padding by 4, flip, colour jitter 0.4, 0.4, 0.4, 0.1, each image by itself: (N, 3, side, side).

    Its constants are on the device from the start, so that it can be captured in a graph.
    """

    def __init__(self, side: int, device: torch.device | str = "cpu") -> None:
        self.side, self.device = side, device
        self.mean, self.std, self.grey, self.phases = (
            torch.tensor(x, device=device).view(3, 1, 1) for x in (MEAN, STD, [0.299, 0.587, 0.114], [5.0, 3.0, 1.0])
        )
        self.places = torch.arange(side, device=device)

    def __call__(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Args: generator: on the device; None: its own."""
        found = self._jittered((pixels * self.std + self.mean).clamp(0, 1), generator)
        found = (found - self.mean) / self.std
        n = len(found)
        flip = torch.rand(n, generator=generator, device=self.device) < 0.5
        found = torch.where(flip[:, None, None, None], found.flip(-1), found)
        padded = torch.nn.functional.pad(found, (4, 4, 4, 4))
        top, left = (torch.randint(9, (n, 1), generator=generator, device=self.device) + self.places for _ in range(2))
        rows = padded.gather(2, top[:, None, :, None].expand(-1, 3, -1, padded.shape[-1]))
        return rows.gather(3, left[:, None, None, :].expand(-1, 3, self.side, -1))

    def _jittered(self, rgb: Tensor, generator: torch.Generator | None) -> Tensor:
        """Brightness, contrast, saturation by factors in (0.6, 1.4), hue by up to a tenth of the circle."""

        def factor(size: float) -> Tensor:
            return 1 + size * (2 * torch.rand(len(rgb), 1, 1, 1, generator=generator, device=self.device) - 1)

        rgb = (rgb * factor(0.4)).clamp(0, 1)
        level = (rgb * self.grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        rgb = torch.lerp(level, rgb, factor(0.4)).clamp(0, 1)
        rgb = torch.lerp((rgb * self.grey).sum(1, keepdim=True), rgb, factor(0.4)).clamp(0, 1)
        return self._hue(rgb, factor(0.1).squeeze(1) - 1)

    def _hue(self, rgb: Tensor, turn: Tensor) -> Tensor:
        """The hue of HSV turned by a share of the circle: (N, 3, H, W), (N, 1, 1)."""
        high, low = rgb.amax(1), rgb.amin(1)
        spread = (high - low).clamp_min(1e-8)
        r, g, b = rgb.unbind(1)
        hue = torch.where(
            high == r, (g - b) / spread, torch.where(high == g, 2 + (b - r) / spread, 4 + (r - g) / spread)
        )
        hue = (hue + 6 * turn) % 6
        k = (self.phases + hue.unsqueeze(1)) % 6
        share = torch.minimum(k, 4 - k).clamp(0, 1)
        return high.unsqueeze(1) - (high - low).unsqueeze(1) * share


# -- texts -------------------------------------------------------------------------------------------------------------


def text(path: Path, setting: Setting, tokenizer: str | None, out: Path, limit: int | None) -> Corpus:
    """Windows of tokens, the text split 90/5/5 as it stands; without a tokenizer a BPE is trained on the first part."""
    whole = path.read_text(encoding="utf-8")[: limit and 2000 * limit]
    first, second = len(whole) * 90 // 100, len(whole) * 95 // 100
    parts = whole[:first], whole[first:second], whole[second:]
    encode, classes = _encoder(tokenizer, parts[0], setting.vocabulary, out)
    splits = []
    for part in parts:
        ids = torch.tensor(encode(part))
        windows = ids[: len(ids) // setting.context * setting.context].view(-1, setting.context)
        if not len(windows):
            raise SystemExit(f"{path} is too short for windows of {setting.context} tokens in every split")
        splits.append((windows, windows))
    return Corpus(splits[0], splits[1], splits[2], classes, text=True)


def _encoder(name: str | None, learned_on: str, vocabulary: int, out: Path):  # type: ignore[no-untyped-def]
    if name is not None:
        from transformers import AutoTokenizer

        given = AutoTokenizer.from_pretrained(name)
        return (lambda part: given(part)["input_ids"]), len(given)
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([learned_on], trainer)
    found.save(str(out / "tokenizer.json"))
    return (lambda part: found.encode(part).ids), found.get_vocab_size()
