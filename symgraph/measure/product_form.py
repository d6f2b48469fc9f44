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
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, leaves
from symgraph.tracing import state_of, trace
from symgraph.tracing.arguments import arguments
from symgraph.tracing.decompose import expand
from symgraph.tracing.interpreter import Inputs, Interpreter
from symgraph.tracing.sampling import first_floating
from symgraph.tracing.unstack import without_stacks

State = Mapping[str, Tensor]
Labels = frozenset[int]
_NONE: Labels = frozenset()


def circuit_spaces(symmetry: SymmetryGraph) -> frozenset[int]:
    """The spaces inside of which only products count: invertible, or rotary, or a matrix group for each head.

    Raises:
        UsageError: there is none.
    """
    inside = frozenset(space.id for space in symmetry.active if space.is_matrix and _is_free(space))
    if not inside:
        cause = "no space lies between two linear maps alone"
        raise UsageError("the model has no product form", cause=cause, remedy=f"leave out {called('product')}")
    return inside


def _is_free(space: Space) -> bool:
    maps = space.maps
    return bool(space.fibre) or maps.paired or (isinstance(maps, DenseMaps) and not maps.compact)


@dataclass(frozen=True, slots=True)
class Pair:
    """A value once for each of the two models."""

    copies: tuple[Any, Any]


def _of_each(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of each of the two models."""
    first, second = (
        {name: value.copies[side] if isinstance(value, Pair) else value for name, value in values.items()}
        for side in (0, 1)
    )
    return first, second


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
        self.meetings = {call.name: meeting for call in plain.calls if (meeting := self._meeting(call)) is not None}
        self.depends = self._dependences(book)
        self.point = 0.0

    def mixed(self, a: State, b: State, point: float) -> dict[str, Any]:
        """The tensors at a point between two models: pairs where a circuit is touched, else their mean."""
        self.point = point
        state: dict[str, Any] = {}
        for name, tensor in a.items():
            first, second = (end[name].to(self.device) for end in (a, b))
            if not first.is_floating_point() or first is second:
                state[name] = tensor
            elif any(leaf.space in self.inside for axis in self.symmetry.terms.get(name, ()) for leaf in leaves(axis)):
                state[name] = Pair(self._copies(name, first, second))
            else:
                state[name] = torch.lerp(first, second, point)
        return state

    def _copies(self, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Each model's own part inside a circuit, and the mean of what lies beside it in the same tensor."""

        def mix(both: Tensor, block: tuple[Leaf, ...]) -> Tensor:
            if any(leaf.space in self.inside for leaf in block):
                return both
            return torch.lerp(both[0], both[1], self.point).expand_as(both)

        which = Leaf(-1, -1, False, 2)
        first, second = on_blocks(torch.stack([a, b]), (which, *self.symmetry.terms[name]), mix)
        return first, second

    def run_mixed(self, tensors: Mapping[str, Any], inputs: Inputs) -> Any:
        """The outputs of the graph on what `mixed` gave."""
        return self.run(tensors, inputs)

    def check(self, a: State, b: State, inputs: Inputs) -> None:
        """Compares both ends with the models themselves.

        Raises:
            UsageError: they differ.
        """
        with torch.no_grad():
            for point, state in ((0.0, a), (1.0, b)):
                mixture = self.run_mixed(self.mixed(a, b, point), inputs)
                error = max(map(_difference, self.run(state, inputs), mixture))
                if not error <= torch.finfo(self.dtype).eps ** 0.5:
                    raise UsageError(
                        "the product form of this model cannot be computed",
                        cause=f"at lambda {point:g} its outputs differ from the model's by {error:.1e}",
                        remedy=f"report the model without {called('product')}",
                    )

    # -- how a call treats pairs -------------------------------------------------------------------------------

    def _start(self, state: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
        first, second = (super(ProductForm, self)._start(tensors, inputs) for tensors in _of_each(state))
        given = (node for node in self.graph.nodes if node.kind is not Kind.CALL)
        pairs = {node.name for node in given if isinstance(state.get(node.target), Pair)}
        return {name: Pair((value, second[name])) if name in pairs else value for name, value in first.items()}

    def _call(self, step: Any, env: Mapping[str, Any]) -> Any:
        refs = dict.fromkeys(step.node.refs())
        if not any(isinstance(env[ref], Pair) for ref in refs):
            return super()._call(step, env)
        meeting = self.meetings.get(step.node.name)
        values = {ref: env[ref] for ref in refs}
        if meeting is not None:
            values |= {ref: self._side_by_side(env[ref], axis) for ref, axis in meeting.axes.items()}
            if meeting.scale is not None:
                step = replace(step, kwargs={**step.kwargs, "scale": meeting.scale})
        first, second = _of_each(values)
        if not self.depends[step.node.name]:
            return super()._call(step, first)
        return Pair((super()._call(step, first), super()._call(step, second)))

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
        labels: dict[str, Labels] = {node.name: _union(self._labels(node.name)) for node in self.graph.state.values()}
        for node in self.graph.calls:
            meeting = self.meetings.get(node.name)
            meets: Mapping[str, int] = {} if meeting is None else meeting.axes
            if meeting is not None and any(labels.get(operand, _NONE) - meeting.gone for operand in meets):
                raise _lost(node, "what meets there depends on another circuit too")
            operands = list(dict.fromkeys(node.refs()))
            alone = _union([labels.get(operand, _NONE) for operand in operands if operand not in meets])
            if _picks(node, book, self.graph):
                # Of entries that are picked, only those that are left count.
                alone = (alone - _union(self._labels(operands[0]))) | (alone & _union(self._labels(node.name)))
            labels[node.name] = alone
        for output in self.graph.outputs:
            if circuits := labels.get(output):
                names = ", ".join(self.symmetry.spaces[circuit].name for circuit in circuits)
                raise _lost(self.graph.by_name[output], f"{names} never meets")
        return labels

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
            at = [axis for axis, labels_of_axis in enumerate(self._labels(operand)) if labels_of_axis & gone]
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
        self.precision = compute_dtype(first_floating(states[0]), dtype)
        held = {name: tensor.detach() for name, tensor in state_of(network).items()}
        self.a, self.b = (
            placed({name: state.get(name, tensor) for name, tensor in held.items()}, device, self.precision)
            for state in states
        )
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
        given = {name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}
        shapes = [(name, tensor.shape) for name, tensor in given.items()]
        key = (*shapes, *(tensor.shape for tensor in positional))
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = self._form(positional, given)
        return form.run_mixed(form.mixed(self.a, self.b, self.share), positional or given)

    @torch.inference_mode(False)
    def _form(self, positional: tuple[Tensor, ...], named: State) -> ProductForm:
        args = tuple(tensor.clone() for tensor in positional)
        kwargs = {name: tensor.clone() for name, tensor in named.items()}
        graph = trace(self.network, args, kwargs, name=type(self.network).__name__)
        form = ProductForm(self.symmetry, graph, self.book, dtype=self.precision, device=self.device)
        form.check(self.a, self.b, args or kwargs)
        return form


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-300)) if one.is_floating_point() else 0.0


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
    draft = absorb_gains(find_frames(collect(explain_calls(cut_joined(Prepared(graph, book, graph))))))
    label: dict[int, set[int]] = {}
    for name, axes in symmetry.terms.items():
        for known, mine in zip(axes, draft.terms.get(name, ()), strict=False):
            for space, leaf in _named(known, mine, inside):
                label.setdefault(draft.root(2 * draft.nodes[leaf.frame]), set()).add(space)
    _follow_products(draft, label)
    labels_of = _idioms(symmetry, inside, graph, book)
    plain = {name: tuple(_along(draft, label, term) for term in axes) for name, axes in draft.values.items()}
    for name, labels in plain.items():
        labels_of[name] = tuple(map(frozenset.union, labels, labels_of[name])) if name in labels_of else labels
    several = {call.name: draft.eq.values[call.name] for call in draft.eq.graph.calls if isinstance(call.result, tuple)}
    for name, results in several.items():
        roots = (draft.root(leaf) for axes in results for ref in axes for leaf in draft.eq.store.leaves(ref))
        labels_of[name] = (_NONE.union(*(label.get(root, ()) for root in roots)),)
    return labels_of


