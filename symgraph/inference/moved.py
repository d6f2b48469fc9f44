"""Proof of `structure:` at a call: every entry is put where the terms of the result say that it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from symgraph.groups.lattice import RIGID, TOP, Bound
from symgraph.inference.applied import shapes_of
from symgraph.inference.axis_nodes import Shape
from symgraph.inference.claims import Ref as Axis
from symgraph.inference.store import Store
from symgraph.inference.structural import TRANSFORMERS, Axes, Call
from symgraph.ir import Graph, Node, Tensor
from symgraph.rules.binding import Binding, tensor_refs
from symgraph.rules.equivariance import Failure
from symgraph.rules.moving import MEMORY, PICKING, numbered, runner, why_not_moved
from symgraph.rules.schema import Rule
from symgraph.rules.trial import REFUSALS
from symgraph.tracing.operators import short_name

MOST_ENTRIES = 2**20


def structure_failure(binding: Binding, node: Node, graph: Graph, known: dict[Any, Failure | None]) -> Failure | None:
    """What is false of the structure that a rule states, at one call; None where it holds.

    Args:
        known: what was found at calls that were alike.
    """
    rule = binding.rule
    if node.target.endswith("getitem") or rule.structure == "rigid" or short_name(node.target) in MEMORY:
        return None
    key = (rule.rule, rule.structure, graph.form(node))
    if key not in known:
        names = tuple(dict.fromkeys(ref.name for ref in tensor_refs(binding)))
        reason = _why_not(rule, binding, node, graph, names)
        text = ", ".join(f"{n} {graph.by_name[n].result!r}" for n in names)
        failure = Failure(f"structure {rule.structure}", "", "", node.target, float("inf"), text, reason)
        known[key] = failure if reason else None
    return known[key]


def _why_not(rule: Rule, binding: Binding, node: Node, graph: Graph, names: tuple[str, ...]) -> str:
    results = {name: graph.by_name[name].result for name in names}
    shapes = {n: t.shape for n, t in results.items() if isinstance(t, Tensor)}
    if rule.structure == "getitem":
        return "it is no choice among several results"
    if len(shapes) < len(names) or sum(torch.Size(s).numel() for s in shapes.values()) > MOST_ENTRIES:
        return ""
    fixed = (
        {name: _positions(results[name], shapes[names[0]]) for name in names[1:]} if rule.structure in PICKING else {}
    )
    if any(v.dtype == torch.bool for v in fixed.values()):
        return ""
    operands = numbered({n: s for n, s in shapes.items() if n not in fixed})
    run = runner(node.target, binding.arguments)
    with torch.no_grad():
        try:
            return why_not_moved(rule, run, operands, fixed) or _where_else(rule, binding, node, operands, fixed)
        except REFUSALS as error:
            return (str(error) or type(error).__name__).splitlines()[0]


def _positions(result: Any, shape: tuple[int, ...]) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, result.dtype)
    if dtype == torch.bool or dtype.is_floating_point:
        return torch.ones(result.shape, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, max(min(shape, default=1), 1), result.shape, generator=generator).to(dtype)


def _where_else(
    rule: Rule, binding: Binding, node: Node, operands: Mapping[str, torch.Tensor], fixed: Mapping[str, torch.Tensor]
) -> str:
    """Whether permuting the spaces of the operands does anything else to the result than permuting its own."""
    store = Store()
    store.because(node.name, rule.rule)
    axes = {n: tuple(store.new(size) for size in v.shape) for n, v in {**operands, **fixed}.items()}
    tensors = tuple(axes[ref.name] for ref in tensor_refs(binding))
    made = TRANSFORMERS[rule.structure or ""](store, Call(tensors, binding.arguments, shapes_of(node)))
    store.settle()
    run = runner(node.target, binding.arguments)
    before = run({**operands, **fixed})
    if [tuple(map(store.size, own)) for own in made] != [tuple(old.shape) for old in before]:
        return f"its results have the shapes {[list(old.shape) for old in before]}"
    leaves = {store.find(leaf) >> 1 for n in operands for axis in axes[n] for leaf in store.leaves(axis)}
    for leaf in sorted(leaves):
        orders = _Orders(store, leaf)
        after = run({n: orders.act(v, axes[n]) for n, v in operands.items()} | dict(fixed))
        if not all(torch.equal(orders.act(old, own), new) for own, old, new in zip(made, before, after, strict=True)):
            return "it puts entries elsewhere"
    return ""


class _Orders:
    """A random order of one space, unless it is rigid; the others stay as they are."""

    def __init__(self, store: Store, moved: int) -> None:
        self.store, self.moved = store, moved
        self.bounds: dict[int, Bound] = {}
        for claim in store.claims:
            for leaf in store.leaves(claim.ref):
                self.bounds[leaf >> 1] = self.bounds.get(leaf >> 1, TOP) & claim.bound
        self.generator = torch.Generator().manual_seed(1)
        self.found: dict[int, torch.Tensor] = {}

    def act(self, value: torch.Tensor, axes: Axes) -> torch.Tensor:
        """The value in another order along each axis."""
        for i, axis in enumerate(axes):
            value = value.index_select(i, self.order(axis))
        return value

    def order(self, axis: Axis) -> torch.Tensor:
        """Positions along an axis in their new order."""
        children = self.store.children(axis)
        if children is None:
            return self._leaf(self.store.find(axis) >> 1, self.store.size(axis))
        kind, inner = children
        found = [self.order(child) for child in inner]
        if kind is Shape.MOVED:
            order = torch.tensor(self.store.order(axis))
            return torch.argsort(order)[found[0][order]]
        return _in_product(found) if kind is Shape.PRODUCT else _in_concat(found)

    def _leaf(self, root: int, size: int) -> torch.Tensor:
        if root not in self.found:
            moves = root == self.moved and self.bounds.get(root, TOP) != RIGID
            self.found[root] = self._other(size) if moves else torch.arange(size)
        return self.found[root]

    def _other(self, size: int) -> torch.Tensor:
        """A random order that is not the one there is."""
        found = torch.randperm(size, generator=self.generator)
        return found.roll(1) if torch.equal(found, torch.arange(size)) else found


def _in_product(orders: list[torch.Tensor]) -> torch.Tensor:
    whole = orders[0]
    for inner in orders[1:]:
        whole = (whole.unsqueeze(1) * len(inner) + inner).reshape(-1)
    return whole


def _in_concat(orders: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(_shifted(orders)))


def _shifted(orders: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    start = 0
    for order in orders:
        yield order + start
        start += len(order)
