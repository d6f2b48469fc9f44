"""`symgraph explain`: why a space has the group it has, or what a term means."""

from __future__ import annotations

from dataclasses import asdict

from symgraph.cli.console import Console
from symgraph.cli.inputs import architecture, rule_book
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules
from symgraph.errors import UsageError
from symgraph.io.files import existing

_EXAMPLES = """
symgraph explain my-checkpoint residual
symgraph explain my-checkpoint layers.0.mlp.hidden --json
symgraph explain "orthogonal fixing ones"          what a term means
symgraph explain glossary                          every term
"""
EVERYTHING = "glossary"


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = """
Of a space it prints the evidence: every rule that lowered the bound, and the line of the model where it did.
With one term alone it prints what that means."""
    about = "show why a space has its group, or what a term means"
    parser = commands.add("explain", run, about, details=details, examples=_EXAMPLES)
    add_model(parser, "model", help="a model as for `symgraph inspect`; or a term, where no space follows")
    parser.add_argument("space", metavar="SPACE", nargs="?", help="the name of a space, as `inspect` prints it")
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Infer, look the space up, print its evidence."""
    from symgraph import api

    if args.space is None:
        return _term(args.model, console)
    found = architecture(args.model, args)
    with console.working("tracing"):
        symmetry = api.infer(found, rules=rule_book(args))
    space = symmetry.space(args.space)
    evidence = [
        {"rule": r.rule, "where": r.where, "reason": r.reason, "bound": sorted(r.bound)} for r in space.evidence
    ]
    plain = {"space": space.name, "size": space.size, "group": str(space.group), "evidence": evidence}
    console.result(symmetry.explain(space.name), plain)
    return 0


def _term(word: str, console: Console) -> int:
    """Print an entry of the glossary, or all of it."""
    from symgraph.symmetry.glossary import entry, glossary, printed

    if existing(word) is not None:
        remedy = f"name one: symgraph explain {word} SPACE; `symgraph inspect {word}` lists them"
        raise UsageError(f"of {word} a space is explained, and none is named", remedy=remedy)
    found = glossary() if word == EVERYTHING else (entry(word),)
    console.result(printed(found), [asdict(one) for one in found])
    return 0
