"""Names that a person recognises, from the parameters a space touches and the labels that rules give.

`labels` come from rules (attention calls its axes query-key, value-output and heads). The rest follows from structure:
a space whose values are summed is a residual stream; a space that is written and read inside one block is its hidden
space; a rigid axis is called after its parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

# In front of the labels of attention that reads another stream.
CROSS = "cross-"


@dataclass(frozen=True, slots=True)
class Unnamed:
    """What naming needs to know of one space."""

    owners: tuple[str, ...]
    label: str
    summed: bool
    rigid: bool
    axis: int
    fibre: tuple[int, ...] = ()


def name_spaces(items: Sequence[Unnamed]) -> list[str]:
    """One unique name for each space."""
    streams = [item for item in items if item.summed and not item.rigid and not item.label]
    main = _main_stream(streams)
    return _unique(
        _without_shared_lead([_name(items, place, item in streams, main) for place, item in enumerate(items)])
    )


def _main_stream(streams: Sequence[Unnamed]) -> Unnamed | None:
    """The one stream that is called `residual` alone: the only one, or one of three times the tensors of any other."""
    first, *others = sorted((len(stream.owners) for stream in streams), reverse=True) or [0]
    dominates = not others or first >= 3 * others[0]
    return max(streams, key=lambda stream: len(stream.owners), default=None) if dominates else None


def _name(items: Sequence[Unnamed], place: int, is_stream: bool, main: Unnamed | None) -> str:
    item, label = items[place], _label(items, place)
    if is_stream:
        return "residual" if item is main else _join(_module(item.owners), "residual")
    if item.label and item.fibre:
        return _join(_module(items[item.fibre[0]].owners), label)
    if item.rigid:
        return f"{item.owners[0] if item.owners else 'value'}[{item.axis}]"
    return _join(_module(item.owners), label or ("hidden" if len(item.owners) > 1 else "units"))


def _label(items: Sequence[Unnamed], place: int) -> str:
    """The rule's label; where one batch axis is fibred over another, groups and their members are told apart.

    What is fibred over the heads of cross-attention is called so as well.
    """
    label, fibre = items[place].label, items[place].fibre
    if label and not label.startswith(CROSS) and any(items[outer].label.startswith(CROSS) for outer in fibre):
        label = f"{CROSS}{label}"
    if label and any(items[outer].label == label for outer in fibre):
        return f"{label}-in-group"
    if label and any(place in other.fibre and other.label == label for other in items):
        return f"{label.removesuffix('s')}-groups"
    return label


def _module(owners: Sequence[str]) -> str:
    """Longest common path of the modules that tensors belong to: `h.0.mlp` for `h.0.mlp.up` and `h.0.mlp.down`."""
    paths = [owner.split(".")[:-1] for owner in owners]
    levels = (set(parts) for parts in zip(*paths, strict=False))
    return ".".join(part for level in takewhile(lambda level: len(level) == 1, levels) for part in level)


def _join(module: str, label: str) -> str:
    return f"{module}.{label}" if module else label


def _without_shared_lead(names: list[str]) -> list[str]:
    """Drops the first word that all dotted names share (the base model's attribute)."""
    leads = [name.split(".")[0] for name in names if "." in name and "[" not in name]
    if len(leads) < 2 or len(set(leads)) != 1 or leads[0].isdigit():
        return names
    return [name if "[" in name else name.removeprefix(f"{leads[0]}.") for name in names]


def _unique(names: list[str]) -> list[str]:
    """Names that occur several times, numbered: `hidden.0`, `hidden.1`."""
    total, seen, unique = Counter(names), Counter[str](), []
    for name in names:
        unique.append(name if total[name] == 1 else f"{name}.{seen[name]}")
        seen[name] += 1
    return unique
