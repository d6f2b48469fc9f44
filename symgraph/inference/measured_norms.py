"""Regions of entrywise operators and reductions along one axis: norms and softmax in any spelling.

A region begins where what is reduced is read and ends where the result has met it again. Its function is tried against
the classes in many worlds. A gain and a bias behind it, and behind a norm that has none, become a part of it. Softmax
begins with exponentials in front of what is reduced, and may end with them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from math import prod

import torch
from torch import Tensor

from symgraph.groups.lattice import Bound, SymmetryClass, down, maximal
from symgraph.inference.measured_laws import Laws, measured
from symgraph.inference.region_tables import tables_in_worlds
from symgraph.inference.regions import Dataflow, Region, Runner, dataflow, replaced
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.ir import Tensor as Meta
from symgraph.rules.carried import measured_node
from symgraph.tracing.arguments import arguments
from symgraph.tracing.operators import is_pointwise, short_name

_REDUCTIONS = frozenset({"mean", "sum", "var", "std", "linalg_vector_norm", "amax", "amin", "logsumexp"})
_SPREADS = frozenset({"expand", "expand_as", "unsqueeze", "to", "to_copy"})
_NORMS = {"aten.layer_norm.default": (2, 3), "aten.rms_norm.default": (2, None)}
# What the operators of a region do not say one by one.
_WORTH = (SymmetryClass.ORTHOGONAL_ONES, SymmetryClass.SIGNED)
_MOVES = frozenset({"view", "reshape", "unsqueeze", "expand", "unsafe_view"})
LONGEST = 60
Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Norm:
    """A region along one axis, or several that follow each other and are one, and what was measured of it."""

    region: Region
    axes: Axes
    laws: Laws


def with_norms(graph: Graph) -> Graph:
    """The graph with every region along one axis that admits rotations as one call, gains and biases in their norms."""
    outward = _gains_outward(graph)
    flow = dataflow(outward, fed=False)
    norms = {n.region.end: n for n in _norms(flow)}
    parts: dict[str, tuple[Node, ...]] = {}
    for node in outward.calls:
        if node.name in norms:
            norm = norms[node.name]
            wholes = _tails(flow, node, norm.axes[0]) if len(norm.axes) == 1 else [_Tail(node.name)]
            parts |= {whole.end: tuple(_calls(flow, norm, whole)) for whole in wholes}
        elif node.target in _NORMS and (node.name in flow.live or node.name in flow.fed):
            for whole in _tails(flow, node, len(node.shape) - 1):
                if whole.end != node.name and (found := _filled(flow, node, whole)) is not None:
                    parts[whole.end] = (found,)
    return replaced(outward, parts) if parts else graph


# -- where a region is -------------------------------------------------------------------------------------------------


def _norms(flow: Dataflow) -> Iterator[Norm]:
    known: dict[Hashable, Laws] = {}
    found: dict[str, Norm] = {}
    inside: set[str] = set()
    for node in flow.graph.calls:
        axes = _reduced_axes(node, flow)
        if not axes or node.name in inside:
            continue
        region = _around(flow, node, axes)
        if region is None:
            continue
        before = found.get(region.start)
        if before is None and node.target in _NORMS:
            continue
        norm = _norm(flow, region, axes, known)
        if before is not None and before.axes == axes and _only_read_in(flow, region.start, region):
            both = _norm(flow, flow.region(before.region.start, region.end), axes, known)
            # A norm of what has no law, or softmax of what a norm makes, is no norm: each of them is by itself.
            if _worth(both.laws) >= max(_worth(before.laws), _worth(norm.laws)):
                norm = both
                del found[before.region.end]
        inside.update(node.name for node in norm.region.nodes)
        found[norm.region.end] = norm
    for norm in found.values():
        raised = None if norm.laws.blind else _raised(flow, norm, found)
        if raised is not None and (along := _norm(flow, raised, norm.axes, known)).laws.blind:
            yield along
        elif _worth(norm.laws) == 1:
            lowered = (_norm(flow, region, norm.axes, known) for region in _lowered(flow, norm))
            yield next((along for along in lowered if along.laws.sums), norm)
        elif _worth(norm.laws):
            yield norm


def _norm(flow: Dataflow, region: Region, axes: Axes, known: dict[Hashable, Laws]) -> Norm:
    key = region.key()
    if key not in known:
        known[key] = _laws(flow, region, axes)
    return Norm(region, axes, known[key])


def _worth(laws: Laws) -> int:
    """How much a region says that its operators do not: of rotations or signs, or that it is blind to a constant."""
    return 2 if any(cls in laws.bound for cls in _WORTH) else int(laws.blind)


def _raised(flow: Dataflow, norm: Norm, found: Collection[str]) -> Region | None:
    """The region with the functions of each entry in front of it that nothing else reads: softmax with exponentials."""
    region, by = norm.region, flow.graph.by_name
    while region.start not in found and _only_read_in(flow, region.start, region):
        first = by[region.start]
        operands = flow.live_operands(first)
        if not is_pointwise(first.target) or not _stays_along(first, norm.axes, flow) or len(operands) != 1:
            break
        if by[operands[0]].shape != first.shape:
            break
        region = flow.region(operands[0], region.end)
    return None if region is norm.region else region


def _lowered(flow: Dataflow, norm: Norm) -> Iterator[Region]:
    """The region with the functions of each entry behind it: softmax from its logarithm."""
    end = norm.region.end
    while len(users := flow.graph.users[end]) == 1 and end not in flow.graph.outputs:
        (user,) = users
        alone = flow.live_operands(user) == [end] and user.shape == flow.graph.by_name[end].shape
        if not alone or not is_pointwise(user.target) or not _stays_along(user, norm.axes, flow):
            return
        end = user.name
        yield flow.region(norm.region.start, end)


def _reduced_axes(node: Node, flow: Dataflow) -> Axes:
    """The neighbouring axes along which a call reduces a live value, counted from the front; none if others."""
    if node.target in _NORMS and node.name in flow.live:
        plain = len(node.args[1]) == 1 and not any(_given(node, place) for place in _NORMS[node.target] if place)
        return (len(node.shape) - 1,) if plain else ()
    if node.name not in flow.live or short_name(node.target) not in _REDUCTIONS:
        return ()
    given = arguments(node) or {}
    source = flow.graph.by_name[node.args[0].name]
    dims = given.get("dim")
    dims = dims if isinstance(dims, list | tuple) else [dims]
    if not dims or not all(isinstance(dim, int) for dim in dims) or not source.shape:
        return ()
    found = tuple(sorted(dim % len(source.shape) for dim in dims))
    return found if found == tuple(range(found[0], found[0] + len(found))) else ()


def _around(flow: Dataflow, seed: Node, axes: Axes) -> Region | None:
    """The smallest region that holds a reduction and ends in a value of the shape that it began with."""
    by, taken = flow.graph.by_name, list[str]()
    whole = by[seed.args[0].name].shape
    for node, alone in islice(flow.behind(seed), LONGEST):
        if not _stays_along(node, axes, flow):
            return None
        taken.append(node.name)
        if alone and node.shape == whole and short_name(node.target) not in _SPREADS:
            entries = {ref for name in taken for ref in flow.live_operands(by[name])} - set(taken)
            start = flow.meet(sorted(entries, key=flow.order.__getitem__))
            return _checked(flow, start, _scaled(flow, node), axes)
    return None


def _scaled(flow: Dataflow, node: Node) -> str:
    """The end of a region with the numbers that it is multiplied by as a whole."""
    while True:
        user = _only_user(flow, node.name, "aten.mul.Tensor") or _only_user(flow, node.name, "aten.div.Tensor")
        if user is None or user.args[0] != Ref(node.name) or isinstance(user.args[1], Ref):
            return node.name
        node = user


def _checked(flow: Dataflow, start: str | None, end: str, axes: Axes) -> Region | None:
    if start is None or flow.graph.by_name[start].shape != flow.graph.by_name[end].shape:
        return None
    region = flow.region(start, end)
    return region if all(_stays_along(node, axes, flow) for node in region.nodes) else None


def _stays_along(node: Node, axes: Axes, flow: Dataflow) -> bool:
    """Whether a call treats entries alone or reduces along the axes, with single numbers beside what is live."""
    if node.kind is not Kind.CALL or not node.is_floating:
        return False
    others = [flow.graph.by_name[ref] for ref in node.refs() if ref not in flow.live]
    if any(torch.Size(n.shape).numel() != 1 for n in others):
        return False
    if short_name(node.target) in _SPREADS or is_pointwise(node.target):
        return True
    return _reduced_axes(node, flow) == axes


def _only_read_in(flow: Dataflow, value: str, region: Region) -> bool:
    inside = {node.name for node in region.nodes}
    return value not in flow.graph.outputs and all(user.name in inside for user in flow.graph.users[value])


# -- what it does ------------------------------------------------------------------------------------------------------


def _laws(flow: Dataflow, region: Region, axes: Axes) -> Laws:
    """Measured at small sizes: entrywise operators and reductions are the same function at every size."""
    rank = len(flow.graph.by_name[region.start].shape)
    along = (7,) if len(axes) == 1 else (3, *(2 for _ in axes[1:]))
    beside = [3 if i % 2 else 4 for i in range(rank)]
    shape = [*beside[: axes[0]], *along, *beside[axes[-1] + 1 :]]
    flat = [*shape[: axes[0]], prod(along), *shape[axes[-1] + 1 :]]
    small = replace(region, nodes=tuple(_resized(node, shape, flow.graph) for node in region.nodes))
    own = [float(a) for node in region.nodes for a in numbers_of(node)]

    def of(tables: dict[str, Tensor]) -> Laws:
        run = Runner(flow.graph, small, tables)
        numbers = own + [float(t) for t in tables.values() if t.is_floating_point()]

        def flattened(x: Tensor) -> Tensor:
            found = run(x.reshape(shape))
            # Along axes of one entry what is reduced had the shape of the whole: it is no norm.
            return found.reshape(flat) if found.numel() == x.numel() else found

        return measured(flattened, flat, axes[0], numbers)

    return reduce(Laws.met, map(of, tables_in_worlds(flow.graph, region.tables)))


def _resized(node: Node, shape: list[int], graph: Graph) -> Node:
    if node.target in _NORMS:
        return replace(node, args=(node.args[0], (shape[-1],), *node.args[2:]))
    if short_name(node.target) != "expand":
        return node
    # An axis of size one that stays one is as long as it is now.
    new = len(node.shape) - len(graph.by_name[node.args[0].name].shape)
    sizes = [n if old > 1 else 1 if i < new else -1 for i, (n, old) in enumerate(zip(shape, node.shape, strict=True))]
    return replace(node, args=(node.args[0], tuple(sizes)))


def numbers_of(node: Node) -> Iterator[float]:
    """The numbers that an entrywise call is made with."""
    if not is_pointwise(node.target):
        return
    for value in (*node.args, *(v for _, v in node.kwargs)):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield value


# -- gains and biases --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tail:
    """What multiplies a norm's result and what is added to it, and the last of these calls."""

    end: str
    gain: str | None = None
    bias: str | None = None


