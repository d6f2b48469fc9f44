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
    names = (
        {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set(vars(config))
    )
    own = {config.attribute_map.get(name, name) for name in names} - HIDDEN
    return {name: value for name, value in vars(config).items() if name in own and not name.startswith("_")}


def shrunk(config: PreTrainedConfig, sizes: Sizes) -> dict[str, Any]:
    """The settings that differ from a config's defaults in its tiny version."""
    return shrunk_settings(settings(config), sizes)


def shrunk_settings(values: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Those of some settings that differ at tiny sizes."""
    depth = next((values[name] for name in LAYERS if isinstance(values.get(name), int)), 0)
    context = Context(sizes, values, _kept(values, depth), depth)
    tiny = {name: _tiny(name, value, context) for name, value in values.items()}
    return {
        name: value
        for name, value in tiny.items()
        if isinstance(value, PreTrainedConfig) or value != values[name] or type(value) is not type(values[name])
    }


def _kept(values: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    """Layers to keep: the first two, and the first of every further kind."""
    if not depth:
        return (0, 1)
    lists = [
        value for name, value in values.items() if isinstance(value, list | tuple) and len(value) == depth and depth > 2
    ]
    kinds: dict[str, int] = {}
    for layer in range(depth):
        kinds.setdefault(
            repr([kind_list[layer] for kind_list in lists if isinstance(kind_list[layer], str | int)]), layer
        )
    firsts = sorted({0, 1, *list(kinds.values())[:LONGEST]}) if len(kinds) < LONGEST else [0, 1]
    # A kind that comes second already stands for the second layer.
    return tuple(firsts if len(kinds) == 1 else [layer for layer in firsts if layer in kinds.values()])


def _tiny(name: str, value: Any, context: Context) -> Any:
    if isinstance(value, PreTrainedConfig):
        return rebuilt(value, context.sizes)
    if value is None:
        return fill(name, context)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return shrink_number(name, value, context)
    if isinstance(value, Mapping):
        return {key: _tiny(str(key), inner, context) for key, inner in value.items()}
    return shrink_list(name, value, context) if isinstance(value, list | tuple) else value


def rebuilt(config: PreTrainedConfig, sizes: Sizes) -> PreTrainedConfig:
    """A part of a config at its tiny size, its other settings as its owner gives them."""
    usual = type(config)()
    given = {name: setting for name, setting in settings(config).items() if vars(usual).get(name) != setting}
    return type(config)(**given | shrunk(config, sizes))
