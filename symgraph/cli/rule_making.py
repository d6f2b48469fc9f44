"""`symgraph rules new`, `explain` and `coverage`: make a rule by measurement, read one, see which are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.cli.console import Console
from symgraph.cli.inputs import architecture, refuse_files, rule_book
from symgraph.cli.parser import MODEL_HELP, Arguments, Commands, add_overwrite, add_rules, add_trust
from symgraph.errors import UsageError, near
from symgraph.io.shown import in_columns

if TYPE_CHECKING:
    from symgraph.ir import Graph
    from symgraph.rules.scaffold import Use
    from symgraph.rules.schema import Rule
    from symgraph.symmetry.coverage import Gap

_NEW = """
symgraph rules new lgamma                                    print a rule for aten.lgamma.default
symgraph rules new cdist --args p=2.0 --out my-rules/d.yaml  at these arguments, into a file
symgraph rules new mylib.kernel --model nets.py:make         as this model calls it
"""
_COVERAGE = """
symgraph rules coverage my-checkpoint nets.py:make
"""
SCHEMA = "schema.json"


def add_new(under: Commands) -> None:
    """Add `rules new`."""
    details = """
The operator is called with many shapes, which tells which axes are one, and then with random elements of one
class after another, which tells how large the class of each axis is. The rule that is printed has passed
`rules test`; give it a better sentence under `about:`, and under `source:` the reason why it is true."""
    new = under.add("new", run_new, "measure a rule for an operator", details=details, examples=_NEW)
    new.add_argument("op", metavar="OP", help="an operator, as lgamma, aten.pow.Tensor_Scalar or mylib.kernel")
    new.add_argument("--model", metavar="MODEL", help=f"a model that calls it: {MODEL_HELP}")
    text = "its arguments that are no tensors; the rule gets a condition where it does not hold for others"
    new.add_argument("--args", dest="given", metavar="NAME=VALUE", nargs="+", default=[], help=text)
    new.add_argument("--name", help="what the rule is called (default: after the operator)")
    text = f"write it there, with the schema for completion in an editor beside it ({SCHEMA})"
    new.add_argument("--out", metavar="FILE", help=text)
    add_overwrite(new)
    add_trust(new)


def run_new(args: Arguments, console: Console) -> int:
    """Measure a rule; print it or write it."""
    from symgraph.rules.rule_text import as_yaml
    from symgraph.rules.scaffold import Use, new_rule
    from symgraph.rules.schema import plain

    refuse_files(args, args.out)
    given = dict(map(_argument, args.given))
    graph = None if args.model is None else _graph(args, console)
    target = _target(args)
    _check_given(target, given)
    use = Use(given) if graph is None else _use(target, graph, given, args.model)
    with console.working(f"measuring {target}"):
        rule = new_rule(target, use, name=args.name or "")
    for known in _shipped(target):
        console.remark(f"the shipped rule {known} is about {target} as well; yours goes before it")
    if args.out is None:
        console.result(as_yaml(rule).rstrip(), plain(rule))
        return 0
    written = _write(Path(args.out), rule, args.overwrite)
    text = f"{written}: rule {rule.rule}, sound and tight\nuse it: symgraph inspect MODEL --rules {written}"
    console.result(text, {"file": str(written), "rule": plain(rule)})
    return 0


def _graph(args: Arguments, console: Console) -> Graph:
    from symgraph import api

    found = architecture(args.model, args)
    with console.working("tracing"):
        return api.trace(found)


def _target(args: Arguments) -> str:
    from symgraph.tracing.arguments import named_operator, similar

    found = named_operator(args.op)
    if found:
        return found
    close = similar(args.op)
    own = "" if args.model else "; one of your own is known once a model that calls it is named with --model"
    remedy = f"did you mean {close}?" if close else f"name it as NAMESPACE.OPERATOR{own}"
    raise UsageError(f"torch has no operator {args.op!r}", remedy=remedy)


def _use(target: str, graph: Graph, given: dict[str, Any], model: str) -> Use:
    from dataclasses import replace

    from symgraph.rules.scaffold import used

    found = used(target, graph)
    if found is None:
        called = sorted({node.target for node in graph.calls})
        remedy = f"`symgraph inspect {model} --emit graph` shows what it calls"
        raise UsageError(f"the model never calls {target}", cause=f"it calls {len(called)} operators", remedy=remedy)
    return replace(found, given={**found.given, **given})


def _argument(text: str) -> tuple[str, Any]:
    """An argument of an operator, its value in YAML."""
    import yaml

    name, equals, value = text.partition("=")
    try:
        if name.isidentifier() and equals:
            return name, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise UsageError(f"{text!r} is no argument of an operator", remedy="write it as NAME=VALUE: --args p=2.0 dim=-1")


def _check_given(target: str, given: Mapping[str, Any]) -> None:
    from symgraph.tracing.arguments import parameters

    known = {a.name: a for a in parameters(target) or () if not a.tensor}
    for name, value in given.items():
        if name not in known:
            remedy = near(name, known, "" if known else "leave out --args")
            raise UsageError(f"{target} has no argument {name!r} that is no tensor", remedy=remedy)
        if known[name].number and not isinstance(value, int | float):
            raise UsageError(f"{name} is {value!r}", cause=f"{target} takes a number", remedy=f"--args {name}=2.0")


def _shipped(target: str) -> list[str]:
    from symgraph.rules.book import default_rules

    return [rule.rule for rule in default_rules().rules if target in rule.ops]


def _write(out: Path, rule: Rule, overwrite: bool) -> Path:
    from symgraph.io.files import write_text
    from symgraph.rules.rule_text import as_yaml
    from symgraph.rules.schema import schema_text

    out.parent.mkdir(parents=True, exist_ok=True)
    if not (out.parent / SCHEMA).exists():
        write_text(out.parent / SCHEMA, schema_text())
    return write_text(out, f"# yaml-language-server: $schema={SCHEMA}\n\n{as_yaml(rule)}", overwrite)


# -- explain -----------------------------------------------------------------------------------------------------------


def add_explain(under: Commands) -> None:
    """Add `rules explain`."""
    details = "What it says in words, then one element at work on the real operator, in numbers."
    explain = under.add("explain", run_explain, "say in words and numbers what a rule says", details=details)
    explain.add_argument("name", metavar="NAME", help="the name of a rule, or of an operator")
    add_rules(explain)


def run_explain(args: Arguments, console: Console) -> int:
    """Print the law of a rule with an example."""
    from symgraph.rules.schema import plain
    from symgraph.rules.worked import in_words, worked

    texts, data = [], []
    for rule in _asked(args):
        example = worked(rule)
        texts.append(in_words(rule) + (f"\n\n{example}" if example is not None else ""))
        data.append({**plain(rule), "words": in_words(rule), "example": example.to_plain() if example else None})
    console.result("\n\n\n".join(texts), data)
    return 0


def _asked(args: Arguments) -> Sequence[Rule]:
    """The rule of that name, or the rules about the operator of that name."""
    from symgraph.tracing.arguments import named_operator
    from symgraph.tracing.operators import short_name

    book = rule_book(args)
    target = named_operator(args.name)
    about = [rule for rule in book.rules if target and target in rule.ops]
    if args.name in book.names or not about:
        return [book.named(args.name, [short_name(op) for rule in book.rules for op in rule.ops])]
    return about


# -- coverage ----------------------------------------------------------------------------------------------------------


def add_coverage(under: Commands) -> None:
    """Add `rules coverage`."""
    details = """
