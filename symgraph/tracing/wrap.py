"""Models of `transformers` as functions from tensors to tensors, and inputs to trace them with."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import TraceError, either
from symgraph.tracing.known import Known

# Sizes no other dimension is likely to have by chance, and that differ from each other.
BATCH, LENGTH, DECODER_LENGTH = 2, 7, 5
_IMAGE, _FRAMES = 32, 2
_EXPERTS = "batched_mm"
# Settings that make a forward pass return tensors only, given where the signature has them.
_FIXED = {"use_cache": False, "return_dict": True, "output_attentions": False, "output_hidden_states": False}
_ANYTHING = inspect.Parameter.VAR_KEYWORD
_COLLECTED = ("output_attentions", "output_hidden_states")
_DROPPED = ("loss", "past", "cache", "hidden_states", "attentions", "router", "mems")
_MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
_PLACES = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
_BESIDE = {"vision_config": ("pixel_values", "pixel_values_videos"), "audio_config": ("input_features", "input_values")}


class TensorsOnly(nn.Module):
    """A model whose named inputs and whose outputs are tensors; its parameters are under `model.`.

    Args:
        numbers: what integer inputs hold that decide about shapes.
    """

    def __init__(self, model: nn.Module, numbers: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.model, self.numbers = model, dict(numbers or {})
        accepted = inspect.signature(model.forward).parameters
        # A model that asks for its hidden states by default computes its outputs from them.
        asked = {name for name in _COLLECTED if name in accepted and accepted[name].default is True}
        # Decorators of transformers take `return_dict` without naming it; a class of one's own may have none of them.
        kinds = {parameter.kind for parameter in accepted.values()}
        unnamed = {"return_dict"} if _ANYTHING in kinds or hasattr(model.forward, "__wrapped__") else set()
        self.fixed = {
            name: value for name, value in _FIXED.items() if (name in accepted or name in unnamed) and name not in asked
        }

    def forward(self, **inputs: Any) -> tuple[Tensor, ...]:
        """The floating outputs of the model, logits first."""
        rest = {name: value for name, value in self.fixed.items() if name not in inputs}
        with Known({inputs[name]: number for name, number in self.numbers.items()}) if self.numbers else nullcontext():
            return float_outputs(self.model(**inputs, **rest))


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model comes from `transformers`, without importing it for the models that do not."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


@contextmanager
def gathered_experts(model: nn.Module) -> Iterator[None]:
    """Lets a mixture of experts gather the weights of each token's experts, where it can be asked to.

    The faster ways sort the tokens by their experts first; which weights a token meets is then no part of the graph.
    """
    if not (is_pretrained(model) and hasattr(model, "set_experts_implementation")):
        yield
        return
    pretrained: Any = model
    before = pretrained.get_experts_implementation()
    pretrained.set_experts_implementation(_EXPERTS)
    try:
        yield
    finally:
        pretrained.set_experts_implementation(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def float_outputs(output: Any) -> tuple[Tensor, ...]:
    """The tensors that a model is for: logits if it has any, else hidden and pooled states, else what floats."""
    if isinstance(output, Tensor):
        return (output,)
    if not isinstance(output, Mapping):
        return tuple(item for item in output if _is_float(item))
    named = {
        name: value
        for name, value in output.items()
        if _is_float(value) and not any(d in name for d in _DROPPED if name != "last_hidden_state")
    }
    for wanted in (_is_logits, ("last_hidden_state", "pooler_output").__contains__):
        chosen = {name: value for name, value in named.items() if wanted(name)}
        if chosen:
            return tuple(chosen[name] for name in sorted(chosen, key=lambda name: name != "logits"))
    return tuple(named.values())


def named_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Positional and keyword inputs under their names, None left out."""
    bound = inspect.signature(model.forward).bind(*args, **(kwargs or {}))
    given = dict(bound.arguments)
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
    return {name: value for name, value in given.items() if value is not None}


def example_inputs(model: nn.Module, *, masks: bool = False) -> dict[str, Tensor]:
    """Inputs that a model of `transformers` accepts, chosen by their names and its config.

    Args:
        masks: also the masks of token ids, with nothing masked.

    Shapes: (2, 7) for token ids, (2, channels, size, size) for images, what the config says for audio.

    Raises:
        TraceError: an input is required whose form the config does not say.
    """
    config: Any = getattr(model, "config", None)
    inputs: dict[str, Tensor] = {}
    for name in _needed(model, config):
        make = MAKERS.get(name)
        if make is None:
            raise TraceError(
                f"{type(model).__name__} needs the input `{name}`",
                cause="its shape does not follow from the config",
                remedy=either(
                    "give example inputs: trace(model, kwargs={...})",
                    "name a factory, path/file.py:make, that returns (module, example_inputs)",
                ),
            )
        made = make(config)
        inputs[name] = made.to(device=_device(model), dtype=_dtype(model) if made.is_floating_point() else None)
    return inputs | _masks(model, inputs) if masks else inputs


