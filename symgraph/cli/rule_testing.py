"""`symgraph rules test`: prove rules, once or whenever their files change."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from symgraph.cli.console import Console
from symgraph.cli.inputs import architecture
from symgraph.cli.parser import MODEL_HELP, Arguments, Commands, add_trust
from symgraph.errors import RuleError, UsageError

if TYPE_CHECKING:
    from symgraph.rules.check import Report
    from symgraph.rules.schema import Rule

_log = logging.getLogger(__name__)
_SHOWN_FAILURES = 10
# Seconds between two looks at the files.
PAUSE = 0.5
Stamps = Mapping[Path, tuple[int, int]]


def add_test(under: Commands) -> None:
    """Add `rules test`."""
    text = "Tries every law on the real operator with random operands and random elements, in float64."
    test = under.add("test", run_test, "prove the rules: sound, and no larger claim would hold", details=text)
    test.add_argument("names", metavar="NAME", nargs="*", help="the rules to test (default: all)")
    test.add_argument(
        "--rules", metavar="DIR", nargs="+", default=[], help="test the rules in these folders or files instead"
    )
    test.add_argument("--watch", action="store_true", help="go on, and test what changes whenever a file is saved")
    test.add_argument(
        "--model", metavar="MODEL", help=f"load this model first, which defines operators of its own: {MODEL_HELP}"
    )
    add_trust(test, files=False)


def run_test(args: Arguments, console: Console) -> int:
    """Check rules, print what was found, and fail if one claims something false."""
    if args.model is not None:
        architecture(args.model, args)
    if args.watch:
        return watch(args, console)
    reports = _tested(_chosen(args), console)
    console.result(_text(reports), [_plain(r) for r in reports])
    false = [r.rule for r in reports if not r.sound]
    if false:
        remedy = "lower the class of the axis that is named, or narrow the rule by `when:`"
        raise RuleError(
            f"{len(false)} of {len(reports)} rules claim something false", cause=", ".join(false), remedy=remedy
        )
    return 0


def _tested(rules: Sequence[Rule], console: Console) -> list[Report]:
    from symgraph.rules.check import check
    from symgraph.tracing.progress import counted

    with console.working("testing rules"):
        return [check(rule) for rule in counted(_log, rules, len(rules), "rule")]


def _chosen(args: Arguments) -> tuple[Rule, ...]:
    from symgraph.rules.book import RuleBook, default_rules, read_rules

    book = RuleBook(read_rules(args.rules)) if args.rules else default_rules()
    return tuple(map(book.named, args.names)) if args.names else book.rules


# -- whenever files change ---------------------------------------------------------------------------------------------


def watch(args: Arguments, console: Console, pause: Callable[[float], None] = time.sleep) -> int:
    """Test the rules, then those that change, until it is interrupted.

    Raises:
        UsageError: one document of JSON is asked for, which this never ends.
    """
    if console.as_json:
        raise UsageError("--watch prints a text after each change, no JSON document", remedy="leave out one of the two")
    known: dict[str, Rule] = {}
    before: Stamps | None = None
    while True:
        stamps = _stamps(args.rules)
        if stamps != before:
            before = stamps
            known = _again(args, console, known)
            console.remark(f"watching {len(stamps)} files; Ctrl-C ends")
        pause(PAUSE)


def _again(args: Arguments, console: Console, known: dict[str, Rule]) -> dict[str, Rule]:
    """Test what is not as it was before; what cannot be read is said, and waited for."""
    try:
        chosen = {rule.rule: rule for rule in _chosen(args)}
        changed = [rule for name, rule in chosen.items() if known.get(name) != rule]
        console.say(_text(_tested(changed, console)) if changed else "no rule has changed")
    except RuleError as error:
        print(f"error[{error.title}]: {error}", file=sys.stderr, flush=True)
        return known
    return chosen


def _stamps(sources: Sequence[str]) -> Stamps:
    """When the files of rules were changed, and how large they are."""
    from symgraph.rules.book import rules_folder

    paths = list(map(Path, sources)) or [rules_folder()]
    files = [file for path in paths for file in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    stats = {file: file.stat() for file in files if file.exists()}
    return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}


# -- text --------------------------------------------------------------------------------------------------------------


def _text(reports: Sequence[Report]) -> str:
    lines = [f"{r.rule}: {'ok' if r.sound else 'FAILS'}" for r in reports]
    for r in reports:
        lines += [f"  {r.rule}: {f}" for f in r.failures[:_SHOWN_FAILURES]]
        lines += [f"  could claim more: {hint}" for hint in r.hints]
    return "\n".join([*lines, f"{sum(r.sound for r in reports)} of {len(reports)} rules hold"])


def _plain(r: Report) -> dict[str, object]:
    failures = list(map(str, r.failures))
    return {"rule": r.rule, "sound": r.sound, "tight": r.tight, "failures": failures, "hints": list(r.hints)}
