"""Group elements on one space: index vectors with scales and signs, or dense blocks; one for each fibre position.

Conventions. An element acts on an axis i as  T'[i] = sign_i * scale_i * T[index_i]  (index kind)  or
T'[i] = sum_j M[i, j] T[j]  (matrix kind). A fibred element has leading dimensions, one for each space of the fibre;
its position there is that *after* the outer element has acted, so outer elements apply first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.lattice import SymmetryClass

_C = SymmetryClass


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the group of one space.

    Shapes: F stands for the fibre's dimensions. index (F, n) int64; scale (p, F, n) positive; sign (q, F, n) of +-1;
    matrix (F, n, n). Either `index` or `matrix` is set; scale and sign belong to the index kind.
    """

    index: Tensor | None = None
    scale: Tensor | None = None
    sign: Tensor | None = None
    matrix: Tensor | None = None

    def diagonal(self, scale: tuple[int, ...], sign: tuple[int, ...], *, dual: bool) -> Tensor | None:
        """The diagonal factor of this element on a frame with the given exponents, None if it is one."""
        total: Tensor | None = None
        for k, e in enumerate(scale):
            if e and self.scale is not None:
                factor = self.scale[k] ** (-e if dual else e)
                total = factor if total is None else total * factor
        for k, e in enumerate(sign):
            if e % 2 and self.sign is not None:
                total = self.sign[k] if total is None else total * self.sign[k]
        return total

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> Element:
        """The element with floating parts in `dtype`, everything on `device`."""
        return Element(
            None if self.index is None else self.index.to(device),
            None if self.scale is None else self.scale.to(device, dtype),
            None if self.sign is None else self.sign.to(device, dtype),
            None if self.matrix is None else self.matrix.to(device, dtype),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The parts that are set, by name."""
        return {k: v for k in ("index", "scale", "sign", "matrix") if (v := getattr(self, k)) is not None}


def identity(fibre: tuple[int, ...], n: int, scales: int, signs: int, *, matrix: bool) -> Element:
    """The neutral element."""
    if matrix:
        return Element(matrix=torch.eye(n, dtype=torch.float64).expand(*fibre, n, n).clone())
    return Element(
        torch.arange(n).expand(*fibre, n).clone(),
        torch.ones(scales, *fibre, n, dtype=torch.float64) if scales else None,
        torch.ones(signs, *fibre, n, dtype=torch.float64) if signs else None,
    )


def random_index(
    fibre: tuple[int, ...], n: int, scales: int, signs: int, generator: torch.Generator, spread: float
) -> Element:
    """A uniform permutation with log-normal scales (standard deviation `spread`) and uniform signs."""
    noise = torch.rand(*fibre, n, generator=generator)
    log = torch.randn(scales, *fibre, n, generator=generator, dtype=torch.float64)
    flips = torch.randint(0, 2, (signs, *fibre, n), generator=generator)
    return Element(
        noise.argsort(-1), torch.exp(spread * log) if scales else None, 1.0 - 2.0 * flips.double() if signs else None
    )


def random_matrix(
    group: SymmetryClass, fibre: tuple[int, ...], n: int, layout: str, generator: torch.Generator, spread: float
) -> Element:
    """A random matrix of the class: Haar where compact, of condition number about exp(2 spread) where not."""
    normal = torch.randn(*fibre, n, n, generator=generator, dtype=torch.float64)
    if group is _C.ROTARY:
        pair = torch.randn(*fibre, n // 2, 2, generator=generator, dtype=torch.float64)
        radius = torch.exp(spread * torch.randn(*fibre, n // 2, 1, generator=generator, dtype=torch.float64))
        return Element(matrix=rotary_matrix(radius * pair / pair.norm(dim=-1, keepdim=True), layout))
    q = haar(normal)
    if group is _C.ORTHOGONAL:
        return Element(matrix=q)
    if group is _C.ORTHOGONAL_ONES:
        basis = ones_complement(n)
        inner = haar(torch.randn(*fibre, n - 1, n - 1, generator=generator, dtype=torch.float64))
        return Element(matrix=basis @ inner @ basis.T + torch.full((n, n), 1.0 / n, dtype=torch.float64))
    other = haar(torch.randn(*fibre, n, n, generator=generator, dtype=torch.float64))
    stretch = torch.exp(spread * torch.randn(*fibre, n, 1, generator=generator, dtype=torch.float64))
    return Element(matrix=q @ (stretch * other))


def haar(normal: Tensor) -> Tensor:
    """Orthogonal factor of a Gaussian matrix with the signs that make it Haar distributed (Mezzadri 2007)."""
    q, r = torch.linalg.qr(normal)
    signed: Tensor = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return signed


def ones_complement(n: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """Orthonormal basis (n, n - 1) of the hyperplane of mean zero: columns of the Householder map of the ones."""
    v = torch.full((n,), n**-0.5, dtype=dtype, device=device)
    v[0] += 1.0
    h = torch.eye(n, dtype=dtype, device=device) - 2.0 * torch.outer(v, v) / v.dot(v)
    return h[:, 1:]


def pair_indices(n: int, layout: str) -> tuple[Tensor, Tensor]:
    """First and second members of the frequency pairs of a rotary axis of size n."""
    if layout == "interleaved":
        return torch.arange(0, n, 2), torch.arange(1, n, 2)
    return torch.arange(0, n // 2), torch.arange(n // 2, n)


def rotary_matrix(pairs: Tensor, layout: str) -> Tensor:
    """Block matrix (F, n, n) from a I + b J for each pair: `pairs` is (F, n / 2, 2) with (a, b)."""
    n = 2 * pairs.shape[-2]
    i, j = (x.to(pairs.device) for x in pair_indices(n, layout))
    m = pairs.new_zeros(*pairs.shape[:-2], n, n)
    a, b = pairs[..., 0], pairs[..., 1]
    m[..., i, i], m[..., j, j] = a, a
    m[..., i, j], m[..., j, i] = -b, b
    return m


def local_inverse(e: Element) -> Element:
    """Inverse at each fibre position by itself (the fibre is not reordered)."""
    if e.matrix is not None:
        return Element(matrix=torch.linalg.inv(e.matrix))
    if e.index is None:
        return e
    back = e.index.argsort(-1)

    def pull(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.gather(x, -1, back.expand(x.shape))

    scale, sign = pull(e.scale), pull(e.sign)
    return Element(back, None if scale is None else 1.0 / scale, sign)


def local_product(second: Element, first: Element) -> Element:
    """`second` after `first` at each fibre position by itself."""
    if second.matrix is not None and first.matrix is not None:
        return Element(matrix=second.matrix @ first.matrix)
    if second.index is None or first.index is None:
        return first if second.index is None and second.matrix is None else second
    index = second.index

    def join(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        if y is None:
            return x
        moved = torch.gather(y, -1, index.expand(y.shape))
        return moved if x is None else x * moved

    return Element(torch.gather(first.index, -1, index), join(second.scale, first.scale), join(second.sign, first.sign))
