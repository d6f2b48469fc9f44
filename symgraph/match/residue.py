"""What is left between two models of one basis and gauge: how much, and whether it is noise.

Noise of a share x is white: in every tensor x times the root mean square of the entries, whatever the tensor. A fit of
d coordinates takes up d directions of it, so that the share is estimated over those that are left. What training
changes is uneven: some tensors more than others, and matrices along few directions. How uneven noise is after a fit
of this very model is known by drawing some.

Source: for the largest singular value of noise, Geman 1980; Marchenko and Pastur 1967.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from symgraph.errors import CheckpointError

# Tensors with fewer directions left say nothing about evenness.
LEAST = 4.0
# Those with fewer are wholly taken up.
LEAST_LEFT = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor: the share of its size that is left, over so many directions, and what stands out of noise there.

    `peak` is the largest singular value over what noise of this share has, of matrices; 1 elsewhere.
    """

    name: str
    share: float
    directions: float
    peak: float


class _Left(NamedTuple):
    """What is left of a tensor: its norm, and its largest singular value over what white noise of size one has."""

    norm: float
    largest: float

    def part(self, name: str, directions: float, size: float = 1.0) -> Part:
        """The same over so many directions, of a tensor of this size."""
        root = math.sqrt(max(directions, 1.0))
        peak = self.largest * root / self.norm if self.largest and self.norm else 1.0
        return Part(name, self.norm / (size * math.sqrt(directions)), directions, peak)


@dataclass(frozen=True, slots=True)
class Residue:
    """What is left of all parameters.

    `share` is the root mean square over all directions that are left, relative to each tensor's own size. `unevenness`
    is the spread of the logarithms of the tensors' shares beyond that of noise, and `evidence` by how many standard
    deviations so many numbers of noise would spread less; `peak` is the mean of the tensors' peaks. `null` has the
    largest unevenness and peak of noise that was drawn; zeros where none was.
    `rounding` is the share that rounding B's entries to their dtype explains.
    """

    share: float
    unevenness: float
    evidence: float
    peak: float
    null: tuple[float, float]
    rounding: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Null:
    """What a fit leaves of noise: how many directions of each tensor it takes up, and the parts of every draw."""

    taken: Mapping[str, float]
    draws: tuple[tuple[Part, ...], ...]

    @property
    def most(self) -> tuple[float, float]:
        """The largest unevenness and the largest peak of all draws."""
        shares = [_whole_share(parts) for parts in self.draws]
        uneven = [_unevenness(parts, share)[0] for parts, share in zip(self.draws, shares, strict=True)]
        peaks = [_peak(parts, share) for parts, share in zip(self.draws, shares, strict=True)]
        return max(uneven, default=0.0), max(peaks, default=0.0)


NOTHING = Null({}, ())


def null_of(draws: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]], names: Collection[str]) -> Null:
    """Of noise and what a fit takes up of it, for the tensors of these names; sizes of tensors are one there."""
    drawn = list[dict[str, _Left]]()
    sums, sizes = defaultdict[str, float](float), dict[str, int]()
    for noise, fitted in draws:
        seen = [name for name in noise if name in names]
        drawn.append({name: _left(noise[name] - fitted[name]) for name in seen})
        for name in seen:
            sums[name] += float((fitted[name] * noise[name]).sum())
            sizes[name] = noise[name].numel()
    taken = {name: min(max(total / len(drawn), 0.0), float(sizes[name])) for name, total in sums.items()}
    directions = {name: size - taken[name] for name, size in sizes.items() if size - taken[name] >= LEAST_LEFT}
    parts = [
        tuple(own.part(name, directions[name]) for name, own in left.items() if name in directions) for left in drawn
    ]
    return Null(taken, tuple(parts))


