"""A hypothesis strategy of descriptions."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from .idioms import IDIOMS
from .net import Description, Step
from .parts import ACTIVATIONS, NORMS
from .reshapes import RESHAPES
from .steps import HEADS, STEMS
from .weights import WEIGHTS


def _words(text: str) -> list[str]:
    return text.split()


VECTORS = _words(
    "scale one-plus divide shift affine shift-scale twice two-shifts two-scales product-shift exp-scale positions "
    "sliced-positions rows-and-columns scale-positions number blend only-some itself norm-of-one"
)
CUTS = _words(
    "features every-second last-position first-positions every-second-position swap gate two-maps half-through stack "
    "coupling"
)
POSITIONS = _words(
    "mix mixer left shorten add-mean subtract-mean mean largest sum-so-far reverse roll softmax norm gate "
    "pooled-attention pad shift"
)
FEATURES = _words(
    "centre add-mean times-mean softmax unit largest log-sum reverse roll pad repeat tile clamp square shift standard "
    "gram ball nearly-unit"
)
BRANCHES = _words("add subtract multiply larger divide outer scores linear-attention")
NORMED = [n for n in NORMS if n != "no-norm"]


def _of(kind: str, optional: dict[str, Any] | None = None, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    needed: dict[str, st.SearchStrategy[Any]] = {"kind": st.just(kind), **fixed}
    return st.fixed_dictionaries(needed, optional=optional or {})


def _one(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


ACT = st.sampled_from(list(ACTIVATIONS))
NORM = st.sampled_from(list(NORMS))
HIDDEN = st.integers(2, 5)
PLACED: dict[str, Any] = {
    "norm": NORM,
    "place": _one("pre", "pre", "post", "inside", "alone", "parallel"),
    "layer_scale": st.just(True),
    "like": st.integers(0, 2),
}
MLP = _of(
    "mlp",
    PLACED | {"gated": st.just(True), "bias": st.booleans(), "inner_norm": st.sampled_from(NORMED)},
    act=ACT,
    hidden=HIDDEN,
)
_HEADS = _one((1, 1), (2, 2), (2, 1), (3, 3), (2, 2))
ATTENTION = st.builds(
    lambda step, heads: step | {"heads": heads[0], "groups": heads[1]},
    _of(
        "attend",
        PLACED
        | {
            "written": st.just("matmul"),
            "fused": _one("concat", "stack", "per-head"),
            "qk_norm": _one("layer-norm", "rms-norm", "rms-norm-written", "rms-norm-plus-one"),
            "rotary": _one("halves", "interleaved"),
            "table": _one("full", "relative"),
            "bias": st.booleans(),
            "out_bias": st.booleans(),
            "causal": st.just(True),
            "cap": st.just(True),
            "sink": st.just(True),
            "cross": st.integers(0, 1),
            "share": _one("kv", "qk"),
        },
        size=_one(2, 2, 4),
    ),
    _HEADS,
)
EXPERTS = _of(
    "experts",
    PLACED
    | {"dense": st.just(True), "first": _one("softmax", "sigmoid", "relu", "saturated"), "renormalised": st.just(True)},
    act=ACT,
    hidden=st.integers(2, 3),
    experts=st.integers(3, 4),
    top=st.integers(1, 2),
)
CONVOLUTION = _of("convolution", PLACED | {"bias": st.booleans()}, groups=_one("one", "depthwise", "grouped"), act=ACT)
BRANCH = _of(
    "branches", {"other": ACT, "bias": st.booleans()}, to=st.integers(3, 6), act=ACT, how=st.sampled_from(BRANCHES)
)
IDIOM = _of("idiom", {"like": st.integers(0, 2)}, how=st.sampled_from(list(IDIOMS)))
BLOCK = st.one_of(MLP, ATTENTION, EXPERTS, CONVOLUTION, ATTENTION, IDIOM, IDIOM)
SMALL = st.one_of(
    BRANCH,
    _of("linear", {"bias": st.booleans(), "like": st.integers(0, 2)}, to=st.integers(3, 6)),
    _of("weights", {"like": st.integers(0, 2)}, how=st.sampled_from(list(WEIGHTS))),
    _of("reshape", {"like": st.integers(0, 2)}, how=st.sampled_from(list(RESHAPES))),
    _of("act", act=ACT),
    _of("norm", {"like": st.integers(0, 2)}, norm=st.sampled_from(NORMED)),
    _of("vector", {"like": st.integers(0, 2)}, how=st.sampled_from(VECTORS)),
    _of("concatenate", {"at": st.integers(0, 1)}, how=_one("token", "registers", "positions", "features", "linear")),
    _of("cut", how=st.sampled_from(CUTS)),
    _of("positions", how=st.sampled_from(POSITIONS)),
    _of("features", how=st.sampled_from(FEATURES)),
    _of("keep"),
    _of("reuse", {"at": st.integers(0, 1)}, how=_one("add", "multiply", "subtract")),
    _of("output", how=_one("stream", "mean", "linear", "length", "scores")),
    _of("dead"),
)
STEPS = st.lists(st.one_of(SMALL, BLOCK, SMALL), min_size=2, max_size=6)


def descriptions() -> st.SearchStrategy[Description]:
    """Every model that the parts can be put together to."""
    return st.builds(
        Description,
        stem=st.sampled_from(list(STEMS)),
        width=st.integers(3, 6),
        length=st.integers(3, 5),
        steps=STEPS.map(tuple),
        head=st.sampled_from(list(HEADS)),
    )
