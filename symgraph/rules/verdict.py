"""What must agree inside one rule beyond the form of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from symgraph.groups.lattice import maps, maximal
from symgraph.rules.allowed import LARGEST_NUMBER, LARGEST_PRODUCT, MOST_ENTRIES, too_large, why_not
from symgraph.rules.schema import Rule
from symgraph.tracing.arguments import operator, parameters, similar

NAMES = "use words in lower case joined by `-`"

# key, entry or item within it, code, message, help
Finding = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a rule file, with its place."""

    path: str
    line: int
    column: int
    code: str
    message: str
    source: str
    help: str = ""

    def __str__(self) -> str:
        lines = [f"{self.path}:{self.line}:{self.column}: error[{self.code}]: {self.message}"]
        if self.source.strip():
            lines += [f"  {self.source}", "  " + " " * (self.column - 1) + "^"]
        return "\n".join([*lines, *([f"  help: {self.help}"] if self.help else [])])


def problems(rule: Rule) -> Iterator[Finding]:
    """Everything about a rule that does not fit together."""
    yield from _head(rule)
    yield from _operators(rule)
    yield from _examples(rule)
    if rule.signature is not None:
        yield from _axes(rule)
        yield from _operands(rule)


def is_name(text: str) -> bool:
    """Whether a rule may be called so."""
    return bool(text) and all(word.isalnum() and word == word.lower() for word in text.split("-"))


def _head(rule: Rule) -> Iterator[Finding]:
    if bool(rule.ops) == bool(rule.pattern):
        text = "both `ops` and `pattern`" if rule.ops else "neither `ops` nor `pattern`"
        yield "rule", "", "missing-key", f"a rule has one of `ops` and `pattern`; this one has {text}", ""
    if (rule.signature is None) == (rule.structure is None):
        text = "both" if rule.signature else "neither"
        yield "rule", "", "missing-key", f"a rule has one of `signature` and `structure`; this one has {text}", ""
    if rule.structure is not None and rule.admits:
        yield "admits", "", "unused-axis", "a structural rule states no classes", "remove `admits`"
    if not is_name(rule.rule):
        yield "rule", "", "wrong-type", f"`{rule.rule}` is not in kebab-case", NAMES


def _operators(rule: Rule) -> Iterator[Finding]:
    for op in rule.ops:
        overload = operator(op)
        if op.startswith("aten.") and parameters(op) is None:
            close = similar(op)
            yield "ops", op, "unknown-op", f"torch has no operator `{op}`", f"did you mean `{close}`?" if close else ""
        elif overload is not None and (reason := why_not(op, overload)):
            yield "ops", op, "unsafe-op", reason, "rules are about operators that return tensors and do nothing else"
    known = _variables(rule)
    if known is not None and rule.when is not None:
        for name in sorted(rule.when.names - known):
            yield "when", "", "bad-condition", f"`{name}` is no argument here", f"one of {', '.join(sorted(known))}"


def _examples(rule: Rule) -> Iterator[Finding]:
    """Sizes and numbers that ask for more than a check needs."""
    for example in rule.examples:
        entries = prod([*example.sizes.values(), *example.batch])
        if entries > MOST_ENTRIES or min([*example.sizes.values(), *example.batch], default=1) < 0:
            yield "examples", "", "too-large", f"an example of {entries} entries", "a few positions for each axis do"
        if any(map(too_large, example.args.values())):
            text = f"an argument of more than {LARGEST_NUMBER}, or sizes of more than {LARGEST_PRODUCT} entries"
            yield "examples", "", "too-large", text, "a few positions for each axis do"


def _variables(rule: Rule) -> frozenset[str] | None:
    """The names that a signature or condition may use, or None where torch does not know the operator."""
    if rule.pattern:
        return frozenset(variable for pattern in rule.pattern for variable in pattern.variables)
    schemas = [parameters(op) for op in rule.ops]
    if not schemas or any(schema is None for schema in schemas):
        return None
    return frozenset(argument.name for schema in schemas for argument in schema or ())


def _axes(rule: Rule) -> Iterator[Finding]:
    axes = rule.signature.axes if rule.signature else ()
    for name in rule.admits:
        if name not in axes:
            hint = f"rename `{name}` to one of {', '.join(axes)}, or remove it" if axes else "remove it"
            yield "admits", name, "unused-axis", f"`{name}` has a class but is not in the signature", hint
    for name in axes:
        if name not in rule.admits and name != "...":
            yield "signature", "", "unclassified-axis", f"axis `{name}` has no class", f"add `{name}: ...` to `admits`"
    named = {
        "at": [axis for axis in rule.at if axis != "_"],
        "sizes": rule.sizes,
        "gaps": rule.gaps,
        "names": rule.names,
        "reduces": [rule.reduces],
        "centred": [rule.centred],
        "weights": [rule.weights],
        "blind": [axis for axes in rule.blind.values() for axis in axes.split()],
        "points": list(rule.points.values()),
        "indexes": list(rule.indexes.values()),
    }
    for key, entries in named.items():
        for entry in entries:
            if entry is not None and entry not in axes:
                yield key, entry, "unused-axis", f"`{entry}` is not in the signature", f"one of {', '.join(axes)}"
    paired = [
        symmetry_class
        for bound in rule.admits.values()
        for symmetry_class in maximal(bound)
        if maps(symmetry_class).paired
    ]
    if paired and rule.layout is None:
        yield (
            "admits",
            "",
            "missing-key",
            f"a {paired[0]} axis needs `layout`",
            "add `layout: halves` or `layout: interleaved`",
        )


def _operands(rule: Rule) -> Iterator[Finding]:
    operands = [operand.name for operand in rule.signature.operands] if rule.signature else []
    known = _variables(rule)
    if known is not None:
        allowed = f"one of {', '.join(sorted(known))}"
        for name in operands:
            if name not in known:
                yield "signature", "", "bad-signature", f"`{name}` is no argument of this operator", allowed
        for key, name, argument in [("at", *pair) for pair in rule.at.items()] + [
            ("sizes", *pair) for pair in rule.sizes.items()
        ]:
            if argument not in known:
                yield key, name, "bad-signature", f"`{argument}` is no argument of this operator", allowed
    yield from _mentions(rule, operands)


def _mentions(rule: Rule, operands: list[str]) -> Iterator[Finding]:
    """Operands that other keys speak about."""
    mentioned = [("product", name, name) for name in rule.product] + [("shift", name, name) for name in rule.shift]
    mentioned += [(key, name, name) for key in ("chooses", "differs") for name in getattr(rule, key)]
    mentioned += [("statistics", name, name) for name in rule.statistics] + [
        ("blind", name, name) for name in rule.blind
    ]
    mentioned += [("indexes", name, name) for name in rule.indexes] + [("assumes", name, name) for name in rule.assumes]
    single = (("gain", rule.gain), ("adds", rule.adds), ("radial", rule.radial))
    mentioned += [(key, "", name) for key, name in single if name is not None]
    for key, entry, name in mentioned:
        if name not in operands:
            hint = f"one of {', '.join(operands)}"
            yield key, entry, "bad-signature", f"`{name}` is no operand of the signature", hint
    for name, law in rule.shift.items():
        if law not in ("output", "minus", "none", *operands):
            hint = f"one of output, minus, none, {', '.join(operands)}"
            yield "shift", name, "bad-signature", f"`{law}` is no operand of the signature", hint
