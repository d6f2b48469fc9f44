"""`symgraph completion`: what a shell needs to complete commands, options and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from symgraph.cli.console import Console
from symgraph.cli.parser import Arguments, Commands

SHELLS = ("bash", "zsh", "fish", "tcsh")
# How help calls arguments that are paths, or may be.
_PATHS = {"FILE", "FOLDER", "DIR", "PATH", "MODEL", "SPEC", "A", "A2", "B", "PROGRAM", "ALIGNMENT"}
_EXAMPLES = """
symgraph completion bash > ~/.local/share/bash-completion/completions/symgraph
symgraph completion zsh > ~/.zfunc/_symgraph      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
symgraph completion fish > ~/.config/fish/completions/symgraph.fish
eval "$(symgraph completion bash)"                for this shell alone
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "print what a shell needs to complete commands and options"
    parser = commands.add("completion", None, about, examples=_EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    parser.set_defaults(run=lambda args, console: run(args, console, commands.top))


def run(args: Arguments, console: Console, top: argparse.ArgumentParser) -> int:
    """Print the script."""
    import shtab

    for action in _actions(top):
        if action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(top, args.shell)
    console.result(script, {"shell": args.shell, "script": script})
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser, and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
