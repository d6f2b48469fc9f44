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
    """One argument of an operator's schema; `nullable` is a tensor that may be left out, whatever the default."""

    name: str
    default: Any
    required: bool
    keyword: bool
    tensor: bool
    number: bool = False
    nullable: bool = False


@cache
def operator(target: str) -> Any | None:
    """The torch operator called `target`, or None."""
    import torch

    looked_up: Any = torch.ops
    for part in target.split("."):
        try:
            looked_up = getattr(looked_up, part)
        except (AttributeError, RuntimeError):
            return None
    return looked_up if hasattr(looked_up, "_schema") else None


@cache
def parameters(target: str) -> tuple[Argument, ...] | None:
    """Arguments of the operator called `target` in schema order, or None if torch has no such operator."""
    if target.rpartition(".")[2] == "getitem":
        return tuple(Argument(name, None, True, False, name == "self") for name in ("self", "index"))
    overload = operator(target)
    if overload is None:
        return None
    return tuple(
        Argument(
            argument.name,
            argument.default_value,
            not argument.has_default_value(),
            argument.kwarg_only,
            "Tensor" in str(argument.type),
            str(argument.type).removeprefix("Optional[").rstrip("]") in ("number", "float"),
            str(argument.type) == "Optional[Tensor]",
        )
        for argument in overload._schema.arguments
    )


def arguments(node: Node) -> dict[str, Any] | None:
    """The arguments of a node by schema name, defaults filled in; None for an unknown operator."""
    if node.target.startswith(PATTERN):
        return dict(node.kwargs)
    schema = parameters(node.target)
    if schema is None or len(node.args) > len(schema):
        return None
    names, defaults = _defaults(node.target)
    return {**defaults, **dict(zip(names, node.args, strict=False)), **dict(node.kwargs)}


@cache
def _defaults(target: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the arguments in schema order, and what each is where it is not given."""
    known = {argument.name: argument.default for argument in parameters(target) or ()}
    return tuple(known), known


def call(target: str, values: Mapping[str, Any]) -> Any:
    """Runs the operator called `target` on arguments by name."""
    schema = parameters(target) or ()
    positional = [values.get(argument.name, argument.default) for argument in schema if not argument.keyword]
    keyword = {
        argument.name: values[argument.name] for argument in schema if argument.keyword and argument.name in values
    }
    return operator(target)(*positional, **keyword)  # type: ignore[misc]


def named_operator(text: str) -> str:
    """The operator that a text names: `lgamma`, `torch.lgamma`, `aten::pow.Tensor_Scalar`, `mylib.op`; else ''."""
    plain = text.replace("::", ".").removeprefix("torch.").removeprefix("ops.")
    names = (plain, f"aten.{plain}")
    exact = next((name for name in names if name.count(".") == 2 and operator(name) is not None), "")
    return exact or next((overload for candidate in names if (overload := _first_overload(candidate))), "")


def _first_overload(name: str) -> str:
    """The overload of an operator that is asked for by its name: the default one, or else that of tensors alone."""
    import torch

    space, _, short = name.partition(".")
    packet: Any = getattr(getattr(torch.ops, space, None), short, None) if short and "." not in short else None
    overloads = packet.overloads() if hasattr(packet, "overloads") else ()
    reading = [overload for overload in overloads if _reads_tensors(f"{name}.{overload}")]
    chosen = next((overload for overload in ("default", "Tensor", *reading) if overload in reading), "")
    return f"{name}.{chosen}" if chosen else ""


def _reads_tensors(target: str) -> bool:
    """Whether an operator reads tensors and gives new ones."""
    import torch

    overload, known = operator(target), parameters(target) or ()
    return overload is not None and torch.Tag.out not in overload.tags and any(argument.tensor for argument in known)


def similar(target: str) -> str:
    """An operator of torch with a name close to `target`, or ''."""
    import torch

    names = {
        name.split("::")[1].partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::")
    }
    parts = target.replace("::", ".").split(".")
    short = parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[0]
    if short in names:
        return _first_overload(f"aten.{short}")
    close = difflib.get_close_matches(short, sorted(names), 1, 0.8)
    return _first_overload(f"aten.{close[0]}") if close else ""
