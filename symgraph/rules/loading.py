"""Reads rule files: safe YAML, every problem of a file collected with its line and a caret, then raised once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from symgraph.errors import RuleError, near
from symgraph.groups.lattice import Bound, SymmetryClass, classes, down, named
from symgraph.rules import condition, pattern, signature
from symgraph.rules.grammar import GrammarError
from symgraph.rules.schema import (
    BROADCASTS,
    EXAMPLE_FORMS,
    FACTS,
    KEYS,
    LAYOUTS,
    REQUIRED,
    SOURCES,
    STRUCTURES,
    Admits,
    Example,
    Rule,
)
from symgraph.rules.verdict import Problem, problems

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_CHOICES = {"structure": STRUCTURES, "layout": LAYOUTS, "broadcast": BROADCASTS}
_FORM = {k.name: k.form for k in KEYS}
MAX_TEXT, MAX_DEPTH, MAX_ALIASES, MAX_NODES, MAX_RULES = 10**6, 20, 100, 10**5, 1000
BATCH_DEFAULT: Bound = down(SymmetryClass.SEMI_PERMUTATION)


class _Reader:
    """Turns the YAML nodes of one file into rules, noting problems instead of stopping at the first."""

    def __init__(self, text: str, path: str) -> None:
        self.path, self.lines = path, text.splitlines()
        self.problems: list[Problem] = []

    def note(self, node: Any, code: str, message: str, help_: str = "", offset: int = 0) -> None:
        mark = node.start_mark
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        column = mark.column + (offset + (line[mark.column : mark.column + 1] in "\"'") if offset else 0)
        self.problems.append(Problem(self.path, mark.line + 1, min(column, len(line)) + 1, code, message, line, help_))

    # -- nodes -------------------------------------------------------------------------------------------------

    def mapping(self, node: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """Key -> (key node, value node)."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node, "wrong-type", f"{what} must be a mapping, found {_kind(node)}")
            return {}
        entries: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.note(key, "wrong-type", f"a key of {what} must be text")
            elif key.value in entries:
                self.note(key, "duplicate-key", f"`{key.value}` is given twice")
            else:
                entries[key.value] = (key, value)
        return entries

    def text(self, node: Any, what: str) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return str(node.value)
        self.note(node, "wrong-type", f"{what} must be text, found {_kind(node)}")
        return None

    def items(self, node: Any) -> list[Any]:
        return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]

    def value(self, node: Any) -> Any:
        """A plain Python value: numbers, text, lists."""
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        if not isinstance(node, yaml.ScalarNode):
            self.note(node, "wrong-type", "expected a number, text or a list")
            return None
        if node.tag.endswith(":str") and _NUMBER.fullmatch(node.value):
            return float(node.value)
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError):
            self.note(node, "wrong-type", f"`{node.value}` is no value")
            return None

    # -- forms -------------------------------------------------------------------------------------------------

    def read(self, name: str, node: Any) -> Any:
        form = _FORM[name]
        if form in _CHOICES:
            return self.choice(node, name, _CHOICES[form])
        reader: dict[str, Callable[[Any, str], Any]] = {
            "text": self.text,
            "source": self.source,
            "texts": self.texts,
            "patterns": self.patterns,
            "signature": lambda node, what: self.parsed(node, what, signature.parse, "bad-signature"),
            "condition": lambda node, what: self.parsed(node, what, condition.parse, "bad-condition"),
            "classes": self.classes,
            "strings": self.strings,
            "facts": self.facts,
            "numbers": self.numbers,
            "examples": lambda node, what: tuple(self.example(item) for item in self.items(node)),
        }
        return reader[form](node, f"`{name}`")

    def choice(self, node: Any, name: str, allowed: tuple[str, ...]) -> str | None:
        text = self.text(node, f"`{name}`")
        if text is not None and text not in allowed:
            self.note(node, "wrong-type", f"`{text}` is no {name}", _did_you_mean(text, allowed))
            return None
        return text

    def source(self, node: Any, what: str) -> str | None:
        text = self.text(node, what)
        if text is not None and not text.startswith(SOURCES):
            self.note(node, "wrong-type", f"{what} must begin with {', '.join(SOURCES)}")
        return text

    def texts(self, node: Any, what: str) -> tuple[str, ...]:
        return tuple(text for item in self.items(node) if (text := self.text(item, what)) is not None)

    def parsed(self, node: Any, what: str, parse: Callable[[str], Any], code: str) -> Any:
        text = self.text(node, what)
        if text is None:
            return None
        try:
            return parse(text)
        except GrammarError as error:
            self.note(node, code, error.what, error.remedy, error.column)
            return None

    def patterns(self, node: Any, what: str) -> tuple[Any, ...]:
        patterns = (self.parsed(item, what, pattern.parse, "bad-pattern") for item in self.items(node))
        return tuple(pattern for pattern in patterns if pattern is not None)

    def classes(self, node: Any, what: str) -> Admits:
        return Admits((key, self.bound(value)) for key, (_, value) in self.mapping(node, what).items())

    def bound(self, node: Any) -> Bound:
        names = [str(symmetry_class) for symmetry_class in classes()]
        bound = []
        for item in self.items(node):
            text = self.text(item, "a class")
            if (known_class := named(text)) is not None:
                bound.append(known_class)
            elif text is not None:
                known = f"one of {', '.join(names)}"
                self.note(item, "unknown-class", f"`{text}` is no symmetry class", _did_you_mean(text, names) or known)
        return down(*bound)

    def strings(self, node: Any, what: str) -> dict[str, str]:
        texts = {key: self.text(value, f"{what} of {key}") for key, (_, value) in self.mapping(node, what).items()}
        return {key: value for key, value in texts.items() if value is not None}

    def facts(self, node: Any, what: str) -> dict[str, str]:
        facts = {key: self.choice(value, what, FACTS) for key, (_, value) in self.mapping(node, what).items()}
        return {key: value for key, value in facts.items() if value is not None}

    def numbers(self, node: Any, what: str) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for key, (_, item) in self.mapping(node, what).items():
            value = self.value(item)
            if isinstance(value, int) and not isinstance(value, bool):
                numbers[key] = value
            else:
                self.note(item, "wrong-type", f"{what} of {key} must be a whole number")
        return numbers

    def example(self, node: Any) -> Example:
        fields: dict[str, Any] = {}
        for key, (at, item) in self.mapping(node, "an example").items():
            if key not in EXAMPLE_FORMS:
                self.note(at, "unknown-key", f"an example has no `{key}`", _did_you_mean(key, EXAMPLE_FORMS))
                continue
            kind = EXAMPLE_FORMS[key]
            if key == "args":
                fields[key] = {name: self.value(value) for name, (_, value) in self.mapping(item, "`args`").items()}
            elif key == "batch":
                fields[key] = self.shape(item)
            elif kind["type"] == "array":
                fields[key] = self.texts(item, f"`{key}`")
            else:
                fields[key] = self.numbers(item, f"`{key}`") if key == "sizes" else self.strings(item, f"`{key}`")
        return Example(**fields)

    def shape(self, node: Any) -> tuple[int, ...]:
        sizes = self.value(node)
        if isinstance(sizes, list) and all(isinstance(size, int) for size in sizes):
            return tuple(sizes)
        self.note(node, "wrong-type", "`batch` must be a list of whole numbers")
        return ()

    # -- rules -------------------------------------------------------------------------------------------------

    def rules(self, root: Any) -> Iterator[Rule]:
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            self.note(
                root, "wrong-type", f"a rule file is a list of rules, found {_kind(root)}", "begin with `- rule: name`"
            )
            return
        seen: set[str] = set()
        if len(root.value) > MAX_RULES:
            self.note(root, "too-large", f"more than {MAX_RULES} rules", "split the file")
            return
        for node in root.value:
            rule = self.rule(node)
            if rule is None:
                continue
            if rule.rule in seen:
                self.note(node, "duplicate-rule", f"a rule called `{rule.rule}` exists already", "give it another name")
            seen.add(rule.rule)
            yield rule

    def rule(self, node: Any) -> Rule | None:
        before = len(self.problems)
        entries = self.mapping(node, "a rule")
        values: dict[str, Any] = {}
        for key, (at, item) in entries.items():
            if key not in _FORM:
                self.note(at, "unknown-key", f"a rule has no `{key}`", _did_you_mean(key, _FORM))
            else:
                values[key] = self.read(key, item)
        for key in REQUIRED:
            if key not in entries and isinstance(node, yaml.MappingNode):
                self.note(node, "missing-key", f"a rule needs `{key}`")
        if len(self.problems) > before:
            return None
        values.setdefault("admits", Admits())
        made = Rule(**values, place=f"{self.path}:{node.start_mark.line + 1}")
        at = {name: (pair[0], pair[1]) for name, pair in entries.items()}
        for key, inner, code, message, help_ in problems(made):
            self.note(self._spot(node, at, key, inner), code, message, help_)
        return _completed(made) if len(self.problems) == before else None

    def _spot(self, node: Any, at: Mapping[str, tuple[Any, Any]], key: str, inner: str) -> Any:
        """The YAML node of a key, of an entry of its mapping, or of an item of its list."""
        if key not in at:
            return node
        value = at[key][1]
        if isinstance(value, yaml.MappingNode):
            return next((name for name, _ in value.value if name.value == inner), at[key][0])
        return next((item for item in self.items(value) if getattr(item, "value", None) == inner), value)


