"""The equations that a rule with a signature makes for one node: unify, bound, multiply."""

from __future__ import annotations

from collections.abc import Iterator

from symgraph.groups.lattice import Bound, SymmetryClass
from symgraph.inference.applied import BATCH, Relation, shapes_of
from symgraph.inference.equations import Equations
from symgraph.inference.store import Ref
from symgraph.inference.structural import FIXES_ONES, Axes
from symgraph.ir import Kind, Node
from symgraph.rules.binding import Binding
from symgraph.rules.signature import AxisToken


class SignatureEquations:
    """Applies one rule with a signature to one node."""

    def __init__(self, eq: Equations, node: Node, binding: Binding) -> None:
        self.eq, self.node, self.binding, self.rule = eq, node, binding, binding.rule
        self.store = eq.store
        self.named: dict[str, list[Ref]] = {}
        self.outputs: list[list[Ref]] = []
        self.operand_axes: dict[str, Axes] = {
            name: eq.values[ref.name][0] for name, (ref, _) in binding.operands.items()
        }

    def axes(self) -> tuple[Axes, ...]:
        count, shapes = len(self.binding.results), shapes_of(self.node)
        self._outputs(shapes[:count])
        self._named_axes()
        self._batch_axes()
        self._tail()
        self._annotate()
        unread = (tuple(self.store.fresh_rigid(n, "nothing reads it") for n in shape) for shape in shapes[count:])
        return (*map(tuple, self.outputs), *unread)

    def _outputs(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        for shape in shapes:
            self.outputs.append([self.store.new(n) for n in shape])

    def _occurrences(self, skip: set[str] = frozenset()) -> Iterator[tuple[str, AxisToken, Ref, bool]]:  # type: ignore[assignment]
        """(operand or "", token, axis, is_result) for every tensor axis of the call."""
        for name, (_, tokens) in self.binding.operands.items():
            if name not in skip:
                for token, ref in zip(tokens, self.operand_axes[name], strict=True):
                    yield name, token, ref, False
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            for token, ref in zip(tokens, axes, strict=True):
                yield "", token, ref, True

    def _named_axes(self) -> None:
        """Axes with a name: every occurrence of the name is one axis, up to duality."""
        tail = {self.rule.gain, self.rule.adds} - {None}
        core: dict[str, Ref] = {}
        for operand, token, ref, is_result in self._occurrences():
            if token.batch or token.name == "1":
                continue
            if token.name.startswith("_"):
                self.store.rigid(ref, "no claim is made about this axis")
                continue
            if operand in tail or (is_result and self.rule.gain in self.binding.operands):
                continue
            if token.mark == "~":
                self.eq.links.append((core.setdefault(token.name, ref), ref))
                self.store.bound(ref, BATCH, "transforms by the permutation alone")
                continue
            ref ^= token.mark == "'"
            if token.name in core:
                self.store.unify(core[token.name], ref)
            core.setdefault(token.name, ref)
        for name, ref in core.items():
            self.store.bound(ref, self.rule.admits[name])
        self.core = core

    def _tail(self) -> None:
        """The gain multiplies the core's result, the bias is added to it."""
        gain, bias = self.rule.gain, self.rule.adds
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            at = {t.name: r for t, r in zip(tokens, axes, strict=True)}
            if gain in self.binding.operands:
                *outer, inner = [(t, r) for t, r in self._operand(gain) if t.name in at and t.name in self.core]
                self._relate(at[inner[0].name], ((self.core[inner[0].name], 1), (inner[1], 1)))
                # A scale of a whole group is one of its members already.
                for token, ref in outer:
                    self.store.unify(self.core[token.name], at[token.name])
                    self.eq.links.append((self.core[token.name], ref))
                    self.store.bound(ref, BATCH, "transforms by the permutation alone")
                for name, ref in at.items():
                    if name in self.core and name not in {t.name for t, _ in self._operand(gain)}:
                        self.store.unify(self.core[name], ref)
            if bias in self.binding.operands:
                for token, ref in self._operand(bias):
                    if token.name in at:
                        self._meet(at[token.name], ref, FIXES_ONES)

    def _operand(self, name: str) -> list[tuple[AxisToken, Ref]]:
        _, tokens = self.binding.operands[name]
        return list(zip(tokens, self.operand_axes[name], strict=True))

    def _relate(self, result: Ref, terms: tuple[tuple[Ref, int], ...]) -> None:
        self.eq.relations.append(Relation(result, terms, self.node.name, self.rule.rule))

    def _meet(self, result: Ref, ref: Ref, broadcast: Bound | None) -> None:
        """One operand's pointwise axis against the result's; a broadcast operand may lower the bound."""
        if self.store.size(result) == self.store.size(ref):
            self.store.unify(result, ref)
        elif broadcast is not None:
            self.store.bound(result, broadcast, "an operand is constant along it")

    def _batch_axes(self) -> None:
        """`...` and `*` axes: aligned from the right; an operand of size one or absent is broadcast."""
        results: dict[str, Ref] = {}
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            for token, ref in zip(tokens, axes, strict=True):
                if token.batch:
                    if token.name in results:
                        self.store.unify(results[token.name], ref)
                    results.setdefault(token.name, ref)
        for name, ref in results.items():
            # A product by something constant along the axis is linear; one of two axes is settled by its relation.
            if not self.rule.product:
                self.store.bound(ref, self._batch_bound(name))
            self._batch_axis(name, ref)
        self._vanished_batch(results)

    def _batch_bound(self, name: str) -> Bound:
        return self.rule.admits.get("*" if name.startswith("*") else "...", BATCH)

    def _batch_axis(self, name: str, result: Ref) -> None:
        terms: list[tuple[Ref, int]] = []
        for operand in self.binding.operands:
            if operand in (self.rule.gain, self.rule.adds):
                continue
            ref = next((r for t, r in self._operand(operand) if t.name == name), None)
            broadcast = ref is None or self.store.size(ref) != self.store.size(result)
            if broadcast and self.rule.broadcast == "ones" and self.store.size(result) > 1:
                self.store.bound(result, FIXES_ONES, "an operand is constant along it")
            if not broadcast and ref is not None:
                terms.append((ref, self.rule.product.get(operand, 1) if self.rule.product else 1))
        if self.rule.broadcast == "ones" and name.startswith("*") and self._scalar_operand():
            self.store.bound(result, FIXES_ONES, "a constant is added to it")
        if self.rule.product and (len(terms) > 1 or any(p != 1 for _, p in terms)):
            self._relate(result, tuple(terms))
            return
        for ref, _ in terms:
            self.store.unify(result, ref)
        if name.startswith("*") and len(terms) > 1 and self._adds_learned():
            self.eq.sums.append(result)

    def _scalar_operand(self) -> bool:
        return any(
            isinstance(v, int | float) and not isinstance(v, bool) and k in self.rule.scalars and v != 0
            for k, v in self.binding.arguments.items()
        )

    def _adds_learned(self) -> bool:
        """Whether values that different operators wrote are summed here: the mark of a residual stream."""
        refs = [ref.name for ref, _ in self.binding.operands.values()]
        written = {
            self.eq.writers[r] for r in refs if self.eq.graph.by_name[r].kind is Kind.CALL and r in self.eq.learned
        }
        return self.rule.broadcast == "ones" and len(written) > 1

    def _vanished_batch(self, results: dict[str, Ref]) -> None:
        """A batch axis that no result has is read as a whole: nothing is claimed about it."""
        for _, token, ref, is_result in self._occurrences():
            if token.batch and not is_result and token.name not in results:
                self.store.rigid(ref, "an axis that the result does not have")

    def _part_company(self) -> None:
        """What stands beside an axis in one tensor only is another index there, even if both index one space."""
        tensors = [self._operand(operand) for operand in self.binding.operands]
        for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
            tensors.append(list(zip(tokens, axes, strict=True)))
        for name, ref in self.core.items():
            holding = [t for t in tensors if any(token.name == name for token, _ in t)]
            shared = set.intersection(*({token.name for token, _ in t} for t in holding)) if holding else set()
            for other in (r for t in holding for token, r in t if token.name not in shared):
                self.eq.apart.append(((ref,), other))

    def _annotate(self) -> None:
        """Which axes mix positions (no other element may depend on them), and the names a rule gives.

        A map that commutes with copying positions treats each of them alone; all others mix.
        """
        kept = {t.name for tokens in self.binding.results for t in tokens}
        for operand in self.binding.operands:
            pairs = self._operand(operand)
            mixing = [
                r
                for t, r in pairs
                if not t.batch
                and t.name in kept
                and t.name in self.core
                and SymmetryClass.SEMI_PERMUTATION not in self.rule.admits[t.name]
            ]
            for ref in mixing:
                self.eq.apart.append((tuple(r for _, r in pairs if r != ref), ref))
        self._part_company()
        for name, ref in self.core.items():
            if name in self.rule.names:
                self.eq.labels.append((ref, self.rule.names[name], self.node.name))
            if self.rule.layout and SymmetryClass.ROTARY in self.rule.admits[name]:
                self.eq.layouts.append((ref, self.rule.layout))
        if "..." in self.rule.names:
            for tokens, axes in zip(self.binding.results, self.outputs, strict=True):
                for token, ref in zip(tokens, axes, strict=True):
                    if token.batch:
                        self.eq.labels.append((ref, self.rule.names["..."], self.node.name))
