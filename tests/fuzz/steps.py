"""Every kind of step, stem and head, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .idioms import IDIOMS
from .net import FEATURES, LONGEST, VOCABULARY, WIDEST, Scope, Step
from .parts import ACTIVATIONS, NORMS, attention, residual
from .reshapes import RESHAPES
from .weights import WEIGHTS


def mlp(s: Scope, x: Tensor, step: Step) -> Tensor:
    act, hidden, bias = ACTIVATIONS[step["act"]], step["hidden"], step.get("bias", True)

    def f(x: Tensor) -> Tensor:
        inner = act(s.linear("up", x, hidden, bias))
        if step.get("gated"):
            inner = inner * s.linear("gate", x, hidden, bias)
        if step.get("inner_norm"):
            inner = NORMS[step["inner_norm"]](s, "inner", inner)
        return s.linear("down", inner, x.shape[-1], bias)

    return residual(s, x, step, f)


def attend(s: Scope, x: Tensor, step: Step) -> Tensor:
    return residual(s, x, step, lambda x: attention(s, x, step))


def experts(s: Scope, x: Tensor, step: Step) -> Tensor:
    return residual(s, x, step, lambda x: _dense(s, x, step) if step.get("dense") else _routed(s, x, step))


def _stacks(s: Scope, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    e, h, d = step["experts"], step["hidden"], x.shape[-1]
    return s.parameter("up", e, h, d), s.parameter("down", e, d, h)


def _dense(s: Scope, x: Tensor, step: Step) -> Tensor:
    up, down = _stacks(s, x, step)
    weights = torch.softmax(s.linear("router", x, step["experts"]), -1)
    inner = ACTIVATIONS[step["act"]](torch.einsum("bld,ehd->bleh", x, up))
    return torch.einsum("bleh,edh,ble->bld", inner, down, weights)


def _routed(s: Scope, x: Tensor, step: Step) -> Tensor:
    up, down = _stacks(s, x, step)
    # A router without a bias is tied wherever its input is zero.
    logits = s.linear("router", x, step["experts"])
    if step.get("first") == "softmax":
        weights, chosen = torch.topk(torch.softmax(logits, -1), step["top"], -1)
        weights = weights / weights.sum(-1, keepdim=True) if step.get("renormalised") else weights
    else:
        # Scores that are tied: the place of an expert decides then.
        first = step.get("first")
        logits = F.relu(logits) if first == "relu" else F.hardtanh(4.0 * logits) if first == "saturated" else logits
        best, chosen = torch.topk(logits, step["top"], -1)
        weights = torch.sigmoid(best) if step.get("first") == "sigmoid" else torch.softmax(best, -1)
    inner = ACTIVATIONS[step["act"]]((up[chosen] @ x[:, :, None, :, None]).squeeze(-1))
    found = (down[chosen] @ inner[..., None]).squeeze(-1)
    return (found * weights[..., None]).sum(2)


def convolution(s: Scope, x: Tensor, step: Step) -> Tensor:
    n = x.shape[-1]
    groups = {"depthwise": n, "grouped": 2 if n % 2 == 0 else 1}.get(step["groups"], 1)
    act, bias = ACTIVATIONS[step["act"]], step.get("bias", True)

    def f(x: Tensor) -> Tensor:
        conv = s.module(f"conv{n}g{groups}", lambda: nn.Conv1d(n, n, 3, padding=1, groups=groups, bias=bias))
        return act(conv(x.transpose(1, 2)).transpose(1, 2))

    return residual(s, x, step, f)


def branches(s: Scope, x: Tensor, step: Step) -> Tensor:
    """Two linear maps of the stream, put together in one of many ways."""
    a, b = s.linear("left", x, step["to"]), s.linear("right", x, step["to"], step.get("bias", True))
    a, b = ACTIVATIONS[step["act"]](a), ACTIVATIONS[step.get("other", "none")](b)
    found = {
        "add": lambda: a + b,
        "subtract": lambda: a - b,
        "multiply": lambda: a * b,
        "larger": lambda: torch.maximum(a, b),
        "divide": lambda: a / (1.0 + b.square()),
        "outer": lambda: (a.unsqueeze(-1) * b.unsqueeze(-2)).sum(-2),
        "scores": lambda: torch.softmax(a @ b.transpose(-1, -2), -1) @ x,
        "linear-attention": lambda: a @ (b.transpose(-1, -2) @ x),
    }[step["how"]]()
    return found


def linear(s: Scope, x: Tensor, step: Step) -> Tensor:
    return s.linear("map", x, step["to"], step.get("bias", True))


def weights(s: Scope, x: Tensor, step: Step) -> Tensor:
    """A linear map by something that is computed from parameters."""
    return WEIGHTS[step["how"]](s, x)


def idiom(s: Scope, x: Tensor, step: Step) -> Tensor:
    return IDIOMS[step["how"]](s, x)


def reshape(s: Scope, x: Tensor, step: Step) -> Tensor:
    return RESHAPES[step["how"]](s, x)


def act(s: Scope, x: Tensor, step: Step) -> Tensor:
    return ACTIVATIONS[step["act"]](x)


def norm(s: Scope, x: Tensor, step: Step) -> Tensor:
    return NORMS[step["norm"]](s, "norm", x)


def vector(s: Scope, x: Tensor, step: Step) -> Tensor:
    """A learned vector or table that is broadcast against the stream."""
    n = x.shape[-1]
    v, w = s.parameter("v", n), s.parameter("w", n)
    found = {
        "scale": lambda: x * v,
        "one-plus": lambda: x * (1 + v),
        "divide": lambda: x / (1 + v.square()),
        "shift": lambda: x + v,
        "affine": lambda: x * v + w,
        "shift-scale": lambda: (x + v) * w,
        "twice": lambda: x * v + v,
        "itself": lambda: x + (v + v),
        "norm-of-one": lambda: F.layer_norm(x, (n,), v, v),
        "two-shifts": lambda: x + v + w,
        "two-scales": lambda: x * v * w,
        "product-shift": lambda: x + v * w,
        "exp-scale": lambda: x * torch.exp(v),
        "positions": lambda: x + s.parameter("p", x.shape[1], n),
        "sliced-positions": lambda: x + s.parameter("p", LONGEST * 3, n)[: x.shape[1]],
        "rows-and-columns": lambda: x + s.parameter("r", x.shape[1], 1) + s.parameter("c", 1, n),
        "scale-positions": lambda: x * s.parameter("p", x.shape[1], 1),
        "number": lambda: x * s.parameter("t", 1),
        "blend": lambda: torch.sigmoid(v) * x + (1 - torch.sigmoid(v)) * x.flip(1),
        "only-some": lambda: torch.cat([x[..., :2] * v[:2], x[..., 2:]], -1),
    }[step["how"]]()
    return found


def concatenate(s: Scope, x: Tensor, step: Step) -> Tensor:
    other = s.other(step.get("at", 0), x)
    length, width = x.shape[1:]
    if step["how"] == "token":
        token = s.parameter("token", 1, 1, width)
        return torch.cat([token.expand(len(x), -1, -1), x], 1) if length < LONGEST else x
    if step["how"] == "registers":
        token = s.parameter("registers", 2, width)
        return torch.cat([x, token.expand(len(x), -1, -1)], 1) if length + 2 <= LONGEST else x
    if step["how"] == "positions":
        fits = other.shape[-1] == width and length + other.shape[1] <= LONGEST
        return torch.cat([x, other], 1) if fits else x
    part = {"features": other, "linear": s.linear("part", x, 2), "itself": x}[step["how"]]
    return torch.cat([x, part], -1) if part.shape[1] == length and width + part.shape[-1] <= WIDEST else x


def cut(s: Scope, x: Tensor, step: Step) -> Tensor:
    """A slice of features or positions, or halves that change places, gate or go to maps of their own."""
    n = x.shape[-1]
    a, b = x[..., : n // 2], x[..., n // 2 :]
    even = n % 2 == 0
    found = {
        "features": lambda: x[..., 1:] if n > 3 else x,
        "every-second": lambda: x[..., ::2] if n > 4 else x,
        "last-position": lambda: x[:, -1:],
        "first-positions": lambda: x[:, :2],
        "every-second-position": lambda: x[:, ::2],
        "swap": lambda: torch.cat([b, a], -1),
        "gate": lambda: s.linear("after", a * torch.sigmoid(b), n) if even else x,
        "two-maps": lambda: s.linear("first", a, n) + s.linear("second", b, n),
        "half-through": lambda: torch.cat([a, F.gelu(s.linear("inner", b, n - n // 2))], -1),
        "stack": lambda: torch.stack([a, b], -1).flatten(-2) if even else x,
        "coupling": lambda: torch.cat([a, b * torch.exp(0.3 * torch.tanh(s.linear("c", a, n - n // 2)))], -1),
    }[step["how"]]()
    return found


def positions(s: Scope, x: Tensor, step: Step) -> Tensor:
    """Maps and means along positions."""
    n, d = x.shape[1:]
    turned = x.transpose(1, 2)
    found = {
        "mix": lambda: x + s.linear("tokens", turned, n).transpose(1, 2),
        "mixer": lambda: x + s.linear("t2", F.gelu(s.linear("t1", turned, 4)), n).transpose(1, 2),
        "left": lambda: s.parameter("left", n, n) @ x,
        "shorten": lambda: s.parameter("short", 2, n) @ x,
        "add-mean": lambda: x + x.mean(1, keepdim=True),
        "subtract-mean": lambda: x - x.mean(1, keepdim=True),
        "mean": lambda: x.mean(1, keepdim=True),
        "largest": lambda: x.amax(1, keepdim=True),
        "sum-so-far": lambda: x.cumsum(1),
        "reverse": lambda: x.flip(1),
        "roll": lambda: x.roll(1, 1),
        "softmax": lambda: torch.softmax(x, 1),
        "norm": lambda: F.layer_norm(turned, (n,)).transpose(1, 2) if n > 2 else x,
        "gate": lambda: x * torch.sigmoid(s.linear("g", x.mean(1), d)).unsqueeze(1),
        "pooled-attention": lambda: torch.softmax(s.linear("q", x, 1), 1).transpose(1, 2) @ x,
        "pad": lambda: F.pad(x, (0, 0, 1, 0))[:, :-1],
        "shift": lambda: torch.cat([x[:, 1:], x[:, :1]], 1) * s.parameter("mu", d) + x,
    }[step["how"]]()
    return found


def features(s: Scope, x: Tensor, step: Step) -> Tensor:
    """Reductions and maps along features that need no parameters of their own."""
    n = x.shape[-1]
    found = {
        "centre": lambda: x - x.mean(-1, keepdim=True),
        "add-mean": lambda: x + x.mean(-1, keepdim=True),
        "times-mean": lambda: x * x.mean(-1, keepdim=True),
        "softmax": lambda: torch.softmax(x, -1),
        "unit": lambda: x / (1e-3 + x.square().sum(-1, keepdim=True)).sqrt(),
        "largest": lambda: x + x.amax(-1, keepdim=True),
        "log-sum": lambda: x - torch.logsumexp(x, -1, keepdim=True),
        "reverse": lambda: x + x.flip(-1),
        "roll": lambda: x + x.roll(1, -1),
        "pad": lambda: F.pad(x, (1, 0)) if n < WIDEST else x,
        "repeat": lambda: x.repeat_interleave(2, -1) if 2 * n <= WIDEST else x,
        "tile": lambda: x.repeat(1, 1, 2) if 2 * n <= WIDEST else x,
        "clamp": lambda: x.clamp(-2.0, 3.0),
        "ball": lambda: x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1.0),
        "nearly-unit": lambda: F.normalize(x, dim=-1, eps=30.0),
        "square": lambda: x * x,
        "shift": lambda: x + 1.0,
        "standard": lambda: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-3).sqrt(),
        "gram": lambda: x @ (x.transpose(1, 2) @ x) * 0.1,
    }[step["how"]]()
    return found


def keep(s: Scope, x: Tensor, step: Step) -> Tensor:
    s.kept.append(x)
    return x


def reuse(s: Scope, x: Tensor, step: Step) -> Tensor:
    """A value that was kept, put together with the stream, through a map where the shapes differ."""
    other = s.other(step.get("at", 0), x)
    if other.shape != x.shape:
        other = s.linear("fit", other.mean(1, keepdim=True), x.shape[-1])
    found = {"add": x + other, "multiply": x * other, "subtract": x - 0.5 * other}[step["how"]]
    return found


def output(s: Scope, x: Tensor, step: Step) -> Tensor:
    found = {
        "stream": lambda: x,
        "mean": lambda: x.mean(1),
        "linear": lambda: s.linear("aux", x, 2),
        "length": lambda: x.square().sum(-1),
        "scores": lambda: x @ x.transpose(-1, -2),
    }[step["how"]]()
    s.outputs.append(found)
    return x


def dead(s: Scope, x: Tensor, step: Step) -> Tensor:
    """Parameters that nothing uses, or whose result nothing uses."""
    s.parameter("dead", x.shape[-1])
    s.linear("unused", x, 3)
    return x


STEPS: dict[str, Callable[[Scope, Tensor, Step], Tensor]] = {
    f.__name__: f
    for f in (
        mlp,
        attend,
        experts,
        convolution,
        branches,
        linear,
        weights,
        idiom,
        reshape,
        act,
        norm,
        vector,
        concatenate,
        cut,
        positions,
        features,
        keep,
        reuse,
        output,
        dead,
    )
}


# -- ends ------------------------------------------------------------------------------------------------------------


def _embedded(s: Scope, given: Tensor, width: int) -> Tensor:
    return s.module("table", lambda: nn.Embedding(VOCABULARY, width))(given)  # type: ignore[no-any-return]


def _embedded_with_positions(s: Scope, given: Tensor, width: int) -> Tensor:
    at = torch.arange(given.shape[1])
    return _embedded(s, given, width) + s.module("places", lambda: nn.Embedding(LONGEST, width))(at)  # type: ignore[no-any-return]


def _narrow_embedding(s: Scope, given: Tensor, width: int) -> Tensor:
    return s.linear("widen", _embedded(s, given, 2), width, False)


def _linear(s: Scope, given: Tensor, width: int) -> Tensor:
    return s.linear("in", given, width)


def _convolved(s: Scope, given: Tensor, width: int) -> Tensor:
    conv = s.module("conv", lambda: nn.Conv1d(FEATURES, width, 3, padding=1))
    return conv(given.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def _tokens(s: Scope, given: Tensor, width: int) -> Tensor:
    """Patches with a class token and positions, as in a vision transformer."""
    token = s.parameter("token", 1, 1, width).expand(len(given), -1, -1)
    return torch.cat([token, s.linear("in", given, width)], 1) + s.parameter("place", 1, given.shape[1] + 1, width)


STEMS: dict[str, Callable[[Scope, Tensor, int], Tensor]] = {
    "linear": _linear,
    "conv": _convolved,
    "tokens": _tokens,
    "embedding": _embedded,
    "embedding-positions": _embedded_with_positions,
    "embedding-narrow": _narrow_embedding,
}


def _tied(s: Scope, x: Tensor) -> Tensor:
    """The transpose of the embedding where there is one of this width."""
    for name, table in s.net.parts.items():
        if name == "stem_table" and isinstance(table, nn.Embedding) and table.embedding_dim == x.shape[-1]:
            return F.linear(x, table.weight)
    return s.linear("out", x, 3)


HEADS: dict[str, Callable[[Scope, Tensor], Tensor]] = {
    "linear": lambda s, x: s.linear("out", x, 3),
    "unbiased": lambda s, x: s.linear("out", x, 3, False),
    "none": lambda s, x: x,
    "pool": lambda s, x: s.linear("out", x.mean(1), 3),
    "last": lambda s, x: s.linear("out", x[:, -1], 3),
    "first": lambda s, x: s.linear("out", x[:, 0], 2),
    "flatten": lambda s, x: s.linear("out", x.flatten(1), 2),
    "tied": _tied,
    "norm": lambda s, x: s.linear("out", NORMS["layer-norm"](s, "norm", x), 3),
    "norm-unbiased": lambda s, x: s.linear("out", NORMS["rms-norm"](s, "norm", x), 3, False),
}
