"""Proof at the call: what a rule claims is tried with the constants, roles and kinds of operands of each call.

A claim that fails there is not used: laws are dropped, classes lowered to the next smaller one that holds. Proofs are
kept, so that calls that differ in nothing that the claims depend on share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from symgraph.groups.lattice import RIGID, Bound, SymmetryClass, down, maximal
from symgraph.ir import Graph, Node
from symgraph.rules.binding import Binding
from symgraph.rules.calls import at_call, runs
from symgraph.rules.equivariance import SEMI, Failure, Operands, in_worlds, named, turns
from symgraph.rules.facts import Facts
from symgraph.rules.laws import further_laws, without
from symgraph.rules.schema import Admits, Rule
from symgraph.rules.trial import Drawn, Trial
from symgraph.tracing.worlds import WORLDS


@dataclass(frozen=True, slots=True)
class Proof:
    """What holds of a rule at a call, and what does not; `lacking` are assumptions of the rule that nothing shows."""

    rule: Rule
    failures: tuple[Failure, ...] = ()
    lacking: tuple[str, ...] = ()


class Proofs:
    """Proofs by rule, operator, constants and roles.

    `structures` are those of rules that state a structure, `measured` what was found of regions that have no rule.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Proof] = {}
        self._at_sizes: dict[Any, Proof | None] = {}
        self.structures: dict[Any, Failure | None] = {}
        self.measured: dict[Any, Any] = {}

    def at(self, binding: Binding, node: Node, graph: Graph, whole: Rule, facts: Facts) -> Proof:
        """The rule of a binding with what holds at this call.

        Args:
            whole: the rule as the operator reads its operands (see `at_call`).
            facts: what producers say of operands.
        """
        rule = binding.rule
        if rule.signature is None:
            return Proof(rule)
        drawn = {
            operand: facts.drawn(ref.name, _limit(rule, operand)) for operand, (ref, _) in binding.operands.items()
        }
        known = {
            operand: fact
            for operand, fact in rule.assumes.items()
            if operand in binding.operands and facts.holds(fact, binding, operand, node)
        }
        key = (_Same(rule), graph.form(node), tuple(drawn.items()), tuple(known.items()))
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = self._found(binding, node, graph, whole, drawn, known)
        proof = self._known[key]
        lacking = tuple(
            f"{operand} is not known to be {fact}"
            for operand, fact in rule.assumes.items()
            if operand in drawn and operand not in known
        )
        return replace(proof, lacking=lacking) if proof.failures and lacking else proof

    def _found(
        self,
        binding: Binding,
        node: Node,
        graph: Graph,
        whole: Rule,
        drawn: Mapping[str, Drawn],
        known: Mapping[str, str],
    ) -> Proof:
        plain = _without_repeated(binding)
        for trials in at_call(replace(binding, rule=plain), node, graph, whole, drawn, known):
            key = _trials_key(binding.rule, trials)
            if key not in self._at_sizes:
                self._at_sizes[key] = _settled(plain, trials) if all(map(_is_tried, trials)) else None
            proof = self._at_sizes[key]
            if proof is not None:
                return proof
        rigid = replace(_bare(plain), admits=Admits(dict.fromkeys(plain.admits, RIGID)))
        shapes = ", ".join(
            f"{operand} {list(graph.by_name[ref.name].shape)}" for operand, (ref, _) in binding.operands.items()
        )
        return Proof(rigid, (Failure("running it", "", "", node.target, float("inf"), shapes),))


def _is_tried(trial: Trial) -> bool:
    """Whether a trial says anything: the operator runs, and has a value in some world."""
    return runs(trial) and any(True for _ in _worlds(trial))


def _limit(rule: Rule, operand: str) -> str:
    """What bounds the integers of an operand: the name of an axis, or a number."""
    given = (example.integers.get(operand, "") for example in rule.examples)
    return rule.indexes.get(operand, "") or next(filter(None, given), "")


def _trials_key(rule: Rule, trials: list[Trial]) -> Any:
    """All that the proof of a call depends on at sizes that are not its own."""
    first = trials[0]
    given = tuple((name, repr(value)) for name, value in first.given.items())
    sized = (tuple(first.sizes.items()), tuple(first.drawn.items()), tuple(first.same.items()))
    facts = (tuple(first.assumed.items()), tuple(first.tokens[0].items()), first.tokens[1])
    return (_Same(rule), tuple(map(str, trials)), given, sized, facts)


@dataclass(frozen=True, slots=True)
class _Same:
    """A rule, equal to itself alone."""

    rule: Rule

    def __hash__(self) -> int:
        return id(self.rule)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.rule is self.rule


def _without_repeated(binding: Binding) -> Rule:
    """The rule without the laws about one operand that another one is as well."""
    refs = [ref.name for ref, _ in binding.operands.values()]
    several = {operand for operand, (ref, _) in binding.operands.items() if refs.count(ref.name) > 1}
    rule = binding.rule
    if not several:
        return rule
    tail = {rule.gain, rule.adds} & several
    return replace(
        rule,
        shift={operand: law for operand, law in rule.shift.items() if operand not in several and law not in several},
        blind={operand: axis for operand, axis in rule.blind.items() if operand not in several},
        chooses=() if several & {*rule.chooses} else rule.chooses,
        differs=() if several & {*rule.differs} else rule.differs,
        radial=None if rule.radial in several else rule.radial,
        gain=None if tail else rule.gain,
        adds=None if tail else rule.adds,
        statistics=() if several & {*rule.statistics, rule.gain, rule.adds} else rule.statistics,
    )


