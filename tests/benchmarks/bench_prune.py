"""Pruning trained models: units fused or dropped, before and after a short fine-tuning, beside Torch-Pruning.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_prune.py [vit-cifar10] [gpt2-shakespeare] [resnet] [vgg]
        [--ratios 0.2 0.4 0.6] [--validation]

Hidden units of the pairs' first models; all channels of a ResNet and a VGG with batch norms, which the script trains on
CIFAR-10. With --validation everything is measured on examples set apart from the training split: that is where defaults
were chosen. Times are process time on one thread; Torch-Pruning is measured where it is installed.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from bench_zoo import MEAN, STD, zoo
from bench_zoo import test_batches as held_out
from measure import CONTEXT, Batch, one_thread, seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import symgraph
from symgraph.io.data import load

WAYS: dict[str, dict[str, Any]] = {
    "merged where nearest": {},
    "l1, dropped": {"importance": "l1", "drop": True},
    "l1, fused": {"importance": "l1"},
    "taylor, dropped": {"importance": "taylor", "drop": True},
    "taylor, fused": {"importance": "taylor"},
}


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
    start = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for width, halved in ((16, True), (32, True), (64, False), (64, True), (128, False), (128, True)):
        layers += [nn.Conv2d(before, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if halved else []
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * before, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "vgg": vgg}


@dataclass(frozen=True)
class Subject:
    """A trained model, batches of its training split, and those that it is measured on."""

    model: symgraph.Model
    training: list[Batch]
    measured: list[Batch]
    rate: float


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


def trained(module: nn.Module, batches: Sequence[Batch], steps: int, rate: float) -> nn.Module:
    """A copy after steps of AdamW with a linear decay."""
    found = copy.deepcopy(module).train()
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate, weight_decay=0.01)
    for step, batch in enumerate(islice(cycle(batches), steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        torch.autograd.backward(cross_entropy(outputs(found, batch), labels(batch)))
        optimiser.step()
    return found.eval()


def subject(name: str, options: argparse.Namespace) -> Subject:
    folder = zoo()
    assert folder is not None
    if name == "gpt2-shakespeare":
        tokens = torch.from_numpy(np.load(folder / "shakespeare-tokens.npz")["train"].astype("int64"))
        windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
        train = [{"input_ids": w, "labels": w} for w in torch.split(windows, 8)]
        chosen, measured = train[:-8], train[-8:]
    else:
        file = folder.parent / "data" / "cifar10" / "train.parquet"
        train = list(load(file, batch_size=100, mean=MEAN, std=STD, limit=options.images + 2000))
        chosen, measured = train[:-20], train[-20:]
    if not options.validation:
        measured = list(islice(held_out(name if name in PAIRS else "vit", folder), options.batches))
    if name in NETWORKS:
        torch.manual_seed(0)
        made = trained(NETWORKS[name](), chosen, options.epochs * len(chosen), 3e-3)
        return Subject(symgraph.model(made, measured[0]["pixel_values"][:2]), chosen, measured, 1e-3)
    found = symgraph.model(folder / f"{name}-0")
    return Subject(found, chosen, measured, 1e-4)


PAIRS = ("vit-cifar10", "gpt2-shakespeare")


def ours(s: Subject, ratio: float, how: dict[str, Any]) -> nn.Module:
    data: dict[str, Any] = {"data": s.training[:16]} if how.get("importance") == "taylor" else {}
    return symgraph.prune(s.model, ratio=ratio, **how, **data).module


def theirs(s: Subject, ratio: float, kind: str) -> nn.Module:
    """The same by Torch-Pruning: groups of coupled layers, of the same importance."""
    import torch_pruning as peer

    made = copy.deepcopy(s.model.module)
    x = s.measured[0]["pixel_values"][:2]
    if kind == "l1":
        importance = peer.importance.GroupMagnitudeImportance(p=1)
    else:
        importance = peer.importance.GroupTaylorImportance()
        for batch in s.training[:16]:
            torch.autograd.backward(cross_entropy(outputs(made, batch), labels(batch)))
    pruner = peer.pruner.BasePruner(made, x, importance, pruning_ratio=ratio, ignored_layers=_kept(made))
    pruner.step()
    return made.eval()


def _kept(module: nn.Module) -> list[nn.Module]:
    """What Torch-Pruning leaves alone: the outputs, and of a transformer all but the hidden units."""
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if any("attention" in n for n, _ in module.named_modules()):
        return [m for n, m in layers if not n.endswith(("fc1", "intermediate.dense"))]
    return [layers[-1][1]]


def rows(s: Subject, ratio: float) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for name, how in WAYS.items():
        yield name, partial(ours, s, ratio, how)
    if "pixel_values" in s.measured[0] and _peer():
        for kind in ("l1", "taylor"):
            yield f"Torch-Pruning, {kind}", partial(theirs, s, ratio, kind)


def _peer() -> bool:
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        return False
    return True


def measure(name: str, options: argparse.Namespace) -> None:
    s = subject(name, options)
    network = s.model.module
    print(f"{name}: loss {score(network, s.measured)[0]:.3f}, accuracy {score(network, s.measured)[1]:.2%}", flush=True)
    stored = any(n.endswith("running_var") for n, _ in network.named_buffers())
    for ratio in options.ratios:
        for way, make in rows(s, ratio):
            taken, made = seconds(make)
            figures = {"as it is": score(made, s.measured)}
            if stored:
                state = symgraph.recalibrated(made, made.state_dict(), s.training[:10])
                again = copy.deepcopy(made)
                again.load_state_dict(state)
                figures["recalibrated"] = score(again, s.measured)
            if options.steps:
                figures["tuned"] = score(trained(made, s.training, options.steps, s.rate), s.measured)
            size = sum(p.numel() for p in made.parameters()) / sum(p.numel() for p in network.parameters())
            told = "  ".join(f"{when} {loss:.3f} {right:.2%}" for when, (loss, right) in figures.items())
            print(f"  {ratio:.0%}  {way:<22} {size:4.0%} of the parameters  {told}  {taken:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=[*PAIRS, *NETWORKS])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.4, 0.6])
    parser.add_argument("--steps", type=int, default=40, help="of the fine-tuning")
    parser.add_argument("--epochs", type=int, default=4, help="of the training")
    parser.add_argument("--images", type=int, default=10_000, help="of the training split")
    parser.add_argument("--batches", type=int, default=None, help="of the test split (default: all)")
    parser.add_argument("--validation", action="store_true", help="measure on a part of the training split")
    options = parser.parse_args()
    if zoo() is None:
        print("prune: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        for name in options.names:
            measure(name, options)


if __name__ == "__main__":
    main()
