"""`symgraph rules`: list, show and test rules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from symgraph.cli.console import Console, table
from symgraph.cli.inputs import rule_book
from symgraph.cli.parser import Arguments, Commands, add_rules
from symgraph.errors import RuleError

if TYPE_CHECKING:
    from symgraph.rules.check import Report
    from symgraph.rules.schema import Rule

_log = logging.getLogger(__name__)

_EXAMPLES = """
symgraph rules list
symgraph rules show layer-norm
symgraph rules test                       every shipped rule (about a minute)
symgraph rules test --rules my-rules      only those of your own
symgraph rules schema > rules.schema.json for completion in an editor
"""
_SHOWN_FAILURES = 10


def add(commands: Commands) -> None:
    """Add the command and those under it to the parser."""
    details = "A rule says which maps of its axes an operator commutes with. Rules are data: no rule file runs code."
    parser = commands.add("rules", None, "list, show and test rules", details=details, examples=_EXAMPLES)
    under = Commands(parser)
    add_rules(under.add("list", run_list, "list the rules and the operators they are about"))
    show = under.add("show", run_show, "print one rule")
    show.add_argument("name", metavar="NAME", help="the name of a rule")
    add_rules(show)
    text = "Tries every law on the real operator with random operands and random elements, in float64."
    test = under.add("test", run_test, "prove the rules: sound, and no larger claim would hold", details=text)
    test.add_argument("names", metavar="NAME", nargs="*", help="the rules to test (default: all)")
    test.add_argument(
        "--rules", metavar="DIR", nargs="+", default=[], help="test the rules in these folders or files instead"
    )
    under.add("schema", run_schema, "print the JSON schema of rule files")


def run_list(args: Arguments, console: Console) -> int:
    """Print a table of the rules."""
    book = rule_book(args)
    rows = [(r.rule, _about(r), r.about) for r in book.rules]
    plain = [{"rule": r.rule, "targets": list(r.ops), "about": r.about, "place": r.place} for r in book.rules]
    console.result(table([("rule", "operators", "about"), *rows]), plain)
    for note in book.notes:
        console.remark(note)
    return 0


def run_show(args: Arguments, console: Console) -> int:
    """Print one rule as it stands in its file."""
    from symgraph.rules.schema import plain

    rule = rule_book(args).named(args.name)
    console.result(f"# {rule.place}\n{_source(rule)}", plain(rule))
    return 0


def _source(rule: Rule) -> str:
    path, _, line = rule.place.rpartition(":")
    lines = Path(path).read_text(encoding="utf-8").splitlines()[int(line) - 1 :]
    end = next((i for i, text in enumerate(lines) if i and text[:1] not in ("", " ")), len(lines))
    return "\n".join(lines[:end]).rstrip()


def run_test(args: Arguments, console: Console) -> int:
    """Check rules, print what was found, and fail if one claims something false."""
    from symgraph.rules.check import check
    from symgraph.tracing.progress import counted

    chosen = _chosen(args)
    with console.working("testing rules"):
        reports = [check(rule) for rule in counted(_log, chosen, len(chosen), "rule")]
    console.result(_text(reports), [_plain(r) for r in reports])
    false = [r.rule for r in reports if not r.sound]
    if false:
        remedy = "lower the class of the axis that is named, or narrow the rule by `when:`"
        raise RuleError(
            f"{len(false)} of {len(reports)} rules claim something false", cause=", ".join(false), remedy=remedy
        )
    return 0


def run_schema(args: Arguments, console: Console) -> int:
    """Print the schema."""
    from symgraph.rules.schema import schema_text

    console.result(schema_text().rstrip(), schema_text().rstrip())
    return 0


def _chosen(args: Arguments) -> tuple[Rule, ...]:
    from symgraph.rules.book import RuleBook, default_rules, read_rules

    book = RuleBook(read_rules(args.rules)) if args.rules else default_rules()
    return tuple(map(book.named, args.names)) if args.names else book.rules


def _about(rule: Rule) -> str:
    if rule.pattern:
        return "a pattern of operators"
    first = rule.ops[0].removeprefix("aten.").removesuffix(".default")
    return first if len(rule.ops) == 1 else f"{first} and {len(rule.ops) - 1} more"


def _text(reports: list[Report]) -> str:
    lines = [f"{r.rule}: {'ok' if r.sound else 'FAILS'}" for r in reports]
    for r in reports:
        lines += [f"  {r.rule}: {f}" for f in r.failures[:_SHOWN_FAILURES]]
        lines += [f"  could claim more: {hint}" for hint in r.hints]
    return "\n".join([*lines, f"{sum(r.sound for r in reports)} of {len(reports)} rules hold"])


def _plain(r: Report) -> dict[str, object]:
    failures = list(map(str, r.failures))
    return {"rule": r.rule, "sound": r.sound, "tight": r.tight, "failures": failures, "hints": list(r.hints)}
