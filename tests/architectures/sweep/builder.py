"""Any model of transformers, made tiny from its config class alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from symgraph.trace import example_inputs
from symgraph.trace.wrap import TensorsOnly

from .fields import LAYERS, Context, Sizes, fill, shrink_list, shrink_number

MAPPINGS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "multimodal": "MODEL_MAPPING_NAMES",
}
ATTEMPTS = (
    Sizes(),
    Sizes(groups=4),
    Sizes(fill=True),
    Sizes(proportional=True, groups=4),
    Sizes(width=64, rank=32, feed_forward=96),
    Sizes(width=96, feed_forward=112),
    Sizes(cut=False),
    Sizes(image=64),
    Sizes(image=64, stages=False),
    Sizes(image=64, patch=2),
    Sizes(image=64, patch=16),
    Sizes(images_only=True, image=64),
    Sizes(width=128, heads=2, groups=2, image=64, patch=16, proportional=True),
)
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
    values = settings(config)
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


def entries(mapping: str) -> list[tuple[str, str]]:
    """Kind of config and class of model of every entry of a mapping, in order."""
    found = getattr(modeling_auto, MAPPINGS[mapping])
    pairs = [(k, v if isinstance(v, str) else v[0]) for k, v in found.items()]
    return [p for p in pairs if mapping != "multimodal" or _is_dual(*p)]


def _is_dual(kind: str, name: str) -> bool:
    """Whether a model has one encoder for text and one for images or sound, each with features of its own."""
    parts = set(getattr(CONFIG_MAPPING[kind], "sub_configs", None) or {})
    # The class itself is looked at last: many need a library that is not there.
    if "text_config" not in parts or not parts & {"vision_config", "audio_config", "image_config"}:
        return False
    model = getattr(transformers, name, None)
    features = [n for n in dir(model) if n.startswith("get_") and n.endswith("_features")]
    return "get_text_features" in features and len(features) > 1


def default_config(kind: str) -> PreTrainedConfig:
    """The config of a kind, with what its class cannot do without."""
    return CONFIG_MAPPING[kind](**_unusual().get(kind, {}).get("usual", {}))


@cache
def _unusual() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(
        (Path(__file__).parent / "unusual.yaml").read_text(encoding="utf-8")
    )
    return found


def _needs(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Settings with what this kind needs beside them, also in its parts."""
    for name, value in _unusual().get(kind, {}).get("tiny", {}).items():
        if isinstance(given.get(name), PreTrainedConfig):
            for k, v in value.items():
                setattr(given[name], k, v)
        else:
            given[name] = value
    return given


def tiny_config(kind: str, model_class: Any, mapping: str, sizes: Sizes) -> PreTrainedConfig:
    """The config of a kind at one choice of sizes."""
    usual = default_config(kind)
    given = _needs(kind, shrunk(usual, sizes))
    if mapping == "causal-lm" and hasattr(usual, "is_decoder"):
        given["is_decoder"] = True
    return _part(type(usual)(**given), model_class.config_class)


def _part(config: PreTrainedConfig, wanted: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The config, or the part of it that a class of model is made from."""
    if isinstance(config, wanted):
        return config
    parts = [v for v in vars(config).values() if isinstance(v, wanted)]
    return parts[0] if parts else config


def build(kind: str, name: str, mapping: str, sizes: Sizes) -> nn.Module:
    """One model with random weights, in eval mode, with attention written out where its class has that."""
    model_class = getattr(transformers, name)
    config = tiny_config(kind, model_class, mapping, sizes)

    def made(attention: str | None) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = model_class._from_config(config, attn_implementation=attention)
        return model.eval()

    for attention in ("eager", "sdpa"):
        with suppress(ValueError):
            return made(attention)
    return made(None)


def tiny(kind: str, name: str, mapping: str) -> tuple[nn.Module, Sizes]:
    """The first size at which a model can be built and run."""
    first: Exception | None = None
    for sizes in ATTEMPTS:
        # A language model that keeps its sizes would not fit into memory.
        if sizes.images_only and mapping != "image-classification":
            continue
        try:
            model = build(kind, name, mapping, sizes)
            with torch.no_grad():
                TensorsOnly(model)(**example_inputs(model))
            return model, sizes
        except Exception as error:
            first = first or error
    raise first or LookupError(f"no attempt is made for {kind}")
