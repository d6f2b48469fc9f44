"""Draws the pictures of `docs/gallery.md`: symmetry graphs of several architectures, as `inspect --html` shows them.

python docs/gallery.py             draw all of them into docs/images/gallery
python docs/gallery.py vit own     draw these

It takes headless Chromium (Debian's package `chromium`). No weights are needed: the models are configs of transformers,
most at their usual sizes, and a module of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

import symgraph

IMAGES = Path(__file__).resolve().parent / "images" / "gallery"
WIDTH, HEIGHT = 1280, 800
# The drawing is ready long before; milliseconds of the page's own clock.
WAIT = 20_000
# Flat colours and text: a palette of this many loses nothing that is seen, and takes a third of the room.
COLOURS = 96


class TwoStreams(nn.Module):
    """A module of no library: a normed stream and a gated one, which read each other."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Linear(24, 32), nn.Linear(24, 48)
        self.norm = nn.RMSNorm(32)
        self.to_fast, self.to_slow = nn.Linear(32, 48, bias=False), nn.Linear(48, 32, bias=False)
        self.gate = nn.Linear(24, 48)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        slow = self.slow(x)
        fast = torch.relu(self.fast(x) + self.to_fast(self.norm(slow))) * torch.sigmoid(self.gate(x))
        return self.head(self.norm(slow + self.to_slow(fast)))


def vit() -> Any:
    return transformers.ViTConfig(architectures=["ViTForImageClassification"])


def gpt2() -> Any:
    return transformers.GPT2Config(architectures=["GPT2LMHeadModel"], tie_word_embeddings=False)


def llama() -> Any:
    return transformers.LlamaConfig(architectures=["LlamaForCausalLM"], num_key_value_heads=8)


def resnet() -> Any:
    small = {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetConfig(architectures=["ResNetForImageClassification"], **small)


def mixtral() -> Any:
    small = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    return transformers.MixtralConfig(architectures=["MixtralForCausalLM"], **small, **heads)


MODELS: dict[str, Callable[[], Any]] = {m.__name__: m for m in (vit, gpt2, llama, resnet, mixtral)}


def graph(name: str) -> symgraph.SymmetryGraph:
    """The symmetry graph of one of the models, or of the module above."""
    if name in MODELS:
        return symgraph.infer(MODELS[name]())
    return symgraph.infer(TwoStreams(), torch.randn(2, 24))


def draw(name: str, browser: str) -> Path:
    """Draws one page."""
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder) / "page.html", Path(folder) / "page.png"
        graph(name).save_html(page)
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        command += [f"--virtual-time-budget={WAIT}", f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        subprocess.run(
            [*command, f"file://{page}#space={OPENED.get(name, 'residual')}"], check=True, capture_output=True
        )
        drawn = Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        IMAGES.mkdir(parents=True, exist_ok=True)
        drawn.save(IMAGES / f"{name}.png", optimize=True)
    return IMAGES / f"{name}.png"


# The space whose evidence stands beside the drawing.
OPENED = {"own": "residual.0", "resnet": "encoder.stages.residual"}


def main(names: list[str]) -> None:
    """Draws the pictures of these names."""
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("there is no chromium: apt-get install chromium")
    for name in names or [*MODELS, "own"]:
        print(draw(name, browser))


if __name__ == "__main__":
    main(sys.argv[1:])
