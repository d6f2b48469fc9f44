"""Constants that stand at some positions along an axis each, and are one where those together are all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from symgraph.inference.carrying import Carrier
from symgraph.inference.summed import gathered
from symgraph.inference.uses import Spot, Uneven, Use


def differences(carrier: Carrier, together: list[Uneven]) -> Iterator[list[Spot]]:
    """For each run of positions but the first what stands there, less what stands in the first."""
    first, *others = _runs(carrier, together)
    for run in others:
        if differing := gathered([*run, *(replace(spot, factor=-spot.factor) for spot in first)]):
            yield differing


def in_common(carrier: Carrier, together: list[Uneven]) -> Iterator[tuple[Use, Spot]]:
    """What a call does with constants of the first run as they are if they stand at all positions."""
    use = together[0]
    for spot in _runs(carrier, together)[0]:
        whole = spot.at(spot.numbers.spread(tuple(use.spot.numbers.at.shape)))
        yield from ((common, whole) for common in carrier.operand(use.applied, use.operand, whole))


def _runs(carrier: Carrier, together: list[Uneven]) -> list[list[Spot]]:
    """The constants run by run along the dimension; in each run the same ones stand at all positions, of which one."""
    dim, spots = together[0].dim, [use.spot for use in together]
    held = torch.stack([spot.numbers.stands_along(dim) for spot in spots])
    ends = [0, *(int(i) + 1 for i in torch.nonzero((held[:, 1:] != held[:, :-1]).any(0))), held.shape[1]]
    runs = [
        [
            spot.at(spot.numbers.narrowed(dim, start, stop))
            for spot, here in zip(spots, held[:, start], strict=True)
            if here
        ]
        for start, stop in pairwise(ends)
    ]
    apart = ([carrier.told_apart(spot, dim) for spot in run] for run in runs)
    return [[spot.at(spot.numbers.narrowed(dim, 0, 1)) for spot in run] for run in apart]
