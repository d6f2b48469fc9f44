"""Structural operators: how each moves axes between terms, values untouched (design section 4).

Every transformer takes the store and a `Call` (operand axes and the operator's arguments) and returns the axes of the
results. Rules name a transformer by `structure: NAME`, so that an operator new to torch needs a line of YAML only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.inference.claims import Ref
from symgraph.inference.store import Store
from symgraph.symmetry.terms import turn_order
from symgraph.tracing.operators import first_position

Axes = tuple[Ref, ...]
# A value that is constant along an axis stays so under maps that fix the ones vector.
FIXES_ONES: Bound = down(SymmetryClass.ORTHOGONAL_ONES, SymmetryClass.SEMI_PERMUTATION)


@dataclass(frozen=True, slots=True)
class Call:
    """One structural call.

    `tensors` are the axes of the tensor operands in order (a list operand is spread out), `arguments` the remaining
    arguments by schema name, `shapes` the shapes of the results. `items` holds the axes of a multi-result operand.
    """

    tensors: tuple[Axes, ...]
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    items: tuple[Axes, ...] = ()


Transformer = Callable[[Store, Call], tuple[Axes, ...]]


def _dim(call: Call, name: str = "dim", default: int = 0, rank: int | None = None) -> int:
    rank = len(call.tensors[0]) if rank is None else rank
    dim = call.arguments.get(name)
    return (default if dim is None else int(dim)) % max(rank, 1)


def reshape(store: Store, call: Call) -> tuple[Axes, ...]:
    """view, reshape, flatten, unflatten, squeeze and unsqueeze: equal row-major order, other cuts."""
    axes, shape = [axis for axis in call.tensors[0] if store.size(axis) != 1], call.shapes[0]
    if 0 in shape:
        return (tuple(store.fresh_rigid(size, "an empty axis") for size in shape),)
    result = [store.new(1)] * len(shape)
    for given, places in _regions(list(map(store.size, axes)), shape):
        inner = [axes[i] for i in given]
        if len(places) == 1:
            result[places[0]] = store.product(inner)
            continue
        for place in places:
            result[place] = store.new(shape[place])
        store.unify(store.product(inner), store.product([result[place] for place in places]))
    return (tuple(result),)


def _regions(given: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The shortest runs of axes of one shape and of another that hold the same entries, by their positions."""
    sources = iter(range(len(given)))
    places = (place for place, size in enumerate(wanted) if size != 1)
    for source, place in zip(sources, places, strict=False):
        left, right = [source], [place]
        have, need = given[source], wanted[place]
        while have != need:
            if have < need:
                left.append(next(sources))
                have *= given[left[-1]]
            else:
                right.append(next(places))
                need *= wanted[right[-1]]
        yield left, right


def permute(store: Store, call: Call) -> tuple[Axes, ...]:
    """permute(dims)."""
    axes = call.tensors[0]
    return (tuple(axes[dim % len(axes)] for dim in call.arguments["dims"]),)


def transpose(store: Store, call: Call) -> tuple[Axes, ...]:
    """transpose, t, mT, swapaxes: two axes change places."""
    axes = list(call.tensors[0])
    if len(axes) < 2:
        return (tuple(axes),)
    first = _dim(call, "dim0", _dim(call, "axis0", -2))
    second = _dim(call, "dim1", _dim(call, "axis1", -1))
    axes[first], axes[second] = axes[second], axes[first]
    return (tuple(axes),)


def turns(store: Store, call: Call) -> tuple[Axes, ...]:
    """channel_shuffle(groups): the parts that were one after the other take turns."""
    axes, count = list(call.tensors[0]), int(call.arguments["groups"])
    axes[1] = store.moved(axes[1], turn_order(store.size(axes[1]), count))
    return (tuple(axes),)


