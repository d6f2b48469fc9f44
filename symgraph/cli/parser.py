"""The argument parser: errors as typed errors, help of one form, and the options that several commands share."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from symgraph.cli.console import Console
from symgraph.errors import UsageError, near
from symgraph.io.files import SHARD_SIZE
from symgraph.io.options import Option, stated
from symgraph.io.reading import Reading
from symgraph.match.match_options import METHODS, LearnOptions, MatchOptions, PairSettings, Settings, UniverseSettings
from symgraph.measure.barrier_options import EvaluationOptions, MixtureOptions

Arguments = argparse.Namespace
Run = Callable[[Arguments, Console], int]
Kind = TypeVar("Kind")

MODEL_HELP = (
    "a checkpoint folder, a hub id, a config.json, or package.module:factory (the one form that runs your code)"
)
WEIGHTED_HELP = (
    "a checkpoint folder, a PEFT adapter (its folder, or BASE+ADAPTER), a hub id, or package.module:factory "
    "(the one form that runs your code)"
)
DATA_HELP = "a datasets folder, a data file (.txt, .csv, .json, .jsonl, .parquet), or package.module:factory"
_WIDTH = 100


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        """Turn a parser's complaint into the error that every other problem is."""
        missing = message.partition("required: ")[2]
        remedy = self._least(missing) if missing else f"`{self.prog} --help` shows the arguments"
        raise UsageError(message, remedy=_near(message) or remedy)

    def _least(self, missing: str) -> str:
        """What is never left out, or which commands there are."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return f"use {' or '.join(action.choices)}"
        # Of options of which one is needed, the first.
        either = [group._group_actions[0] for group in self._mutually_exclusive_groups if group.required]
        needed = (a for a in self._actions if a in either or (a.required and a.nargs != argparse.ZERO_OR_MORE))
        words = (word for a in needed for word in (*a.option_strings[-1:], a.metavar or a.dest.upper()))
        named = all(name.startswith("-") for name in missing.split(", "))
        last = "" if named else "; names come before options that take several values"
        return f"write at least `{' '.join([self.prog, *map(str, words)])}`{last}"


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> Arguments:
    """The arguments of a command.

    Raises:
        UsageError: there is no such command or option; the nearest is named.
    """
    args, left = parser.parse_known_args(words)
    if not left:
        return args
    command = args.parser
    options = [option for action in command._actions for option in action.option_strings]
    given = left[0].split("=")[0]
    remedy = near(given, options, f"`{command.prog} --help` shows the arguments", cutoff=0.8)
    raise UsageError(f"{command.prog} does not take {' '.join(left)}", remedy=remedy)


class Commands:
    """Adds commands to a parser, all in one form."""

    def __init__(self, parser: argparse.ArgumentParser, title: str = "commands") -> None:
        self.top = parser
        self._under: Any = parser.add_subparsers(title=title, metavar="COMMAND", required=True, parser_class=Parser)

    def add(self, name: str, run: Run | None, about: str, *, details: str = "", examples: str = "") -> Parser:
        """A command: `about` is its line in the list of commands and the first of its own help."""
        parser: Parser = self._under.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.{_paragraph(details)}",
            epilog=f"examples:\n{_indent(examples)}" if examples else None,
            formatter_class=formatter,
            allow_abbrev=False,
        )
        add_output(parser, argparse.SUPPRESS)
        parser.set_defaults(parser=parser)
        if run is not None:
            parser.set_defaults(run=run)
        return parser


def formatter(prog: str) -> argparse.HelpFormatter:
    """Help text as it is written, in lines of one width whatever the terminal."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=_WIDTH)


def add_output(parser: argparse.ArgumentParser, default: Any = False) -> None:
    """The options of every command, which may stand before or after it."""
    parser.add_argument("--json", action="store_true", default=default, help="print the result, or a failure, as JSON")
    text = "print no progress and no remarks"
    parser.add_argument("-q", "--quiet", action="store_true", default=default, help=text)
    text = "list the stages of long work; twice: all of their steps"
    parser.add_argument("-v", "--verbose", action="count", default=default or 0, help=text)
    text = "trace and infer anew, and keep nothing in the folder SYMGRAPH_CACHE"
    parser.add_argument("--no-cache", action="store_true", default=default, help=text)


