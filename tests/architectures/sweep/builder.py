"""Any model of transformers, made tiny from its config class alone."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from symgraph.tracing import example_inputs
from symgraph.tracing.tiny_config import shrunk
from symgraph.tracing.tiny_fields import Sizes
from symgraph.tracing.tiny_instance import SIZES, built
from symgraph.tracing.wrap import TensorsOnly

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

    return built(model_class, config)


def tiny(kind: str, name: str, mapping: str) -> tuple[nn.Module, Sizes]:
    """The first size at which a model can be built and run."""
    # A language model that keeps its sizes would not fit into memory.
    return _first(kind, name, mapping, [s for s in ATTEMPTS if mapping == "image-classification" or not s.images_only])


def smallest(kind: str, name: str, mapping: str) -> nn.Module:
    """A model at the sizes of an audit."""
    return _first(kind, name, mapping, SIZES)[0]


def audit_inputs(kind: str, model: nn.Module) -> dict[str, Tensor] | None:
    """What an audit gives a model that would make positions from its tokens: both; None for all other models."""
    wanted = _unusual().get(kind, {}).get("audit")
    if wanted is None:
        return None
    given = example_inputs(model)
    places = torch.arange(given["input_ids"].shape[-1]).expand_as(given["input_ids"])
    return given | dict.fromkeys(wanted, places)


def _first(kind: str, name: str, mapping: str, attempts: Iterable[Sizes]) -> tuple[nn.Module, Sizes]:
    first: Exception | None = None
    for sizes in attempts:
        try:
            model = build(kind, name, mapping, sizes)
            with torch.no_grad():
                TensorsOnly(model)(**example_inputs(model))
            return model, sizes
        except Exception as error:
            first = first or error
    raise first or LookupError(f"no attempt is made for {kind}")
