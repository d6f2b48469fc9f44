"""What pruning is measured on: trained networks, their training data, and what they are measured on.

A ResNet and a VGG with batch norms on CIFAR-10 and a Llama with grouped queries on Tiny Shakespeare are trained here,
once for a folder; a ViT and a GPT-2 are the zoo's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_zoo import MEAN, STD
from bench_zoo import test_batches as held_out
from measure import CONTEXT, VOCABULARY, Batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import symgraph
from symgraph.io.data import load

# Images and windows of the training split that options are chosen on; no network that is trained here sees them.
APART = {"images": 5000, "windows": 128}
EXAMPLE = torch.zeros(2, 3, 32, 32)


class Block(nn.Module):
    """Two convolutions with batch norms around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.second, self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(self.one(self.first(x)))
        return torch.relu(self.two(self.second(inside)) + self.short(x))


def resnet() -> nn.Module:
    """Three blocks of 32, 64 and 128 channels on a quarter of the positions."""
    start = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    blocks = [Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2)]
    return nn.Sequential(*start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def vgg() -> nn.Module:
    """Six convolutions of 32 to 128 channels."""
    layers: list[nn.Module] = []
    before = 3
    for width, halved in ((32, True), (64, True), (64, False), (64, True), (128, False), (128, True)):
        layers += [nn.Conv2d(before, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if halved else []
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * before, 10))


def llama() -> nn.Module:
    """Four layers of width 128, four heads of queries in two groups."""
    from transformers import LlamaConfig, LlamaForCausalLM

    more: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    more |= {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    more |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    more |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return LlamaForCausalLM(LlamaConfig(**more))


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained: epochs and the highest rate."""

    make: Callable[[], nn.Module]
    epochs: int
    rate: float


NETWORKS = {"resnet": Recipe(resnet, 2, 0.1), "vgg": Recipe(vgg, 8, 0.05), "llama": Recipe(llama, 1, 3e-3)}
# Models of the zoo, and the rate of their fine-tuning.
ZOO = {"vit-cifar10": 1e-4, "gpt2-shakespeare": 1e-4}
NAMES = (*NETWORKS, *ZOO)


@dataclass(frozen=True)
class Data:
    """A training split, (examples, ...), and what is measured on."""

    inputs: Tensor
    labels: Tensor | None
    measured: list[Batch]
    size: int

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches in a random order; images moved by up to four pixels and flipped."""
        for chosen in torch.split(torch.randperm(len(self.inputs), generator=generator), self.size):
            yield self.batch(chosen, generator)

    def plain(self, count: int) -> list[Batch]:
        """The first batches as they are."""
        return [self.batch(torch.arange(i * self.size, (i + 1) * self.size)) for i in range(count)]

    def batch(self, chosen: Tensor, generator: torch.Generator | None = None) -> Batch:
        if self.labels is None:
            return {"input_ids": self.inputs[chosen], "labels": self.inputs[chosen]}
        x = self.inputs[chosen].float().div(255)
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        return {"pixel_values": x if generator is None else _moved(x, generator), "labels": self.labels[chosen]}

    def half(self, which: int) -> Data:
        """Every second example of the training split."""
        labels = None if self.labels is None else self.labels[which::2]
        return Data(self.inputs[which::2], labels, self.measured, self.size)


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    wide = pad(x, (4, 4, 4, 4))
    down, right = (torch.randint(9, (len(x), 1, 1), generator=generator) for _ in range(2))
    rows, columns = (torch.arange(32).view(1, 32, 1) + down), (torch.arange(32).view(1, 1, 32) + right)
    flipped = torch.rand(len(x), 1, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(-1), columns)
    return wide[torch.arange(len(x)).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2).contiguous()


def images(folder: Path, *, validation: bool) -> Data:
    """CIFAR-10."""
    file = folder.parent / "data" / "cifar10" / "train.parquet"
    batches = list(load(file, batch_size=1000, mean=(0, 0, 0), std=(1, 1, 1)))
    inputs = torch.cat([(b["pixel_values"] * 255).round().byte() for b in batches])
    labels = torch.cat([b["labels"] for b in batches])
    apart = Data(inputs[-APART["images"] :], labels[-APART["images"] :], [], 250)
    measured = apart.plain(APART["images"] // 250) if validation else list(held_out("vit", folder))
    return Data(inputs[: -APART["images"]], labels[: -APART["images"]], measured, 128)


def text(folder: Path, *, validation: bool) -> Data:
    """Tiny Shakespeare in windows."""
    tokens = torch.from_numpy(np.load(folder / "shakespeare-tokens.npz")["train"].astype("int64"))
    windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    apart = Data(windows[-APART["windows"] :], None, [], 16)
    measured = apart.plain(APART["windows"] // 16) if validation else list(held_out("gpt2", folder))
    return Data(windows[: -APART["windows"]], None, measured, 16)


def outputs(module: nn.Module, batch: Batch) -> Tensor:
    """Scores of the labels, (examples, classes); of a text one example for each next token."""
    if "pixel_values" in batch:
        found = module(batch["pixel_values"])
        scores: Tensor = found if isinstance(found, Tensor) else found.logits
        return scores
    logits: Tensor = module(input_ids=batch["input_ids"]).logits
    return logits[:, :-1].flatten(0, 1)


def labels(batch: Batch) -> Tensor:
    return batch["labels"] if "pixel_values" in batch else batch["labels"][:, 1:].flatten()


@torch.no_grad()
def score(module: nn.Module, batches: Sequence[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy."""
    loss, right, count = 0.0, 0, 0
    for batch in batches:
        found, wanted = outputs(module, batch), labels(batch)
        loss += float(cross_entropy(found, wanted, reduction="sum"))
        right += int((found.argmax(-1) == wanted).sum())
        count += len(wanted)
    return loss / count, right / count


def trained(module: nn.Module, data: Data, epochs: float, rate: float, *, seed: int = 0) -> nn.Module:
    """A copy after so many epochs, at a rate that rises for a tenth of them and falls to nothing.

    Networks with batch norms by SGD, others by AdamW; products in bfloat16.
    """
    found = copy.deepcopy(module).train()
    steps = max(1, round(epochs * len(data)))
    stored = any(n.endswith("running_var") for n, _ in found.named_buffers())
    optimiser: torch.optim.Optimizer = (
        torch.optim.SGD(found.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
        if stored
        else torch.optim.AdamW(found.parameters(), lr=rate, weight_decay=0.01)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    for batch in _batches(data, steps, seed):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scores = outputs(found, batch)
        torch.autograd.backward(cross_entropy(scores.float(), labels(batch)))
        optimiser.step()
        schedule.step()
    return found.eval()


def _batches(data: Data, steps: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while steps > 0:
        for batch in data.epoch(generator):
            if steps == 0:
                return
            steps -= 1
            yield batch


@dataclass(frozen=True)
class Subject:
    """A trained model, its data, and the rate of its fine-tuning."""

    name: str
    model: symgraph.Model
    data: Data
    rate: float
    ignored: tuple[str, ...] = field(default=())


def subject(name: str, zoo: Path, kept: Path, *, validation: bool) -> Subject:
    """A network, trained where the folder does not have it yet."""
    about_images = name in ("resnet", "vgg", "vit-cifar10")
    data = (images if about_images else text)(zoo, validation=validation)
    if name in ZOO:
        return Subject(name, symgraph.model(zoo / f"{name}-0"), data, ZOO[name])
    recipe = NETWORKS[name]
    return Subject(name, as_model(name, network(name, data, kept)), data, recipe.rate / 10)


def network(name: str, data: Data, kept: Path, *, seed: int = 0, part: str = "", epochs: int = 0) -> nn.Module:
    """A network of these data, from the folder or trained now, for so many epochs or those of its recipe."""
    recipe, file = NETWORKS[name], kept / f"{name}{part}-{seed}.pt"
    torch.manual_seed(seed)
    module = recipe.make().eval()
    if file.exists():
        module.load_state_dict(torch.load(file))
        return module
    found = trained(module, data, epochs or recipe.epochs, recipe.rate, seed=seed)
    kept.mkdir(parents=True, exist_ok=True)
    torch.save(found.state_dict(), file)
    return found


def as_model(name: str, module: nn.Module) -> symgraph.Model:
    return symgraph.model(module) if name == "llama" else symgraph.model(module, EXAMPLE)