def _bare(rule: Rule) -> Rule:
    lawless = replace(rule, shift={}, blind={}, chooses=(), differs=(), radial=None, centred=None, weights=None)
    return replace(lawless, statistics=(), product={}, points={})


# -- one call --------------------------------------------------------------------------------------------------------


def _settled(rule: Rule, trials: list[Trial]) -> Proof:
    """The rule with the laws and classes that hold in every world."""
    failures: list[Failure] = []
    for trial in trials:
        for key, subject, failure in _broken(replace(trial, rule=_as(rule, trial))):
            rule = _less(rule, key, subject)
            failures.append(failure)
    if {failure.law.split()[0] for failure in failures} & {"gain", "adds"}:
        rule = replace(rule, product={})
    for trial in trials:
        rule, more = _lowered(rule, replace(trial, rule=_as(rule, trial)))
        failures += more
    return Proof(rule, tuple(failures))


def _as(rule: Rule, trial: Trial) -> Rule:
    """The rule with the signature by which the trial reads its operands."""
    return replace(rule, signature=trial.rule.signature)


def _worlds(trial: Trial) -> Iterator[Operands]:
    return in_worlds(tuple(trial.at(world) for world in WORLDS))


def _broken(trial: Trial) -> Iterator[tuple[str, str, Failure]]:
    """The first counterexample to every further law that fails."""
    seen: set[tuple[str, str]] = set()
    for operands in _worlds(trial):
        for key, subject, error in further_laws(operands.trial, operands.floor):
            if operands.fails(error) and (key, subject) not in seen:
                seen.add((key, subject))
                yield key, subject, operands.failure(f"{key} of {subject}", error)


def _less(rule: Rule, key: str, subject: str) -> Rule:
    """The rule without one law; with the gain goes the bias behind it, and statistics that both make up for."""
    operand = subject.split()[0]
    if key == "shift":
        return replace(
            rule, shift={other: law for other, law in rule.shift.items() if other != operand and operand in rule.shift}
        )
    if key == "blind":
        return replace(
            rule,
            blind={other: axis for other, axis in rule.blind.items() if other != operand and operand in rule.blind},
        )
    if key in ("chooses", "differs"):
        return replace(rule, chooses=()) if key == "chooses" else replace(rule, differs=())
    if key in ("gain", "adds"):
        return replace(rule, gain=None, adds=None, statistics=())
    if key == "statistics":
        return replace(rule, statistics=())
    return {
        "radial": replace(rule, radial=None),
        "centred": replace(rule, centred=None),
        "weights": replace(rule, weights=None),
    }[key]


def _lowered(rule: Rule, trial: Trial) -> tuple[Rule, list[Failure]]:
    """The rule with the largest classes inside of its own that hold together."""
    if _first_failure(trial, {name: maximal(claim) for name, claim in trial.claims.items()}) is None:
        return rule, []
    if rule.product:
        return _lowered_product(rule, trial)
    failures: list[Failure] = []
    bounds: dict[str, Bound] = {}
    for name, bound in trial.claims.items():
        while (failure := _first_failure(trial, {**_all(bounds), name: maximal(bound)})) is not None:
            failures.append(failure)
            bound = _smaller(bound, trial, _all(bounds), name)
        bounds[name] = bound
    admits = dict(rule.admits)
    for name in (name for name, bound in bounds.items() if bound != trial.claims[name]):
        for axis in trial.axes(name):
            admits[axis] = admits[axis] & bounds[name]
    return replace(rule, admits=Admits(admits)), failures


def _lowered_product(rule: Rule, trial: Trial) -> tuple[Rule, list[Failure]]:
    """Where the elements of operands do not multiply as the rule says they may still agree."""
    first = _first_failure(trial, {name: maximal(bound) for name, bound in trial.claims.items()})
    plain = replace(rule, product={})
    lowered, more = _lowered(plain, replace(trial, rule=_as(plain, trial)))
    return lowered, [*([first] if first is not None else []), *more]


def _all(bounds: Mapping[str, Bound]) -> dict[str, tuple[SymmetryClass, ...]]:
    return {name: maximal(bound) for name, bound in bounds.items()}


def _smaller(bound: Bound, trial: Trial, beside: Mapping[str, tuple[SymmetryClass, ...]], name: str) -> Bound:
    """The bound without its largest classes that fail; where each of them holds alone, without the last."""
    top = maximal(bound)
    wrong = [
        symmetry_class
        for symmetry_class in top
        if _first_failure(trial, {**beside, name: (symmetry_class,)}) is not None
    ] or [top[-1]]
    return down(
        *(symmetry_class for symmetry_class in bound if not any(refused in down(symmetry_class) for refused in wrong))
    )


def _first_failure(trial: Trial, choices: Mapping[str, tuple[SymmetryClass, ...]]) -> Failure | None:
    """The first world and combination of classes in which the operator does not commute."""
    for operands in _worlds(trial):
        values = without(operands.trial, {trial.rule.gain})
        for classes in turns(choices):
            error = operands.error(values, classes)
            if operands.fails(error) and not _refused(operands, values, classes, error):
                return operands.failure("equivariance", error, *named(classes), values)
    return None


def _refused(operands: Operands, values: Any, classes: Mapping[str, SymmetryClass], error: float) -> bool:
    """Whether the operator does not take other sizes with these constants, while it commutes at the one it has."""
    if error != float("inf") or SEMI not in classes.values():
        return False
    same = {
        name: SymmetryClass.PERMUTATION if symmetry_class is SEMI else symmetry_class
        for name, symmetry_class in classes.items()
    }
    return not operands.fails(operands.error(values, same))