def by_turns(store: Store, call: Call) -> tuple[Axes, ...]:
    """native_channel_shuffle(groups): parts that took turns along an axis stand one after the other."""
    axes = list(call.tensors[0])
    axes[1] = store.by_turns(axes[1], store.size(axes[1]) // int(call.arguments["groups"]))
    return (tuple(axes),)


def movedim(store: Store, call: Call) -> tuple[Axes, ...]:
    """movedim with integer or list arguments."""
    axes = list(call.tensors[0])
    source, target = (_ints(call.arguments[key], len(axes)) for key in ("source", "destination"))
    order: list[int | None] = [None] * len(axes)
    for start, end in zip(source, target, strict=True):
        order[end] = start
    rest = iter(i for i in range(len(axes)) if i not in source)
    return (tuple(axes[next(rest) if place is None else place] for place in order),)


def _ints(value: Any, rank: int) -> list[int]:
    return [int(dim) % rank for dim in (value if isinstance(value, list | tuple) else [value])]


def cat(store: Store, call: Call) -> tuple[Axes, ...]:
    """cat(tensors, dim): the axis becomes a Concat, all others are shared."""
    rank = len(call.shapes[0])
    tensors = [tensor for tensor in call.tensors if len(tensor) == rank]
    dim = _dim(call, "dim", 0, rank)
    for other in tensors[1:]:
        for i in range(rank):
            if i != dim:
                store.unify(tensors[0][i], other[i])
    axes = list(tensors[0])
    axes[dim] = store.concat([tensor[dim] for tensor in tensors])
    return (tuple(axes),)


def stack(store: Store, call: Call) -> tuple[Axes, ...]:
    """stack(tensors, dim): a new axis that enumerates the tensors."""
    dim = _dim(call, "dim", 0, len(call.shapes[0]))
    for other in call.tensors[1:]:
        for mine, theirs in zip(call.tensors[0], other, strict=True):
            store.unify(mine, theirs)
    axes = list(call.tensors[0])
    axes.insert(dim, store.fresh_rigid(len(call.tensors), "an axis that enumerates stacked tensors"))
    return (tuple(axes),)


def split(store: Store, call: Call) -> tuple[Axes, ...]:
    """split, split_with_sizes, chunk: cuts one axis."""
    dim = _dim(call)
    axes = call.tensors[0]
    parts = [store.new(shape[dim]) for shape in call.shapes]
    store.unify(axes[dim], store.concat(parts))
    return tuple((*axes[:dim], part, *axes[dim + 1 :]) for part in parts)


def narrow(store: Store, call: Call) -> tuple[Axes, ...]:
    """slice and narrow: one contiguous part of an axis; with a step, of one of the parts that take turns along it."""
    axes, dim = call.tensors[0], _dim(call)
    size = store.size(axes[dim])
    start, step = first_position(call.arguments.get("start"), size), call.arguments.get("step") or 1
    length = call.shapes[0][dim]
    if length == 0:
        part = store.fresh_rigid(0, "an empty slice")
    elif step == 1 or length == 1:
        part = store.narrow(axes[dim], start, start + length)
    else:
        first = turn_order(size, step)[start]
        part = store.narrow(store.by_turns(axes[dim], step), first, first + length)
    return ((*axes[:dim], part, *axes[dim + 1 :]),)


def select(store: Store, call: Call) -> tuple[Axes, ...]:
    """select(dim, index): that position is told apart from the others, and the axis disappears."""
    axes, dim = call.tensors[0], _dim(call)
    size = store.size(axes[dim])
    index = call.arguments.get("index", 0)
    if isinstance(index, int):
        store.narrow(axes[dim], index % size, index % size + 1)
    else:
        store.rigid(axes[dim], "selected by a computed index")
    return ((*axes[:dim], *axes[dim + 1 :]),)


def unbind(store: Store, call: Call) -> tuple[Axes, ...]:
    """unbind(dim): one result per position."""
    axes, dim = call.tensors[0], _dim(call)
    store.rigid(axes[dim], "unbound: each position goes its own way")
    return tuple((*axes[:dim], *axes[dim + 1 :]) for _ in call.shapes)


def expand(store: Store, call: Call) -> tuple[Axes, ...]:
    """expand, expand_as, broadcast_to: constant along every axis that grows."""
    shape, axes = call.shapes[0], call.tensors[0]
    lead = len(shape) - len(axes)
    result = []
    for i, size in enumerate(shape):
        if i >= lead and (store.size(axes[i - lead]) == size):
            result.append(axes[i - lead])
            continue
        grown = store.new(size)
        store.bound(grown, FIXES_ONES, "expanded: the value is constant along it")
        result.append(grown)
    return (tuple(result),)


def repeat(store: Store, call: Call) -> tuple[Axes, ...]:
    """repeat (tiles: outer copies) and repeat_interleave by an integer (inner copies)."""
    shape, axes = call.shapes[0], call.tensors[0]
    lead = len(shape) - len(axes)
    result = []
    for i, size in enumerate(shape):
        if i < lead:
            result.append(_copies(store, size))
            continue
        axis = axes[i - lead]
        if store.size(axis) == size:
            result.append(axis)
            continue
        copies = _copies(store, size // store.size(axis))
        inner = call.arguments.get("repeats_inside", "dim" in call.arguments)
        result.append(store.product([axis, copies] if inner else [copies, axis]))
    return (tuple(result),)


def _copies(store: Store, count: int) -> Ref:
    ref = store.new(count)
    if count > 1:
        store.bound(ref, FIXES_ONES, "repeated: the copies are equal")
    return ref


def index(store: Store, call: Call) -> tuple[Axes, ...]:
    """index by tensors, index_select: indexed axes are read by position, all others pass."""
    axes, shape = call.tensors[0], call.shapes[0]
    for other in call.tensors[1:]:
        for axis in other:
            store.rigid(axis, "holds positions")
    indices = call.arguments.get("indices")
    at = [_dim(call)] if indices is None else [i for i, given in enumerate(indices) if given is not None]
    for i in at:
        store.rigid(axes[i], "read by position")
    grown = len(shape) - (len(axes) - len(at))
    lead = at[0] if at == list(range(at[0], at[0] + len(at))) else 0
    kept = [axis for i, axis in enumerate(axes) if i not in at]
    fresh = [store.fresh_rigid(n, "read by position") for n in shape[lead : lead + grown]]
    return ((*kept[:lead], *fresh, *kept[lead:]),)


def getitem(store: Store, call: Call) -> tuple[Axes, ...]:
    """One result of an operator with several."""
    return (call.items[int(call.arguments["index"])],)


def identity(store: Store, call: Call) -> tuple[Axes, ...]:
    """Same value, same axes (casts, copies)."""
    return (call.tensors[0],)


def constant(store: Store, call: Call) -> tuple[Axes, ...]:
    """full, ones: constant along every axis; a number that is zero stays so under every linear map."""
    axes = tuple(store.new(size) for size in call.shapes[0])
    number = call.arguments.get("fill_value", call.arguments.get("value"))
    if isinstance(number, int | float) and number == 0:
        return (axes,)
    for axis in axes:
        store.bound(axis, FIXES_ONES, "a constant tensor")
    return (axes,)


def zero(store: Store, call: Call) -> tuple[Axes, ...]:
    """zeros, and memory that is only there to be written to."""
    return (tuple(store.new(size) for size in call.shapes[0]),)


def pad(store: Store, call: Call) -> tuple[Axes, ...]:
    """pad, constant_pad_nd: zeros before and behind are parts of their own, free as zero is; a negative width cuts."""
    axes, widths = list(call.tensors[0]), list(call.arguments["pad"])
    number, zeros = call.arguments.get("value"), call.arguments.get("mode", "constant") == "constant"
    for i in range(len(widths) // 2):
        dim, before, behind = len(axes) - 1 - i, widths[2 * i], widths[2 * i + 1]
        if zeros:
            axes[dim] = _padded(store, axes[dim], before, behind)
        elif before or behind:
            store.rigid(axes[dim], "padded with its own entries")
            axes[dim] = store.fresh_rigid(call.shapes[0][dim], "padded with its own entries")
    for axis in axes if zeros and number not in (None, 0) and any(width > 0 for width in widths) else ():
        store.bound(axis, FIXES_ONES, "padded with a constant")
    return (tuple(axes),)


def _padded(store: Store, axis: Ref, before: int, behind: int) -> Ref:
    size = store.size(axis)
    if size + min(before, 0) + min(behind, 0) <= 0:
        store.rigid(axis, "cut off by padding")
        return store.fresh_rigid(size + before + behind, "nothing but padding")
    kept = store.narrow(axis, max(-before, 0), size - max(-behind, 0))
    before, behind, inside = max(before, 0), max(behind, 0), store.size(kept)
    added = store.new(before + behind)
    if not (before and behind):
        return store.concat([added, kept] if before else [kept, added])
    # Nothing tells the zeros before from those behind: they are one part, wherever its entries stand.
    order = (*range(inside, inside + before), *range(inside), *range(inside + before, inside + before + behind))
    return store.moved(store.concat([kept, added]), order)


def windows(store: Store, call: Call) -> tuple[Axes, ...]:
    """unfold: windows along one axis, in a new axis at the end; all other axes pass."""
    axes, shape = list(call.tensors[0]), call.shapes[0]
    dim = _dim(call, "dimension")
    store.rigid(axes[dim], "read by position")
    axes[dim] = store.fresh_rigid(shape[dim], "read by position")
    return ((*axes, store.fresh_rigid(shape[-1], "read by position")),)


def rigid(store: Store, call: Call) -> tuple[Axes, ...]:
    """Everything that goes in or comes out is rigid."""
    for axes in call.tensors:
        for axis in axes:
            store.rigid(axis, "read by position")
    return tuple(tuple(store.fresh_rigid(size, "computed by position") for size in shape) for shape in call.shapes)


# Those that keep every entry of a tensor and make none: constants and positions that it holds stay what they are.
KEEPING = frozenset(
    {"reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "expand", "identity"}
)
TRANSFORMERS: dict[str, Transformer] = {
    "reshape": reshape,
    "flatten": reshape,
    "unflatten": reshape,
    "squeeze": reshape,
    "unsqueeze": reshape,
    "permute": permute,
    "transpose": transpose,
    "movedim": movedim,
    "turns": turns,
    "by_turns": by_turns,
    "cat": cat,
    "stack": stack,
    "split": split,
    "slice": narrow,
    "select": select,
    "unbind": unbind,
    "expand": expand,
    "repeat": repeat,
    "index": index,
    "getitem": getitem,
    "identity": identity,
    "constant": constant,
    "zero": zero,
    "pad": pad,
    "windows": windows,
    "rigid": rigid,
}
