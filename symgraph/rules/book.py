"""A rule book: all rules of a run, looked up by operator, with one hash that identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from symgraph.errors import RuleError, near
from symgraph.io.shown import Shown
from symgraph.ir import Form, Graph, Node
from symgraph.rules.binding import Binding, bind
from symgraph.rules.carried import measured_rule
from symgraph.rules.check import refusal, require_sound
from symgraph.rules.equivariance import Failure
from symgraph.rules.facts import Facts
from symgraph.rules.joined import apart, expanded, is_joined, split
from symgraph.rules.loading import load_file
from symgraph.rules.proof import Proof, Proofs
from symgraph.rules.schema import Rule, plain
from symgraph.tracing.arguments import PATTERN


@dataclass(frozen=True, repr=False)
class RuleBook(Shown):
    """The rules of a run, in order of precedence; `notes` say what a user's rules replaced, which are called `own`.

    `proofs` are kept as long as the book, and shared with those that are made of it. What a rule says about a call is
    looked up once for all calls that are alike.
    """

    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    proofs: Proofs = field(default_factory=Proofs, compare=False)
    _bindings: dict[Form, Binding | None] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        names = [rule.rule for rule in self.rules]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise RuleError(f"two rules are called {', '.join(double)}", remedy="rename one of them")

    def __str__(self) -> str:
        own = f", {len(self.own)} of them your own" if self.own else ""
        return "\n".join([f"{len(self.rules)} rules{own}", *self.notes])

    @cached_property
    def _by_target(self) -> dict[str, tuple[Rule, ...]]:
        by_target: dict[str, list[Rule]] = {}
        for rule in self.rules:
            for target in rule.targets:
                own = expanded(rule, target)
                by_target.setdefault(target, []).append(own)
                if is_joined(own):
                    plain = apart(own, target)
                    by_target[plain.targets[0]] = [plain]
        return {target: tuple(rules) for target, rules in by_target.items()}

    def for_node(self, node: Node) -> tuple[Rule, ...]:
        """The rules about a node's operator, to be tried in order; a measured region has one of its own."""
        own = measured_rule(node)
        return self._by_target.get(node.target, ()) if own is None else (own,)

    def binding(self, node: Node, graph: Graph) -> Binding | None:
        """The first rule that applies to a node of a graph, matched with it; None if there is no such rule."""
        alike = self._alike(node, graph)
        return None if alike is None else alike.at(node)

    def _alike(self, node: Node, graph: Graph) -> Binding | None:
        """The same of a node that is alike, which has the names of other values."""
        form = graph.form(node)
        if form not in self._bindings:
            bound = (bind(rule, node, graph) for rule in self.for_node(node) if not is_joined(rule))
            self._bindings[form] = next((binding for binding in bound if binding is not None), None)
        return self._bindings[form]

    def proof(self, binding: Binding, node: Node, graph: Graph, facts: Facts) -> Proof:
        """What holds of a rule at a call; what was measured there holds.

        Raises:
            RuleError: something does not, whatever the operands, and the rule is a user's own.
        """
        if measured_rule(node) is not None:
            return Proof(binding.rule)
        name = node.target.removeprefix(f"{PATTERN}{binding.rule.rule}.")
        joined = name != node.target and not binding.rule.pattern
        whole = self._whole(binding.rule, name) if joined else binding.rule
        proof = self.proofs.at(binding, node, graph, whole, facts)
        if not proof.lacking:
            self.refuse_own(binding.rule, proof.failures, node.where)
        return proof

    def refuse_own(self, rule: Rule, failures: tuple[Failure, ...], where: str) -> None:
        """Refuses a rule of the user's that claims something false at a place.

        Raises:
            RuleError: something fails, and the rule is a user's own.
        """
        if failures and rule.rule in self.own:
            raise refusal(rule, failures, where)

    def _whole(self, rule: Rule, target: str) -> Rule:
        """The rule behind one about tensors whose axes stand alone."""
        return next(rule_there for rule_there in self._by_target[target] if rule_there.rule == rule.rule)

    def split(self, node: Node, graph: Graph) -> tuple[Node, ...] | None:
        """What stands for a node whose rule speaks about axes that its tensors hold flattened; None for any other."""
        rules = self.for_node(node)
        if not any(map(is_joined, rules)):
            return None
        for rule in rules:
            if is_joined(rule):
                parts = split(rule, node, graph)
                if parts is not None:
                    return parts
            elif bind(rule, node, graph) is not None:
                return None
        return None

    def covers(self, node: Node, graph: Graph) -> bool:
        """Whether some rule applies to a node: that one speaks about its operator is not enough."""
        return self._alike(node, graph) is not None or self.split(node, graph) is not None

    def named(self, name: str, others: Iterable[str] = ()) -> Rule:
        """The rule called `name`.

        Args:
            others: what else might have been asked for, such as operators.

        Raises:
            RuleError: if there is none; a near name is suggested.
        """
        rule = next((rule for rule in self.rules if rule.rule == name), None)
        if rule is None:
            raise RuleError(
                f"no rule is called {name!r}",
                remedy=near(name, self.names, near(name, others, "`symgraph rules list` has all")),
            )
        return rule

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rules, in order."""
        return tuple(rule.rule for rule in self.rules)

    @cached_property
    def patterns(self) -> tuple[Rule, ...]:
        """The rules about idioms of several operators."""
        return tuple(rule for rule in self.rules if rule.pattern)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what the rules say."""
        text = json.dumps([plain(rule) for rule in self.rules], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rules)


