"""`symgraph rules`: list and show rules, and what else is done with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from symgraph.cli.console import Console
from symgraph.cli.inputs import rule_book
from symgraph.cli.parser import Arguments, Commands, add_rules
from symgraph.cli.rule_making import add_coverage, add_explain, add_new
from symgraph.cli.rule_testing import add_test
from symgraph.io.shown import in_columns

if TYPE_CHECKING:
    from symgraph.rules.schema import Rule

_log = logging.getLogger(__name__)

_EXAMPLES = """
symgraph rules list
symgraph rules show layer-norm
symgraph rules explain layer-norm           what it says, in words and numbers
symgraph rules coverage my-checkpoint       which rules are missing, and what that freezes
symgraph rules new lgamma --out my-rules/lgamma.yaml
symgraph rules test                         every shipped rule (about a minute)
symgraph rules test --rules my-rules --watch
symgraph rules schema > my-rules/schema.json
"""


def add(commands: Commands) -> None:
    """Add the command and those under it to the parser."""
    details = "A rule says which maps of its axes an operator commutes with. Rules are data: no rule file runs code."
    parser = commands.add("rules", None, "list, explain, test and make rules", details=details, examples=_EXAMPLES)
    under = Commands(parser)
    add_rules(under.add("list", run_list, "list the rules and the operators they are about"))
    show = under.add("show", run_show, "print one rule")
    show.add_argument("name", metavar="NAME", help="the name of a rule")
    add_rules(show)
    add_explain(under)
    add_coverage(under)
    add_new(under)
    add_test(under)
    under.add("schema", run_schema, "print the JSON schema of rule files")


def run_list(args: Arguments, console: Console) -> int:
    """Print a table of the rules."""
    book = rule_book(args)
    rows = [(r.rule, _about(r), r.about) for r in book.rules]
    plain = [{"rule": r.rule, "targets": list(r.ops), "about": r.about, "place": r.place} for r in book.rules]
    console.result(in_columns([("rule", "operators", "about"), *rows]), plain)
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


def run_schema(args: Arguments, console: Console) -> int:
    """Print the schema."""
    from symgraph.rules.schema import schema_text

    console.result(schema_text().rstrip(), schema_text().rstrip())
    return 0


def _about(rule: Rule) -> str:
    if rule.pattern:
        return "a pattern of operators"
    first = rule.ops[0].removeprefix("aten.").removesuffix(".default")
    return first if len(rule.ops) == 1 else f"{first} and {len(rule.ops) - 1} more"
