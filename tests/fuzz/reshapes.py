"""Steps that cut, flatten and turn axes, in ways that do and do not refine each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .net import LONGEST, Scope


def pairs(x: Tensor) -> Tensor:
    """(..., n) as (..., 2, n / 2), the last entry dropped where n is odd."""
    return torch.unflatten(x[..., : x.shape[-1] // 2 * 2], -1, (2, -1))


def _six(s: Scope, x: Tensor) -> Tensor:
    return s.linear("six", x, 6)


def crossed(s: Scope, x: Tensor) -> Tensor:
    """Six features as 2 x 3, then as 3 x 2: no common refinement."""
    halves = torch.tanh(_six(s, x).view(*x.shape[:2], 2, -1).softmax(-1).flatten(-2))
    return halves.view(*x.shape[:2], 3, -1).softmax(-1).flatten(-2)


def heads_of_norms(s: Scope, x: Tensor) -> Tensor:
    return F.rms_norm(torch.unflatten(_six(s, x), -1, (3, 2)), (2,), eps=1e-3).flatten(-2)


def shuffled(s: Scope, x: Tensor) -> Tensor:
    return pairs(x).transpose(-1, -2).flatten(-2)


def summed_halves(s: Scope, x: Tensor) -> Tensor:
    return s.linear("after", pairs(x).sum(-2), x.shape[-1])


def largest_of_pairs(s: Scope, x: Tensor) -> Tensor:
    return s.linear("after", torch.unflatten(_six(s, x), -1, (3, 2)).amax(-1), x.shape[-1])


def per_group_maps(s: Scope, x: Tensor) -> Tensor:
    """A weight of its own for each of two groups."""
    grouped = torch.einsum("blgi,goi->blgo", pairs(_six(s, x)), s.parameter("w", 2, 3, 3))
    return F.gelu(grouped).flatten(-2)


def shared_group_map(s: Scope, x: Tensor) -> Tensor:
    """One weight for both groups."""
    return s.linear("each", pairs(_six(s, x)), 3).flatten(-2)


def groups_gated(s: Scope, x: Tensor) -> Tensor:
    """Heads that are weighted by a map of the whole."""
    weight = torch.sigmoid(s.linear("weight", x, 2)).unsqueeze(-1)
    return (pairs(_six(s, x)) * weight).flatten(-2)


def over_positions(s: Scope, x: Tensor) -> Tensor:
    """Features and positions flattened together, mapped, and cut again."""
    n, d = x.shape[1:]
    return s.linear("whole", x.flatten(1), n * d).view(-1, n, d)


def merged_positions(s: Scope, x: Tensor) -> Tensor:
    """Pairs of positions as one of twice the width, mapped back."""
    n, d = x.shape[1] // 2 * 2, x.shape[-1]
    if n < 2:
        return x
    return s.linear("merge", x[:, :n].reshape(len(x), n // 2, 2 * d), d)


def split_positions(s: Scope, x: Tensor) -> Tensor:
    """Halves of the features as positions of their own."""
    even = x.shape[-1] % 2 == 0 and x.shape[-1] > 4 and 2 * x.shape[1] <= LONGEST
    return x.reshape(len(x), 2 * x.shape[1], -1) if even else x


def scrambled(s: Scope, x: Tensor) -> Tensor:
    """Read in another order by a view alone."""
    return x.transpose(1, 2).reshape(x.shape)


def batch_folded(s: Scope, x: Tensor) -> Tensor:
    """Batch and positions as one axis for a while."""
    return F.silu(s.linear("rows", x.reshape(-1, x.shape[-1]), x.shape[-1])).view(x.shape)


def heads_mixed(s: Scope, x: Tensor) -> Tensor:
    """A map from heads to heads, by a product from the left."""
    return (s.parameter("mix", 2, 2) @ pairs(_six(s, x))).flatten(-2)


def fused_halves(s: Scope, x: Tensor) -> Tensor:
    """A fused gated unit."""
    a, b = s.linear("both", x, 6).chunk(2, -1)
    return s.linear("after", F.silu(a) * b, x.shape[-1])


def fused_interleaved(s: Scope, x: Tensor) -> Tensor:
    """A fused gated unit whose two parts alternate."""
    both = s.linear("both", x, 6)
    return s.linear("after", F.gelu(both[..., ::2]) * both[..., 1::2], x.shape[-1])


def three_parts(s: Scope, x: Tensor) -> Tensor:
    """Overlapping slices of one map."""
    y = _six(s, x)
    return s.linear("after", torch.cat([y[..., :3], torch.relu(y[..., 2:5])], -1), x.shape[-1])


def squeezed(s: Scope, x: Tensor) -> Tensor:
    y = s.linear("one", x, 1).squeeze(-1)
    return x + y.unsqueeze(-1) * s.parameter("direction", x.shape[-1])


def outer_products(s: Scope, x: Tensor) -> Tensor:
    """Two small maps whose outer product is flattened."""
    a, b = s.linear("a", x, 2), s.linear("b", x, 3)
    return s.linear("after", (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2), x.shape[-1])


RESHAPES: dict[str, Callable[[Scope, Tensor], Tensor]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        crossed,
        heads_of_norms,
        shuffled,
        summed_halves,
        largest_of_pairs,
        per_group_maps,
        shared_group_map,
        groups_gated,
        over_positions,
        merged_positions,
        split_positions,
        scrambled,
        batch_folded,
        heads_mixed,
        fused_halves,
        fused_interleaved,
        three_parts,
        squeezed,
        outer_products,
    )
}