def _tails(flow: Dataflow, norm: Node, axis: int) -> list[_Tail]:
    """What follows a norm: equal ones are one call, of which each reader has a gain and a bias of its own."""
    users = flow.graph.users[norm.name]
    if len(users) < 2:
        return [_tail(flow, norm, axis, users)]
    found = [_tail(flow, norm, axis, (user,)) for user in users if list(user.refs()).count(norm.name) == 1]
    own = [tail for tail in found if tail.end != norm.name]
    return own if len(own) == len(users) and norm.name not in flow.graph.outputs else [*own, _Tail(norm.name)]


def _tail(flow: Dataflow, norm: Node, axis: int, users: tuple[Node, ...]) -> _Tail:
    """The gain and the bias along the axis that follow a norm for one of its users, whose result nothing else reads."""
    found = _Tail(norm.name)
    for target in ("aten.mul.Tensor", "aten.add.Tensor"):
        behind = users if found.end == norm.name else None
        user = _only_user(flow, found.end, target, behind)
        other = None if user is None else next((a for a in user.args[:2] if a != Ref(found.end)), None)
        if user is None or not isinstance(other, Ref) or user.shape != norm.shape:
            continue
        vector = _along_axis(flow, other.name, axis - len(norm.shape), norm.shape[axis])
        if vector is None:
            return found
        if target == "aten.mul.Tensor":
            found = _Tail(user.name, vector)
        elif flow.graph.by_name[vector].kind is Kind.PARAMETER:
            found = replace(found, end=user.name, bias=vector)
    return found


