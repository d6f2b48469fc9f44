"""Group elements on one space: index vectors with scales and signs, or dense blocks; one for each fibre position.

Conventions. An element acts on an axis i as  T'[i] = sign_i * scale_i * T[index_i]  (index kind)  or
T'[i] = sum_j M[i, j] T[j]  (matrix kind). A fibred element has leading dimensions, one for each space of the fibre;
its position there is that *after* the outer element has acted, so outer elements apply first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

# The parts of an element, and how many dimensions each has before those of the fibre.
PARTS = {"index": 0, "scale": 1, "sign": 1, "matrix": 0, "inverse_transpose": 0}


@dataclass(frozen=True, slots=True)
class IndexSet:
    """What a class has to know of the space it acts on.

    `layout` says which coordinates make a pair, `fibre` has the sizes of the spaces that it is fibred over, `scales`
    and `signs` count the free scale and sign vectors of an element.
    """

    size: int
    layout: str = "halves"
    fibre: tuple[int, ...] = ()
    scales: int = 0
    signs: int = 0


@dataclass(frozen=True)
class Element:
    """An element of the group of one space.

    Shapes: F stands for the fibre's dimensions. index (F, n) int64; scale (p, F, n) positive; sign (q, F, n) of +-1;
    matrix (F, n, n). Either `index` or `matrix` is set; scale and sign belong to the index kind. `inverse_transpose`
    is that of the matrix where it is known; of a rotation it is the matrix itself.
    """

    index: Tensor | None = None
    scale: Tensor | None = None
    sign: Tensor | None = None
    matrix: Tensor | None = None
    inverse_transpose: Tensor | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def rotation(matrix: Tensor) -> Element:
        """An element by an orthogonal matrix."""
        return Element(matrix=matrix, inverse_transpose=matrix)

    @cached_property
    def dual(self) -> Tensor | None:
        """The matrix for dual axes, the inverse transpose: computed once."""
        if self.matrix is None or self.inverse_transpose is not None:
            return self.inverse_transpose
        inverse: Tensor = torch.linalg.inv(self.matrix)
        return inverse.mT

    @property
    def is_rotation(self) -> bool:
        """Whether the matrix is known to be orthogonal."""
        return self.matrix is not None and self.inverse_transpose is self.matrix

    @property
    def is_neutral(self) -> bool:
        """Whether the element has an index, and neither it nor scales and signs change anything."""
        if self.index is None:
            return False
        same = bool((self.index == torch.arange(self.index.shape[-1], device=self.index.device)).all())
        return same and all(bool((factor == 1).all()) for factor in (self.scale, self.sign) if factor is not None)

    def diagonal(self, scale: tuple[int, ...], sign: tuple[int, ...], *, dual: bool) -> Tensor | None:
        """The diagonal factor of this element on a frame with the given exponents, None if it is one."""
        total: Tensor | None = None
        for generator, exponent in enumerate(scale):
            if exponent and self.scale is not None:
                factor = self.scale[generator] ** (-exponent if dual else exponent)
                total = factor if total is None else total * factor
        for generator, exponent in enumerate(sign):
            if exponent % 2 and self.sign is not None:
                total = self.sign[generator] if total is None else total * self.sign[generator]
        return total

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> Element:
        """The element with every part changed, given how many dimensions it has before those of the fibre."""
        parts = {name: change(part, PARTS[name]) for name, part in self._set().items()}
        return Element.rotation(parts["matrix"]) if self.is_rotation else Element(**parts)

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> Element:
        """The element with floating parts in `dtype`, everything on `device`."""
        return self.mapped(lambda part, _: part.to(device, dtype) if part.is_floating_point() else part.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """The parts that define the element, by name."""
        return {
            name: part for name, part in self._set().items() if not (self.is_rotation and name == "inverse_transpose")
        }

    def _set(self) -> dict[str, Tensor]:
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    # -- group laws, at each position of the fibre by itself ---------------------------------------------------

    def inverse(self) -> Element:
        """The element that undoes this one."""
        if self.matrix is not None and self.dual is not None:
            matrix = self.dual.mT
            return Element.rotation(matrix) if self.is_rotation else Element(None, None, None, matrix, self.matrix.mT)
        if self.index is None:
            return self
        back = self.index.argsort(-1)

        def pull(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.gather(part, -1, back.expand(part.shape))

        scale, sign = pull(self.scale), pull(self.sign)
        return Element(back, None if scale is None else 1.0 / scale, sign)

    def after(self, first: Element) -> Element:
        """The composition: `first`, then this element."""
        if self.matrix is not None and first.matrix is not None:
            product = self.matrix @ first.matrix
            if self.is_rotation and first.is_rotation:
                return Element.rotation(product)
            if self.dual is not None and first.dual is not None:
                return Element(None, None, None, product, self.dual @ first.dual)
        if self.index is None or first.index is None:
            return first if self.index is None and self.matrix is None else self
        index = self.index

        def join(own: Tensor | None, earlier: Tensor | None) -> Tensor | None:
            if earlier is None:
                return own
            moved = torch.gather(earlier, -1, index.expand(earlier.shape))
            return moved if own is None else own * moved

        moved = torch.gather(first.index, -1, index)
        return Element(moved, join(self.scale, first.scale), join(self.sign, first.sign))
