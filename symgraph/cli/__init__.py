"""The command line: `symgraph COMMAND ...`."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType

from symgraph import __version__
from symgraph.cli import (
    align_command,
    apply_command,
    audit_command,
    barrier_command,
    canonicalise_command,
    compare_command,
    completion_command,
    demo_command,
    diff_command,
    explain_command,
    failures,
    gather_command,
    inspect_command,
    merge_command,
    prune_command,
    rotate_command,
    rules_command,
    run_command,
    same_command,
    transport_command,
    universe_command,
    verify_command,
)
from symgraph.cli.console import Console
from symgraph.cli.inputs import attach_weights, beginning
from symgraph.cli.interrupts import interruptible
from symgraph.cli.parser import Commands, Parser, add_output, flags, formatter, parsed
from symgraph.cli.sharing import shared, silent_beside
from symgraph.errors import read_at

COMMANDS: tuple[ModuleType, ...] = (
    inspect_command,
    explain_command,
    diff_command,
    verify_command,
    audit_command,
    align_command,
    universe_command,
    barrier_command,
    compare_command,
    same_command,
    merge_command,
    prune_command,
    apply_command,
    transport_command,
    rotate_command,
    gather_command,
    canonicalise_command,
    run_command,
    rules_command,
    completion_command,
    demo_command,
)

_DESCRIPTION = """
Find, prove and use the weight-space symmetries of any traced PyTorch model.

Two networks trained from different seeds compute similar functions with very different weights. symgraph
finds the changes of the weights that leave a model's function as it was, proves them, and uses them to
align models, to measure the loss barrier between them, and to merge them into ordinary checkpoints.
"""
_EPILOG = """
examples:
  symgraph demo                                        everything once, in about a minute
  symgraph inspect my-checkpoint                       which symmetries does it have?
  symgraph align a b --out b-aligned                   bring b into the basis of a
  symgraph barrier a b-aligned --data my-dataset       what lies between them?
  symgraph merge a b --weights 0.5 0.5 --out merged    align and average
  symgraph align --help                                every command has its own help

naming a model:
  a checkpoint folder        config.json and weights, as save_pretrained writes them
  a hub id                   owner/name
  a config.json              the architecture alone; nothing is downloaded or allocated
  a .pt2 file                what torch.export.save wrote
  package.module:factory     a function that gives a module with .example_inputs, or (module, inputs);
  path/nets.py:make(depth=4) the same from a file, with arguments; FACTORY@FILE reads weights from a
                             .pt, .pth, .bin or .safetensors file, and an --out of such a name is
                             written like it. This is the one place where your code runs. Code that comes with a
                             checkpoint runs only with --trust-remote-code.

exit codes:
{codes}

-v lists the stages of long work, -vv all their steps. SYMGRAPH_DEBUG=1 in the environment shows the
traceback of an error. Traces, and what is inferred of them, are kept in the cache folder of the platform, or
in SYMGRAPH_CACHE (SYMGRAPH_CACHE=off: nowhere). `symgraph completion` completes commands in a shell.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console("--json" in words)
    silent_beside(words)
    with warnings.catch_warnings(), read_at(command_line=True, **flags()):
        if not (sys.warnoptions or failures.debugging()):
            warnings.simplefilter("ignore")
        return failures.guarded(lambda: _run(words, console), console)


def parser() -> Parser:
    """The parser of the whole command line."""
    top = Parser(
        prog="symgraph",
        description=_DESCRIPTION.strip(),
        epilog=_EPILOG.strip().format(codes=failures.exit_codes()),
        formatter_class=formatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"symgraph {__version__}")
    add_output(top)
    commands = Commands(top)
    for command in COMMANDS:
        command.add(commands)
    return top


def _no_cache() -> AbstractContextManager[None]:
    from symgraph.tracing.kept import without_cache

    return without_cache()


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Inside the block garbage is looked for after more new objects: what imports make stays, and is most of them."""
    before = gc.get_threshold()
    gc.set_threshold(10_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run(words: list[str], console: Console) -> int:
    if not words:
        parser().print_help()
        return 0
    args = parsed(parser(), words)
    args.typed = shlex.join(["symgraph", *words])
    args.since = beginning()
    attach_weights(args)
    # Libraries draw bars and print advice of their own; what matters of it reaches the user as an error.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Torch asks for large pages where large tensors come and go, if this is there when it is imported.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    console.quiet, console.verbose = args.quiet, args.verbose
    with _seldom_collected(), _no_cache() if args.no_cache else nullcontext(), console.listening(), interruptible(args):
        code = shared(args, lambda: args.run(args, console))
    sys.stdout.flush()
    return code