def _only_user(flow: Dataflow, value: str, target: str, among: tuple[Node, ...] | None = None) -> Node | None:
    users = flow.graph.users[value] if among is None else among
    plain = len(users) == 1 and value not in flow.graph.outputs and users[0].target == target
    return users[0] if plain and not users[0].kwargs and list(users[0].refs()).count(value) == 1 else None


def _along_axis(flow: Dataflow, value: str, axis: int, size: int) -> str | None:
    """The vector of parameters that a value is, if it varies along one axis (counted from the end) and no other."""
    by = flow.graph.by_name
    node = by[value]
    if value in flow.fed or value not in flow.learned or len(node.shape) < -axis:
        return None
    if node.shape[axis] != size or torch.Size(node.shape).numel() != size:
        return None
    while len(node.shape) > 1 and short_name(node.target) in _MOVES and node.kind is Kind.CALL:
        node = by[node.args[0].name]
    return node.name if node.shape == (size,) else None


def _gains_outward(graph: Graph) -> Graph:
    """Vectors that multiply a value before it is scaled along their axis as a whole multiply it afterwards."""
    flow = dataflow(graph, fed=False)
    parts: dict[str, tuple[Node, ...]] = {}
    for node in graph.calls:
        if node.target not in ("aten.mul.Tensor", "aten.div.Tensor") or not isinstance(node.args[0], Ref):
            continue
        product, scale = graph.by_name[node.args[0].name], node.args[1]
        if product.target != "aten.mul.Tensor" or len(graph.users[product.name]) != 1 or not isinstance(scale, Ref):
            continue
        split = _gain_of(flow, product)
        if split is None or node.shape != product.shape or product.name in graph.outputs:
            continue
        value, gain = split
        if scale.name in flow.live and graph.by_name[scale.name].shape[-1:] == (1,):
            inner = replace(node, name=f"{node.name}.plain", args=(Ref(value), scale))
            parts[node.name] = (inner, replace(node, target="aten.mul.Tensor", args=(Ref(inner.name), Ref(gain))))
    return replaced(graph, parts) if parts else graph


