"""The product form of a mixture: circuits are interpolated as products, not factor by factor.

Inside a head queries and keys, values and outputs meet in a space of their own, and only their products count. Between
two models the product (1 - l) Q_A K_A^T + l Q_B K_B^T has up to twice the rank of either, so that it belongs to no
model of the architecture. It is the product of factors set side by side, [sqrt(1 - l) Q_A, sqrt(l) Q_B] and likewise
for K, which is how it is computed here: every value that lives inside a head is kept twice, once for each model, and
where both copies meet what they are contracted with, they are put side by side along the axis that vanishes. So torch's
own attention does the work, and whatever stands between projection and attention (rotary products, norms) is done by
each copy alone.

Source: Theus et al., arXiv 2506.22712, section 4, and its released code, which interpolates the products themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import UsageError, called
from symgraph.groups.map_class import DenseMaps
from symgraph.inference.absorption import absorb_gains
from symgraph.inference.collect import collect
from symgraph.inference.draft import Draft
from symgraph.inference.explained import explain_calls
from symgraph.inference.frames import find_frames
from symgraph.inference.pipeline import infer
from symgraph.inference.prepared import Prepared, cut_joined
from symgraph.ir import Graph, Kind, Node
from symgraph.measure.batches import placed
from symgraph.measure.forward import Point
from symgraph.measure.forward import arguments as call_arguments
from symgraph.measure.mixture import compute_dtype
from symgraph.orbit.tensor_blocks import on_blocks
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves
from symgraph.tracing import state_of, trace
from symgraph.tracing.arguments import arguments
from symgraph.tracing.decompose import expand
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.unstack import without_stacks

State = Mapping[str, Tensor]
Labels = frozenset[int]
_NONE: Labels = frozenset()


def circuit_spaces(symmetry: SymmetryGraph) -> frozenset[int]:
    """The spaces inside of which only products count: invertible, or rotary, or a matrix group for each head.

    Raises:
        UsageError: there is none.
    """
    dense = [(space, space.maps) for space in symmetry.active if space.is_matrix]
    free = [space for space, m in dense if space.fibre or m.paired or (isinstance(m, DenseMaps) and not m.compact)]
    found = frozenset(space.id for space in free)
    if not found:
        cause = "no space lies between two linear maps alone"
        raise UsageError("the model has no product form", cause=cause, remedy=f"leave out {called('product')}")
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """A value once for each of the two models."""

    copies: tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class _Meeting:
    """A call at which both copies of some operands meet: the axis of each along which they are put side by side.

    `scale` is what the operator would make of the size of that axis.
    """

    axes: Mapping[str, int]
    gone: Labels
    scale: float | None


class ProductForm(Interpreter):
    """Runs a graph at mixtures of two models in product form.

    Args:
        symmetry: of the models; says which spaces are inside a circuit.
        graph: the model, traced for inputs of the shape to come.
        book: the rules that `symmetry` was inferred with.

    Raises:
        UsageError: an operator inside a circuit cannot be followed, or there is no circuit.
    """

    def __init__(
        self, symmetry: SymmetryGraph, graph: Graph, book: RuleBook, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        plain = expand(without_stacks(graph), book.covers)
        super().__init__(plain, dtype=dtype, device=device)
        self.symmetry, self.inside = symmetry, circuit_spaces(symmetry)
        self.held = _inside_axes(symmetry, self.inside, plain, book)
        self.meetings = {n.name: m for n in plain.calls if (m := self._meeting(n)) is not None}
        self.depends = self._dependences(book)
        self.point = 0.0

    def mixed(self, a: State, b: State, point: float) -> dict[str, Any]:
        """The tensors at a point between two models: pairs where a circuit is touched, else their mean."""
        self.point = point
        found: dict[str, Any] = {}
        for name, t in a.items():
            first, second = (x[name].to(self.device) for x in (a, b))
            if not first.is_floating_point() or first is second:
                found[name] = t
            elif any(x.space in self.inside for axis in self.symmetry.terms.get(name, ()) for x in leaves(axis)):
                found[name] = Pair(self._copies(name, first, second))
            else:
                found[name] = torch.lerp(first, second, point)
        return found

    def _copies(self, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Each model's own part inside a circuit, and the mean of what lies beside it in the same tensor."""

        def mix(both: Tensor, block: tuple[Leaf, ...]) -> Tensor:
            if any(x.space in self.inside for x in block):
                return both
            return torch.lerp(both[0], both[1], self.point).expand_as(both)

        which = Leaf(-1, -1, False, 2)
        first, second = on_blocks(torch.stack([a, b]), (which, *self.symmetry.terms[name]), mix)
        return first, second

    def run_mixed(self, tensors: Mapping[str, Any], inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> Any:
        """The outputs of the graph on what `mixed` gave."""
        return self.run(tensors, inputs)

    def check(self, a: State, b: State, inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Compares both ends with the models themselves.

        Raises:
            UsageError: they differ.
        """
        with torch.no_grad():
            for point, state in ((0.0, a), (1.0, b)):
                mixture = self.run_mixed(self.mixed(a, b, point), inputs)
                error = max(_difference(x, y) for x, y in zip(self.run(state, inputs), mixture, strict=True))
                if not error <= torch.finfo(self.dtype).eps ** 0.5:
                    raise UsageError(
                        "the product form of this model cannot be computed",
                        cause=f"at lambda {point:g} its outputs differ from the model's by {error:.1e}",
                        remedy=f"report the model without {called('product')}",
                    )

    # -- how a call treats pairs -------------------------------------------------------------------------------

    def _start(self, state: Mapping[str, Any], inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> dict[str, Any]:
        sides = [{n: t.copies[i] if isinstance(t, Pair) else t for n, t in state.items()} for i in (0, 1)]
        first, second = (super(ProductForm, self)._start(s, inputs) for s in sides)
        pairs = {n.name for n in self.graph.nodes if isinstance(state.get(n.target), Pair) and n.kind is not Kind.CALL}
        return {name: Pair((value, second[name])) if name in pairs else value for name, value in first.items()}

    def _call(self, step: Any, env: Mapping[str, Any]) -> Any:
        refs = dict.fromkeys(step.node.refs())
        if not any(isinstance(env[r], Pair) for r in refs):
            return super()._call(step, env)
        meeting = self.meetings.get(step.node.name)
        values = {r: env[r] for r in refs}
        if meeting is not None:
            values |= {r: self._side_by_side(env[r], axis) for r, axis in meeting.axes.items()}
            if meeting.scale is not None:
                step = replace(step, kwargs={**step.kwargs, "scale": meeting.scale})
        sides = [{r: v.copies[i] if isinstance(v, Pair) else v for r, v in values.items()} for i in (0, 1)]
        if not self.depends[step.node.name]:
            return super()._call(step, sides[0])
        first, second = (super(ProductForm, self)._call(step, side) for side in sides)
        return Pair((first, second))

    def _side_by_side(self, value: Any, axis: int) -> Tensor:
        copies = value.copies if isinstance(value, Pair) else (value, value)
        weights = (1.0 - self.point) ** 0.5, self.point**0.5
        return torch.cat([weight * copy for weight, copy in zip(weights, copies, strict=True)], dim=axis)

    # -- what is known before anything runs --------------------------------------------------------------------

    def _dependences(self, book: RuleBook) -> dict[str, Labels]:
        """For every value the circuits whose copies it differs by.

        Raises:
            UsageError: copies never meet, or meet together with those of another circuit.
        """
        found: dict[str, Labels] = {node.name: _union(self._labels(node.name)) for node in self.graph.state.values()}
        for node in self.graph.calls:
            meeting = self.meetings.get(node.name)
            meets: Mapping[str, int] = {} if meeting is None else meeting.axes
            if meeting is not None and any(found.get(operand, _NONE) - meeting.gone for operand in meets):
                raise _lost(node, "what meets there depends on another circuit too")
            operands = list(dict.fromkeys(node.refs()))
            alone = _union([found.get(operand, _NONE) for operand in operands if operand not in meets])
            if _picks(node, book, self.graph):
                # Of entries that are picked, only those that are left count.
                alone = (alone - _union(self._labels(operands[0]))) | (alone & _union(self._labels(node.name)))
            found[node.name] = alone
        for output in self.graph.outputs:
            if circuits := found.get(output):
                names = ", ".join(self.symmetry.spaces[circuit].name for circuit in circuits)
                raise _lost(self.graph.by_name[output], f"{names} never meets")
        return found

    def _labels(self, value: str) -> tuple[Labels, ...]:
        return self.held.get(value, ())

    def _meeting(self, node: Node) -> _Meeting | None:
        operands = [operand for operand in dict.fromkeys(node.refs()) if any(self._labels(operand))]
        each = [_union(self._labels(operand)) for operand in operands]
        several = frozenset(label for labels in each for label in labels if sum(label in other for other in each) > 1)
        gone = several - _union(self._labels(node.name))
        if not gone:
            return None
        axes = {}
        for operand, labels in zip(operands, each, strict=True):
            at = [axis for axis, found in enumerate(self._labels(operand)) if found & gone]
            if not at:
                continue
            if len(at) > 1 or labels - self._labels(operand)[at[0]]:
                raise _lost(node, "an operand has several axes inside a circuit")
            axes[operand] = at[0]
        return _Meeting(axes, gone, self._scale(node, axes))

    def _scale(self, node: Node, axes: Mapping[str, int]) -> float | None:
        """The factor that attention takes from the width of its queries unless it is told one."""
        if (arguments(node) or {"scale": 1.0}).get("scale", 1.0) is not None:
            return None
        first = next(operand for operand in node.refs() if operand in axes)
        width: int = self.graph.by_name[first].shape[axes[first]]
        return 1.0 / sqrt(width)


class ProductMixtures(Point):
    """A network at mixtures of two states in product form.

    It is traced anew for each shape of a batch. Losses that it computes itself do not exist there.

    Raises:
        UsageError: the model has no product form, or one that cannot be followed.
    """

    def __init__(
        self,
        network: nn.Module,
        states: Sequence[State],
        symmetry: SymmetryGraph,
        book: RuleBook,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.precision = compute_dtype(next(t for t in states[0].values() if t.is_floating_point()), dtype)
        held = {n: t.detach() for n, t in state_of(network).items()}
        self.a, self.b = (placed({n: s.get(n, t) for n, t in held.items()}, device, self.precision) for s in states)
        super().__init__(network, self.a, self.precision)
        self.symmetry, self.book = symmetry, book
        self.forms: dict[tuple[object, ...], ProductForm] = {}
        self.share = 0.0

    def move_to(self, weights: Sequence[float]) -> None:
        """Put the point there."""
        self.share = weights[1]

    def outputs(self, batch: State, *, labels: bool = False) -> Any:
        """What the mixture returns at the point: a tuple of its floating outputs, logits first."""
        positional, named = call_arguments(batch, self.accepted, labels=labels)
        given = {n: t for n, t in named.items() if isinstance(t, Tensor)}
        key = (*((n, t.shape) for n, t in given.items()), *(t.shape for t in positional))
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = self._form(positional, given)
        return form.run_mixed(form.mixed(self.a, self.b, self.share), positional or given)

    @torch.inference_mode(False)
    def _form(self, positional: tuple[Tensor, ...], named: State) -> ProductForm:
        args, kwargs = tuple(t.clone() for t in positional), {n: t.clone() for n, t in named.items()}
        graph = trace(self.network, args, kwargs, name=type(self.network).__name__)
        form = ProductForm(self.symmetry, graph, self.book, dtype=self.precision, device=self.device)
        form.check(self.a, self.b, args or kwargs)
        return form


def _difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max() / x.abs().max().clamp_min(1e-300)) if x.is_floating_point() else 0.0


def _picks(node: Node, book: RuleBook, graph: Graph) -> bool:
    """Whether a call takes consecutive entries out of one tensor, so that it is known which."""
    binding = book.binding(node, graph)
    if binding is None or binding.rule.structure not in ("split", "getitem", "slice", "select", "unbind"):
        return False
    return binding.arguments.get("step", 1) in (None, 1)


def _union(labels: Iterable[Labels]) -> Labels:
    return _NONE.union(*labels)


def _lost(node: Node, cause: str) -> UsageError:
    remedy = f"report the model without {called('product')}, or write a rule for the operator"
    return UsageError(f"the product form cannot be followed through {node.where}", cause=cause, remedy=remedy)


def _inside_axes(
    symmetry: SymmetryGraph, inside: frozenset[int], graph: Graph, book: RuleBook
) -> dict[str, tuple[Labels, ...]]:
    """For every value, which of the circuits' spaces lie along each of its axes.

    Idioms are not rewritten at first, so that the values of every call are known: classes do not matter for where an
    axis goes. What goes through an idiom (a rotary product of interleaved pairs) is told by a second look.
    """
    d = absorb_gains(find_frames(collect(explain_calls(cut_joined(Prepared(graph, book, graph))))))
    label: dict[int, set[int]] = {}
    for name, axes in symmetry.terms.items():
        for known, mine in zip(axes, d.terms.get(name, ()), strict=False):
            for space, leaf in _named(known, mine, inside):
                label.setdefault(d.root(2 * d.nodes[leaf.frame]), set()).add(space)
    _follow_products(d, label)
    found = _idioms(symmetry, inside, graph, book)
    plain = {name: tuple(_along(d, label, t) for t in axes) for name, axes in d.values.items()}
    for name, labels in plain.items():
        found[name] = tuple(map(frozenset.union, labels, found[name])) if name in found else labels
    several = {n.name: d.eq.values[n.name] for n in d.eq.graph.calls if isinstance(n.result, tuple)}
    for name, results in several.items():
        roots = (d.root(x) for axes in results for ref in axes for x in d.eq.store.leaves(ref))
        found[name] = (_NONE.union(*(label.get(root, ()) for root in roots)),)
    return found


def _idioms(
    symmetry: SymmetryGraph, inside: frozenset[int], graph: Graph, book: RuleBook
) -> dict[str, tuple[Labels, ...]]:
    seen = infer(graph, book)
    known = {s.id: symmetry.by_name[s.name].id for s in seen.spaces if s.name in symmetry.by_name}
    names = {n.name for n in graph.nodes}

    def labels(term: Term) -> Labels:
        return inside & {known[x.space] for x in leaves(term) if x.space in known}

    return {name: tuple(map(labels, axes)) for name, axes in seen.values.items() if name in names}


def _follow_products(d: Draft, label: dict[int, set[int]]) -> None:
    """What is multiplied entry by entry stays where it is; the other factor (a rotary table) is not inside for that."""
    before = -1
    while before != (before := sum(map(len, label.values()))):
        for r in d.relations:
            for term, _ in r.terms:
                if d.root(term) in label:
                    label.setdefault(d.root(r.result), set()).update(label[d.root(term)])


def _named(known: Term, mine: Term, inside: frozenset[int]) -> list[tuple[int, Leaf]]:
    """Leaves of `mine` that lie where `known` has a leaf inside a circuit."""
    if isinstance(known, Leaf):
        return [(known.space, x) for x in leaves(mine) if x.frame >= 0] if known.space in inside else []
    if not any(x.space in inside for x in leaves(known)):
        return []
    if type(known) is not type(mine) or any(isinstance(t, Concat) and t.order for t in (known, mine)):
        raise UsageError("the axes of a circuit are cut in another way", remedy=f"leave out {called('product')}")
    groups = _grouped(_inner(known), list(_inner(mine)), prod if isinstance(known, Product) else sum)
    whole = Product if isinstance(known, Product) else Concat
    pairs = ((k, g[0] if len(g) == 1 else whole(tuple(g))) for k, g in groups)
    return [found for k, m in pairs for found in _named(k, m, inside)]


def _inner(term: Term) -> tuple[Term, ...]:
    return () if isinstance(term, Leaf) else term.factors if isinstance(term, Product) else term.parts


def _grouped(
    known: tuple[Term, ...], mine: list[Term], size: Callable[[Iterable[int]], int]
) -> list[tuple[Term, list[Term]]]:
    """Each of several terms with the run of finer ones that makes it up."""
    found = []
    for term in known:
        run = [mine.pop(0)] if mine else []
        while run and mine and size(t.size for t in run) < term.size:
            run.append(mine.pop(0))
        if size(t.size for t in run) != term.size:
            raise UsageError("the axes of a circuit are cut in another way", remedy=f"leave out {called('product')}")
        found.append((term, run))
    return found


def _along(d: Draft, label: Mapping[int, set[int]], term: Term) -> Labels:
    roots = (d.root(2 * d.nodes[x.frame]) for x in leaves(term) if x.frame >= 0)
    return frozenset(space for root in roots for space in label.get(root, ()))
