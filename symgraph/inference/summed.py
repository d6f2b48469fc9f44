"""Constants that meet in one value: those of one source gathered, and the sums that something sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from symgraph.inference.entry_numbers import Numbers, Window, compact, span_of
from symgraph.inference.null_space import Summand
from symgraph.inference.uses import Name, Spot
from symgraph.symmetry.families import Hop, Port, Share
from symgraph.symmetry.terms import in_order_met, over_leaves


def gathered(spots: list[Spot]) -> list[Spot]:
    """The spots of a value, those of one constant at the same positions, or each at its own, as one."""
    found: list[Spot] = []
    for spot in spots:
        for i, other in enumerate(found):
            both = _as_one(other, spot)
            if both is not None:
                found[i] = both
                break
        else:
            found.append(spot)
    return [s for s in found if s.factor]


def _as_one(one: Spot, other: Spot) -> Spot | None:
    mine, theirs = one.numbers, other.numbers
    if one.name != other.name or one.window != other.window or (mine.rows is None) != (theirs.rows is None):
        return None
    if mine.is_same(theirs):
        return replace(one, factor=one.factor + other.factor)
    both = mine.beside(theirs) if mine.rows is None and one.factor == other.factor else None
    return None if both is None else one.at(both)


def sums(spots: list[Spot]) -> Iterator[tuple[Summand, ...]]:
    """What must vanish where all these constants are seen: for each set of them that meets somewhere, their sum.

    Where they do not meet entry by entry in one order, each has to vanish by itself.
    """
    first, *others = (spot.numbers for spot in spots)
    alike = (*others, in_order_met(*(spot.term for spot in spots)), *(spot.even for spot in spots))
    for together in first.once((sums, *alike), lambda: tuple(_meetings(spots))):
        yield tuple(Summand(spots[i].name, span or spots[i].window, spots[i].factor) for i, span in together)


def _meetings(spots: list[Spot]) -> Iterator[tuple[tuple[int, Window | None], ...]]:
    """Which constants meet, each with its rows there where these are told apart."""
    if len(spots) == 1:
        yield ((0, spots[0].numbers.span()),)
        return
    held = compact([spot.numbers.at for spot in spots])
    meeting = torch.stack([(at > 0).long() << i for i, at in enumerate(held)]).sum(0)
    for code in filter(None, torch.unique(meeting).tolist()):
        here = meeting == code
        members = [i for i in range(len(spots)) if code >> i & 1]
        terms = [(i, _span(spots[i].numbers, here)) for i in members]
        if _agree([held[i][here] for i in members], [spots[i] for i in members]):
            yield tuple(terms)
        else:
            yield from ((term,) for term in terms)


def difference(spots: list[Spot], others: list[Spot]) -> Iterator[Spot]:
    """The constants that are read, less those that are read elsewhere."""
    found: dict[tuple[Name, Window | None], Spot] = {}
    for spot in (*spots, *(replace(o, factor=-o.factor) for o in others)):
        held = found.get((spot.name, spot.span))
        factor = spot.factor if held is None else held.factor + spot.factor
        found[spot.name, spot.span] = replace(spot, factor=factor)
    return (spot for spot in found.values() if spot.factor)


def _span(numbers: Numbers, here: Tensor) -> Window | None:
    """The rows of a table at the positions of a compact mask, where they are told apart."""
    return None if numbers.rows is None else span_of(numbers.rows, here.long().expand(numbers.rows.shape))


def _agree(entries: list[Tensor], spots: list[Spot]) -> bool:
    """Whether constants stand in one order: the longest ones entry by entry, others again and again beside these."""
    longest = max(range(len(spots)), key=lambda i: spots[i].entries)
    whole = len(torch.unique(entries[longest])) == spots[longest].entries
    return whole and all(
        torch.equal(_beside(spot, spots[longest], entries[longest]), found)
        for spot, found in zip(spots, entries, strict=True)
    )


def _beside(spot: Spot, longest: Spot, entries: Tensor) -> Tensor:
    """Which entries of a constant stand beside those of one that has all its axes; zeros where none has."""
    if spot.entries == longest.entries:
        return entries
    numbers = over_leaves(torch.arange(1, spot.term.size + 1, dtype=entries.dtype), spot.term, longest.term)
    return torch.zeros_like(entries) if numbers is None or spot.even else numbers[entries.long() - 1]


def merged(shares: list[Share]) -> tuple[Share, ...]:
    """The shares, those of one place by one path as one."""
    found: dict[tuple[Port, tuple[Hop, ...]], float] = {}
    for share in shares:
        place = share.port, share.path
        found[place] = found.get(place, 0.0) + share.factor
    return tuple(Share(port, factor, path) for (port, path), factor in found.items() if abs(factor) > 1e-12)
