"""Kinds of input beside the plain one: pictures or sound inside of a text, states of an encoder, masked positions.

A model of transformers that takes several kinds reads some of its parameters for some of them only. Everything follows
from the names that its `forward` accepts, its config, and how many rows its own code makes of a picture or a sound.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from symgraph.tracing.known import Known
from symgraph.tracing.meta import as_if_on_cpu
from symgraph.tracing.wrap import MAKERS, evaluating, noise, setting

Inputs = dict[str, Tensor]
PICTURE, SOUND, ENCODER, MASKED = "text with picture", "text with sound", "encoder states", "masked positions"
_ROWS = 6
# Of what stands in the place of a picture or a sound, and which input it becomes.
_PLACES = {
    PICTURE: ("pixel_values", "get_image_features", ("image_token_id", "image_token_index")),
    SOUND: ("input_features", "get_audio_features", ("audio_token_id", "audio_token_index")),
}
_TYPES = ("mm_token_type_ids", "token_type_ids")


def further_kinds(model: nn.Module, plain: Mapping[str, Tensor]) -> Iterator[tuple[str, Callable[[], Inputs]]]:
    """What a model takes beside its plain inputs: what each kind is called, and how its inputs are made.

    All tensors are on the CPU, with batches of one where places for a picture or a sound are counted.
    """
    accepted = _accepted(model)
    config: Any = getattr(model, "config", None)
    for label, (name, features, tokens) in _PLACES.items():
        token = setting(config, *tokens)
        if name in accepted and name not in plain and "input_ids" in plain and token is not None:
            yield label, partial(_placed, model, config, name, features, int(token), label)
    if "encoder_hidden_states" in accepted and not getattr(config, "is_encoder_decoder", False):
        yield ENCODER, lambda: {**_cpu(plain), "encoder_hidden_states": noise(_batch(plain), _ROWS, _width(config))}
    for name in ("bool_masked_pos", "mask_time_indices"):
        if name in accepted and name not in plain:
            yield MASKED, partial(_masked, model, config, plain, name)


def _accepted(model: nn.Module) -> set[str]:
    """What a call may name: what `forward` does and, if it hands on what it does not know, what its parts do."""
    parameters = inspect.signature(model.forward).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return set(parameters)
    return {name for part in model.modules() for name in inspect.signature(part.forward).parameters}


def numbers_of(inputs: Mapping[str, Tensor]) -> Inputs:
    """The inputs whose values decide about shapes."""
    return {name: tensor for name, tensor in inputs.items() if not tensor.is_floating_point()}


def _placed(model: nn.Module, config: Any, name: str, features: str, token: int, kind: str) -> Inputs:
    """A text with places for all rows that the model makes of one picture or sound."""
    count = getattr(model, features, None) or getattr(getattr(model, "model", None), features, None)
    accepted = set(inspect.signature(model.forward).parameters)
    for given in _pictures(config, accepted) if kind == PICTURE else _sounds(config, accepted):
        with suppress(RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError, KeyError):
            rows = _rows(model, count, given) if count is not None else _length(model, given, given[name].shape[-1])
            return {**_text(config, accepted, token, rows), **given}
    raise ValueError(f"no {name} of any usual form fits")


def _rows(model: nn.Module, count: Any, given: Inputs) -> int:
    """How many rows a model makes of a picture or a sound."""
    accepted = inspect.signature(count).parameters
    named = {name: tensor for name, tensor in given.items() if name in accepted}
    with evaluating(model), torch.no_grad(), as_if_on_cpu(model, (), named) as (_, inputs), Known({}):
        counted = count(**{**inputs, **numbers_of(named)})
    outputs = (getattr(counted, name, None) for name in ("pooler_output", "last_hidden_state"))
    rows = next((output for output in outputs if output is not None), counted)
    held = [leaf for leaf in tree_leaves(rows) if isinstance(leaf, Tensor)]
    return sum(math.prod(tensor.shape[:-1]) for tensor in held)


def _length(model: nn.Module, given: Inputs, length: int) -> int:
    """How many rows a part of a model says that it makes of a sound of this length."""
    if any(mask.shape[-1] != length for mask in numbers_of(given).values()):
        raise ValueError("a mask is of another length than the sound")
    lengths: Any = next(module for module in model.modules() if hasattr(module, "_get_feat_extract_output_lengths"))
    return int(tree_leaves(lengths._get_feat_extract_output_lengths(torch.tensor([length])))[-1])


def _text(config: Any, accepted: Set[str], token: int, rows: int) -> Inputs:
    named = {name: number for name, number in vars(config).items() if name.endswith(("token_id", "token_index"))}
    special = {number for number in named.values() if isinstance(number, int)}
    vocabulary = range(int(setting(config, "vocab_size", default=2)))
    plain = [number for number in vocabulary if number not in special][:_ROWS]
    half = _ROWS // 2
    ids = torch.tensor([[*plain[:half], *[token] * rows, *plain[half:]]])
    types = (ids == token).int()
    return {"input_ids": ids, **{name: types for name in _TYPES if name in accepted}}


def _pictures(config: Any, accepted: Set[str]) -> Iterator[Inputs]:
    """One picture in the forms that models take: patches in a row, with their grid or without, whole, or in tiles."""
    vision = getattr(config, "vision_config", config)
    if "image_grid_thw" in accepted:
        side = 2 * int(setting(vision, "spatial_merge_size", default=1))
        frames = int(setting(vision, "temporal_patch_size", default=1))
        patch = int(setting(vision, "patch_size"))
        channels = int(setting(vision, "in_channels", "in_chans", "num_channels", default=3))
        patches = noise(side * side, channels * frames * patch * patch)
        yield {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, side, side]])}
    picture = MAKERS["pixel_values"](vision)[:1]
    tiled = [picture.expand(tiles, *picture.shape[1:]).unsqueeze(0) for tiles in (1, 2, 3, 5)]
    for pixels in (picture, *tiled):
        yield {"pixel_values": pixels}
        if "image_sizes" in accepted:
            yield {"pixel_values": pixels, "image_sizes": torch.tensor([picture.shape[-2:]])}
    patch, channels = setting(vision, "patch_size"), setting(vision, "num_channels")
    if isinstance(patch, int) and isinstance(channels, int):
        yield {"pixel_values": noise(1, _ROWS, channels * patch * patch)}


def _sounds(config: Any, accepted: Set[str]) -> Iterator[Inputs]:
    sound = getattr(config, "audio_config", config)
    drawn = MAKERS["input_features"]
    masks = ("feature_attention_mask", "input_features_mask", "audio_attention_mask")
    for features in (drawn(sound)[:1], drawn(sound)[:1].transpose(1, 2)):
        for mask, length in product(filter(accepted.__contains__, masks), features.shape[1:]):
            yield {"input_features": features, mask: torch.ones(1, length, dtype=torch.long)}
        yield {"input_features": features}


def _masked(model: nn.Module, config: Any, plain: Mapping[str, Tensor], name: str) -> Inputs:
    """Every other position masked."""
    if name == "mask_time_indices":
        lengths: Any = model._get_feat_extract_output_lengths
        positions = int(lengths(next(iter(plain.values())).shape[1]))
    else:
        height, width = next(iter(plain.values())).shape[-2:]
        size = setting(config, "patch_size")
        patch = size if isinstance(size, int) else size[-1]
        positions = (height // patch) * (width // patch)
    return {**_cpu(plain), name: (torch.arange(positions) % 2 == 0).expand(_batch(plain), positions)}


def _width(config: Any) -> int:
    return int(setting(config, "cross_attention_hidden_size", "encoder_hidden_size", "hidden_size"))


def _batch(plain: Mapping[str, Tensor]) -> int:
    return len(next(iter(plain.values())))


def _cpu(plain: Mapping[str, Tensor]) -> Inputs:
    return {
        name: torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu()
        for name, tensor in plain.items()
    }