def _idioms(
    symmetry: SymmetryGraph, inside: frozenset[int], graph: Graph, book: RuleBook
) -> dict[str, tuple[Labels, ...]]:
    seen = infer(graph, book)
    known = {space.id: symmetry.by_name[space.name].id for space in seen.spaces if space.name in symmetry.by_name}
    names = {node.name for node in graph.nodes}

    def labels(term: Term) -> Labels:
        return inside & {known[leaf.space] for leaf in leaves(term) if leaf.space in known}

    return {name: tuple(map(labels, axes)) for name, axes in seen.values.items() if name in names}


def _follow_products(draft: Draft, label: dict[int, set[int]]) -> None:
    """What is multiplied entry by entry stays where it is; the other factor (a rotary table) is not inside for that."""
    before = -1
    while before != (before := sum(map(len, label.values()))):
        for relation in draft.relations:
            for term, _ in relation.terms:
                if draft.root(term) in label:
                    label.setdefault(draft.root(relation.result), set()).update(label[draft.root(term)])


def _named(known: Term, mine: Term, inside: frozenset[int]) -> list[tuple[int, Leaf]]:
    """Leaves of `mine` that lie where `known` has a leaf inside a circuit."""
    if isinstance(known, Leaf):
        return [(known.space, leaf) for leaf in leaves(mine) if leaf.frame >= 0] if known.space in inside else []
    if not any(leaf.space in inside for leaf in leaves(known)):
        return []
    if type(known) is not type(mine) or any(isinstance(term, Concat) and term.order for term in (known, mine)):
        raise UsageError("the axes of a circuit are cut in another way", remedy=f"leave out {called('product')}")
    groups = _grouped(_inner(known), list(_inner(mine)), prod if isinstance(known, Product) else sum)
    whole = Product if isinstance(known, Product) else Concat
    pairs = ((part, group[0] if len(group) == 1 else whole(tuple(group))) for part, group in groups)
    return [pair for part, own in pairs for pair in _named(part, own, inside)]


def _inner(term: Term) -> tuple[Term, ...]:
    return () if isinstance(term, Leaf) else term.children


def _grouped(
    known: tuple[Term, ...], mine: list[Term], size: Callable[[Iterable[int]], int]
) -> list[tuple[Term, list[Term]]]:
    """Each of several terms with the run of finer ones that makes it up."""
    groups = []
    for term in known:
        run = [mine.pop(0)] if mine else []
        while run and mine and size(part.size for part in run) < term.size:
            run.append(mine.pop(0))
        if size(part.size for part in run) != term.size:
            raise UsageError("the axes of a circuit are cut in another way", remedy=f"leave out {called('product')}")
        groups.append((term, run))
    return groups


def _along(draft: Draft, label: Mapping[int, set[int]], term: Term) -> Labels:
    roots = (draft.root(2 * draft.nodes[leaf.frame]) for leaf in leaves(term) if leaf.frame >= 0)
    return frozenset(space for root in roots for space in label.get(root, ()))
