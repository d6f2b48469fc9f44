"""What commutes with a family of matrices: the class of the axis that they act on.

The family falls into blocks, as the coordinates do that some matrix of it joins. A block of two on which all are scaled
rotations commutes with scaled rotations; coordinates that all matrices multiply by one number, with every map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-9
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Turns:
    """Pairs of coordinates that turn together, each with the pair that it becomes, and those that stay as they are."""

    pairs: tuple[Pair, ...]
    images: tuple[Pair, ...]
    still: tuple[int, ...]

    @property
    def layout(self) -> str:
        """Which pairs turn together, in words; pairs in no known order are listed."""
        turning = sorted(coordinate for pair in self.pairs for coordinate in pair)
        place = {coordinate: number for number, coordinate in enumerate(turning)}
        pairs, half = sorted((place[first], place[second]) for first, second in self.pairs), len(self.pairs)
        if pairs == [(number, number + half) for number in range(half)]:
            return "halves"
        if pairs == [(2 * number, 2 * number + 1) for number in range(half)]:
            return "interleaved"
        return " ".join(f"{first}-{second}" for first, second in pairs)


def turns(family: Tensor) -> Turns | None:
    """The pairs that a family of matrices turns; None where it does anything else.

    Shapes: family (matrices, d, d); each maps a vector x to M x.
    """
    reached = (family.abs() > TOLERANCE * family.abs().max()).any(0)
    joined = reached.T.double() @ reached.double() > 0
    if not bool(reached.any(0).all()) or not bool(reached.any(1).all()):
        return None
    blocks = _components(joined)
    pairs, images = list[Pair](), list[Pair]()
    still: list[int] = []
    for block in blocks:
        image = torch.nonzero(reached[:, block].any(1)).flatten().tolist()
        if len(block) == len(image) == 1:
            still.append(block[0])
            if image != block:
                return None
            continue
        turned = _turned(family, block, image)
        if turned is None:
            return None
        pairs.append((block[0], block[1]))
        images.append(turned)
    if not pairs or not _all_alike(family, still):
        return None
    ordered = sorted(zip(pairs, images, strict=True))
    return Turns(tuple(pair for pair, _ in ordered), tuple(image for _, image in ordered), tuple(still))


def _components(joined: Tensor) -> list[list[int]]:
    """Which coordinates are joined, in one step or several, the first of each block in ascending order."""
    # Scipy has this, and takes longer to import than all else that inference needs.
    label = torch.arange(len(joined))
    linked = joined | joined.T
    while True:
        least = torch.where(linked, label, len(label)).amin(1).minimum(label)
        if torch.equal(least, label):
            break
        label = least
    return [torch.nonzero(label == first).flatten().tolist() for first in sorted(set(label.tolist()))]


def _turned(family: Tensor, block: Sequence[int], image: Sequence[int]) -> Pair | None:
    """The image of a pair in the order in which every matrix is a scaled rotation, if there is one."""
    if len(block) != 2 or len(image) != 2:
        return None
    for first, second in (image, image[::-1]):
        cosine, sine = family[:, first, block].unbind(-1)
        other_sine, other_cosine = family[:, second, block].unbind(-1)
        apart = torch.stack([cosine - other_cosine, sine + other_sine]).abs().max()
        if bool(apart <= TOLERANCE):
            return first, second
    return None


def _all_alike(family: Tensor, still: Sequence[int]) -> bool:
    """Whether these coordinates are all multiplied by the same numbers, so that every map of them commutes."""
    if not still:
        return True
    numbers = family[:, still, still]
    return bool((numbers - numbers[:, :1]).abs().max() <= TOLERANCE)
