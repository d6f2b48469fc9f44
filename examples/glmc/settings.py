"""Settings and figures of Theus et al., arXiv 2506.22712 (appendix and Table 2), and smaller scales of the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

METHODS = ("vanilla", "activations", "mixed", "weights", "learned, permutations only", "learned", "learned, dual")


@dataclass(frozen=True, slots=True)
class Setting:
    """One column of the table: a data set, the shape and the training of its models, and the paper's barriers.

    `patch`: side of a patch of an image; `context`: tokens in a window of text, where `patch` is 0. `vocabulary`: size
    of the tokenizer that is trained on the text where none is given. `steps`: of learned matching. `paper`: barrier and
    standard error by method.
    """

    name: str
    kind: str
    layers: int
    heads: int
    width: int
    hidden: int
    epochs: float
    batch: int
    rate: float
    decay: float
    paper: dict[str, tuple[float, float]]
    patch: int = 0
    image: int = 32
    context: int = 0
    vocabulary: int = 8192
    dropout: float = 0.0
    warmup: float = 0.0
    augmented: bool = False
    steps: int = 2500
    learning_batch: int = 32
    learning_rate: float = 1e-2
    stop_early: bool = False


def _figures(*values: str) -> dict[str, tuple[float, float]]:
    names = ("vanilla", "activations", "weights", "learned, permutations only", "learned")
    pairs = (v.split("+-") for v in values)
    return {n: (float(mean), float(error)) for n, (mean, error) in zip(names, pairs, strict=True)}


_CIFAR = Setting(
    "cifar10",
    "images",
    layers=6,
    heads=8,
    width=256,
    hidden=512,
    epochs=150,
    batch=128,
    rate=3e-4,
    decay=1e-3,
    patch=4,
    augmented=True,
    paper=_figures("1.69+-0.07", "1.27+-0.13", "0.36+-0.01", "0.45+-0.02", "0.00+-0.00"),
)
_SHAKESPEARE = Setting(
    "tinyshakespeare",
    "text",
    layers=6,
    heads=4,
    width=256,
    hidden=1024,
    epochs=100,
    batch=32,
    rate=3e-4,
    decay=0.01,
    context=256,
    dropout=0.1,
    warmup=0.05,
    stop_early=True,
    steps=1000,
    paper=_figures("2.02+-0.12", "1.43+-0.16", "0.34+-0.01", "0.63+-0.17", "0.02+-0.00"),
)
PAPER = {
    "cifar10": _CIFAR,
    "cifar100": replace(
        _CIFAR,
        name="cifar100",
        paper=_figures("2.46+-0.04", "2.11+-0.17", "0.69+-0.21", "0.53+-0.07", "0.00+-0.00"),
    ),
    "tiny-imagenet": replace(
        _CIFAR,
        name="tiny-imagenet",
        layers=8,
        width=384,
        hidden=768,
        patch=8,
        image=64,
        decay=0.05,
        paper=_figures("2.84+-0.02", "1.86+-0.10", "0.47+-0.04", "0.29+-0.02", "0.00+-0.00"),
    ),
    "tinyshakespeare": _SHAKESPEARE,
    "bookcorpus": replace(
        _SHAKESPEARE,
        name="bookcorpus",
        heads=8,
        width=512,
        hidden=2048,
        epochs=5,
        batch=64,
        rate=2.5e-4,
        context=512,
        stop_early=False,
        paper=_figures("4.34+-0.09", "4.05+-0.13", "1.56+-0.02", "1.60+-0.04", "0.42+-0.01"),
    ),
}


def scaled(setting: Setting, scale: str) -> Setting:
    """The setting at a scale: "paper"; "small", some twenty minutes on two cores; "tiny", to try the script."""
    if scale == "paper":
        return setting
    images = setting.kind == "images"
    small = replace(
        setting,
        layers=3,
        heads=4,
        width=64,
        hidden=128 if images else 256,
        epochs=5 if images else 8,
        batch=128 if images else 16,
        rate=2e-3,
        patch=setting.image // 4 if images else 0,
        context=0 if images else 128,
        vocabulary=512,
        dropout=0.0,
        steps=500 if images else 300,
        learning_batch=128 if images else 16,
        stop_early=False,
    )
    return small if scale == "small" else replace(small, layers=1, width=16, hidden=32, epochs=0.05, steps=10)
