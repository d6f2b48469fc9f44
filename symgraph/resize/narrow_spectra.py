"""Spaces of matrices in fewer dimensions: leading directions of a stream, truncated circuits inside of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from symgraph.groups.balance import factor
from symgraph.groups.rotations import ones_complement
from symgraph.resize.narrow_clusters import root_share

# Singular values below this fraction of the largest one are nothing.
EMPTY = 1e-10


def leading(gram: Tensor, size: int, *, centred: bool) -> tuple[Tensor, float]:
    """An orthogonal map that brings the `size` leading directions of a second moment to the front, and what is lost.

    With `centred` it fixes the ones vector, which is the first of the directions kept; the others are in front of the
    basis that `symgraph.widening` embeds with.

    Shapes: gram (F, m, m) -> (F, m, m), and the share of the norm in the directions that are not kept.
    """
    width = gram.shape[-1]
    basis = ones_complement(width, gram.dtype, gram.device) if centred else torch.eye(width).to(gram)
    values, vectors = torch.linalg.eigh(basis.T @ gram @ basis)
    values, vectors = values.flip(-1).clamp_min(0.0), vectors.flip(-1)
    matrix = basis @ vectors.mT @ basis.T
    matrix = matrix + 1.0 / width if centred else matrix
    kept = size - 1 if centred else size
    return matrix, root_share(float(values[..., kept:].sum()), float(values.sum()))


def truncated(co: Tensor, dual: Tensor, size: int) -> tuple[Tensor, Tensor, float]:
    """Maps of both sides of a circuit onto its `size` leading singular directions, zeros behind them, and what is lost.

    The circuit X^T Y of what is written, X X^T = L L^T, and what is read, Y Y^T = M M^T, has the singular values of
    M^T L = W S V^T. X takes S^-1/2 W^T M^T and Y takes S^-1/2 V^T L^T; only matrices of the inner size are formed.

    Shapes: (F, m, m) each.
    """
    (left, _, _), (right, _, _) = factor(co), factor(dual)
    left_vectors, singular, right_vectors = torch.linalg.svd(right.mT @ left)
    kept = singular > EMPTY * singular[..., :1].clamp_min(torch.finfo(singular.dtype).tiny)
    kept[..., size:] = False
    root = (kept / torch.where(kept, singular, 1.0).sqrt()).unsqueeze(-1)
    written = root * (left_vectors.mT @ right.mT)
    read = root * (right_vectors @ left.mT)
    squares = singular.square()
    return written, read, root_share(float((squares * ~kept).sum()), float(squares.sum()))
