"""Names that a person recognises, from the parameters a space touches and the labels that rules give.

`labels` come from rules (attention calls its axes query-key, value-output and heads). The rest follows from structure:
a space whose values are summed is a residual stream; a space that is written and read inside one block is its hidden
space; a rigid axis is called after its parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


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
    streams = [i for i, it in enumerate(items) if it.summed and not it.rigid and not it.label]
    main = max(streams, key=lambda i: len(items[i].owners), default=-1)
    single = len(streams) == 1 or _dominates(items, streams, main)
    names = []
    for i, it in enumerate(items):
        if i in streams:
            names.append("residual" if i == main and single else _join(_place(it.owners), "residual"))
        elif it.label and it.fibre:
            names.append(_join(_place(items[it.fibre[0]].owners), _label(items, i)))
        else:
            names.append(_name(it, _label(items, i)))
    return _unique(_strip(names))


def _dominates(items: Sequence[Unnamed], streams: list[int], main: int) -> bool:
    others = [len(items[i].owners) for i in streams if i != main]
    return bool(others) and len(items[main].owners) >= 3 * max(others)


def _name(it: Unnamed, label: str) -> str:
    if it.rigid:
        owner = it.owners[0] if it.owners else "value"
        return f"{owner}[{it.axis}]"
    return _join(_place(it.owners), label or ("hidden" if len(it.owners) > 1 else "units"))


def _label(items: Sequence[Unnamed], index: int) -> str:
    """The rule's label; where one batch axis is fibred over another, groups and their members are told apart."""
    it = items[index]
    if not it.label:
        return ""
    if any(items[f].label == it.label for f in it.fibre):
        return f"{it.label}-in-group"
    if any(index in other.fibre and other.label == it.label for other in items):
        return f"{it.label.removesuffix('s')}-groups"
    return it.label


def _place(owners: Sequence[str]) -> str:
    """Longest common module path of the owners' modules."""
    paths = [o.split(".")[:-1] for o in owners]
    if not paths:
        return ""
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _join(place: str, label: str) -> str:
    return f"{place}.{label}" if place else label


def _strip(names: list[str]) -> list[str]:
    """Drops the leading component that all dotted names share (the base model's attribute)."""
    dotted = [n.split(".")[0] for n in names if "." in n and "[" not in n]
    if len(dotted) < 2 or len(set(dotted)) != 1 or dotted[0].isdigit():
        return names
    lead = dotted[0] + "."
    return [n.removeprefix(lead) if "[" not in n else n for n in names]


def _unique(names: list[str]) -> list[str]:
    total, seen, result = Counter(names), Counter[str](), []
    for n in names:
        seen[n] += 1
        result.append(n if total[n] == 1 else f"{n}.{seen[n] - 1}")
    return result
