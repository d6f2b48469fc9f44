"""Translations: constants that move between summed terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.applied import Applied
from symgraph.inference.flow import Axis, Flow
from symgraph.inference.structural import KEEPING
from symgraph.ir import Kind, Node
from symgraph.symmetry.families import Lean, Place, Translation
from symgraph.tracing.interpreter import call
from symgraph.tracing.operators import first_position

MAX_ALTERNATIVES = 8
Window = tuple[int, int, int]
# Where the last axes keep their sizes, these keep what stands along them.
_ROW_MAJOR = KEEPING - {"permute", "transpose", "movedim"}


@dataclass(frozen=True, slots=True)
class _Way:
    """Places that together add one constant to a value, on a window (axis from the right, start, stop) or all of it.

    `axis` is the axis of the value that the constant varies along. `joint` says that the places hold the constant on
    one window each, which a finer family may say by itself.
    """

    places: frozenset[Place]
    axis: Axis
    window: Window | None = None
    joint: bool = False


Ways = dict[str, list[_Way]]
Lent = Mapping[str, str]


def find_translations(flow: Flow, lent: Lent) -> list[Translation]:
    """Sets of places whose constants add up in one value before anything else sees them.

    Args:
        lent: a parameter that something else reads as well, which does not see the constants or makes up for them,
            with the one call that it counts in.
    """
    found: Ways = {}
    carried: set[str] = set()
    for a in flow.d.eq.applied:
        ways = _ways(flow, a, found, lent)
        if ways and a.node.name not in flow.graph.outputs:
            found[a.node.name] = ways[: 2 * MAX_ALTERNATIVES]
            carried.update(r for r in a.node.refs() if _flows(flow, r, found, ways))
    return [t for name, ways in found.items() if name not in carried for t in _translations(ways)]


def find_shared(flow: Flow, leans: list[Lean], lent: Lent) -> list[Lean]:
    """Leans of readers that are tables as well (tied embeddings), with the places that give what their rows get.

    What every row gets is a constant of the sum that the rows stand in, and so can be taken from another summand.
    """
    twice = {x.reader.parameter: x for x in leans if x.reader.parameter in lent}
    found = {}
    for t in find_translations(flow, lent) if twice else ():
        plain = [s for s in t.sets if not any(p.parameter in twice for p in s)]
        for place in (s[0] for s in t.sets if len(s) == 1 and plain):
            lean = twice.get(place.parameter)
            if lean is not None and (place.axis, place.window) == (lean.reader.axis, ()) and _whole(flow, lean):
                givers = tuple(replace(p, factor=p.factor / place.factor) for p in plain[0])
                found[place.parameter] = replace(lean, givers=givers)
    return list(found.values())


def _whole(flow: Flow, lean: Lean) -> bool:
    return lean.reader.size == flow.graph.state[lean.reader.parameter].shape[lean.reader.axis]


def _translations(ways: list[_Way]) -> list[Translation]:
    by_axis: dict[Axis, list[_Way]] = {}
    for way in ways:
        by_axis.setdefault(way.axis, []).append(way)
    return [t for group in by_axis.values() for t in _along_one(group)]


def _along_one(ways: list[_Way]) -> list[Translation]:
    windows = list(dict.fromkeys(w.window for w in ways if w.window is not None))
    fine = [t for w in windows if (t := _translation([x for x in ways if x.window == w])) is not None]
    coarse = _translation([x for x in ways if x.window is None and not (x.joint and len(fine) == len(windows))])
    return [*fine, *([coarse] if coarse is not None else [])]


def _translation(ways: list[_Way]) -> Translation | None:
    sets = list(dict.fromkeys(w.places for w in ways))
    if len(sets) < 2 or len({p for s in sets for p in s}) != sum(map(len, sets)):
        return None
    plain = [sorted(s, key=_order) for s in sets]
    return Translation(tuple(map(tuple, sorted(plain, key=lambda s: (-len(s), [_order(p) for p in s])))))


def _order(p: Place) -> tuple[str, int, tuple[int, ...]]:
    return p.parameter, p.axis, p.window


def _flows(flow: Flow, value: str, found: Ways, ways: list[_Way]) -> bool:
    """Whether the constants in a value reach this one place alone, so that its ways say all about them."""
    return len(flow.graph.users[value]) == 1 and any(s.places <= t.places for s in found.get(value, ()) for t in ways)


def _ways(flow: Flow, a: Applied, found: Ways, lent: Lent) -> list[_Way]:
    if a.rule is None or a.binding is None or a.rule.reduces:
        return []
    if a.rule.structure:
        return _carried(flow, a, found, lent)
    factor = _factor(flow, a)
    if factor:
        return [_scaled(w, factor) for w in _operand(flow, a, next(iter(a.node.refs())), found, lent)]
    bias = flow.bias(a)
    own = [_Way(frozenset({Place(bias.target, 0)}), flow.axes(bias.name)[0])] if bias is not None else []
    operands = [r.name for k, (r, _) in a.binding.operands.items() if a.rule.shift.get(k) == "output"]
    each = [_operand(flow, a, name, found, lent) for name in operands]
    ways = own + [w for ways in each for w in ways]
    windows = dict.fromkeys(w.window for w in ways if w.window is not None)
    parts = [_restricted(flow, name, w, a.node.shape) for name in operands for w in windows]
    return ways + [w for w in parts if w is not None]


def _factor(flow: Flow, a: Applied) -> float | None:
    """The number that an operator multiplies every entry by: one that admits all maps entry by entry does that."""
    refs = list(a.node.refs())
    if a.rule is None or len(refs) != 1 or SymmetryClass.INVERTIBLE not in a.rule.admits.get("*", ()):
        return None
    value = call(flow.graph, a.node.name, {refs[0]: torch.ones(1, dtype=torch.float64)})
    return float(value) if value.numel() == 1 else None


def _scaled(way: _Way, factor: float) -> _Way:
    return replace(way, places=frozenset(replace(p, factor=factor * p.factor) for p in way.places))


def _operand(flow: Flow, a: Applied, value: str, found: Ways, lent: Lent) -> list[_Way]:
    node = flow.graph.by_name[value]
    here = node.kind is Kind.PARAMETER and lent.get(node.target) == a.node.name
    own = node if here else flow.own(value)
    if own is not None and len(own.shape) >= 1:
        return [_Way(frozenset({Place(own.target, len(own.shape) - 1)}), flow.axes(own.name)[-1])]
    return found.get(value, []) if len(flow.graph.users[value]) == 1 else []


def _restricted(flow: Flow, value: str, window: Window, shape: tuple[int, ...]) -> _Way | None:
    """A parameter's constant on one window alone, if the parameter varies along the window's axis."""
    back, start, stop = window
    if back > len(shape):
        return None
    own, offset = _table(flow, value, back)
    rows = flow.graph.by_name[value].shape
    if own is None or back > min(len(own.shape), len(rows)) or rows[-back] != shape[-back]:
        return None
    axis = len(own.shape) - back
    place = Place(own.target, len(own.shape) - 1, (axis, start + offset, stop + offset))
    return _Way(frozenset({place}), flow.axes(own.name)[-1], window)


def _table(flow: Flow, value: str, back: int) -> tuple[Node | None, int]:
    """The parameter whose last `back` axes a value shows, and the first row shown of the outermost of these."""
    offset = 0
    while flow.own(value) is None:
        a = flow.applied.get(value)
        if a is None or a.rule is None or len(flow.graph.users[value]) != 1 or len(ref := [*a.node.refs()]) != 1:
            return None, 0
        before = flow.graph.by_name[ref[0]].shape
        if a.rule.structure == "slice":
            window = _rows(a, before)
            if window is None or window[0] != len(before) - back:
                return None, 0
            offset += window[1]
        elif a.rule.structure not in _ROW_MAJOR or before[-back:] != a.node.shape[-back:]:
            return None, 0
        value = ref[0]
    return flow.own(value), offset


def _carried(flow: Flow, a: Applied, found: Ways, lent: Lent) -> list[_Way]:
    """Through a structural operator: unchanged, or on the window that each operand fills in a concatenation."""
    each = [_operand(flow, a, r, found, lent) for r in a.node.refs()]
    structure = a.rule.structure if a.rule is not None else None
    axes = flow.axes(a.node.name)
    if structure in KEEPING:
        kept = [w for w in each[0] if w.window is None or structure == "identity"] if each else []
        return [w for w in kept if axes.count(w.axis) == 1]
    if structure == "slice":
        return _sliced(flow, a)
    dim = a.binding.arguments.get("dim", 0) if a.binding is not None else None
    rank = len(a.node.shape)
    sizes = [len(flow.graph.by_name[r].shape) for r in a.node.refs()]
    if structure != "cat" or not isinstance(dim, int) or set(sizes) != {rank}:
        return []
    each = [[w for w in options if axes.count(w.axis) == 1 and axes[dim] != w.axis] for options in each]
    ways, start = [], 0
    for ref, options in zip(a.node.refs(), each, strict=True):
        stop = start + flow.graph.by_name[ref].shape[dim]
        ways += [_Way(w.places, w.axis, (rank - dim % rank, start, stop)) for w in options if w.window is None]
        start = stop
    plain = [[w for w in options if w.window is None] for options in each]
    return ways + [_joint(c) for c in list(product(*plain))[:MAX_ALTERNATIVES] if len({w.axis for w in c}) == 1]


def _sliced(flow: Flow, a: Applied) -> list[_Way]:
    """Some rows of a parameter (the positions of a table that a shorter input reads)."""
    own = flow.own(next(iter(a.node.refs())))
    window = _rows(a, own.shape) if own is not None else None
    if own is None or window is None or window[0] == len(own.shape) - 1:
        return []
    axis, first = window
    place = Place(own.target, len(own.shape) - 1, (axis, first, first + a.node.shape[axis]))
    return [_Way(frozenset({place}), flow.axes(own.name)[-1])]


def _rows(a: Applied, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Axis and first position of a slice without steps."""
    given = a.binding.arguments if a.binding is not None else {}
    dim, start = given.get("dim", 0), given.get("start")
    if not isinstance(dim, int) or not isinstance(start, int | None) or given.get("step", 1) not in (None, 1):
        return None
    axis = dim % len(shape)
    return axis, first_position(start, shape[axis])


def _joint(ways: tuple[_Way, ...]) -> _Way:
    return _Way(frozenset[Place]().union(*(w.places for w in ways)), ways[0].axis, None, True)
