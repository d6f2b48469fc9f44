"""Small pictures cut into patches, and a Transformer on them: flips and quarter turns keep the class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]


def turns_and_flips(size: int, channels: int, patch: int) -> dict[str, Any]:
    """How quarter turns and flips act on the patches of a picture, and on the pixels of each."""
    grid = torch.arange((size // patch) ** 2).reshape(size // patch, -1)
    pixels = torch.arange(channels * patch**2).reshape(channels, patch, patch)
    turn = {"patches": grid.rot90().flatten(), "pixels": pixels.rot90(dims=(1, 2)).flatten()}
    flip = {"patches": grid.flip(1).flatten(), "pixels": pixels.flip(2).flatten()}
    group = {"turn": turn, "flip": flip}
    return {"inputs": {"pictures": "examples patches pixels"}, "output": "examples classes", "group": group}


def patches(pictures: Tensor, patch: int) -> Tensor:
    """Pictures (N, channels, size, size) as patches in rows: (N, patches, channels * patch^2)."""
    cut = pictures.unfold(2, patch, patch).unfold(3, patch, patch)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def digits() -> tuple[Split, Split, Split]:
    """The digits of scikit-learn (8 x 8), for a short run: training, validation, test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = order[:1200], order[1200:1500], order[1500:]
    return tuple((pictures[p], labels[p]) for p in parts)  # type: ignore[return-value]


def cifar(folder: Path, count: int) -> tuple[Split, Split, Split]:
    """`count` pictures of train.parquet, the last 2,000 of it for validation, and test.parquet."""
    train, test = _read(folder / "train.parquet", count, 2000), _read(folder / "test.parquet", 0, 10_000)
    return (train[0][:count], train[1][:count]), (train[0][count:], train[1][count:]), test


def _read(file: Path, first: int, last: int) -> Split:
    import numpy as np
    import pyarrow.parquet as parquet
    from PIL import Image

    table = parquet.read_table(file).to_pydict()
    rows = [*range(first), *range(len(table["label"]) - last, len(table["label"]))]
    arrays = [np.asarray(Image.open(io.BytesIO(table["img"][i]["bytes"]))) for i in rows]
    pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pictures, torch.tensor([table["label"][i] for i in rows])


class PatchTransformer(nn.Module):
    """A Vision Transformer on rows of patches. Nothing in it knows of turns or flips."""

    def __init__(self, count: int, pixels: int, width: int = 64, depth: int = 3, heads: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(pixels, width)
        self.positions = nn.Parameter(torch.randn(count, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, patches, pixels) -> (N, 10)."""
        found = self.layers(self.enter(pictures) + self.positions)
        return self.head(self.norm(found).mean(1))
