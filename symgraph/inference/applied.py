"""A node and the rule that explains it, and what the rule says about the elements of a product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symgraph.groups.lattice import Bound, SymmetryClass, down
from symgraph.inference.claims import Ref
from symgraph.ir import Node, Tensor
from symgraph.rules.binding import Binding
from symgraph.rules.schema import Rule

BATCH: Bound = down(SymmetryClass.SEMI_PERMUTATION)


@dataclass(frozen=True, slots=True)
class Applied:
    """A call with the rule that explains it, and what its axes and arguments are to the rule."""

    node: Node
    binding: Binding

    @property
    def rule(self) -> Rule:
        """What explains the call."""
        return self.binding.rule

    def __str__(self) -> str:
        if self.rule.structure is not None:
            return f"%{self.node.name}: {self.rule.rule} moves axes ({self.rule.structure})"
        operands = ", ".join(f"{ref!r}[{_text(tokens)}]" for ref, tokens in self.binding.operands.values())
        results = ", ".join(f"[{_text(tokens)}]" for tokens in self.binding.results)
        return f"%{self.node.name}: {self.rule.rule} {operands} -> {results}"


def _text(tokens: tuple[object, ...]) -> str:
    return " ".join(map(str, tokens))


@dataclass(frozen=True, slots=True)
class Relation:
    """On one axis: the element of `result` is the product of the elements of `terms` to their powers.

    `product` on one axis of `up * gate` says result = up gate; a quotient has the power -1.
    """

    result: Ref
    terms: tuple[tuple[Ref, int], ...]
    node: str
    rule: str

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The result and all factors."""
        return self.result, *(factor for factor, _ in self.terms)

    def text(self, name: Callable[[Ref], str]) -> str:
        """The relation with its axes under these names: `a7 = a3 a5^-1 (mul at %mul)`."""
        factors = " ".join(name(factor) + (f"^{power}" if power != 1 else "") for factor, power in self.terms)
        return f"{name(self.result)} = {factors} ({self.rule} at %{self.node})"


def shapes_of(node: Node) -> tuple[tuple[int, ...], ...]:
    """The shape of each result."""
    if isinstance(node.result, Tensor):
        return (node.result.shape,)
    return () if node.result is None else tuple(tensor.shape for tensor in node.result)