def add_model(parser: argparse.ArgumentParser, *names: str, help: str = MODEL_HELP) -> None:
    """Models, and whether code that comes with them may run."""
    for name in names:
        parser.add_argument(name, metavar=name.upper(), help=help if name == names[0] else "another model")
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser, *, files: bool = True) -> None:
    """Whether code that comes with a checkpoint may run, and where the weights of factories' models are."""
    if files:
        text = "weights of the models that factories make, in their order (the same as FACTORY@FILE)"
        parser.add_argument("--weights", dest="files", metavar="FILE", nargs="+", action="extend", help=text)
    text = "the class of checkpoints whose config names none of transformers: package.module:Class, or file.py:Class"
    parser.add_argument("--class", dest="model_class", metavar="CLASS", help=text)
    text = "run the Python files that come with a checkpoint (off by default: read them first)"
    parser.add_argument("--trust-remote-code", action="store_true", help=text)


def add_rules(parser: argparse.ArgumentParser) -> None:
    """A user's rules."""
    text = "folders or files of rules of your own, in front of the shipped ones; each is proven before it is used"
    parser.add_argument("--rules", metavar="DIR", nargs="+", action="extend", default=[], help=text)


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where a checkpoint is written."""
    parser.add_argument("--out", metavar="FOLDER", required=required, help="the folder to write the checkpoint to")
    text = "a file of weights in whose layout to write, where --out is such a file (default: that of the model's own)"
    parser.add_argument("--like", metavar="FILE", help=text)
    add_shards(parser)
    add_overwrite(parser)


def add_shards(parser: argparse.ArgumentParser) -> None:
    """In which pieces a checkpoint is written."""
    text = "how large a file of it may be, such as 500MB (default 5GB)"
    parser.add_argument("--shard-size", metavar="SIZE", type=byte_size, default=SHARD_SIZE, help=text)


def add_program(parser: argparse.ArgumentParser) -> None:
    """A program to run, or to write."""
    plan = parser.add_mutually_exclusive_group()
    plan.add_argument("--program", metavar="FILE", help="run this program instead of planning one")
    text = "write the program (.yaml or .json); of an alignment that is run also code of plain torch (.py)"
    plan.add_argument("--emit-program", metavar="FILE", help=text)
    add_dry_run(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Whether to say what would be done, and no more."""
    text = "print what would be done and what it takes: bytes, memory, disk, time"
    parser.add_argument("--dry-run", action="store_true", help=text)


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Whether an output that exists is replaced."""
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist already")


def add_device(parser: argparse.ArgumentParser, dtypes: tuple[str, ...], default: str | None, note: str = "") -> None:
    """Where and in which precision to compute."""
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--dtype", choices=dtypes, default=default, help=f"precision of the computation{note}")


def add_options(group: argparse._ActionsContainer, kind: type[Any], *names: str) -> None:
    """Fields of a dataclass of options, each as an option of the command."""
    every = stated(kind)
    for name in names:
        field, said = every[name]
        text = said.help + _default_text(field.default)
        flag = said.flag or f"--{name.replace('_', '-')}"
        how = {"default": field.default, "help": text, **_taken(field.type, field.default, said)}
        group.add_argument(flag, dest=destination(name, said), **how)


def flags() -> dict[str, str]:
    """What the command line calls arguments of Python that are not called by their names."""
    kinds = (MatchOptions, LearnOptions, PairSettings, UniverseSettings, Reading, MixtureOptions, EvaluationOptions)
    listed = (item for kind in kinds for item in stated(kind).items())
    # The split of data, not that of units.
    own = {"model_class": "--class", "data": "--train-data", "validation": "--validation-data", "split": "--split"}
    return {name: said.flag for name, (_, said) in listed if said.flag} | own


def destination(name: str, said: Option) -> str:
    """Where the value of an option is found, by what the command calls it: other commands have other fields."""
    return said.flag.strip("-").replace("-", "_") or name


def _taken(kind: str, default: Any, said: Option) -> dict[str, Any]:
    """How an option of a type is read."""
    if kind == "bool":
        return {"action": "store_false" if default else "store_true"}
    if said.choices:
        return {"choices": said.choices}
    if kind.startswith("tuple"):
        number = "float" in kind
        several = {"nargs": len(default) if number and default else "+", "metavar": said.metavar}
        # Such a list may be given in several parts.
        return several | ({"action": "extend", "default": []} if default == () else {"type": float if number else str})
    if kind == "float | str":
        return {"type": share, "metavar": "X"}
    if kind.startswith("int"):
        return {"type": whole if said.least is None else at_least(int(said.least)), "metavar": "N"}
    return {"type": not_negative, "metavar": said.metavar or "X"} if kind == "float" else {"metavar": said.metavar}


def _default_text(default: Any) -> str:
    if default in (("*",), "auto"):
        return " (default: all)" if default != "auto" else " (default auto)"
    if default is None or default == () or isinstance(default, bool):
        return ""
    if isinstance(default, tuple):
        return f" (default {' '.join(map(str, default))})"
    return f" (default {default:g})" if isinstance(default, float) else f" (default {default})"


def chosen(args: Arguments, kind: type[Kind], **more: Any) -> Kind:
    """A dataclass of options from those of them that the command has."""
    places = {n: destination(n, said) for n, (_, said) in stated(kind).items()}
    named = {n: getattr(args, place) for n, place in places.items() if place in args}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in named.items()}, **more)


def add_matching(parser: argparse.ArgumentParser) -> None:
    """How models are matched."""
    group = parser.add_argument_group("matching")
    add_options(group, MatchOptions, "sweeps", "tolerance", "seed", "restarts", "spaces", "outer", "weighting")


def add_method(
    parser: argparse.ArgumentParser, *names: str, choose: bool = True, suiting: bool = False
) -> argparse._ArgumentGroup:
    """By what models are matched, what is read of activations, and how elements are trained.

    Args:
        choose: whether there is a choice; `suiting`: by default what suits the models is chosen.
    """
    group = parser.add_argument_group("method")
    usual = "; by default, where training data is named and batch norms or permutations alone are found, activations"
    text = "weights (default), activations, or learned: from there trained on the loss of the models between"
    if choose:
        default, more = (None, usual) if suiting else (METHODS[0], "")
        group.add_argument("--method", choices=METHODS, default=default, help=text + more)
    add_options(group, MatchOptions, "alpha", "observed", "observed_at", "batches")
    text = "training data for the method (default: the train split of --data; none: the models make it up)"
    group.add_argument("--train-data", metavar="SPEC", help=text)
    group.add_argument("--train-split", metavar="NAME", help="its split (default: train, where it has splits)")
    text = "data to stop on (default: every tenth batch of the training data)"
    group.add_argument("--validation-data", metavar="SPEC", help=text)
    group.add_argument(
        "--validation-split", metavar="NAME", help="its split; of the training data if only this is given"
    )
    add_options(group, LearnOptions, "steps", "optimiser", "lr", "schedule", "full", "permutations", "relaxed")
    add_options(group, LearnOptions, "chart", "check_every", "patience", "autocast", *names)
    add_options(group, Settings, "checkpoint", "resume")
    return group


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data that a loss is measured on, and how it is read."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="SPEC", help=DATA_HELP)
    group.add_argument("--split", help="which split of the data (default: the held-out one)")
    group.add_argument("--limit", type=at_least(1), metavar="N", help="use so many examples")
    add_options(group, EvaluationOptions, "metrics")
    add_options(group, MixtureOptions, "points")
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How data is read."""
    group = parser.add_argument_group("reading data")
    add_options(group, Reading, *stated(Reading))


