"""Any model of timm, made tiny: what its entry point hands to the class, made small by the names of the settings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from symgraph.tracing.tiny_config import shrunk_settings
from symgraph.tracing.tiny_fields import Sizes

BUILDER = "build_model_with_cfg"
LABELS = 5
FIXED = ("num_classes", "model_cfg")
# The last two leave every size but that of the image: what names do not say cannot be made small.
ATTEMPTS: tuple[Sizes, ...] = (
    Sizes(width=8, heads=2, feed_forward=10, image=8, patch=4, window=2, positions=16, state=4, rank=4),
    Sizes(width=16, heads=2, image=32, patch=8, window=4),
    Sizes(width=32, heads=2, image=64, patch=16, window=4, proportional=True),
    Sizes(image=64, images_only=True),
    Sizes(image=256, images_only=True),
)


def entries(every: bool) -> list[tuple[str, str]]:
    """Name and module of every model, or of the first of each module."""
    timm: Any = importlib.import_module("timm")
    found = [(name, module) for module in timm.list_modules() for name in timm.list_models(module=module)]
    return found if every else list({module: (name, module) for name, module in reversed(found)}.values())[::-1]


def tiny(name: str) -> tuple[nn.Module, int]:
    """The first size at which a model can be built and run, and which that is."""
    first: Exception | None = None
    for attempt, sizes in enumerate(ATTEMPTS):
        try:
            model: Any = built(name, sizes)
            model.example_inputs = {"x": torch.randn(2, 3, sizes.image, sizes.image)}
            with torch.no_grad():
                model(**model.example_inputs)
            return model, attempt
        except Exception as error:
            first = first or error
    raise first or LookupError(f"no attempt is made for {name}")


def built(name: str, sizes: Sizes) -> nn.Module:
    """A model with random weights, in eval mode."""
    timm: Any = importlib.import_module("timm")
    module = sys.modules[timm.model_entrypoint(name).__module__]
    torch.manual_seed(0)
    with _smaller(module, sizes):
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=LABELS)
    return model.eval()


@contextmanager
def _smaller(module: Any, sizes: Sizes) -> Iterator[None]:
    """Lets the entry points of a module ask for small models."""
    usual = getattr(module, BUILDER)

    def build(model_class: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return usual(model_class, *args, **_shrunk(model_class, kwargs, sizes))

    setattr(module, BUILDER, build)
    try:
        yield
    finally:
        setattr(module, BUILDER, usual)


def _shrunk(model_class: Any, kwargs: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    accepted = inspect.signature(model_class).parameters.values()
    usual = {p.name: p.default for p in accepted if p.default is not inspect.Parameter.empty}
    given = {k: v for k, v in kwargs.items() if k in {p.name for p in accepted}}
    found = kwargs | shrunk_settings({k: v for k, v in (usual | given).items() if k not in FIXED}, sizes)
    config = kwargs.get("model_cfg")
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
        found["model_cfg"] = dataclasses.replace(config, **shrunk_settings(values, sizes))
    return found