def _masks(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    accepted = inspect.signature(model.forward).parameters
    return {
        mask: torch.ones_like(inputs[tokens])
        for tokens, mask in _MASKS.items()
        if tokens in inputs and mask in accepted
    }


def _needed(model: nn.Module, config: Any) -> list[str]:
    accepted = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", "input_ids"))
    # A main input that may be anything is given as the kind that the model also accepts by its own name.
    names = [main if main in MAKERS else next((name for name in MAKERS if name in accepted), main)]
    names += [parameter.name for parameter in accepted.values() if _is_required(parameter)]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    names += _side_by_side(config, accepted)
    # Patches of images of many sizes come in one row for each image, with the sizes beside them.
    names += [
        name for name in ("pixel_attention_mask", "spatial_shapes") if "spatial_shapes" in accepted and name in accepted
    ]
    return list(dict.fromkeys(names))


def _side_by_side(config: Any, accepted: Mapping[str, Any]) -> list[str]:
    """Text and what stands beside it, in a model that marks no place for images or sound inside the text."""
    beside = [
        name
        for part, names in _BESIDE.items()
        if getattr(config, part, None) is not None
        for name in names
        if name in accepted
    ]
    inside = any(hasattr(config, place) for place in _PLACES)
    return ["input_ids", *beside[:1]] if beside and "input_ids" in accepted and not inside else []


def _is_required(parameter: inspect.Parameter) -> bool:
    plain = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return plain and parameter.default is inspect.Parameter.empty


def _is_logits(name: str) -> bool:
    return "logits" in name


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)


def setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of several settings that the config, or a part of it, has."""
    parts = (config, *(getattr(config, name, None) for name in ("text_config", "vision_config", "audio_config")))
    return next(
        (value for name in names for part in parts for value in [getattr(part, name, None)] if value is not None),
        default,
    )


def _tokens(length: int) -> Callable[[Any], Tensor]:
    def make(config: Any) -> Tensor:
        vocabulary = int(setting(config, "vocab_size", default=2))
        longest = int(setting(config, "max_position_embeddings", default=length))
        count = min(length, longest) if longest > 0 else length
        return torch.randint(0, vocabulary, (BATCH, count), generator=torch.Generator().manual_seed(0))

    return make


def _image(config: Any) -> Tensor:
    if setting(config, "num_patches") is not None:
        return noise(BATCH, *_patches(config))
    frames = setting(config, "num_frames")
    shape = _image_shape(config)
    return noise(BATCH, *shape) if frames is None else noise(BATCH, int(frames), *shape)


def _video(config: Any) -> Tensor:
    return noise(BATCH, int(setting(config, "num_frames", default=_FRAMES)), *_image_shape(config))


def _patches(config: Any) -> tuple[int, int]:
    """The number of patches and the numbers in one."""
    height, width = _pair(setting(config, "patch_size", default=1))
    return int(setting(config, "num_patches")), height * width * int(setting(config, "num_channels", default=3))


def _seen(config: Any) -> Tensor:
    return torch.ones(BATCH, _patches(config)[0], dtype=torch.long)


def _grid(config: Any) -> Tensor:
    """Rows and columns of patches, as near to a square as divides their number."""
    count = _patches(config)[0]
    rows = max(divisor for divisor in range(1, math.isqrt(count) + 1) if count % divisor == 0)
    return torch.tensor([[rows, count // rows]] * BATCH)


def _image_shape(config: Any) -> tuple[int, int, int]:
    size = setting(config, "image_size", "input_size")
    if size is None:
        size = math.lcm(_IMAGE, int(_pair(setting(config, "patch_size", default=1))[0]))
    channels = setting(config, "num_channels", "in_channels", "in_chans", default=3)
    # A list of channels is that of later stages.
    return (channels if isinstance(channels, int) else 3, *_pair(size))


def _features(config: Any) -> Tensor:
    names = ("feature_projection_input_dim", "num_mel_bins", "feature_size", "input_feat_per_channel")
    bins = int(setting(config, *names, default=80))
    # A spectrum read as a picture has a channel, and is not longer than what is folded into its square.
    if setting(config, "spec_size") is not None:
        return noise(BATCH, 1, int(setting(config, "spec_size")) ** 2 // bins, bins)
    positions = setting(config, "max_source_positions")
    # An encoder with learned positions halves the length once and reads exactly that many.
    if (
        setting(config, "num_mel_bins") is not None
        and positions is not None
        and not setting(config, "conv_kernel_sizes")
    ):
        return noise(BATCH, bins, 2 * int(positions))
    return noise(BATCH, 16 * LENGTH, bins)


def _audio(config: Any) -> Tensor:
    bins, longest = setting(config, "num_mel_bins"), setting(config, "max_length")
    if bins is not None and longest is not None and setting(config, "conv_kernel") is None:
        return noise(BATCH, int(longest), int(bins))
    length = LENGTH
    for kernel, stride in reversed(list(zip(_ints(config, "conv_kernel"), _ints(config, "conv_stride"), strict=False))):
        length = (length - 1) * stride + kernel
    return noise(BATCH, length)


def noise(*shape: int) -> Tensor:
    """The same normal numbers in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    first, second = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return int(first), int(second)


def _ints(config: Any, name: str) -> Iterable[int]:
    return tuple(setting(config, name, default=()))


MAKERS: dict[str, Callable[[Any], Tensor]] = {
    "input_ids": _tokens(LENGTH),
    "decoder_input_ids": _tokens(DECODER_LENGTH),
    "pixel_values": _image,
    "pixel_values_videos": _video,
    "pixel_attention_mask": _seen,
    "spatial_shapes": _grid,
    "input_features": _features,
    "input_values": _audio,
}
