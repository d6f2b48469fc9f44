"""A finite group by its generators, each of them a matrix on each of some axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.errors import UsageError

# More elements than any average in training pays for.
LARGEST = 512
_DIGITS = 6
Actions = Mapping[str, Tensor]
"""What one element does to each axis: matrices (n, n) by the name of the axis."""


@dataclass(frozen=True, slots=True)
class FiniteGroup:
    """All elements, the identity first, and their products.

    `table[g, h]` is the number of the product g h, an int64 tensor (|G|, |G|); `generators` are numbers of elements.
    """

    elements: tuple[Actions, ...]
    table: Tensor
    generators: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.elements)

    def on(self, axis: str) -> Tensor:
        """What every element does to an axis: (|G|, n, n)."""
        return torch.stack([element[axis] for element in self.elements])

    def regular(self, size: int) -> Tensor:
        """The regular representation on as many units as there are, in blocks of |G|; what is left over stays.

        Returns:
            Index vectors (|G|, size) int64: unit i becomes what unit index[g, i] was.
        """
        order = len(self)
        inverse = (self.table == 0).int().argmax(1)
        blocks = size // order
        starts = torch.arange(blocks).repeat_interleave(order) * order
        moved = self.table[inverse].repeat(1, blocks) + starts
        rest = torch.arange(blocks * order, size).expand(order, -1)
        return torch.cat([moved, rest], dim=1)


def generated(generators: Sequence[Actions], *, largest: int = LARGEST) -> FiniteGroup:
    """The group that some elements generate.

    Args:
        generators: all on the same axes.

    Raises:
        UsageError: they make more than `largest` elements.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> flip = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    >>> len(generated([{"plane": turn}, {"plane": flip}]))
    8
    """
    first: Actions = {axis: torch.eye(len(matrix), dtype=torch.float64) for axis, matrix in generators[0].items()}
    elements: list[Actions] = [first]
    number = {_key(first): 0}
    # Of each element its products with the generators, and as which of them it was met first: (generator, element).
    products: list[list[int]] = []
    met = [(0, 0)]
    while len(products) < len(elements):
        known = len(products)
        products.append([])
        for which, generator in enumerate(generators):
            product = {axis: generator[axis].double() @ matrix for axis, matrix in elements[known].items()}
            place = number.setdefault(_key(product), len(elements))
            if place == len(elements):
                elements.append(product)
                met.append((which, known))
            products[known].append(place)
        if len(elements) > largest:
            raise UsageError(
                f"the generators make more than {largest} elements",
                cause="products of them do not come back to the identity",
                remedy="give matrices of finite order, or `circle` with frequencies for turns by any angle",
            )
    return FiniteGroup(tuple(elements), _table(products, met), tuple(products[0]))


def _table(products: Sequence[Sequence[int]], met: Sequence[tuple[int, int]]) -> Tensor:
    """All products: that of g = (a generator) p with h is the generator's with p h."""
    rows = [list(range(len(met)))]
    for which, known in met[1:]:
        rows.append([products[element][which] for element in rows[known]])
    return torch.tensor(rows)


def _key(element: Actions) -> bytes:
    # Adding zero makes one of the two zeros that rounding leaves.
    return b"".join((matrix.round(decimals=_DIGITS) + 0.0).numpy().tobytes() for matrix in element.values())