def add_recalibration(parser: argparse.ArgumentParser) -> None:
    """What stored statistics of norms are computed on anew."""
    group = parser.add_argument_group("recalibration")
    text = "training data, on which batch norms of the result get new statistics"
    group.add_argument("--recalibrate", metavar="SPEC", help=text)
    group.add_argument("--recalibrate-split", metavar="NAME", help="its split (default: train, where it has splits)")
    text = "read so many of its examples (default: all)"
    group.add_argument("--recalibrate-limit", type=at_least(1), metavar="N", help=text)


def add_mixtures(parser: argparse.ArgumentParser) -> None:
    """At which mixtures of more than two models a loss is measured."""
    group = parser.add_argument_group("mixtures of more than two models")
    add_options(group, MixtureOptions, "resolution", "samples")
    text = "these mixtures instead, each with one weight for a model; may be repeated"
    group.add_argument("--mixture", type=float, nargs="+", action="append", metavar="W", help=text)


def whole(text: str) -> int:
    """A type of argument: any integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def at_least(least: int) -> Callable[[str], int]:
    """A type of argument: integers from `least`."""

    def integer(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdigit() else None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
        return value

    return integer


def not_negative(text: str) -> float:
    """A type of argument: finite numbers from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0")
    return value


def finite(text: str) -> float:
    """A type of argument: finite numbers."""
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def byte_size(text: str) -> int:
    """A type of argument: a number of bytes from 1, in the units of transformers."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(I?)B?", text.strip().upper())
    size = int(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ") if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 5GB")
    return size


def share(text: str) -> float | str:
    """A type of argument: a finite number from 0, or auto."""
    return text if text == "auto" else not_negative(text)


def _near(message: str) -> str:
    if "invalid choice: " not in message or "choose from " not in message:
        return ""
    given = message.split("invalid choice: ")[1].split(" (")[0].strip("'\"")
    choices = [c.strip("'\" )") for c in message.split("choose from ")[1].split(",")]
    return near(given, choices, f"use {' or '.join(choices)}")


def _paragraph(text: str) -> str:
    return f"\n\n{text.strip()}" if text else ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
