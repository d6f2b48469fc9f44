"""A config at tiny sizes; what its names do not say stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from symgraph.tracing.tiny_fields import LAYERS, Context, Sizes, fill, shrink_list, shrink_number

LONGEST = 8
HIDDEN = frozenset(
    {"transformers_version", "architectures", "dtype", "id2label", "label2id", "return_dict", "torch_dtype"}
)


def settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config can be told; what it works out from that by itself is left out."""
    names = {f.name for f in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set(vars(config))
    own = {config.attribute_map.get(n, n) for n in names} - HIDDEN
    return {k: v for k, v in vars(config).items() if k in own and not k.startswith("_")}


def shrunk(config: PreTrainedConfig, sizes: Sizes) -> dict[str, Any]:
    """The settings that differ from a config's defaults in its tiny version."""
    return shrunk_settings(settings(config), sizes)


def shrunk_settings(values: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Those of some settings that differ at tiny sizes."""
    depth = next((values[n] for n in LAYERS if isinstance(values.get(n), int)), 0)
    c = Context(sizes, values, _kept(values, depth), depth)
    found = {k: _tiny(k, v, c) for k, v in values.items()}
    return {
        k: v
        for k, v in found.items()
        if isinstance(v, PreTrainedConfig) or v != values[k] or type(v) is not type(values[k])
    }


def _kept(values: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    """Layers to keep: the first two, and the first of every further kind."""
    if not depth:
        return (0, 1)
    lists = [v for k, v in values.items() if isinstance(v, list | tuple) and len(v) == depth and depth > 2]
    kinds: dict[str, int] = {}
    for i in range(depth):
        kinds.setdefault(repr([v[i] for v in lists if isinstance(v[i], str | int)]), i)
    firsts = sorted({0, 1, *list(kinds.values())[:LONGEST]}) if len(kinds) < LONGEST else [0, 1]
    # A kind that comes second already stands for the second layer.
    return tuple(firsts if len(kinds) == 1 else [i for i in firsts if i in kinds.values()])


def _tiny(name: str, value: Any, c: Context) -> Any:
    if isinstance(value, PreTrainedConfig):
        return rebuilt(value, c.sizes)
    if value is None:
        return fill(name, c)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return shrink_number(name, value, c)
    if isinstance(value, Mapping):
        return {k: _tiny(str(k), v, c) for k, v in value.items()}
    return shrink_list(name, value, c) if isinstance(value, list | tuple) else value


def rebuilt(config: PreTrainedConfig, sizes: Sizes) -> PreTrainedConfig:
    """A part of a config at its tiny size, its other settings as its owner gives them."""
    usual = type(config)()
    given = {k: v for k, v in settings(config).items() if vars(usual).get(k) != v}
    return type(config)(**given | shrunk(config, sizes))
