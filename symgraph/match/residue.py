"""What is left between two models of one basis and gauge: how much, and whether it is noise.

Noise of a share x is white: in every tensor x times the root mean square of the entries, whatever the tensor. A fit of
d coordinates takes up d directions of it, so that the share is estimated over those that are left. What training
changes is uneven: some tensors more than others, and matrices along few directions.

Source: for the largest singular value of noise, Geman 1980; Marchenko and Pastur 1967.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Tensors with fewer directions left say nothing about evenness.
LEAST = 4.0


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
    deviations so many numbers of noise would spread less; `peak` is the mean of the tensors' peaks.
    `rounding` is the share that rounding B's entries to their dtype explains.
    """

    share: float
    unevenness: float
    evidence: float
    peak: float
    rounding: float
    parts: tuple[Part, ...]


def residue(
    here: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    taken: Mapping[str, float],
    names: Sequence[str],
    dtypes: Mapping[str, torch.dtype],
) -> Residue:
    """What is left of B without A, which was brought over it.

    Args:
        taken: how many directions of each tensor the fit has taken up.
        names: the parameters.
        dtypes: of B's tensors as they are stored.
    """
    parts = tuple(_parts(here, b, taken, names))
    total = sum(part.directions for part in parts)
    share = math.sqrt(sum(part.share**2 * part.directions for part in parts) / total) if total else 0.0
    uneven, evidence = _unevenness(parts, share)
    return Residue(share, uneven, evidence, _peak(parts, share), rounding(b, names, dtypes), parts)


def _parts(
    here: Mapping[str, Tensor], b: Mapping[str, Tensor], taken: Mapping[str, float], names: Sequence[str]
) -> Iterator[Part]:
    for name in names:
        left = b[name] - here[name]
        size = _size(b[name], left)
        directions = b[name].numel() - taken.get(name, 0.0)
        if size > 0 and directions >= 0.5:
            share = float(left.norm()) / (size * math.sqrt(directions))
            yield Part(name, share, directions, _outstanding(left, directions))


def _size(b: Tensor, left: Tensor) -> float:
    """The root mean square of a tensor before noise, from that after: squares add up, for noise knows nothing of it.

    At least half of what is there counts. The size of what was laid over B is no measure: it may be in any gauge.
    """
    there = float(b.square().mean())
    return math.sqrt(max(there - float(left.square().mean()), there / 2))


def _outstanding(left: Tensor, directions: float) -> float:
    if left.dim() < 2 or min(left.shape[0], left[0].numel()) < 4 or not float(left.norm()):
        return 1.0
    matrix = left.flatten(1)
    rows, columns = matrix.shape
    noise = float(left.norm()) / math.sqrt(max(directions, 1.0)) * (math.sqrt(rows) + math.sqrt(columns))
    return float(torch.linalg.matrix_norm(matrix, 2)) / noise


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
