"""Parts that several kinds of steps share: activations, norms and where they stand, attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .net import Scope, Step

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "leaky": F.leaky_relu,
    "abs": torch.abs,
    "none": lambda x: x,
}
EPSILON = 1e-5


def layer_norm(s: Scope, name: str, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return s.module(f"{name}_ln{n}", lambda: nn.LayerNorm(n))(x)  # type: ignore[no-any-return]


def layer_norm_plain(s: Scope, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],))


def layer_norm_unbiased(s: Scope, name: str, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return s.module(f"{name}_lu{n}", lambda: nn.LayerNorm(n, bias=False))(x)  # type: ignore[no-any-return]


def rms_norm(s: Scope, name: str, x: Tensor) -> Tensor:
    n = x.shape[-1]
    return s.module(f"{name}_rms{n}", lambda: nn.RMSNorm(n, eps=EPSILON))(x)  # type: ignore[no-any-return]


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)


def rms_norm_written(s: Scope, name: str, x: Tensor) -> Tensor:
    return s.parameter(f"{name}_g", x.shape[-1]) * _unit(x)


def rms_norm_plus_one(s: Scope, name: str, x: Tensor) -> Tensor:
    return _unit(x) * (1.0 + s.parameter(f"{name}_g", x.shape[-1]))


def layer_norm_written(s: Scope, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + EPSILON)
    return unit * s.parameter(f"{name}_g", x.shape[-1]) + s.parameter(f"{name}_b", x.shape[-1])


def batch_norm(s: Scope, name: str, x: Tensor) -> Tensor:
    n = x.shape[-1]
    norm = s.module(f"{name}_bn{n}", lambda: nn.BatchNorm1d(n))
    return norm(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def group_norm(s: Scope, name: str, x: Tensor) -> Tensor:
    n = x.shape[-1]
    groups = 2 if n % 2 == 0 else 1
    norm = s.module(f"{name}_gn{n}", lambda: nn.GroupNorm(groups, n))
    return norm(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def no_norm(s: Scope, name: str, x: Tensor) -> Tensor:
    return x


NORMS: dict[str, Callable[[Scope, str, Tensor], Tensor]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        layer_norm,
        layer_norm_plain,
        layer_norm_unbiased,
        layer_norm_written,
        rms_norm,
        rms_norm_written,
        rms_norm_plus_one,
        batch_norm,
        group_norm,
        no_norm,
    )
}


def residual(s: Scope, x: Tensor, step: Step, f: Callable[[Tensor], Tensor]) -> Tensor:
    """A block's function with its norm before, after or inside the residual sum, or without a sum."""
    norm, place = NORMS[step.get("norm", "no-norm")], step.get("place", "pre")
    if place == "post":
        return norm(s, "norm", x + f(x))
    if place == "inside":
        return x + norm(s, "norm", f(x))
    if place == "parallel":
        return x + f(norm(s, "norm", x)) + f(x)
    found = f(norm(s, "norm", x))
    if step.get("layer_scale"):
        found = found * s.parameter("gamma", found.shape[-1])
    return found if place == "alone" else x + found


# -- attention -------------------------------------------------------------------------------------------------------


def rotate(x: Tensor, layout: str) -> Tensor:
    """Rotary positions on (batch, heads, length, size)."""
    n, k = x.shape[-2:]
    frequency = 1.0 / 10.0 ** (torch.arange(0, k, 2).float() / k)
    angle = torch.arange(n).float()[:, None] * frequency
    if layout == "halves":
        angle = torch.cat([angle, angle], -1)
        turned = torch.cat([-x[..., k // 2 :], x[..., : k // 2]], -1)
    else:
        angle = angle.repeat_interleave(2, -1)
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * angle.cos() + turned * angle.sin()


def projected(s: Scope, x: Tensor, memory: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, of shape (batch, heads or groups, length, size)."""
    h, g, k = step["heads"], step["groups"], step["size"]
    fused = step.get("fused") if memory is x and g == h else None
    bias = step.get("bias", True)
    if fused == "concat":
        q, key, v = s.linear("qkv", x, 3 * h * k, bias).chunk(3, -1)
    elif fused == "stack":
        whole = torch.unflatten(s.linear("qkv", x, 3 * h * k, bias), -1, (3, h, k)).permute(2, 0, 3, 1, 4)
        q, key, v = whole.unbind(0)
        return q, key, v
    elif fused == "per-head":
        whole = torch.unflatten(s.linear("qkv", x, 3 * h * k, bias), -1, (h, 3 * k)).transpose(1, 2)
        q, key, v = torch.split(whole, k, -1)
        return q, key, v
    else:
        q = s.linear("q", x, h * k, bias)
        key = s.linear("k", memory, g * k, bias)
        v = key if step.get("share") == "kv" else s.linear("v", memory, g * k, bias)
        key = q if step.get("share") == "qk" and memory is x and g == h else key
    return (
        torch.unflatten(q, -1, (h, k)).transpose(1, 2),
        torch.unflatten(key, -1, (g, k)).transpose(1, 2),
        torch.unflatten(v, -1, (g, k)).transpose(1, 2),
    )


def position_bias(s: Scope, step: Step, rows: int, columns: int) -> Tensor | None:
    """A learned bias on the scores: a table for each head, or rows of a table picked by distance."""
    if step.get("table") == "full":
        return s.parameter("table", step["heads"], rows, columns)
    if step.get("table") == "relative":
        at = torch.arange(rows)[:, None] - torch.arange(columns) + columns - 1
        table = s.parameter("table", rows + columns - 1, step["heads"])
        return table[at.reshape(-1)].view(rows, columns, -1).permute(2, 0, 1)
    return None


def attention(s: Scope, x: Tensor, step: Step) -> Tensor:
    """Self-attention, or attention to a value that was kept."""
    memory = s.other(step["cross"], x) if "cross" in step else x
    q, k, v = projected(s, x, memory, step)
    if step.get("qk_norm"):
        q, k = (NORMS[step["qk_norm"]](s, name, t) for name, t in (("qn", q), ("kn", k)))
    if step.get("rotary"):
        q, k = rotate(q, step["rotary"]), rotate(k, step["rotary"])
    if step["groups"] < step["heads"]:
        k, v = (t.repeat_interleave(step["heads"] // step["groups"], 1) for t in (k, v))
    bias = position_bias(s, step, q.shape[-2], k.shape[-2])
    mixed = _mixed(s, q, k, v, bias, step)
    out = mixed.transpose(1, 2).flatten(2)
    return s.linear("o", out, x.shape[-1], step.get("out_bias", True))


def _mixed(s: Scope, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, step: Step) -> Tensor:
    causal = bool(step.get("causal")) and q.shape[-2] == k.shape[-2]
    if step.get("written") != "matmul":
        causal = causal and bias is None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if step.get("cap"):
        scores = torch.tanh(scores / 3.0) * 3.0
    scores = scores if bias is None else scores + bias
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    if step.get("sink"):
        sink = s.parameter("sink", step["heads"]).view(-1, 1, 1).expand(len(q), -1, q.shape[-2], 1)
        return torch.softmax(torch.cat([scores, sink], -1), -1)[..., :-1] @ v
    return torch.softmax(scores, -1) @ v
