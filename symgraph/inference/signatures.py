"""The equations that a rule with a signature makes for one node: unify, bound, multiply."""

from __future__ import annotations

from collections.abc import Iterator

from symgraph.groups.lattice import Bound, SymmetryClass, maps, maximal
from symgraph.inference.applied import BATCH, Relation, shapes_of
from symgraph.inference.claims import Ref
from symgraph.inference.equations import Gathering, Label
from symgraph.inference.structural import FIXES_ONES, Axes
from symgraph.ir import Kind, Node
from symgraph.rules.binding import Binding
from symgraph.rules.signature import AxisToken

# The axes of one tensor of the call, each with what the signature says about it.
Labelled = tuple[tuple[AxisToken, Ref], ...]


class SignatureEquations:
    """Applies one rule with a signature to one node.

    `core` has the axes with a name: of `input[... i], weight[o i'], bias[o] -> [... o]` these are i and o, each once
    for all tensors. What the rule calls its `gain` and what it `adds` come after the core: they meet its result alone.
    """

    def __init__(self, gathering: Gathering, node: Node, binding: Binding) -> None:
        self.gathering, self.node, self.binding, self.rule = gathering, node, binding, binding.rule
        self.store = gathering.store
        shapes, count = shapes_of(node), len(binding.results)
        self.unread = shapes[count:]
        made = [tuple(self.store.new(size) for size in shape) for shape in shapes[:count]]
        self.results: list[Labelled] = [
            tuple(zip(tokens, axes, strict=True)) for tokens, axes in zip(binding.results, made, strict=True)
        ]
        self.operands: dict[str, Labelled] = {
            name: tuple(zip(tokens, gathering.axes(ref.name), strict=True))
            for name, (ref, tokens) in binding.operands.items()
        }
        self.core: dict[str, Ref] = {}
        self.factors: dict[str, list[tuple[Ref, int]]] = {}
        self.has_gain = self.rule.gain in self.operands
        marked = (token for result in self.results for token, _ in result if token.mark == "~")
        self.only_permuted = frozenset(token.name for token in marked)

    def axes(self) -> tuple[Axes, ...]:
        """The axes of all results; makes the equations."""
        self._name_axes()
        self._align_batch()
        for result in self.results:
            self._meet_gain(dict(_by_name(result)))
            self._meet_bias(dict(_by_name(result)))
        self._part_from_mixed()
        self._part_from_others()
        self._label()
        read = (tuple(axis for _, axis in result) for result in self.results)
        unread = (tuple(self.store.fresh_rigid(size, "nothing reads it") for size in shape) for shape in self.unread)
        return (*read, *unread)

    def _tensors(self) -> Iterator[Labelled]:
        yield from self.operands.values()
        yield from self.results

    # -- axes with a name ----------------------------------------------------------------------------------------

    def _name_axes(self) -> None:
        """Every occurrence of a name in the core is one axis, up to duality."""
        for tensor in self._tensors():
            for token, axis in tensor:
                if token.name.startswith("_"):
                    self.store.rigid(axis, "no claim is made about this axis")
        for operand, tensor in self._core_tensors():
            for token, axis in tensor:
                if not token.batch and token.claimed:
                    self._occurs(token, axis, operand)
        for name, axis in self.core.items():
            for factor in dict.fromkeys((axis, *(other for other, _ in self.factors.get(name, ())))):
                self.store.bound(factor, self.rule.admits[name])

    def _core_tensors(self) -> Iterator[tuple[str, Labelled]]:
        yield from (
            (operand, t) for operand, t in self.operands.items() if operand not in (self.rule.gain, self.rule.adds)
        )
        if not self.has_gain:
            yield from (("", result) for result in self.results)

    def _occurs(self, token: AxisToken, axis: Ref, operand: str) -> None:
        core = self.core.setdefault(token.name, axis ^ (token.mark == "'"))
        if token.mark == "~":
            self._permute_with(core, axis)
            if token.name in self.factors:
                self._relate(axis, tuple(self.factors[token.name]))
        elif operand in self.rule.product and token.name in self.only_permuted:
            self.factors.setdefault(token.name, []).append((axis, self.rule.product[operand]))
        else:
            self.store.unify(core, axis ^ (token.mark == "'"))

    def _permute_with(self, axis: Ref, other: Ref) -> None:
        self.gathering.links.append((axis, other))
        self.store.bound(other, BATCH, "transforms by the permutation alone")

    # -- gain and bias -------------------------------------------------------------------------------------------

    def _meet_gain(self, result: dict[str, Ref]) -> None:
        """The gain multiplies the core's result along its last axis; outer ones say which of several gains it is."""
        if not self.has_gain or self.rule.gain is None:
            return
        gain = dict(_by_name(self.operands[self.rule.gain]))
        *outer, inner = (name for name in gain if name in result and name in self.core)
        self._relate(result[inner], ((self.core[inner], 1), (gain[inner], 1)))
        for name in outer:
            # A scale of a whole group is one of its members already.
            self.store.unify(self.core[name], result[name])
            self._permute_with(self.core[name], gain[name])
        for name, axis in result.items():
            if name in self.core and name not in gain:
                self.store.unify(self.core[name], axis)

    def _meet_bias(self, result: dict[str, Ref]) -> None:
        """What is added has the result's axes; one that is constant along an axis fixes the ones there."""
        if self.rule.adds not in self.operands or self.rule.adds is None:
            return
        for token, axis in self.operands[self.rule.adds]:
            if token.name not in result:
                continue
            if self.store.size(result[token.name]) == self.store.size(axis):
                self.store.unify(result[token.name], axis)
            else:
                self.store.bound(result[token.name], FIXES_ONES, "an operand is constant along it")

    def _relate(self, result: Ref, factors: tuple[tuple[Ref, int], ...]) -> None:
        self.gathering.relations.append(Relation(result, factors, self.node.name, self.rule.rule))

    # -- batch axes ----------------------------------------------------------------------------------------------

    def _align_batch(self) -> None:
        """`...` and `*` axes: aligned from the right; an operand of size one or absent is broadcast."""
        aligned: dict[str, Ref] = {}
        for token, axis in (pair for result in self.results for pair in result if pair[0].batch):
            if token.name in aligned:
                self.store.unify(aligned[token.name], axis)
            aligned.setdefault(token.name, axis)
        for name, axis in aligned.items():
            # A product by something constant along the axis is linear; one of two axes is settled by its relation.
            if not self.rule.product:
                self.store.bound(axis, self._batch_bound(name))
            self._combine(name, axis)
        for token, axis in (pair for operand in self.operands.values() for pair in operand):
            if token.batch and token.name not in aligned:
                self.store.rigid(axis, "an axis that the result does not have")

    def _batch_bound(self, name: str) -> Bound:
        return self.rule.admits.get("*" if name.startswith("*") else "...", BATCH)

    def _combine(self, name: str, result: Ref) -> None:
        """One batch axis of the result against those of the operands: their product, or each of them."""
        if self._is_broadcast(name, result):
            self.store.bound(result, FIXES_ONES, "an operand is constant along it")
        if self.rule.broadcast == "ones" and name.startswith("*") and self._adds_a_number():
            self.store.bound(result, FIXES_ONES, "a constant is added to it")
        powers = self.rule.product
        factors = tuple(
            (axis, powers.get(operand, 1) if powers else 1) for operand, axis in self._varying(name, result)
        )
        if powers and (len(factors) > 1 or any(power != 1 for _, power in factors)):
            self._relate(result, factors)
            return
        for axis, _ in factors:
            self.store.unify(result, axis)
        if name.startswith("*") and len(factors) > 1 and self._is_residual_sum():
            self.gathering.sums.append(result)

    def _varying(self, name: str, result: Ref) -> Iterator[tuple[str, Ref]]:
        """Operands of the core that vary along a batch axis, with their axis."""
        size = self.store.size(result)
        for operand, tensor in self.operands.items():
            if operand in (self.rule.gain, self.rule.adds):
                continue
            axis = dict(_by_name(tensor)).get(name)
            if axis is not None and self.store.size(axis) == size:
                yield operand, axis

    def _is_broadcast(self, name: str, result: Ref) -> bool:
        """Whether some operand of the core is constant along a batch axis where the rule minds that."""
        core = sum(operand not in (self.rule.gain, self.rule.adds) for operand in self.operands)
        varying = sum(1 for _ in self._varying(name, result))
        return self.rule.broadcast == "ones" and self.store.size(result) > 1 and varying < core

    def _adds_a_number(self) -> bool:
        return any(
            isinstance(value, int | float) and not isinstance(value, bool) and name in self.rule.scalars and value != 0
            for name, value in self.binding.arguments.items()
        )

    def _is_residual_sum(self) -> bool:
        """Whether values that different operators wrote are summed here: the mark of a residual stream."""
        graph, explained = self.gathering.of.graph, self.gathering.of
        calls = [ref.name for ref, _ in self.binding.operands.values() if graph.by_name[ref.name].kind is Kind.CALL]
        written = {explained.writers[name] for name in calls if name in explained.learned}
        return self.rule.broadcast == "ones" and len(written) > 1

    # -- what an element may depend on -----------------------------------------------------------------------------

    def _part_from_mixed(self) -> None:
        """No element beside an axis depends on the positions there if the operator mixes and keeps them.

        A map that commutes with copying positions treats each of them alone; all others mix.
        """
        kept = {token.name for result in self.results for token, _ in result}
        for operand in self.operands.values():
            for token, axis in operand:
                if token.name in self.core and token.name in kept and self._mixes(token):
                    self.gathering.apart.append((tuple(other for _, other in operand if other != axis), axis))

    def _mixes(self, token: AxisToken) -> bool:
        return SymmetryClass.SEMI_PERMUTATION not in self.rule.admits[token.name]

    def _part_from_others(self) -> None:
        """What stands beside an axis in one tensor only is another index there, even if both index one space.

        A gain says so itself where it stays: its axis is then on the space. Where it is absorbed it says nothing.
        """
        operands = (tensor for operand, tensor in self.operands.items() if operand != self.rule.gain)
        tensors = [*operands, *self.results]
        for name, axis in self.core.items():
            holding = [tensor for tensor in tensors if any(token.name == name for token, _ in tensor)]
            shared = set.intersection(*({token.name for token, _ in tensor} for tensor in holding))
            for token, other in (pair for tensor in holding for pair in tensor):
                if token.name not in shared:
                    self.gathering.apart.append(((axis,), other))

    def _label(self) -> None:
        """The names and layouts that the rule gives to spaces."""
        names = self.rule.names
        for name, axis in self.core.items():
            if name in names:
                self.gathering.labels.append(Label(axis, names[name], self.node.name))
            if self.rule.layout and any(maps(c).paired for c in maximal(self.rule.admits[name])):
                self.gathering.layouts.append((axis, self.rule.layout))
        if "..." in names:
            batch = (axis for result in self.results for token, axis in result if token.batch)
            self.gathering.labels += (Label(axis, names["..."], self.node.name) for axis in batch)


def _by_name(tensor: Labelled) -> Iterator[tuple[str, Ref]]:
    return ((token.name, axis) for token, axis in tensor)
