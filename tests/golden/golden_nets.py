"""Models so small that what each stage makes of them can be read."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """A residual block: a norm, and a gated layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.gate, self.up, self.down = nn.Linear(4, 5), nn.Linear(4, 5, bias=False), nn.Linear(5, 4)
        self.final, self.head = nn.RMSNorm(4), nn.Linear(4, 2)
        self.example_inputs = torch.zeros(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        n = self.norm(h)
        h = h + self.down(nn.functional.silu(self.gate(n)) * self.up(n))
        result: Tensor = self.head(self.final(h))
        return result


class Experts(nn.Module):
    """Three experts behind a router; with `unlike` they are told apart by a number each."""

    def __init__(self, unlike: bool) -> None:
        super().__init__()
        self.unlike, self.router = unlike, nn.Linear(2, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(3))
        self.example_inputs = torch.zeros(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        weights = logits.cumsum(-1) if self.unlike else logits.softmax(-1)
        outputs = [weights[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)]
        result: Tensor = outputs[0] + outputs[1] + outputs[2]
        return result


class Fused(nn.Module):
    """Queries, keys and values from one map, with heads, by plain operators."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 4)
        self.example_inputs = torch.zeros(2, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(2, 3, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(2, 3, 8))
        return result


class Taken(nn.Module):
    """An operator without a rule, and one that is made of covered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(3, 4), nn.Linear(4, 2)
        self.example_inputs = torch.zeros(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.write(torch.special.bessel_j0(torch.logaddexp(self.read(x), self.read(-x))))
        return result


class Padded(nn.Module):
    """Units between zeros, and a sum that begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.wide, self.write = nn.Linear(3, 4), nn.Linear(3, 8), nn.Linear(8, 2)
        self.example_inputs = torch.zeros(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        nothing = x.new_zeros(2, 2)
        between = torch.cat([nothing, self.read(x).relu(), nothing], -1)
        result: Tensor = self.write((between + self.wide(x)).relu())
        return result


class Alternating(nn.Module):
    """A gate and units that take turns along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(3, 8), nn.Linear(4, 2)
        self.example_inputs = torch.zeros(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, unit = self.read(x).view(2, 4, 2).unbind(-1)
        result: Tensor = self.write(gate.sigmoid() * unit)
        return result


class Modulated(nn.Module):
    """A norm whose gain and bias are made of a condition, the gain as its difference from one."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.make, self.write = nn.Linear(3, 4), nn.Linear(2, 8), nn.Linear(4, 2)
        self.example_inputs = torch.zeros(2, 3), torch.zeros(2, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.make(condition).chunk(2, -1)
        result: Tensor = self.write(nn.functional.rms_norm(self.read(x), (4,)) * (1 + scale) + shift)
        return result


class Factors(nn.Module):
    """A factorization machine: products of all pairs of three vectors, as squares of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(1, 2)
        self.example_inputs = torch.zeros(2, 3, dtype=torch.int64)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.table(ids)
        pairs = vectors.sum(1) ** 2 - (vectors**2).sum(1)
        result: Tensor = self.head(0.5 * pairs.sum(1, keepdim=True))
        return result


def gated() -> Gated:
    return Gated()


def experts() -> Experts:
    return Experts(unlike=False)


def unlike() -> Experts:
    return Experts(unlike=True)


def fused() -> Fused:
    return Fused()


def alternating() -> Alternating:
    return Alternating()


def taken() -> Taken:
    return Taken()


def padded() -> Padded:
    return Padded()


def modulated() -> Modulated:
    return Modulated()


def factors() -> Factors:
    return Factors()