def rules_folder() -> Path:
    """The folder of the shipped rule files: inside an installed package, else at the top of the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_rules"
    return inside if inside.is_dir() else package.parent / "rules"


@cache
def default_rules() -> RuleBook:
    """The shipped rules.

    Raises:
        RuleError: if the folder of rule files is missing.
    """
    folder = rules_folder()
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise RuleError(f"no rule files in {folder}", cause="the installation is incomplete", remedy="install again")
    return RuleBook(tuple(rule for file in files for rule in load_file(file)))


def read_rules(sources: Iterable[str | Path | Rule]) -> tuple[Rule, ...]:
    """Rules from folders, files and `Rule` objects, in order.

    Raises:
        RuleError: if a path does not exist or a file has problems.
    """
    rules: list[Rule] = []
    if isinstance(sources, Mapping) or not isinstance(sources, Iterable):
        remedy = "give a list of files, folders and rules: [symgraph.rule(rule=..., about=..., ...)]"
        raise RuleError(f"rules are given as {type(sources).__name__}", remedy=remedy)
    for source in sources:
        if isinstance(source, Rule):
            rules.append(source)
            continue
        path = Path(source)
        if not path.exists():
            raise RuleError(
                f"no rules at {path}", cause="the path does not exist", remedy="give a YAML file or a folder"
            )
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not files:
            raise RuleError(f"no rules at {path}", cause="the folder has no .yaml file", remedy="put rule files in it")
        rules += [rule for file in files for rule in load_file(file)]
    return tuple(rules)


def with_user_rules(book: RuleBook, sources: Iterable[str | Path | Rule]) -> RuleBook:
    """The book with a user's rules, each proven sound first; they replace ours for their operators.

    Raises:
        RuleError: if a source cannot be read, or a rule claims something false (with its counterexample).
    """
    added = read_rules(sources)
    notes = list(book.notes)
    for rule in added:
        require_sound(rule)
    mine = {target for rule in added for target in rule.targets} | {
        f"pattern:{rule.rule}" for rule in added if rule.pattern
    }
    kept = [rule for rule in (_without(own, mine, added, notes) for own in book.rules) if rule is not None]
    return RuleBook((*added, *kept), tuple(notes), book.own | {rule.rule for rule in added}, book.proofs)


def _without(rule: Rule, targets: set[str], added: tuple[Rule, ...], notes: list[str]) -> Rule | None:
    """Our rule, less what the user's rules speak about."""
    lost = [target for target in rule.targets if target in targets]
    names = {other.rule for other in added}
    if not lost and rule.rule not in names:
        return rule
    replacing = [other for other in added if set(other.targets) & set(lost) or other.rule == rule.rule]
    by = ", ".join(sorted(other.rule for other in replacing))
    notes.append(f"rule {rule.rule} is replaced by the user's {by} for {', '.join(lost) or 'its name'}")
    left = tuple(op for op in rule.ops if op not in lost)
    return replace(rule, ops=left) if left and rule.rule not in names else None
