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
            str(a.type) == "Optional[Tensor]",
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


def named_operator(text: str) -> str:
    """The operator that a text names: `lgamma`, `torch.lgamma`, `aten::pow.Tensor_Scalar`, `mylib.op`; else ''."""
    plain = text.replace("::", ".").removeprefix("torch.").removeprefix("ops.")
    names = (plain, f"aten.{plain}")
    exact = next((n for n in names if n.count(".") == 2 and operator(n) is not None), "")
    return exact or next((found for n in names if (found := _first_overload(n))), "")


def _first_overload(name: str) -> str:
    """The overload of an operator that is asked for by its name: the default one, or else that of tensors alone."""
    import torch

    space, _, short = name.partition(".")
    packet: Any = getattr(getattr(torch.ops, space, None), short, None) if short and "." not in short else None
    overloads = packet.overloads() if hasattr(packet, "overloads") else ()
    reading = [o for o in overloads if _reads_tensors(f"{name}.{o}")]
    found = next((o for o in ("default", "Tensor", *reading) if o in reading), "")
    return f"{name}.{found}" if found else ""


def _reads_tensors(target: str) -> bool:
    """Whether an operator reads tensors and gives new ones."""
    import torch

    found, known = operator(target), parameters(target) or ()
    return found is not None and torch.Tag.out not in found.tags and any(a.tensor for a in known)


def similar(target: str) -> str:
    """An operator of torch with a name close to `target`, or ''."""
    import torch

    names = {
        n.split("::")[1].partition(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")
    }
    parts = target.replace("::", ".").split(".")
    short = parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[0]
    if short in names:
        return _first_overload(f"aten.{short}")
    close = difflib.get_close_matches(short, sorted(names), 1, 0.8)
    return _first_overload(f"aten.{close[0]}") if close else ""
