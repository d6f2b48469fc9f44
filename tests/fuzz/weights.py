"""Linear maps by something that is computed from parameters, and parameters that are read in several ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .net import Scope


def low_rank(s: Scope, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return x + F.linear(x, s.parameter("b", n, 2) @ s.parameter("a", 2, n))


def low_rank_in_steps(s: Scope, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return x + x @ s.parameter("a", n, 2) @ s.parameter("b", 2, n)


def normalised(s: Scope, x: Tensor) -> Tensor:
    w = s.parameter("w", 4, x.shape[-1])
    return F.linear(x, w / w.norm(dim=1, keepdim=True))


def gained(s: Scope, x: Tensor) -> Tensor:
    w = s.parameter("w", 4, x.shape[-1])
    return F.linear(x, s.parameter("g", 4)[:, None] * w, s.parameter("b", 4))


def weight_norm(s: Scope, x: Tensor) -> Tensor:
    w = s.parameter("w", 4, x.shape[-1])
    return F.linear(x, s.parameter("g", 4, 1) * w / w.norm(dim=1, keepdim=True))


def sliced(s: Scope, x: Tensor) -> Tensor:
    return F.linear(x, s.parameter("w", 6, x.shape[-1])[1:5])


def sliced_with_step(s: Scope, x: Tensor) -> Tensor:
    return F.linear(x, s.parameter("w", 8, x.shape[-1])[::2])


def stacked(s: Scope, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return F.linear(x, torch.cat([s.parameter("a", 2, n), s.parameter("b", 3, n)]))


def summed(s: Scope, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return F.linear(x, s.parameter("a", 4, n) + s.parameter("b", 4, n))


def autoencoder(s: Scope, x: Tensor) -> Tensor:
    """One weight there and back."""
    w = s.parameter("w", 5, x.shape[-1])
    return x + F.linear(torch.relu(F.linear(x, w)), w.T)


def symmetric(s: Scope, x: Tensor) -> Tensor:
    n = x.shape[-1]
    w = s.parameter("w", n, n)
    return F.linear(x, w + w.T)


def square(s: Scope, x: Tensor) -> Tensor:
    """One square weight twice in a row, without and with a nonlinearity between."""
    n = x.shape[-1]
    w = s.parameter("w", n, n)
    return F.linear(torch.tanh(F.linear(F.linear(x, w), w)), w)


def powers(s: Scope, x: Tensor) -> Tensor:
    """A recurrence along the depth with one weight."""
    n = x.shape[-1]
    for _ in range(2):
        x = torch.relu(x @ s.parameter("w", n, n) + s.parameter("b", n))
    return x


def bilinear(s: Scope, x: Tensor) -> Tensor:
    """Scores between positions by one matrix."""
    n = x.shape[-1]
    return x + torch.softmax(x @ s.parameter("w", n, n) @ x.transpose(1, 2), -1) @ x


def prototypes(s: Scope, x: Tensor) -> Tensor:
    """Attention to learned rows that are keys and values at once."""
    rows = s.parameter("rows", 4, x.shape[-1])
    return x + torch.softmax(x @ rows.T, -1) @ rows


def memory(s: Scope, x: Tensor) -> Tensor:
    """Attention to learned keys and values."""
    n = x.shape[-1]
    return x + torch.softmax(x @ s.parameter("keys", 4, n).T, -1) @ s.parameter("values", 4, n)


def queries(s: Scope, x: Tensor) -> Tensor:
    """Learned queries that attend to the stream."""
    q = s.parameter("q", 1, 3, x.shape[-1]).expand(len(x), -1, -1)
    return F.scaled_dot_product_attention(q, s.linear("k", x, x.shape[-1]), s.linear("v", x, x.shape[-1]))


def distances(s: Scope, x: Tensor) -> Tensor:
    """Squared distances to learned points."""
    points = s.parameter("points", 4, x.shape[-1])
    return -(x.unsqueeze(-2) - points).square().sum(-1)


def vector_as_row(s: Scope, x: Tensor) -> Tensor:
    """A vector that is a scale, and a row of a map beside."""
    v = s.parameter("v", x.shape[-1])
    return x * v + (x @ v).unsqueeze(-1)


def bias_shared(s: Scope, x: Tensor) -> Tensor:
    """One bias in two maps."""
    b, n = s.parameter("b", 4), x.shape[-1]
    return F.linear(torch.relu(F.linear(x, s.parameter("w", 4, n), b)), s.parameter("u", 4, 4), b)


def bias_of_two(s: Scope, x: Tensor) -> Tensor:
    """A bias that is a sum."""
    return F.linear(x, s.parameter("w", 4, x.shape[-1]), s.parameter("a", 4) + s.parameter("b", 4))


def masked(s: Scope, x: Tensor) -> Tensor:
    """A triangular map of features."""
    n = x.shape[-1]
    return x + F.linear(x, s.parameter("w", n, n).tril())


def generated(s: Scope, x: Tensor) -> Tensor:
    """Scale and shift that the mean of the stream makes (feature-wise modulation)."""
    n = x.shape[-1]
    scale, shift = s.linear("film", x.mean(1, keepdim=True), 2 * n).chunk(2, -1)
    return F.layer_norm(x, (n,)) * (1 + scale) + shift


def stacked_layers(s: Scope, x: Tensor) -> Tensor:
    """Two layers whose weights are one tensor."""
    n = x.shape[-1]
    first, second = s.parameter("w", 2, n, n).unbind(0)
    return F.linear(F.gelu(F.linear(x, first)), second)


def permuted_rows(s: Scope, x: Tensor) -> Tensor:
    """Rows of a weight in another order."""
    return F.linear(x, s.parameter("w", 4, x.shape[-1]).flip(0))


WEIGHTS: dict[str, Callable[[Scope, Tensor], Tensor]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        low_rank,
        low_rank_in_steps,
        normalised,
        gained,
        weight_norm,
        sliced,
        sliced_with_step,
        stacked,
        summed,
        autoencoder,
        symmetric,
        square,
        powers,
        bilinear,
        prototypes,
        memory,
        queries,
        distances,
        vector_as_row,
        bias_shared,
        bias_of_two,
        masked,
        generated,
        stacked_layers,
        permuted_rows,
    )
}
