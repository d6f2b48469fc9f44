"""What torch knows about an operator: its arguments, their defaults, and how to call it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from symgraph.ir import Node

PATTERN = "pattern:"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an operator's schema."""

    name: str
    default: Any
    required: bool
    keyword: bool
    tensor: bool
    number: bool = False


@cache
def operator(target: str) -> Any | None:
    """The torch operator called `target`, or None."""
    import torch

    found: Any = torch.ops
    for part in target.split("."):
        try:
            found = getattr(found, part)
        except (AttributeError, RuntimeError):
            return None
    return found if hasattr(found, "_schema") else None


@cache
def parameters(target: str) -> tuple[Argument, ...] | None:
    """Arguments of the operator called `target` in schema order, or None if torch has no such operator."""
    if target.rpartition(".")[2] == "getitem":
        return tuple(Argument(n, None, True, False, n == "self") for n in ("self", "index"))
    found = operator(target)
    if found is None:
        return None
    return tuple(
        Argument(
            a.name,
            a.default_value,
            not a.has_default_value(),
            a.kwarg_only,
            "Tensor" in str(a.type),
            str(a.type).removeprefix("Optional[").rstrip("]") in ("number", "float"),
        )
        for a in found._schema.arguments
    )


def arguments(node: Node) -> dict[str, Any] | None:
    """The arguments of a node by schema name, defaults filled in; None for an unknown operator."""
    if node.target.startswith(PATTERN):
        return dict(node.kwargs)
    schema = parameters(node.target)
    if schema is None or len(node.args) > len(schema):
        return None
    found = {a.name: a.default for a in schema}
    for argument, value in zip(schema, node.args, strict=False):
        found[argument.name] = value
    found.update(node.kwargs)
    return found


def call(target: str, values: Mapping[str, Any]) -> Any:
    """Runs the operator called `target` on arguments by name."""
    schema = parameters(target) or ()
    positional = [values.get(a.name, a.default) for a in schema if not a.keyword]
    keyword = {a.name: values[a.name] for a in schema if a.keyword and a.name in values}
    return operator(target)(*positional, **keyword)  # type: ignore[misc]


def similar(target: str) -> str:
    """An operator of torch with a name close to `target`, or ''."""
    import torch

    names = (n.replace("::", ".") for n in torch._C._dispatch_get_all_op_names())
    known = [n if n.count(".") > 1 else n + ".default" for n in names if n.startswith("aten::"[:4])]
    base = target.rpartition(".")[0]
    overloads = sorted(n for n in known if n.rpartition(".")[0] == base)
    if overloads:
        return overloads[0]
    return next(iter(difflib.get_close_matches(target, known, 1, 0.8)), "")
