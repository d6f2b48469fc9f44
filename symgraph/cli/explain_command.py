"""`symgraph explain`: what anything is that `inspect` prints, and why; or what a term means."""

from __future__ import annotations

from dataclasses import asdict

from symgraph.cli.console import Console
from symgraph.cli.inputs import rule_book, traced
from symgraph.cli.parser import Arguments, Commands, add_model, add_rules
from symgraph.errors import UsageError
from symgraph.io.files import existing

_EXAMPLES = """
symgraph explain my-checkpoint residual                          a space, and the evidence for its class
symgraph explain my-checkpoint 'layers.{0..11}.mlp.hidden'       a folded name, as inspect prints it
symgraph explain my-checkpoint model.embed_tokens.weight --json  a parameter: how each of its axes moves
symgraph explain my-checkpoint 'orthogonal fixing ones'          a class, and where it acts here
symgraph explain "orthogonal fixing ones"                         what a term means
symgraph explain glossary                                         every term
"""
EVERYTHING = "glossary"


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    details = """
Of a space it prints the evidence: every rule that lowered the bound, and the line of the model where it did.
With one term alone it prints what that means."""
    about = "say what anything is that inspect prints, and why"
    parser = commands.add("explain", run, about, details=details, examples=_EXAMPLES)
    add_model(parser, "model", help="a model as for `symgraph inspect`; or a term, where no name follows")
    text = "a space, parameter, family, class or operator without a rule, as `symgraph inspect` prints it"
    parser.add_argument("name", metavar="NAME", nargs="?", help=text)
    add_rules(parser)


def run(args: Arguments, console: Console) -> int:
    """Infer, look the name up, print what it means."""
    from symgraph.inference.sources import infer
    from symgraph.symmetry.lookup import look_up

    if args.name is None:
        return _term(args.model, console)
    symmetry = infer(traced(args.model, args, console)[0], rules=rule_book(args))
    answer = look_up(symmetry, args.name)
    console.result(answer.text, answer.plain)
    return 0


def _term(word: str, console: Console) -> int:
    """Print an entry of the glossary, or all of it."""
    from symgraph.symmetry.glossary import entry, glossary, printed

    if existing(word) is not None:
        remedy = f"name one: symgraph explain {word} NAME; `symgraph inspect {word}` lists them"
        raise UsageError(f"of {word} a space is explained, and none is named", remedy=remedy)
    found = glossary() if word == EVERYTHING else (entry(word),)
    console.result(printed(found), [asdict(one) for one in found])
    return 0
