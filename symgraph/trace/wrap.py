"""Models of `transformers` as functions from tensors to tensors, and inputs to trace them with."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import TraceError

# Sizes no other dimension is likely to have by chance, and that differ from each other.
BATCH, LENGTH, DECODER_LENGTH = 2, 7, 5
_IMAGE = 32
# Settings that make a forward pass return tensors only, given where the signature has them.
_FIXED = {"use_cache": False, "return_dict": True, "output_attentions": False, "output_hidden_states": False}
_DROPPED = ("loss", "past", "cache", "hidden_states", "attentions", "router", "mems")
_TOKENS = ("input_ids", "decoder_input_ids")


class TensorsOnly(nn.Module):
    """A model whose named inputs and whose outputs are tensors; its parameters are under `model.`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.fixed = {k: v for k, v in _FIXED.items() if k in accepted or k == "return_dict"}

    def forward(self, **inputs: Any) -> tuple[Tensor, ...]:
        """The floating outputs of the model, logits first."""
        return float_outputs(self.model(**inputs, **{k: v for k, v in self.fixed.items() if k not in inputs}))


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model comes from `transformers`, without importing it for the models that do not."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


def float_outputs(output: Any) -> tuple[Tensor, ...]:
    """The tensors that a model is for: logits if it has any, else hidden and pooled states, else what floats."""
    if isinstance(output, Tensor):
        return (output,)
    if not isinstance(output, Mapping):
        return tuple(v for v in output if _is_float(v))
    found = {
        k: v
        for k, v in output.items()
        if _is_float(v) and not any(d in k for d in _DROPPED if k != "last_hidden_state")
    }
    for wanted in (_is_logits, ("last_hidden_state", "pooler_output").__contains__):
        chosen = {k: v for k, v in found.items() if wanted(k)}
        if chosen:
            return tuple(chosen[k] for k in sorted(chosen, key=lambda k: k != "logits"))
    return tuple(found.values())


def named_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Positional and keyword inputs under their names, None left out."""
    bound = inspect.signature(model.forward).bind(*args, **(kwargs or {}))
    found = dict(bound.arguments)
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    return {k: v for k, v in found.items() if v is not None}


def example_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs that a model of `transformers` accepts, chosen by their names and its config.

    Shapes: (2, 7) for token ids, (2, channels, size, size) for images, what the config says for audio.

    Raises:
        TraceError: an input is required whose form the config does not say.
    """
    config: Any = getattr(model, "config", None)
    found: dict[str, Tensor] = {}
    for name in _needed(model, config):
        make = _MAKERS.get(name)
        if make is None:
            raise TraceError(
                f"{type(model).__name__} needs the input `{name}`",
                cause="its shape does not follow from the config",
                remedy="give example inputs: trace(model, kwargs={...})",
            )
        made = make(config)
        found[name] = made.to(device=_device(model), dtype=_dtype(model) if made.is_floating_point() else None)
    return found


def _needed(model: nn.Module, config: Any) -> list[str]:
    accepted = inspect.signature(model.forward).parameters
    names = [str(getattr(model, "main_input_name", "input_ids"))]
    names += [p.name for p in accepted.values() if _is_required(p)]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    # A model of text and images that marks no place for the image inside the text reads both side by side.
    side_by_side = getattr(config, "vision_config", None) is not None and not _config(
        config, "image_token_id", "image_token_index"
    )
    if side_by_side and {"pixel_values", "input_ids"} <= accepted.keys():
        names += ["input_ids", "pixel_values"]
    return list(dict.fromkeys(names))


def _is_required(parameter: inspect.Parameter) -> bool:
    plain = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return plain and parameter.default is inspect.Parameter.empty


def _is_logits(name: str) -> bool:
    return "logits" in name


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in model.parameters()), torch.device("cpu"))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((t.dtype for t in model.parameters() if t.is_floating_point()), torch.float32)


def _config(config: Any, *names: str, default: Any = None) -> Any:
    """The first of several settings that the config, or a part of it, has."""
    parts = (config, *(getattr(config, p, None) for p in ("text_config", "vision_config", "audio_config")))
    return next((v for n in names for c in parts for v in [getattr(c, n, None)] if v is not None), default)


def _tokens(length: int) -> Callable[[Any], Tensor]:
    def make(config: Any) -> Tensor:
        vocabulary = int(_config(config, "vocab_size", default=2))
        longest = int(_config(config, "max_position_embeddings", default=length))
        n = min(length, longest) if longest > 0 else length
        return torch.randint(0, vocabulary, (BATCH, n), generator=torch.Generator().manual_seed(0))

    return make


def _image(config: Any) -> Tensor:
    size = _config(config, "image_size", "input_size")
    if size is None:
        size = math.lcm(_IMAGE, int(_pair(_config(config, "patch_size", default=1))[0]))
    channels = _config(config, "num_channels", "in_channels", "in_chans", default=3)
    return _noise(BATCH, int(channels), *_pair(size))


def _features(config: Any) -> Tensor:
    bins = int(_config(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=80))
    positions = _config(config, "max_source_positions")
    # An encoder with learned positions halves the length once and reads exactly that many.
    if (
        _config(config, "num_mel_bins") is not None
        and positions is not None
        and not _config(config, "conv_kernel_sizes")
    ):
        return _noise(BATCH, bins, 2 * int(positions))
    return _noise(BATCH, 16 * LENGTH, bins)


def _audio(config: Any) -> Tensor:
    bins, longest = _config(config, "num_mel_bins"), _config(config, "max_length")
    if bins is not None and longest is not None and _config(config, "conv_kernel") is None:
        return _noise(BATCH, int(longest), int(bins))
    n = LENGTH
    for kernel, stride in reversed(list(zip(_ints(config, "conv_kernel"), _ints(config, "conv_stride"), strict=False))):
        n = (n - 1) * stride + kernel
    return _noise(BATCH, n)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    first, second = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return int(first), int(second)


def _ints(config: Any, name: str) -> Iterable[int]:
    return tuple(_config(config, name, default=()))


_MAKERS: dict[str, Callable[[Any], Tensor]] = {
    "input_ids": _tokens(LENGTH),
    "decoder_input_ids": _tokens(DECODER_LENGTH),
    "pixel_values": _image,
    "input_features": _features,
    "input_values": _audio,
}