def _gain_of(flow: Dataflow, product: Node) -> tuple[str, str] | None:
    for value, gain in (product.args[:2], product.args[1::-1]):
        if isinstance(value, Ref) and isinstance(gain, Ref) and value.name in flow.fed:
            size = product.shape[-1] if product.shape else 0
            if _along_axis(flow, gain.name, -1, size) is not None:
                return value.name, gain.name
    return None


def _filled(flow: Dataflow, node: Node, tail: _Tail) -> Node | None:
    """A norm with a gain and a bias in the places that were empty."""
    at, args = _NORMS[node.target], list(node.args)
    args += [None] * (5 - len(args)) if node.target == "aten.layer_norm.default" and len(args) < 4 else []
    for place, vector in zip(at, (tail.gain, tail.bias), strict=True):
        if vector is None:
            continue
        if place is None:
            return None
        args += [None] * (place + 1 - len(args))
        if args[place] is not None:
            return None
        args[place] = Ref(vector)
    # A bias that stood before the gain would be scaled by it.
    if tail.gain is not None and at[1] is not None and isinstance(node.args[3:4], tuple) and _given(node, 3):
        return None
    return replace(node, name=tail.end, args=tuple(args))


def _given(node: Node, place: int) -> bool:
    return len(node.args) > place and node.args[place] is not None


def _calls(flow: Dataflow, norm: Norm, tail: _Tail) -> Iterator[Node]:
    """The call that stands for a norm; between views where several axes are one."""
    start, end, axes = flow.graph.by_name[norm.region.start], flow.graph.by_name[tail.end], norm.axes
    if len(axes) == 1:
        yield _measured(end, Ref(start.name), axes[0], norm.laws, tail)
        return
    shape = (*end.shape[: axes[0]], prod(end.shape[axes[0] : axes[-1] + 1]), *end.shape[axes[-1] + 1 :])
    whole = Meta(shape, end.result.dtype if isinstance(end.result, Meta) else "float32")
    view = replace(end, target="aten.reshape.default", kwargs=())
    flat = replace(view, name=f"{end.name}.flat", args=(Ref(start.name), shape), result=whole)
    core = replace(end, name=f"{end.name}.norm", result=whole)
    yield flat
    yield _measured(core, Ref(flat.name), axes[0], norm.laws, tail)
    yield replace(view, args=(Ref(core.name), end.shape))


def _measured(end: Node, start: Ref, axis: int, laws_of: Laws, tail: _Tail) -> Node:
    tokens = [f"p{i}" for i in range(len(end.shape))]
    tokens[axis] = "d"
    # What is added behind it does not take a factor of a row.
    rows = down(SymmetryClass.SEMI_PERMUTATION)
    if tail.bias is None:
        rows |= laws_of.rows
    admits: dict[str, Bound] = {token: laws_of.bound if token == "d" else rows for token in tokens}
    operands, axes = {"x": start}, {"x": tokens}
    laws: dict[str, object] = {}
    for key, name, mark, vector in (("gain", "weight", "d~", tail.gain), ("adds", "bias", "d", tail.bias)):
        if vector is not None:
            operands[name], axes[name], laws[key] = Ref(vector), [mark], name
    if laws_of.centred:
        laws["centred"] = "d"
    elif laws_of.blind:
        laws["blind"] = {"x": "d"}
    if laws_of.sums and tail.gain is None and tail.bias is None:
        laws["weights"] = "d"
    if laws_of.radial:
        laws["radial"] = "x"
    classes = " and ".join(map(str, maximal(laws_of.bound)))
    about = f"Measured along one axis: it commutes with {classes} maps at every scale and at zeros and ties."
    name = "measured-softmax" if laws_of.ordered and laws_of.blind and not laws_of.centred else "measured-norm"
    return measured_node(end, name, about, operands, axes, tokens, admits, **laws)