Operators without a rule, that first which freezes the most parameters: those with an axis that only its lack holds."""
    about = "rank the missing rules of models by what they freeze"
    coverage = under.add("coverage", run_coverage, about, details=details, examples=_COVERAGE)
    coverage.add_argument("models", metavar="MODEL", nargs="+", help=MODEL_HELP)
    add_trust(coverage)
    add_rules(coverage)


def run_coverage(args: Arguments, console: Console) -> int:
    """Infer each model and print what is missing."""
    from symgraph import api
    from symgraph.symmetry.coverage import gaps

    found: dict[str, list[tuple[str, Gap, int]]] = {}
    for spec in args.models:
        model = architecture(spec, args)
        with console.working(f"inferring {spec}"):
            symmetry = api.infer(model, rules=rule_book(args))
        for gap in gaps(symmetry):
            found.setdefault(gap.operator, []).append((spec, gap, symmetry.graph.size))
    ranked = sorted(found.items(), key=lambda item: -sum(gap.frozen for _, gap, _ in item[1]))
    console.result(_missing(ranked, len(args.models)), [_plain_gap(*item) for item in ranked])
    return 0


Found = Sequence[tuple[str, "Gap", int]]


def _missing(ranked: Sequence[tuple[str, Found]], models: int) -> str:
    if not ranked:
        return f"every operator of {models} model{'s' * (models > 1)} has a rule"
    rows = [("operator", "freezes", "of their parameters", "calls", "models")]
    for operator, found in ranked:
        frozen, size = sum(gap.frozen for _, gap, _ in found), sum(size for _, _, size in found)
        calls = sum(gap.calls for _, gap, _ in found)
        rows.append((operator, f"{frozen:,}", f"{frozen / max(size, 1):.1%}", str(calls), str(len(found))))
    todo = dict.fromkeys(found[0][1].todo for _, found in ranked)
    return "\n".join([in_columns(rows), "", *todo])


def _plain_gap(operator: str, found: Found) -> dict[str, Any]:
    models = [{"model": spec, "frozen": gap.frozen, "calls": gap.calls, "size": size} for spec, gap, size in found]
    return {
        "operator": operator,
        "frozen": sum(g.frozen for _, g, _ in found),
        "todo": found[0][1].todo,
        "models": models,
    }
