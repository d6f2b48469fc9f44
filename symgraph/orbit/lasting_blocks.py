"""Which blocks of weights an equivariant map can have entries in, counted by characters.

A block is what one part of each axis of a tensor makes. The maps in it that a group does not move have the mean of the
product of the axes' characters over the group as their dimension; where that is zero nothing passes through the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from math import prod

import torch
from torch import Tensor

from symgraph.groups.elements import Element
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves

Block = tuple[Term, ...]
Characters = Mapping[int, Tensor]
"""Of every space that the group moves the traces of all elements on it, as a share of its size: (|G|,) float64."""


def blocks(tensors: Iterable[tuple[Term, ...]]) -> list[Block]:
    """The blocks of tensors that map one axis to another."""
    several = (axes for axes in tensors if len(axes) > 1)
    return [block for axes in several for block in product(*map(_parts, axes))]


def character(elements: Iterable[Element]) -> Tensor:
    """The traces of elements as a share of their size."""
    return torch.stack([_trace(element) for element in elements])


def lasting(found: Iterable[Block], characters: Characters) -> int:
    """How many of the blocks keep entries.

    >>> plane, line = Leaf(0, 0, False, 2), Leaf(1, 1, False, 1)
    >>> turns = {0: torch.tensor([1.0, 0.0, -1.0, 0.0])}
    >>> lasting([(plane, plane)], turns), lasting([(plane, line)], turns)
    (1, 0)
    """
    return sum(_dimension(block, characters) > 0.5 for block in found)


def longest_lasting(
    found: Iterable[Block], fixed: Characters, possible: Mapping[int, Mapping[str, Tensor]]
) -> dict[int, str]:
    """Of what each space can carry, by name, that with which most blocks keep entries; the first one where many do.

    Args:
        fixed: characters of spaces where nothing is to be chosen.
        possible: those of the others, of every choice.
    """
    chosen = {space: next(iter(choices)) for space, choices in possible.items()}
    touching: dict[int, list[Block]] = {space: [] for space in chosen}
    for block in found:
        for space in _spaces(block) & chosen.keys():
            touching[space].append(block)
    changed = True
    while changed:
        changed = False
        for space, choices in possible.items():
            others = {**fixed, **{other: possible[other][what] for other, what in chosen.items()}}
            kept = {what: lasting(touching[space], {**others, space: choices[what]}) for what in choices}
            best = max(choices, key=kept.__getitem__)
            if kept[best] > kept[chosen[space]]:
                chosen[space], changed = best, True
    return chosen


def _spaces(block: Block) -> set[int]:
    return {leaf.space for term in block for leaf in leaves(term)}


def _parts(axis: Term) -> tuple[Term, ...]:
    return axis.parts if isinstance(axis, Concat) else (axis,)


def _trace(element: Element) -> Tensor:
    if element.matrix is not None:
        return element.matrix.diagonal(dim1=-2, dim2=-1).double().mean()
    if element.index is None:
        raise ValueError("an element with neither an index nor a matrix has no trace")
    return (element.index == torch.arange(element.index.shape[-1])).double().mean()


def _dimension(block: Block, characters: Characters) -> float:
    """The dimension of what the group does not move; a character and that of the dual are real, hence one."""
    each = prod((_character(term, characters) for term in block), start=torch.ones((), dtype=torch.float64))
    return float(each.mean())


def _character(term: Term, characters: Characters) -> Tensor:
    if isinstance(term, Leaf):
        return term.size * characters.get(term.space, torch.ones((), dtype=torch.float64))
    parts = [_character(part, characters) for part in term.children]
    return prod(parts[1:], start=parts[0]) if isinstance(term, Product) else sum(parts[1:], start=parts[0])