def residue(
    here: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    null: Null,
    names: Sequence[str],
    dtypes: Mapping[str, torch.dtype],
) -> Residue:
    """What is left of B without A, which was brought over it.

    Args:
        null: what the fit leaves of noise.
        names: the parameters.
        dtypes: of B's tensors as they are stored.

    Raises:
        CheckpointError: something is not finite.
    """
    parts = tuple(_parts(here, b, null.taken, names))
    share = _whole_share(parts)
    uneven, evidence = _unevenness(parts, share)
    return Residue(share, uneven, evidence, _peak(parts, share), null.most, rounding(b, names, dtypes), parts)


def _mean(parts: Sequence[Part], number: Callable[[Part], float]) -> float:
    """The mean of a number of each part, weighed by directions; zero of none."""
    total = sum(part.directions for part in parts)
    return sum(part.directions * number(part) for part in parts) / total if total else 0.0


def _whole_share(parts: Sequence[Part]) -> float:
    return math.sqrt(_mean(parts, lambda part: part.share**2))


def _parts(
    here: Mapping[str, Tensor], b: Mapping[str, Tensor], taken: Mapping[str, float], names: Sequence[str]
) -> Iterator[Part]:
    for name in names:
        left = b[name] - here[name]
        size = _size(b[name], left)
        directions = b[name].numel() - taken.get(name, 0.0)
        if not math.isfinite(float(left.sum()) + directions):
            raise CheckpointError(
                f"what is left of {name} is no number", remedy="check the weights for NaN and infinity"
            )
        if size > 0 and directions >= LEAST_LEFT:
            yield _left(left).part(name, directions, size)


def _size(b: Tensor, left: Tensor) -> float:
    """The root mean square of a tensor before noise, from that after: squares add up, for noise knows nothing of it.

    At least half of what is there counts. The size of what was laid over B is no measure: it may be in any gauge.
    """
    there = float(b.square().mean())
    return math.sqrt(max(there - float(left.square().mean()), there / 2))


def _left(tensor: Tensor) -> _Left:
    """What is left of a tensor; what is no matrix has no singular value."""
    norm = float(tensor.norm())
    if tensor.dim() < 2 or min(tensor.shape[0], tensor[0].numel()) < 4:
        return _Left(norm, 0.0)
    matrix = tensor.flatten(1)
    of_noise = sum(math.sqrt(length) for length in matrix.shape)
    return _Left(norm, float(torch.linalg.matrix_norm(matrix, 2)) / of_noise)


def _unevenness(parts: Sequence[Part], share: float) -> tuple[float, float]:
    """The spread of logarithms, weighed by directions, less what so many of noise have; and how sure that is.

    Twice the directions times the square of a logarithm is one on average, with a variance of two.
    """
    counted = [part for part in parts if part.directions >= LEAST]
    if not counted or share <= 0:
        return 0.0, 0.0
    total = sum(part.directions for part in counted)
    spread = _mean(counted, lambda part: math.log(max(part.share, 1e-9 * share) / share) ** 2)
    evidence = (2 * total * spread - len(counted)) / math.sqrt(2 * len(counted))
    return math.sqrt(max(spread - len(counted) / (2 * total), 0.0)), evidence


def _peak(parts: Sequence[Part], share: float) -> float:
    counted = [part for part in parts if part.peak != 1.0 and part.share > 0.1 * share]
    return _mean(counted, lambda part: part.peak) if counted else 1.0


def rounding(b: Mapping[str, Tensor], names: Sequence[str], dtypes: Mapping[str, torch.dtype]) -> float:
    """The root mean square of what rounding to the stored dtypes changes, relative to the size of each tensor."""
    square, count = 0.0, 0
    for name in names:
        size = float(b[name].square().mean())
        if size > 0:
            exponents = torch.frexp(b[name])[1].double() - 1
            steps = torch.finfo(dtypes.get(name, torch.float64)).eps * torch.exp2(exponents)
            square += float(steps.square().sum()) / 12 / size
            count += b[name].numel()
    return math.sqrt(square / count) if count else 0.0
