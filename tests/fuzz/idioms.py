"""Blocks in the style of code that people publish: adapters, recurrences, modulations, memories, mixtures of positions.

Each keeps the stream's shape (batch, length, width), or gives back the stream as it is where its width does not fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .net import Scope

EPSILON = 1e-5


def _even(f: Callable[[Scope, Tensor], Tensor]) -> Callable[[Scope, Tensor], Tensor]:
    """The block where the width is even, else the stream."""

    def fitting(s: Scope, x: Tensor) -> Tensor:
        return f(s, x) if x.shape[-1] % 2 == 0 else x

    fitting.__name__ = f.__name__
    return fitting


# -- adapters, and maps put together from parts ----------------------------------------------------------------------


def adapter(s: Scope, x: Tensor) -> Tensor:
    """A low-rank update with its number beside a trained map."""
    n = x.shape[-1]
    update = F.linear(F.linear(x, s.parameter("a", 2, n)), s.parameter("b", n, 2))
    return s.linear("map", x, n) + 0.5 * update


def adapter_in_weight(s: Scope, x: Tensor) -> Tensor:
    """The update added to the weight itself."""
    n = x.shape[-1]
    return F.linear(x, s.parameter("w", n, n) + 2.0 * s.parameter("b", n, 2) @ s.parameter("a", 2, n))


def adapters_of_two(s: Scope, x: Tensor) -> Tensor:
    """Two updates that share what reads, and a norm behind one of them."""
    n = x.shape[-1]
    inner = F.linear(x, s.parameter("a", 2, n))
    other = F.layer_norm(F.linear(inner, s.parameter("c", n, 2)), (n,))
    return x + F.linear(inner, s.parameter("b", n, 2)) + other


def directions(s: Scope, x: Tensor) -> Tensor:
    """Weight decomposed into length and direction, with an update in the direction (DoRA)."""
    n = x.shape[-1]
    w = s.parameter("w", n, n) + s.parameter("b", n, 2) @ s.parameter("a", 2, n)
    return F.linear(x, s.parameter("m", n, 1) * w / w.norm(dim=1, keepdim=True))


def diagonal_between(s: Scope, x: Tensor) -> Tensor:
    """A map as a product of two matrices and a diagonal (VeRA)."""
    n = x.shape[-1]
    inner = F.linear(x, s.parameter("a", 3, n)) * s.parameter("d", 3)
    return x + F.linear(inner, s.parameter("b", n, 3)) * s.parameter("e", n)


def hypernetwork(s: Scope, x: Tensor) -> Tensor:
    """Weights that the mean of the stream makes."""
    n = x.shape[-1]
    w = s.linear("make", x.mean(1), 2 * n).view(len(x), 2, n)
    return x + F.gelu(x @ w.transpose(1, 2)) @ w


def kronecker(s: Scope, x: Tensor) -> Tensor:
    """A map whose weight is a product of Kronecker."""
    n = x.shape[-1]
    return F.linear(x, torch.kron(s.parameter("a", 2, 1), s.parameter("b", 2, n)))


def einsum_heads(s: Scope, x: Tensor) -> Tensor:
    """Heads as an axis of the weight itself, as in einsum code."""
    n = x.shape[-1]
    q, k, v = (torch.einsum("bld,hdk->bhlk", x, s.parameter(name, 2, n, 2)) for name in "qkv")
    mixed = torch.softmax(torch.einsum("bhlk,bhmk->bhlm", q, k) / 2.0, -1)
    return x + torch.einsum("bhlm,bhmk,hkd->bld", mixed, v, s.parameter("o", 2, 2, n))


def one_parameter(s: Scope, x: Tensor) -> Tensor:
    """Queries, keys and values as three rows of one parameter."""
    n = x.shape[-1]
    w = s.parameter("qkv", 3, 4, n)
    q, k, v = (torch.unflatten(F.linear(x, w[i]), -1, (2, 2)).transpose(1, 2) for i in range(3))
    return x + s.linear("o", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), n)


# -- modulations and gates -------------------------------------------------------------------------------------------


def modulated(s: Scope, x: Tensor) -> Tensor:
    """A block whose norm has its scale, shift and gate from a condition (adaLN)."""
    n = x.shape[-1]
    scale, shift, gate = s.linear("ada", F.silu(x.mean(1, keepdim=True)), 3 * n).chunk(3, -1)
    inner = F.layer_norm(x, (n,)) * (1 + scale) + shift
    return x + gate * s.linear("down", F.gelu(s.linear("up", inner, 4)), n)


def excited(s: Scope, x: Tensor) -> Tensor:
    """Squeeze and excitation."""
    inner = F.relu(s.linear("squeeze", x.mean(1, keepdim=True), 2))
    return x * torch.sigmoid(s.linear("excite", inner, x.shape[-1]))


def highway(s: Scope, x: Tensor) -> Tensor:
    """A gate between the stream and what it becomes."""
    n = x.shape[-1]
    gate = torch.sigmoid(s.linear("gate", x, n))
    return gate * torch.tanh(s.linear("map", x, n)) + (1 - gate) * x


def exp_gain(s: Scope, x: Tensor) -> Tensor:
    """A norm whose gain is an exponential, and a number for it."""
    n = x.shape[-1]
    return F.rms_norm(x, (n,), eps=EPSILON) * torch.exp(s.parameter("log", n)) * torch.exp(s.parameter("t", 1))


def mixed_layers(s: Scope, x: Tensor) -> Tensor:
    """A weighted mean of what was kept (ELMo)."""
    values = [v for v in (*s.kept[:2], x) if v.shape == x.shape]
    shares = torch.softmax(s.parameter("shares", len(values)), 0)
    return torch.stack([share * v for share, v in zip(shares, values, strict=True)]).sum(0)


def scaled_residual(s: Scope, x: Tensor) -> Tensor:
    """Both terms of the sum have a learned number (ReZero, normalised residuals)."""
    n = x.shape[-1]
    f = s.linear("down", F.silu(s.linear("up", x, 4)), n)
    return s.parameter("alpha", 1) * f + (1 - s.parameter("alpha", 1)) * x


# -- attention in other forms ----------------------------------------------------------------------------------------


def _heads(s: Scope, name: str, x: Tensor) -> Tensor:
    return torch.unflatten(s.linear(name, x, 4, False), -1, (2, 2)).transpose(1, 2)


def _out(s: Scope, mixed: Tensor, n: int) -> Tensor:
    return s.linear("o", mixed.transpose(1, 2).flatten(2), n)


def cosine_attention(s: Scope, x: Tensor) -> Tensor:
    """Normalised queries and keys with a temperature for each head (Swin v2)."""
    q, k = (F.normalize(_heads(s, name, x), dim=-1) for name in "qk")
    scale = s.parameter("scale", 2, 1, 1).clamp(max=4.6).exp()
    return x + _out(s, torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ _heads(s, "v", x), x.shape[-1])


def talking_heads(s: Scope, x: Tensor) -> Tensor:
    """Scores mixed across heads before and after the softmax."""
    scores = torch.einsum("bhlk,bhmk,hg->bglm", _heads(s, "q", x), _heads(s, "k", x), s.parameter("pre", 2, 2))
    shares = torch.einsum("bglm,gh->bhlm", torch.softmax(scores, -1), s.parameter("post", 2, 2))
    return x + _out(s, shares @ _heads(s, "v", x), x.shape[-1])


def linear_attention(s: Scope, x: Tensor) -> Tensor:
    """Positive features of queries and keys, with the normaliser."""
    q, k, v = F.elu(_heads(s, "q", x)) + 1, F.elu(_heads(s, "k", x)) + 1, _heads(s, "v", x)
    sums = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True) + EPSILON
    return x + _out(s, q @ (k.transpose(-1, -2) @ v) / sums, x.shape[-1])


def head_gates(s: Scope, x: Tensor) -> Tensor:
    """A gate for each head and position, from the stream."""
    mixed = F.scaled_dot_product_attention(_heads(s, "q", x), _heads(s, "k", x), _heads(s, "v", x))
    gate = torch.sigmoid(s.linear("g", x, 2)).transpose(1, 2).unsqueeze(-1)
    return x + _out(s, mixed * gate, x.shape[-1])


def distance_slopes(s: Scope, x: Tensor) -> Tensor:
    """Fixed slopes for heads that differ (ALiBi)."""
    at = torch.arange(x.shape[1])
    slopes = torch.tensor([0.5, 0.25])[:, None, None] * -(at[:, None] - at).abs()
    scores = _heads(s, "q", x) @ _heads(s, "k", x).transpose(-1, -2) + slopes
    return x + _out(s, torch.softmax(scores, -1) @ _heads(s, "v", x), x.shape[-1])


def latent_attention(s: Scope, x: Tensor) -> Tensor:
    """Keys and values from one normalised latent, queries from another (DeepSeek)."""
    latent = F.rms_norm(s.linear("down", x, 3, False), (3,), s.parameter("g", 3), eps=EPSILON)
    q, k, v = _heads(s, "q", x), _heads(s, "k", latent), _heads(s, "v", latent)
    return x + _out(s, F.scaled_dot_product_attention(q, k, v), x.shape[-1])


def differential(s: Scope, x: Tensor) -> Tensor:
    """The difference of two softmaxes, with a learned share."""
    q, k, v = _heads(s, "q", x), _heads(s, "k", x), s.linear("v", x, 3)
    share = torch.exp((s.parameter("l1", 2) * s.parameter("l2", 2)).sum()) - 0.2
    one, two = torch.softmax(q @ k.transpose(-1, -2), -1).unbind(1)
    return x + s.linear("o", F.rms_norm((one - share * two) @ v, (3,), eps=EPSILON), x.shape[-1])


def memory_keys(s: Scope, x: Tensor) -> Tensor:
    """Learned keys and values beside those of the stream."""
    k, v = (
        torch.cat([s.parameter(f"m{name}", 2, 2, 2).expand(len(x), -1, -1, -1), _heads(s, name, x)], 2) for name in "kv"
    )
    return x + _out(s, F.scaled_dot_product_attention(_heads(s, "q", x), k, v), x.shape[-1])


def class_attention(s: Scope, x: Tensor) -> Tensor:
    """The first position alone attends to all."""
    mixed = F.scaled_dot_product_attention(_heads(s, "q", x[:, :1]), _heads(s, "k", x), _heads(s, "v", x))
    return torch.cat([x[:, :1] + s.parameter("gamma", x.shape[-1]) * _out(s, mixed, x.shape[-1]), x[:, 1:]], 1)


def channel_attention(s: Scope, x: Tensor) -> Tensor:
    """Softmax between features of a head, along positions (XCiT, DaViT)."""
    q, k, v = (_heads(s, name, x).transpose(-1, -2) for name in "qkv")
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    shares = torch.softmax(q @ k.transpose(-1, -2) * s.parameter("t", 2, 1, 1), -1)
    return x + _out(s, (shares @ v).transpose(-1, -2), x.shape[-1])


# -- along positions -------------------------------------------------------------------------------------------------


def retention(s: Scope, x: Tensor) -> Tensor:
    """Products that decay with distance, each head in its own measure, and a norm for each head (RetNet)."""
    at = torch.arange(x.shape[1])
    away = (at[:, None] - at).clamp_min(0)
    decay = torch.tensor([0.9, 0.7])[:, None, None] ** away * (at[:, None] >= at)
    mixed = (_heads(s, "q", x) @ _heads(s, "k", x).transpose(-1, -2) * decay) @ _heads(s, "v", x)
    gate = F.silu(s.linear("g", x, 4))
    return x + s.linear("o", gate * F.rms_norm(mixed, (2,), eps=EPSILON).transpose(1, 2).flatten(2), x.shape[-1])


def scan(s: Scope, x: Tensor) -> Tensor:
    """A recurrence with decays of its own for each feature, from the stream (Mamba, Griffin)."""
    n = x.shape[-1]
    decay = torch.exp(-F.softplus(s.linear("delta", x, n)) * torch.exp(s.parameter("log", n)))
    state, found = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = decay[:, t] * state + (1 - decay[:, t]) * x[:, t]
        found.append(state)
    return torch.stack(found, 1) + x * s.parameter("skip", n)


def mixed_in_time(s: Scope, x: Tensor) -> Tensor:
    """Shares of this position and of the one before, and a gate (RWKV)."""
    n = x.shape[-1]
    before = F.pad(x, (0, 0, 1, 0))[:, :-1]
    shares = [s.parameter(f"mu{name}", n) for name in "rk"]
    r, k = (x * share + before * (1 - share) for share in shares)
    return x + torch.sigmoid(s.linear("r", r, n)) * s.linear("v", F.relu(s.linear("k", k, 4)).square(), n)


def recurrent(s: Scope, x: Tensor) -> Tensor:
    """A GRU."""
    n = x.shape[-1]
    return s.module(f"gru{n}", lambda: nn.GRU(n, 3, batch_first=True))(x)[0]  # type: ignore[no-any-return]


def both_ways(s: Scope, x: Tensor) -> Tensor:
    """An LSTM in both directions."""
    n = x.shape[-1]
    made = s.module(f"lstm{n}", lambda: nn.LSTM(n, 2, batch_first=True, bidirectional=True))
    return made(x)[0]  # type: ignore[no-any-return]


def spectrum(s: Scope, x: Tensor) -> Tensor:
    """Filters in the frequencies of positions (GFNet, FNO)."""
    n, d = x.shape[1:]
    size = n // 2 + 1
    filters = torch.complex(s.parameter("re", size, d), s.parameter("im", size, d))
    filtered = torch.fft.rfft(x, dim=1, norm="ortho") * filters
    return torch.fft.irfft(filtered, n=n, dim=1, norm="ortho")  # type: ignore[no-any-return]


def gated_positions(s: Scope, x: Tensor) -> Tensor:
    """One half gates the other after a map along positions (gMLP)."""
    n, d = x.shape[1:]
    one, two = F.gelu(s.linear("in", x, 4)).chunk(2, -1)
    mixed = s.linear("tokens", F.layer_norm(two, (2,)).transpose(1, 2), n).transpose(1, 2)
    return x + s.linear("out", one * mixed, d)


def patches(s: Scope, x: Tensor) -> Tensor:
    """Pairs of positions as one, by a convolution with a stride, and back."""
    n = x.shape[-1]
    turned = F.layer_norm(x, (n,)).transpose(1, 2)
    down = s.module(f"conv{n}", lambda: nn.Conv1d(n, 4, 2, 2))(turned)
    up = s.module(f"deconv{n}", lambda: nn.ConvTranspose1d(4, n, 2, 2))(F.gelu(down)).transpose(1, 2)
    return F.pad(up, (0, 0, 0, x.shape[1] - up.shape[1])) + x


def multiplied_depthwise(s: Scope, x: Tensor) -> Tensor:
    """Each channel to two, and a map over all (MobileNet, Xception)."""
    n = x.shape[-1]
    conv = s.module(f"conv{n}", lambda: nn.Conv1d(n, 2 * n, 3, padding=1, groups=n))
    return x + s.linear("point", F.relu6(conv(x.transpose(1, 2))).transpose(1, 2), n)


@_even
def channel_shuffle(s: Scope, x: Tensor) -> Tensor:
    """Grouped maps with channels shuffled between (ShuffleNet)."""
    n = x.shape[-1]
    one, two = (s.module(f"{name}{n}", lambda: nn.Conv1d(n, n, 1, groups=2)) for name in ("one", "two"))
    inner = F.relu(one(x.transpose(1, 2)))
    shuffled = inner.reshape(len(x), 2, n // 2, -1).transpose(1, 2).reshape(inner.shape)
    return x + two(shuffled).transpose(1, 2)  # type: ignore[no-any-return]


@_even
def written_statistics(s: Scope, x: Tensor) -> Tensor:
    """A group norm by views and its affine map as two parameters."""
    groups = x.reshape(*x.shape[:-1], 2, -1)
    groups = (groups - groups.mean(-1, keepdim=True)) * torch.rsqrt(groups.var(-1, keepdim=True) + EPSILON)
    return groups.reshape(x.shape) * s.parameter("g", x.shape[-1]) + s.parameter("b", x.shape[-1])


def frozen_statistics(s: Scope, x: Tensor) -> Tensor:
    """A batch norm written out, its statistics parameters."""
    n = x.shape[-1]
    scale = s.parameter("w", n) * torch.rsqrt(s.parameter("var", n).square() + EPSILON)
    return x * scale + (s.parameter("b", n) - s.parameter("mean", n) * scale)


# -- discrete choices and distances ----------------------------------------------------------------------------------


def codebook(s: Scope, x: Tensor) -> Tensor:
    """The nearest row of a table, and what is left."""
    rows = s.parameter("rows", 3, x.shape[-1])
    chosen = torch.cdist(x, rows[None]).argmin(-1)
    return x + 0.5 * (rows[chosen] - x)


def soft_codebook(s: Scope, x: Tensor) -> Tensor:
    """Shares by distance to rows."""
    rows = s.parameter("rows", 3, x.shape[-1])
    away = x.square().sum(-1, keepdim=True) - 2 * x @ rows.T + rows.square().sum(-1)
    return x + torch.softmax(-away, -1) @ rows


def sparse_hidden(s: Scope, x: Tensor) -> Tensor:
    """Only the largest hidden values go on (top-k autoencoders)."""
    inner = s.linear("encode", x, 5)
    largest, at = inner.topk(2, -1)
    return x + s.linear("decode", torch.zeros_like(inner).scatter(-1, at, F.relu(largest)), x.shape[-1])


def thresholds(s: Scope, x: Tensor) -> Tensor:
    """Hidden values below learned thresholds are cut off (JumpReLU)."""
    inner = s.linear("encode", x, 4)
    return x + s.linear("decode", inner * (inner > s.parameter("theta", 4)), x.shape[-1])


def maxout(s: Scope, x: Tensor) -> Tensor:
    """The larger of two linear maps for each hidden unit."""
    return s.linear("out", torch.unflatten(s.linear("in", x, 6), -1, (3, 2)).amax(-1), x.shape[-1])


def slots(s: Scope, x: Tensor) -> Tensor:
    """Learned slots that positions are divided among, and back (slot attention, soft mixtures)."""
    scores = x @ s.parameter("slots", 3, x.shape[-1]).T
    gathered = torch.softmax(scores, 1).transpose(1, 2) @ x
    each = torch.einsum("bsd,sde->bse", gathered, s.parameter("map", 3, x.shape[-1], x.shape[-1]))
    return torch.softmax(scores, -1) @ each


def factorised(s: Scope, x: Tensor) -> Tensor:
    """Products of pairs by factors (factorisation machines)."""
    inner = F.linear(x, s.parameter("v", 3, x.shape[-1]))
    squares = F.linear(x.square(), s.parameter("v", 3, x.shape[-1]).square())
    return x + 0.5 * (inner.square() - squares).sum(-1, keepdim=True)


def unit_weights(s: Scope, x: Tensor) -> Tensor:
    """Weights of unit length on a sphere, with a step towards what they give (nGPT)."""
    n = x.shape[-1]
    up, down = F.normalize(s.parameter("up", 4, n), dim=-1), F.normalize(s.parameter("down", n, 4), dim=0)
    inner = F.linear(F.silu(F.linear(x, up) * s.parameter("s", 4)), down)
    step = s.parameter("alpha", n).abs()
    return F.normalize(x + step * (F.normalize(inner, dim=-1) - x), dim=-1)


IDIOMS: dict[str, Callable[[Scope, Tensor], Tensor]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        adapter,
        adapter_in_weight,
        adapters_of_two,
        directions,
        diagonal_between,
        hypernetwork,
        kronecker,
        einsum_heads,
        one_parameter,
        modulated,
        excited,
        highway,
        exp_gain,
        mixed_layers,
        scaled_residual,
        cosine_attention,
        talking_heads,
        linear_attention,
        head_gates,
        distance_slopes,
        latent_attention,
        differential,
        memory_keys,
        class_attention,
        channel_attention,
        retention,
        scan,
        mixed_in_time,
        recurrent,
        both_ways,
        spectrum,
        gated_positions,
        patches,
        multiplied_depthwise,
        channel_shuffle,
        written_statistics,
        frozen_statistics,
        codebook,
        soft_codebook,
        sparse_hidden,
        thresholds,
        maxout,
        slots,
        factorised,
        unit_weights,
    )
}
