"""Any model of timm, made tiny: what its entry point hands to the class, made small by the names of the settings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from symgraph.tracing.tiny_config import shrunk_settings
from symgraph.tracing.tiny_fields import Sizes

BUILDER = "build_model_with_cfg"
LABELS = 5
FIXED = ("num_classes", "model_cfg")
# What says nothing about the channels of a model, whatever numbers stand in it.
APART = ("num_classes", "img_size", "input_size", "feature_cfg", "pretrained_cfg", "pretrained_cfg_overlay")
# Numbers from here on that no name explains count channels.
CHANNELS, LEAST = 16, 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """Sizes by the names of settings, and what every number of channels is divided by that no name explains."""

    sizes: Sizes
    thinner: int = 1


_SMALLEST = Sizes(width=8, heads=2, feed_forward=10, image=8, patch=4, window=2, positions=16, state=4, rank=4)
_SMALL = Sizes(width=16, heads=2, image=32, patch=8, window=4)
_PROPORTIONAL = Sizes(width=32, heads=2, image=64, patch=16, window=4, proportional=True)
_IMAGES = tuple(Sizes(image=n, images_only=True) for n in (64, 224, 256))
# The last ones leave every size but that of the image.
ATTEMPTS = (
    Attempt(_SMALLEST, 8),
    Attempt(_SMALLEST),
    Attempt(_SMALL, 8),
    Attempt(_SMALL),
    Attempt(_PROPORTIONAL, 8),
    Attempt(_PROPORTIONAL),
    *(Attempt(sizes, 8) for sizes in _IMAGES),
    *(Attempt(sizes) for sizes in _IMAGES),
)


def entries(every: bool) -> list[tuple[str, str]]:
    """Name and module of every model, or of the first of each module."""
    timm: Any = importlib.import_module("timm")
    found = [(name, module) for module in timm.list_modules() for name in timm.list_models(module=module)]
    return found if every else list({module: (name, module) for name, module in reversed(found)}.values())[::-1]


def tiny(name: str) -> tuple[nn.Module, int]:
    """The first size at which a model can be built and run, and which that is."""
    first: Exception | None = None
    for number, attempt in enumerate(ATTEMPTS):
        try:
            model: Any = built(name, attempt)
            model.example_inputs = {"x": torch.randn(2, 3, attempt.sizes.image, attempt.sizes.image)}
            with torch.no_grad():
                model(**model.example_inputs)
            return model, number
        except Exception as error:
            first = first or error
    raise first or LookupError(f"no attempt is made for {name}")


def built(name: str, attempt: Attempt) -> nn.Module:
    """A model with random weights, in eval mode."""
    timm: Any = importlib.import_module("timm")
    module = sys.modules[timm.model_entrypoint(name).__module__]
    torch.manual_seed(0)
    with _smaller(module, attempt):
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=LABELS)
    return model.eval()


@contextmanager
def _smaller(module: Any, attempt: Attempt) -> Iterator[None]:
    """Lets the entry points of a module ask for small models."""
    usual = getattr(module, BUILDER)

    def build(model_class: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return usual(model_class, *args, **shrunk(model_class, kwargs, attempt))

    setattr(module, BUILDER, build)
    try:
        yield
    finally:
        setattr(module, BUILDER, usual)


def shrunk(model_class: Any, kwargs: dict[str, Any], attempt: Attempt) -> dict[str, Any]:
    """What a class of model is given at an attempt, in the place of what its entry point gives it."""
    accepted = inspect.signature(model_class).parameters.values()
    usual = {p.name: p.default for p in accepted if p.default is not inspect.Parameter.empty}
    given = {k: v for k, v in kwargs.items() if k in {p.name for p in accepted}}
    settings = {k: v for k, v in (usual | given).items() if k not in FIXED}
    named = shrunk_settings(settings, attempt.sizes)
    config = kwargs.get("model_cfg")
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
        shrunk = shrunk_settings(values, attempt.sizes)
        rest = {k: _thinned(v, attempt.thinner) for k, v in values.items() if k not in shrunk}
        named["model_cfg"] = dataclasses.replace(config, **rest, **shrunk)
    others = {k: v for k, v in (settings | kwargs).items() if k not in APART and k not in named}
    thin = {k: _thinned(v, attempt.thinner) for k, v in others.items()}
    return kwargs | {k: v for k, v in thin.items() if v != others[k]} | named


def _thinned(value: Any, by: int) -> Any:
    """A setting with every number of channels in it divided, however deep it stands."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(LEAST, value // by) if by > 1 and value >= CHANNELS else value
    if isinstance(value, list | tuple):
        return type(value)(_thinned(v, by) for v in value)
    if isinstance(value, dict):
        return {k: _thinned(v, by) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _thinned(getattr(value, f.name), by) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value
