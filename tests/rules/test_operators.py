"""Idioms of attention and recurrences: covered by rules, with the classes that they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_nets import Case, groups, solved, weight
from torch import Tensor, nn
from torch.nn import Linear


def heads(x: Tensor, n: int) -> Tensor:
    result: Tensor = x.unflatten(-1, (n, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
    return result


def attention(q: int = 8, k: int = 8, v: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "embed": lambda: Linear(5, 8),
        "q": lambda: Linear(8, q),
        "k": lambda: Linear(8, k),
        "v": lambda: Linear(8, v),
        "out": lambda: Linear(q, 8),
        "head": lambda: Linear(8, 3),
        **more,
    }


def closed(s: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The output projection, the residual sum, a norm and the head."""
    result: Tensor = s.head(F.layer_norm(x + s.out(mixed.transpose(1, 2).flatten(2)), (8,)))
    return result


def shared_keys(s: Any, x: Tensor, causal: bool = False, groups: int = 2) -> Tensor:
    x = s.embed(x)
    q, k, v = heads(s.q(x), 4), heads(s.k(x), groups), heads(s.v(x), groups)
    return closed(s, x, F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True))


def three(s: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = s.embed(x)
    return x, heads(s.q(x), 2), heads(s.k(x), 2), heads(s.v(x), 2)


def sinks(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    scores = torch.cat([q @ k.mT * 0.5, s.sinks.reshape(1, -1, 1, 1).expand(2, -1, 5, -1)], -1)
    scores = scores - scores.max(-1, keepdim=True).values
    return closed(s, x, F.softmax(scores, -1)[..., :-1] @ v)


def capped(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    return closed(s, x, F.softmax(torch.tanh(q @ k.mT / 3) * 3, -1) @ v)


def normed(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    return closed(s, x, F.scaled_dot_product_attention(s.q_norm(q), s.k_norm(k), v))


def linear_attention(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return closed(s, x, (q @ (k.mT @ v)) / (q @ k.sum(2, keepdim=True).mT + 1e-6))


def relative(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    distance = (torch.arange(5)[None] - torch.arange(5)[:, None]).clamp(-3, 3) + 3
    return closed(s, x, F.scaled_dot_product_attention(q, k, v, attn_mask=s.bias(distance).permute(2, 0, 1)[None]))


def slopes(s: Any, x: Tensor) -> Tensor:
    x = s.embed(x)
    q, k, v = (heads(m(x), 2).reshape(4, 5, 4) for m in (s.q, s.k, s.v))
    bias = (torch.tensor([0.5, 0.25])[:, None, None] * torch.arange(5.0)).repeat(2, 1, 1)
    weights = F.softmax(bias.baddbmm(q, k.mT, beta=1.0, alpha=0.5).view(2, 2, 5, 5), -1).view(4, 5, 5)
    return closed(s, x, torch.bmm(weights, v).view(2, 2, 5, 4))


def turned(x: Tensor) -> Tensor:
    angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def complex_rotary(s: Any, x: Tensor) -> Tensor:
    x, q, k, v = three(s, x)
    return closed(s, x, F.scaled_dot_product_attention(turned(q), turned(k), v))


def latent(s: Any, x: Tensor) -> Tensor:
    x = s.embed(x)
    k, v = torch.split(heads(s.up(s.norm(s.down(x))), 2), [4, 3], -1)
    return closed(s, x, F.scaled_dot_product_attention(heads(s.q(x), 2), k, v))


def cross(s: Any, x: Tensor, y: Tensor) -> Tensor:
    x, y = s.embed(x), s.other(y)
    result: Tensor = s.head(F.layer_norm(x + s.mix(x, y, y)[0], (8,)))
    return result


def einsums(s: Any, x: Tensor) -> Tensor:
    x = s.embed(x)
    q, k, v = (torch.einsum("btd,dhk->bhtk", x, w) for w in (s.q, s.k, s.v))
    weights = F.softmax(torch.einsum("bhtk,bhsk->bhts", q, k) * 0.5, -1)
    result: Tensor = s.head(F.layer_norm(x + torch.einsum("bhts,bhsk,hkd->btd", weights, v, s.out), (8,)))
    return result


def windows(s: Any, x: Tensor) -> Tensor:
    """Attention inside shifted windows of a padded image."""
    x = s.embed(x)
    h = torch.roll(F.pad(x, (0, 0, 0, 2, 0, 2)), (-2, -2), (1, 2))
    h = h.view(2, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
    q, k, v = (heads(m(h), 2) for m in (s.q, s.k, s.v))
    places = (torch.arange(16)[None] - torch.arange(16)[:, None]) + 15
    bias = s.table[places.view(-1)].view(16, 16, 2).permute(2, 0, 1)
    h = (F.softmax(q @ k.mT * 0.5 + bias[None], -1) @ v).transpose(1, 2).reshape(-1, 16, 8)
    h = s.out(h).view(2, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 8)
    x = x + torch.roll(h, (2, 2), (1, 2))[:, :6, :6]
    return s.head(F.layer_norm(x, (8,)))  # type: ignore[no-any-return]


def mixing(s: Any, x: Tensor) -> Tensor:
    """A recurrence with decay per channel, its maximum taken out of the exponentials."""
    x = s.embed(x)
    x = x * s.mix + F.pad(x, (0, 0, 1, -1)) * (1 - s.mix)
    k, v = s.k(x), s.v(x)
    top, above, below = k[:, 0] * 0 - 1e38, torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
    rows = []
    for t in range(3):
        now = torch.maximum(top, k[:, t] + s.bonus)
        a, b = torch.exp(top - now), torch.exp(k[:, t] + s.bonus - now)
        rows.append((a * above + b * v[:, t]) / (a * below + b))
        now = torch.maximum(top - torch.exp(s.decay), k[:, t])
        a, b = torch.exp(top - torch.exp(s.decay) - now), torch.exp(k[:, t] - now)
        above, below, top = a * above + b * v[:, t], a * below + b, now
    return s.head(torch.sigmoid(s.r(x)) * torch.stack(rows, 1))  # type: ignore[no-any-return]


def state_space(s: Any, x: Tensor) -> Tensor:
    """A selective scan behind a depthwise convolution."""
    x = s.embed(x)
    h, z = s.read(x).transpose(1, 2).chunk(2, 1)
    h = F.silu(s.conv(h)[..., :4])
    step, write, read = torch.split(s.select(h.transpose(1, 2)), [2, 3, 3], -1)
    step = F.softplus(s.step(step)).transpose(1, 2)
    decay = torch.exp(-torch.exp(s.decay)[None, :, None, :] * step[:, :, :, None])
    inputs = step[:, :, :, None] * write[:, None, :, :] * h[:, :, :, None]
    state, rows = torch.zeros(2, 6, 3), []
    for t in range(4):
        state = decay[:, :, t] * state + inputs[:, :, t]
        rows.append((state @ read[:, t].unsqueeze(-1))[:, :, 0])
    h = (torch.stack(rows, -1) + h * s.skip[None, :, None]) * F.silu(z)
    return s.head(F.rms_norm(x + s.write(h.transpose(1, 2)), (8,)))  # type: ignore[no-any-return]


PLAIN: dict[str, Any] = {"embed": lambda: Linear(5, 8), "head": lambda: Linear(8, 3)}
SEQUENCE = (2, 5, 5)
CASES: dict[str, Case] = {
    "shared-keys": (
        shared_keys,
        attention(16),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, head-groups: permutation, "
        "heads-in-group: permutation, query-key: invertible, value-output: invertible",
    ),
    "causal-shared-keys": (
        lambda s, x: shared_keys(s, x, True),
        attention(16),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, head-groups: permutation, "
        "heads-in-group: permutation, query-key: invertible, value-output: invertible",
    ),
    "one-shared-key": (
        lambda s, x: shared_keys(s, x, False, 1),
        attention(16, 4, 4),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, hidden.0: permutation, hidden.1: invertible, hidden.2: invertible",
    ),
    "sinks": (
        sinks,
        attention(sinks=lambda: weight(2)),
        (SEQUENCE,),
        "hidden.0: permutation, residual: orthogonal fixing ones, hidden.1: invertible, hidden.2: invertible",
    ),
    "capped-scores": (
        capped,
        attention(),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, hidden: invertible, value-output: invertible",
    ),
    "normed-queries": (
        normed,
        attention(q_norm=lambda: nn.RMSNorm(4), k_norm=lambda: nn.RMSNorm(4)),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, query-key: monomial, value-output: invertible",
    ),
    "linear-attention": (
        linear_attention,
        attention(),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, hidden.0: permutation, hidden.1: permutation, hidden.2: invertible",
    ),
    "relative-bias": (
        relative,
        attention(bias=lambda: nn.Embedding(7, 2)),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, query-key: invertible, value-output: invertible",
    ),
    "slopes": (
        slopes,
        attention(),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, query-key: invertible, value-output: invertible",
    ),
    "complex-rotary": (
        complex_rotary,
        attention(),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, query-key: rotary, value-output: invertible",
    ),
    "latent-attention": (
        latent,
        attention(
            down=lambda: Linear(8, 6, bias=False),
            norm=lambda: nn.RMSNorm(6),
            up=lambda: Linear(6, 14),
            out=lambda: Linear(6, 8),
        ),
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, "
        "query-key: invertible, value-output: invertible, hidden: orthogonal",
    ),
    "cross-attention": (
        cross,
        {
            **PLAIN,
            "other": lambda: Linear(4, 6),
            "mix": lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
        },
        (SEQUENCE, (2, 3, 4)),
        "residual: orthogonal fixing ones, hidden: invertible, "
        "heads: permutation, query-key: invertible, value-output: invertible",
    ),
    "self-attention-module": (
        lambda s, x: (lambda x: s.head(F.layer_norm(x + s.mix(x, x, x, need_weights=False)[0], (8,))))(s.embed(x)),
        {**PLAIN, "mix": lambda: nn.MultiheadAttention(8, 2, batch_first=True)},
        (SEQUENCE,),
        "residual: orthogonal fixing ones, heads: permutation, query-key: invertible, value-output: invertible",
    ),
    "encoder-layer": (
        lambda s, x: s.head(s.norm(s.layer(s.embed(x)))),
        {
            **PLAIN,
            "layer": lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True),
            "norm": lambda: nn.LayerNorm(8),
        },
        (SEQUENCE,),
        "residual: orthogonal fixing ones, self_attn.heads: permutation, "
        "self_attn.query-key: invertible, self_attn.value-output: invertible, hidden: positive monomial",
    ),
    "einsum": (
        einsums,
        {
            **PLAIN,
            "q": lambda: weight(8, 2, 4),
            "k": lambda: weight(8, 2, 4),
            "v": lambda: weight(8, 2, 4),
            "out": lambda: weight(2, 4, 8),
        },
        (SEQUENCE,),
        "residual: orthogonal fixing ones, hidden.0: permutation, hidden.1: invertible, hidden.2: invertible",
    ),
    "shifted-windows": (
        windows,
        attention(table=lambda: weight(31, 2)),
        ((2, 6, 6, 5),),
        "heads: permutation, residual: orthogonal fixing ones, query-key: invertible, value-output: invertible",
    ),
    "decaying-recurrence": (
        mixing,
        {
            **PLAIN,
            "mix": lambda: weight(8),
            "k": lambda: Linear(8, 6),
            "v": lambda: Linear(8, 6),
            "r": lambda: Linear(8, 6),
            "decay": lambda: weight(6),
            "bonus": lambda: weight(6),
            "head": lambda: Linear(6, 3),
        },
        ((2, 3, 5),),
        "residual.0: monomial, residual.1: monomial",
    ),
    "state-space": (
        state_space,
        {
            **PLAIN,
            "read": lambda: Linear(8, 12, bias=False),
            "conv": lambda: nn.Conv1d(6, 6, 3, groups=6, padding=2),
            "select": lambda: Linear(6, 8, bias=False),
            "step": lambda: Linear(2, 6),
            "decay": lambda: weight(6, 3),
            "skip": lambda: weight(6),
            "write": lambda: Linear(6, 8, bias=False),
        },
        ((2, 4, 5),),
        "residual.0: monomial, residual.1: monomial, residual.2: orthogonal, hidden: invertible",
    ),
    "lstm": (
        lambda s, x: s.head(s.cell(s.embed(x))[0]),
        {**PLAIN, "cell": lambda: nn.LSTM(8, 6, batch_first=True), "head": lambda: Linear(6, 3)},
        ((2, 4, 5),),
        "hidden: invertible, residual: signed permutation",
    ),
    "lstm-both-ways": (
        lambda s, x: s.head(s.cell(s.embed(x))[0]),
        {**PLAIN, "cell": lambda: nn.LSTM(8, 3, 2, bidirectional=True), "head": lambda: Linear(6, 3)},
        ((4, 2, 5),),
        "hidden: invertible, residual.0: signed permutation, residual.1: signed permutation, "
        "residual.2: signed permutation, residual.3: signed permutation",
    ),
    "gru": (
        lambda s, x: s.head(s.cell(s.embed(x))[0]),
        {**PLAIN, "cell": lambda: nn.GRU(8, 6), "head": lambda: Linear(6, 3)},
        ((4, 2, 5),),
        "hidden: invertible, residual: signed permutation",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    symmetry = solved(CASES[name])
    assert symmetry.uncovered == ()
    assert groups(symmetry) == CASES[name][3]