def _completed(rule: Rule) -> Rule:
    if rule.signature is not None and "..." in rule.signature.axes and "..." not in rule.admits:
        rule.admits["..."] = BATCH_DEFAULT  # type: ignore[index]
    return rule


def _kind(node: Any) -> str:
    kinds = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list"}
    return kinds.get(type(node), f"`{getattr(node, 'value', node)}`")


def _did_you_mean(word: str, known: Any) -> str:
    return near(word, known, f"one of {', '.join(known)}", cutoff=0.5)


def parse(text: str, path: str = "<text>") -> tuple[Rule, ...]:
    """Reads the rules in a YAML text.

    Raises:
        RuleError: with every problem of the text, each with its line, a caret and help.
    """
    reader = _Reader(text, path)
    try:
        _require_small(text, path)
        root = _composed(text)
        _require_unfolded(root, path)
        rules = tuple(reader.rules(root))
    except yaml.YAMLError as error:
        raise RuleError(_syntax(error, path, text)) from None
    except (RecursionError, ValueError, KeyError, OverflowError) as error:
        raise RuleError(f"{path}:1:1: error[yaml-syntax]: {error}") from None
    if reader.problems:
        raise RuleError("\n".join(map(str, reader.problems)))
    return rules


def _require_small(text: str, path: str) -> None:
    """Refuses what would take long to read: texts without end, nests, and aliases of aliases.

    Raises:
        RuleError: with the limit.
    """
    reason = f"more than {MAX_TEXT} characters" if len(text) > MAX_TEXT else _nested(text)
    if reason:
        raise RuleError(f"{path}: a rule file is not read", cause=reason, remedy="write rules out, in several files")


