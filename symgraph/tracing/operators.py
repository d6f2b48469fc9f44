"""What torch's own schemas say about an operator: what it draws, what it mutates, what its result may alias."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

from symgraph.tracing.arguments import operator

_WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# With numbers in the place of tensors, which torch has no tag for.
_WHERE = frozenset({"aten.where.Scalar", "aten.where.ScalarSelf", "aten.where.ScalarOther"})


@cache
def is_pointwise(target: str) -> bool:
    """Whether torch says of an operator, or of the one it stands for, that it treats every position by itself."""
    op = operator("aten.where.self" if target in _WHERE else target)
    return op is not None and torch.Tag.pointwise in op.tags


def draws(target: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers; what only would in training, or with dropout, does not."""
    op = operator(target)
    if op is None or torch.Tag.nondeterministic_seeded not in op.tags:
        return False
    schema = op._schema.arguments
    given = {
        argument.name: args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        for place, argument in enumerate(schema)
    }
    return not any(name in given and not given[name] for name in ("train", "training", "dropout_p", "dropout"))


@cache
def written(target: str) -> tuple[int, ...]:
    """Positions of the arguments that the operator writes to."""
    op = operator(target)
    return (
        () if op is None else tuple(place for place, argument in enumerate(op._schema.arguments) if _is_write(argument))
    )


@cache
def aliased(target: str) -> tuple[int, ...]:
    """Positions of the arguments whose memory the result may share."""
    op = operator(target)
    return (
        ()
        if op is None
        else tuple(place for place, argument in enumerate(op._schema.arguments) if argument.alias_info is not None)
    )


@cache
def functional(target: str) -> str | None:
    """The operator that computes what an in-place one does without writing: `aten.add_.Tensor` -> `aten.add.Tensor`."""
    space, name, overload = target.split(".")
    inplace = re.fullmatch(r"__i(\w+)__", name)
    plain = f"__{inplace[1]}__" if inplace else name.removesuffix("_")
    if plain == name:
        return None
    packet = getattr(getattr(torch.ops, space), plain, None)
    # Names of overloads differ between the two (`pow_.Scalar` is `pow.Tensor_Scalar`): what they take says which it is.
    overloads = sorted(packet.overloads(), key=lambda name: name != overload) if packet is not None else ()
    targets = (f"{space}.{plain}.{name}" for name in overloads)
    return next(
        (candidate for candidate in targets if not written(candidate) and _takes(candidate) == _takes(target)), None
    )


def _takes(target: str) -> list[str]:
    """Types of an operator's arguments."""
    op = operator(target)
    return [] if op is None else [str(argument.type) for argument in op._schema.arguments]


def first_position(start: int | None, size: int) -> int:
    """Where a slice of an axis begins: counted from the end where negative, and never outside."""
    given = start or 0
    return min(max(given + size if given < 0 else given, 0), size)


@cache
def short_name(target: str) -> str:
    """The operator's name alone, as the names of values use it: `aten.add_.Tensor` -> `add`."""
    name = target.split(".")[-2] if "." in target else target
    return name.strip("_") or "value"


def is_wide(dtype: torch.dtype) -> bool:
    """Whether a floating type is one that models are computed in; a cast to any other cuts entries to a few numbers."""
    return dtype in _WIDE


def _is_write(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)
