"""What is left between two models of one basis and gauge: how much, and whether it is noise.

Noise of a share x is white: in every tensor x times the root mean square of the entries, whatever the tensor. A fit of
d coordinates takes up d directions of it, so that the share is estimated over those that are left. What training
changes is uneven: some tensors more than others, and matrices along few directions. How uneven noise is after a fit
of this very model is known by drawing some.

Source: for the largest singular value of noise, Geman 1980; Marchenko and Pastur 1967.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    norms = list[dict[str, tuple[float, float]]]()
    taken, sizes = dict[str, float](), dict[str, int]()
    for noise, fitted in draws:
        seen = [n for n in noise if n in names]
        norms.append({n: (float((noise[n] - fitted[n]).norm()), _largest(noise[n] - fitted[n])) for n in seen})
        taken |= {n: taken.get(n, 0.0) + float((fitted[n] * noise[n]).sum()) for n in seen}
        sizes = {n: noise[n].numel() for n in seen}
    taken = {n: min(max(share / max(len(norms), 1), 0.0), float(sizes[n])) for n, share in taken.items()}
    parts = (
        tuple(
            Part(n, norm / math.sqrt(d), d, _outstanding(norm, largest, d))
            for n, (norm, largest) in draw.items()
            if (d := sizes[n] - taken[n]) >= LEAST_LEFT
        )
        for draw in norms
    )
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


def _whole_share(parts: Sequence[Part]) -> float:
    total = sum(p.directions for p in parts)
    return math.sqrt(sum(p.share**2 * p.directions for p in parts) / total) if total else 0.0


def _parts(
    here: Mapping[str, Tensor], b: Mapping[str, Tensor], taken: Mapping[str, float], names: Sequence[str]
) -> Iterator[Part]:
    for n in names:
        left = b[n] - here[n]
        size = _size(b[n], left)
        directions = b[n].numel() - taken.get(n, 0.0)
        if not math.isfinite(float(left.sum()) + directions):
            raise CheckpointError(f"what is left of {n} is no number", remedy="check the weights for NaN and infinity")
        if size > 0 and directions >= LEAST_LEFT:
            norm = float(left.norm())
            outstanding = _outstanding(norm, _largest(left), directions)
            yield Part(n, norm / (size * math.sqrt(directions)), directions, outstanding)


def _size(b: Tensor, left: Tensor) -> float:
    """The root mean square of a tensor before noise, from that after: squares add up, for noise knows nothing of it.

    At least half of what is there counts. The size of what was laid over B is no measure: it may be in any gauge.
    """
    there = float(b.square().mean())
    return math.sqrt(max(there - float(left.square().mean()), there / 2))


def _outstanding(norm: float, largest: float, directions: float) -> float:
    return largest * math.sqrt(max(directions, 1.0)) / norm if largest and norm else 1.0


def _largest(left: Tensor) -> float:
    """The largest singular value over what that of white noise of size one has; zero of what is no matrix."""
    if left.dim() < 2 or min(left.shape[0], left[0].numel()) < 4:
        return 0.0
    rows, columns = left.flatten(1).shape
    return float(torch.linalg.matrix_norm(left.flatten(1), 2)) / (math.sqrt(rows) + math.sqrt(columns))


def _unevenness(parts: Sequence[Part], share: float) -> tuple[float, float]:
    """The spread of logarithms, weighed by directions, less what so many of noise have; and how sure that is.

    Twice the directions times the square of a logarithm is one on average, with a variance of two.
    """
    counted = [part for part in parts if part.directions >= LEAST]
    total = sum(p.directions for p in counted)
    if not total or share <= 0:
        return 0.0, 0.0
    spread = sum(p.directions * math.log(max(p.share, 1e-9 * share) / share) ** 2 for p in counted) / total
    evidence = (2 * total * spread - len(counted)) / math.sqrt(2 * len(counted))
    return math.sqrt(max(spread - len(counted) / (2 * total), 0.0)), evidence


def _peak(parts: Sequence[Part], share: float) -> float:
    counted = [part for part in parts if part.peak != 1.0 and part.share > 0.1 * share]
    total = sum(p.directions for p in counted)
    return sum(p.peak * p.directions for p in counted) / total if total else 1.0


def rounding(b: Mapping[str, Tensor], names: Sequence[str], dtypes: Mapping[str, torch.dtype]) -> float:
    """The root mean square of what rounding to the stored dtypes changes, relative to the size of each tensor."""
    square, count = 0.0, 0
    for name in names:
        size = float(b[name].square().mean())
        if size > 0:
            unit = torch.finfo(dtypes.get(name, torch.float64)).eps * torch.exp2(torch.frexp(b[name])[1].double() - 1)
            square += float(unit.square().sum()) / 12 / size
            count += b[name].numel()
    return math.sqrt(square / count) if count else 0.0
