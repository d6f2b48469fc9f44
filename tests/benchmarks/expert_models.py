"""Vision transformers with mixtures of experts, trained in pairs: from scratch, or fine-tuned from one backbone."""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "glmc"))

from corpora import Corpus, images  # type: ignore[import-not-found]
from settings import PAPER, Setting, scaled  # type: ignore[import-not-found]
from together import train_together  # type: ignore[import-not-found]
from training import fresh  # type: ignore[import-not-found]

LAYERS = {"first": (0,), "last": (-1,), "all": (0, 1, 2)}
GATES = {"dense": (0, 0), "top-1": (1, 0), "top-2": (2, 0), "top-2, shared": (2, 1)}
TUNED_RATE, TUNED_EPOCHS = 3e-3, 3


class Mixture(nn.Module):
    """Experts with a gate over all, or over the `top` ones, and perhaps one more that everything goes through.

    At top 1 the expert is multiplied by its probability, without which the gate would not be trained.
    """

    def __init__(self, width: int, hidden: int, experts: int, top: int, shared: int) -> None:
        super().__init__()
        self.top, self.experts = top, experts
        self.router, self.up = nn.Linear(width, experts), nn.Linear(width, experts * hidden)
        self.down = nn.Linear(experts * hidden, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(experts, width))
        one = (nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.shared = nn.Sequential(*one) if shared else None
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.top:
            values, chosen = gate.topk(self.top, -1)
            if self.top > 1:
                values = values / values.sum(-1, keepdim=True)
            gate = torch.zeros_like(gate).scatter(-1, chosen, values)
        hidden = nn.functional.gelu(self.up(x)).reshape(*x.shape[:-1], self.experts, -1)
        found: Tensor = self.down((gate.unsqueeze(-1) * hidden).flatten(-2)) + gate @ self.bias
        return found if self.shared is None else found + self.shared(x)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of pair: where the mixtures are, and what they are made of; `scratch`: nothing is shared before."""

    scratch: bool
    layers: str
    gate: str
    experts: int

    def __str__(self) -> str:
        return f"{'scratch' if self.scratch else 'tuned'} {self.layers} {self.gate} {self.experts}"

    @property
    def name(self) -> str:
        """As a file is called."""
        return str(self).replace(", ", "-").replace(" ", "-")


def setting(epochs: float) -> Setting:
    """The zoo's scale: three layers of width 64 on patches of 8 pixels."""
    return replace(scaled(PAPER["cifar10"], "small"), epochs=epochs, augmented=False)


@cache
def corpus(folder: Path, out: Path, limit: int | None, tested: int | None, device: str) -> Corpus:
    """CIFAR-10 in three splits, of the last the first `tested` images, on a device: once in a process."""
    found = images(folder, setting(0), out, limit)
    test = (found.test[0][:tested], found.test[1][:tested])
    return replace(found, test=test).to(torch.device(device))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all jobs of a benchmark have in common.

    `scratch` keeps models and decoded images; of each split `limit` images are read, of the test split `tested` are
    looked at; nothing begins after `end`.
    """

    data: Path
    out: Path
    scratch: Path
    limit: int | None
    tested: int | None
    epochs: float
    steps: int
    device: str
    end: float

    @property
    def images(self) -> Corpus:
        """What models are trained and measured on."""
        return corpus(self.data, self.scratch, self.limit, self.tested, self.device)


def add_setup(parser: ArgumentParser, *, pairs: int, steps: int) -> None:
    """Declares the options of a `Setup`, and how many pairs are wanted, in how many processes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, help="where models and decoded images are kept (default: --out)")
    for name, default in (("pairs", pairs), ("jobs", 1), ("steps", steps)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--limit", type=int, help="images of each split")
    parser.add_argument("--tested", type=int, help="images of the test split that are looked at")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--deadline", type=float, default=math.inf, help="begin nothing after so many seconds")
    parser.add_argument("--device", default="cpu")


def setup(args: Namespace) -> Setup:
    """The setup that was asked for; its folders are made."""
    scratch, end = args.scratch or args.out, time.monotonic() + args.deadline
    for folder in (args.out, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(args, name) for name in ("data", "out", "limit", "tested", "epochs", "steps", "device")}
    return Setup(**given, scratch=scratch, end=end)


def with_mixtures(net: nn.Module, case: Case, s: Setting) -> nn.Module:
    """The network with mixtures, newly drawn, in the place of feed-forward layers."""
    blocks = net.vit.layers  # type: ignore[union-attr]
    for layer in LAYERS[case.layers]:
        blocks[layer].mlp = Mixture(s.width, s.hidden, case.experts, *GATES[case.gate])  # type: ignore[index,union-attr]
    return net


def backbone(out: Path, epochs: float, data: Corpus, device: torch.device) -> dict[str, Tensor]:
    """A trained network without mixtures, from `out` where it is there: for all that is fine-tuned."""
    path = out / "backbone.pt"
    if not path.exists():
        s = setting(epochs)
        net = fresh(s, data, 1000).to(device)
        train_together([net], s, data, [1000])
        torch.save({n: t.cpu() for n, t in net.state_dict().items()}, path)
    return dict(torch.load(path, weights_only=True))


def train(cases: Sequence[tuple[Case, int]], out: Path, epochs: float, data: Corpus, device: torch.device) -> None:
    """Trains and keeps pairs, as they are numbered, all at once; of fine-tuned ones all but mixtures is the backbone's.

    All set out from scratch, or none.
    """
    missing = [(case, number) for case, number in cases if not pair_path(out, case, number).exists()]
    if not missing:
        return
    s, nets, seeds = setting(epochs), [], []
    for case, number in missing:
        for seed in (2 * number, 2 * number + 1):
            net = fresh(s, data, seed)
            if not case.scratch:
                net.load_state_dict(backbone(out, epochs, data, device))
                net.requires_grad_(False)
            nets.append(with_mixtures(net, case, s).to(device))
            seeds.append(seed)
    if not missing[0][0].scratch:
        s = replace(s, rate=TUNED_RATE, epochs=min(TUNED_EPOCHS, epochs), decay=0.01)
    train_together(nets, s, data, seeds)
    states = [{n: t.cpu() for n, t in net.state_dict().items()} for net in nets]
    for (case, number), first, second in zip(missing, states[::2], states[1::2], strict=True):
        torch.save([first, second], pair_path(out, case, number))


def pair_path(out: Path, case: Case, number: int) -> Path:
    return out / f"{case.name}-{number}.pt"


def pair(case: Case, number: int, out: Path, classes: Corpus) -> list[nn.Module]:
    """A trained pair, on the host."""
    nets = [with_mixtures(fresh(setting(0), classes, 0), case, setting(0)) for _ in range(2)]
    for net, state in zip(nets, torch.load(pair_path(out, case, number), weights_only=True), strict=True):
        net.load_state_dict(state)
    return [net.eval() for net in nets]