def _nested(text: str) -> str:
    """What a text has too much of, or ''; one that is no YAML is explained by whoever composes it."""
    depth = aliases = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > MAX_DEPTH:
                return f"nested more than {MAX_DEPTH} deep"
            if aliases > MAX_ALIASES:
                return f"more than {MAX_ALIASES} aliases"
    except yaml.YAMLError:
        return ""
    return ""


def _require_unfolded(root: yaml.Node | None, path: str) -> None:
    """Refuses aliases that stand for themselves, or for more than a file may hold.

    Raises:
        RuleError: it does.
    """
    sizes: dict[int, int] = {}

    def size(node: Any, above: frozenset[int]) -> int:
        if id(node) in above:
            return MAX_NODES + 1
        if id(node) not in sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(size(part, above | {id(node)}) for part in parts)
        return sizes[id(node)]

    if root is not None and size(root, frozenset()) > MAX_NODES:
        raise RuleError(
            f"{path}: a rule file is not read", cause="its aliases stand for too much", remedy="write rules out"
        )


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, by libyaml where it is there: ten times as fast. What it refuses, PyYAML explains better."""
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def _syntax(error: yaml.YAMLError, path: str, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    shown = lines[line] if line < len(lines) else ""
    message = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return str(Problem(path, line + 1, column + 1, "yaml-syntax", str(message), shown, "check quotes and brackets"))


def load_file(path: str | Path) -> tuple[Rule, ...]:
    """Reads one rule file.

    Raises:
        RuleError: if it cannot be read, or with every problem in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(
            f"cannot read rules from {path}", cause=str(error), remedy="give a YAML file in UTF-8"
        ) from None
    return parse(text, str(path))


@dataclass(frozen=True, slots=True)
class _Dumper:
    """Plain data of a rule given in Python, as YAML text."""

    data: Mapping[str, Any]

    def __str__(self) -> str:
        return yaml.safe_dump([_plain(dict(self.data))], sort_keys=False, allow_unicode=True, width=10_000)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def rule(**keys: Any) -> Rule:
    """A rule made in Python, through the same checks as one in a file.

    Raises:
        RuleError: with every problem.

    >>> shrink = symgraph.rule(
    ...     rule="my-shrink",
    ...     about="A nonlinear function of each entry.",
    ...     source="proof: it acts on each entry alone",
    ...     ops=["aten.hardshrink.default"],
    ...     signature="self[... c] -> [... c]",
    ...     admits={"c": "semi-permutation"},
    ...     examples=[{}],
    ... )
    >>> shrink.rule
    'my-shrink'
    """
    try:
        text = str(_Dumper(keys))
    except yaml.YAMLError as error:
        raise RuleError("a rule is made of text, numbers, lists and dicts", cause=str(error).split("\n")[0]) from None
    return parse(text, "<python>")[0]
