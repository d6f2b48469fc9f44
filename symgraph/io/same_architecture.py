"""What tells the architectures of two models apart: their class, their config as far as it matters, their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from symgraph.errors import CheckpointError, shorten
from symgraph.io.alike import compute_alike
from symgraph.io.models import Model

# Keys of a config that change neither a shape nor the function computed in evaluation mode.
_IRRELEVANT = re.compile(
    r"_.*|(name_or_path|transformers_version|(torch_)?dtype|architectures|auto_map|use_cache|return_dict|id2label"
    r"|label2id|task_specific_params|finetuning_task|problem_type|prefix|tokenizer_class|gradient_checkpointing"
    r"|output_\w+|initializer_\w+|\w*_std|\w*drop(out|_path)?\w*|\w*_pdrop|\w*token_id|summary_\w+|loss_\w+)"
)


def architecture_differences(a: Model, b: Model, names: tuple[str, str] | None = None) -> list[str]:
    """What tells two architectures apart: the class; or config (as far as it changes what is computed) and shapes.

    Args:
        names: what the two are called where one has parameters that the other lacks (default: what they came from).
    """
    if problems := [*_class_differences(a, b)]:
        return problems
    configs, shapes = [*_config_differences(a, b)], [*_shape_differences(a.module, b.module, names or (a.spec, b.spec))]
    # Many settings change nothing: how long a text may be, what labels are called.
    return shapes if configs and not shapes and compute_alike(a, b) else [*configs, *shapes]


def check_same_architecture(a: Model, b: Model, *, widths: bool = False, names: tuple[str, str] | None = None) -> None:
    """Raise unless the two models have one class, one config (as far as it matters) and the same shapes.

    Args:
        widths: say that widths may differ, where the caller takes such models.
        names: as for `architecture_differences`.

    Raises:
        CheckpointError: listing what differs.
    """
    problems = architecture_differences(a, b, names)
    if problems:
        raise CheckpointError(
            f"{a.spec} and {b.spec} are of different architectures",
            cause="; ".join(problems),
            remedy=f"name checkpoints of one class and {'one depth: only widths can differ' if widths else 'one size'}",
        )


def _class_differences(a: Model, b: Model) -> Iterator[str]:
    names = type(a.module).__name__, type(b.module).__name__
    if names[0] != names[1]:
        yield f"the classes are {names[0]} and {names[1]}"


def _config_differences(a: Model, b: Model) -> Iterator[str]:
    if a.config is None or b.config is None or type(a.config) is not type(b.config):
        return
    first, second = _flat(a.config), _flat(b.config)
    keys = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    if keys:
        yield "the configs differ in " + shorten(f"{key} ({first.get(key)} and {second.get(key)})" for key in keys)


def _flat(config: Any) -> dict[str, Any]:
    values = config.to_dict() if hasattr(config, "to_dict") else config
    return dict(_relevant(values if isinstance(values, dict) else vars(values), ""))


def _relevant(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if _IRRELEVANT.fullmatch(str(key)):
            continue
        if isinstance(value, dict):
            yield from _relevant(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shape_differences(a: nn.Module, b: nn.Module, names: tuple[str, str]) -> Iterator[str]:
    first, second = ({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} for module in (a, b))
    shapes = [
        f"{name} {first[name]} and {second[name]}" for name in first if name in second and first[name] != second[name]
    ]
    if shapes:
        yield f"shapes differ: {shorten(shapes)}"
    for called, own, others in zip(names, (first, second), (second, first), strict=True):
        if alone := [name for name in own if name not in others]:
            yield f"only {called} has {shorten(alone)}"
