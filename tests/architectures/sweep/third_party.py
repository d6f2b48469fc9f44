"""Models of packages that are no dependency: installed on demand, left out where they are not."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from . import timm_models

TIMM = "timm"
_BUILT = "make"


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """What each package has, by its name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(
        (Path(__file__).parent / "third_party.yaml").read_text(encoding="utf-8")
    )
    return {TIMM: {"needs": "timm"}, **found}


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(catalogue()[package]["needs"]) is not None


def entries(package: str, every: bool = False) -> list[tuple[str, str]]:
    """Name and family of each model of a package; of timm one model for each of its modules, or with `every` all."""
    declare_operators()
    if package == TIMM:
        return timm_models.entries(every)
    return [(name, entry[_BUILT].rpartition(".")[2]) for name, entry in catalogue()[package]["models"].items()]


def tiny(package: str, name: str) -> tuple[nn.Module, int]:
    """A small model in eval mode with its inputs by name as `.example_inputs`, and which attempt it was."""
    declare_operators()
    if package == TIMM:
        return timm_models.tiny(name)
    entry = dict(catalogue()[package]["models"][name])
    inputs = entry.pop("inputs", None) or catalogue()[package]["inputs"]
    torch.manual_seed(0)
    model: Any = made(entry).eval()
    model.example_inputs = {k: given(v) for k, v in inputs.items()}
    with torch.no_grad():
        model(**model.example_inputs)
    return model, 0


def made(spec: Any) -> Any:
    """What a text asks for: mappings that name what makes them are calls, lists are tuples, the rest is itself."""
    if isinstance(spec, list):
        return tuple(map(made, spec))
    if not isinstance(spec, dict):
        return spec
    rest = {k: made(v) for k, v in spec.items() if k != _BUILT}
    if _BUILT not in spec:
        return rest
    module, _, name = spec[_BUILT].rpartition(".")
    return getattr(importlib.import_module(module), name)(**rest)


def given(spec: Any) -> Any:
    """An input: noise of a shape, numbers below a bound, ones, or the value itself."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(spec, list):
        return torch.randn(spec, generator=generator)
    if isinstance(spec, dict) and "ones" in spec:
        return torch.ones(spec["ones"])
    if isinstance(spec, dict):
        numbers: Tensor = torch.arange(math.prod(spec["shape"])) * 5 % spec["below"]
        return numbers.reshape(spec["shape"])
    return spec


@cache
def declare_operators() -> Any:
    """Makes torchvision importable where its compiled part is for another build of torch; nothing here calls that."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        return importlib.import_module("torchvision")
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
