"""The smallest instance of an architecture that can be built and run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from symgraph.errors import TraceError, UsageError, one_line
from symgraph.tracing.tiny_config import rebuilt, settings
from symgraph.tracing.tiny_fields import Sizes
from symgraph.tracing.wrap import TensorsOnly, example_inputs

# A vocabulary of many more words than the streams are wide: a first block that sees each word by itself would leave too
# much open otherwise.
_SMALLEST = Sizes(
    width=8,
    heads=2,
    groups=1,
    feed_forward=10,
    vocabulary=47,
    positions=6,
    image=4,
    patch=2,
    experts=3,
    rank=4,
    state=4,
    window=2,
)
_LONGER = replace(_SMALLEST, groups=2, positions=16, image=8)
SIZES = (
    _SMALLEST,
    replace(_SMALLEST, groups=2),
    replace(_LONGER, proportional=True),
    replace(_LONGER, fill=True, experts=4),
    replace(_LONGER, width=16, heads=4, proportional=True),
)
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Instance:
    """A tiny model of an architecture, with random weights, and how its settings differ from those of the large one."""

    module: nn.Module
    changes: str


def tiny_instance(module: Any, most: int) -> Instance:
    """An instance of a model's architecture with few parameters, its other settings as they are.

    Args:
        module: a model of transformers, with or without weights.
        most: how many parameters it may have.

    Raises:
        UsageError: it could not be made, or not that small; with the first reason.
    """
    reason = ""
    for sizes in SIZES:
        # Whatever a config class or a model finds wrong with sizes that nobody has tried.
        try:
            small = built(type(module), rebuilt(module.config, sizes))
            with torch.no_grad():
                TensorsOnly(small)(**example_inputs(small))
        except TraceError:
            raise
        except Exception as error:
            reason = reason or one_line(error)
            continue
        count = sum(parameter.numel() for parameter in small.parameters())
        if count <= most:
            return Instance(small, _changes(module.config, small.config))  # type: ignore[arg-type]
        reason = reason or f"at width {sizes.width} it has {count:,} parameters"
    raise UsageError(
        f"no tiny instance of {type(module).__name__} was found",
        cause=reason,
        remedy="write a config with small sizes and give that: the same architecture has the same symmetries",
    )


def built(model_class: Any, config: PreTrainedConfig) -> nn.Module:
    """A model with random weights, in eval mode, with attention written out where its class has that."""

    def made(attention: str | None) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = model_class._from_config(config, attn_implementation=attention)
        return model.eval()

    for attention in ("eager", "sdpa"):
        with suppress(ValueError):
            return made(attention)
    return made(None)


def _changes(large: PreTrainedConfig, small: PreTrainedConfig) -> str:
    before, after = settings(large), settings(small)
    changed = [name for name in before if isinstance(before[name], int) and before[name] != after.get(name)]
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return ", ".join(f"{name} {before[name]} -> {after.get(name)}" for name in changed[:_NAMED]) + more
