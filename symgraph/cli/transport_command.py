"""`symgraph transport`: carry what one model learned to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symgraph.cli import inputs
from symgraph.cli.console import Console
from symgraph.cli.data_inputs import fitting, scoring
from symgraph.cli.parser import (
    DATA_HELP,
    WEIGHTED_HELP,
    Arguments,
    Commands,
    add_device,
    add_matching,
    add_options,
    add_out,
    add_reading,
    add_rules,
    add_trust,
    at_least,
    chosen,
    finite,
)
from symgraph.errors import UsageError
from symgraph.io.options import stated
from symgraph.match.match_options import LEARNED, METHODS, VECTOR_KINDS, MatchOptions, PairSettings
from symgraph.orbit.descent_options import DescentOptions

if TYPE_CHECKING:
    from symgraph.io.models import Model

_EXAMPLES = """
symgraph transport --base a --tuned a-on-code --to b --out b-on-code
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --scale 0.5
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --fit my-dataset --split validation
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --fit my-dataset --per-tensor
symgraph transport --base a --tuned a-on-code --to b --out b-on-code --method learned --data my-dataset
symgraph transport --base a --tuned adapter-of-a --to b --out adapter-of-b   a LoRA adapter
symgraph transport --base a --tuned a2 --to b --out b2 --alignment ab.safetensors  of `symgraph align a b`
symgraph transport --base a --vectors v.safetensors --at model.layers.6 --to b --out v-of-b.safetensors
symgraph transport --base a --vectors v.safetensors --at h.6 --to b --out v2.safetensors --data my-dataset
symgraph transport --base a --vectors sae.safetensors --at h.6 --centred --to b --out sae2.safetensors
symgraph transport --base a --moments optimizer.pt --to b --out for-b.pt
"""
_DETAILS = """
TUNED was trained from BASE on. TO is another model of the same architecture, of another seed. TO is aligned
to BASE; BASE and TUNED are taken into the basis and gauge of TO, where each still computes what it computed
(or nothing is written), and their difference there is added to TO. With --method learned the alignment is
trained from there on, down the loss of what results on --data of what A2 learned.

Where TUNED is the folder of a low-rank adapter (LoRA, as PEFT writes it), so is the result: an adapter of
TO of the same rank.

VECTORS belong to a value of BASE: steering vectors, a probe (weight, bias), or a sparse autoencoder
(encoder.weight, ... or W_enc, b_enc, W_dec, b_dec). The models are aligned by that very value, on text that
they write themselves or on --data; models that write none, by weights.

MOMENTS is what AdamW keeps beside BASE.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    about = "carry what one model learned to another"
    parser = commands.add("transport", run, about, details=_DETAILS, examples=_EXAMPLES)
    parser.add_argument("--base", metavar="A", required=True, help=f"what was trained: {WEIGHTED_HELP}")
    what = parser.add_mutually_exclusive_group(required=True)
    text = "what it became: another such model, or the folder of a LoRA adapter"
    what.add_argument("--tuned", metavar="A2", help=text)
    text = "a safetensors file of directions, a probe or a sparse autoencoder that belong to a value of it"
    what.add_argument("--vectors", metavar="FILE", help=text)
    what.add_argument("--moments", metavar="FILE", help="the state of AdamW beside it, as torch.save wrote it")
    text = "the value that the vectors belong to: a module, whose result is meant, or a value of the graph"
    parser.add_argument("--at", metavar="VALUE", help=text)
    text = "what the vectors are (default: what their names say)"
    parser.add_argument("--kind", choices=VECTOR_KINDS, default="", help=text)
    parser.add_argument("--centred", action="store_true", help="the encoder reads x - b_dec rather than x")
    parser.add_argument("--to", metavar="B", required=True, help="the model to carry it to")
    add_trust(parser, files=False)
    add_out(parser)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--scale", metavar="S", type=finite, default=1.0, help="how much of it (default 1)")
    text = "choose the scale on data of what was learned: never on the test split"
    amount.add_argument("--fit", metavar="SPEC", help=f"{text}; {DATA_HELP}")
    text = "choose a scale for each tensor on the data of --fit, by a short descent from the best one for all"
    parser.add_argument("--per-tensor", action="store_true", help=text)
    text = "how TO is aligned to BASE for TUNED: by weights (default), or learned on from there, or by activations"
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"{text}; both on --data")
    text = "data of what was learned, for --method; of vectors: align the models by that value on this data"
    parser.add_argument("--data", metavar="SPEC", help=f"{text} (default: on text that they write themselves)")
    text = "of vectors: align the models by their weights, which takes less time and explains less of the value"
    parser.add_argument("--by-weights", action="store_true", help=text)
    parser.add_argument(
        "--split", help="which split of that data (default: of --fit the held-out one, of --data the training one)"
    )
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use so many of its examples")
    text = "the alignment of B to A that `symgraph align A B --alignment FILE` wrote, by activations or learned"
    parser.add_argument("--alignment", metavar="FILE", help=text)
    add_device(parser, ("float64", "float32"), "float64", " (default float64); files keep the dtype of the checkpoint")
    add_rules(parser)
    add_matching(parser)
    add_reading(parser)
    add_options(parser.add_argument_group("learning"), DescentOptions, "steps", "lr")
    parser.set_defaults(steps=200, lr=0.02)


def run(args: Arguments, console: Console) -> int:
    """Load, align, carry, write."""
    if args.alignment is not None:
        inputs.refuse_unread(args, "leave out --alignment", *stated(MatchOptions))
    if args.vectors is None:
        inputs.refuse_unread(args, "name vectors with --vectors", "at", "kind", "centred", "by_weights")
    elif args.at is None:
        raise UsageError("nothing says which value the vectors belong to", remedy="name it, --at model.layers.6")
    if args.method != LEARNED:
        inputs.refuse_unread(args, "give --method learned", "steps", "lr")
    inputs.check_device(args.device)
    return _models(args, console) if args.tuned else _beside(args, console)


def _models(args: Arguments, console: Console) -> int:
    """Another model or an adapter."""
    from symgraph.io.adapters import is_adapter
    from symgraph.match.transport import transport, write_transported

    if args.fit is None and args.data is None:
        inputs.refuse_unread(args, "name data with --fit or --data", "split", "limit")
    if args.fit is None:
        inputs.refuse_unread(args, "name data with --fit", "per_tensor")
    if args.method == METHODS[0]:
        inputs.refuse_unread(args, "give --method learned", "data")
    elif args.data is None:
        what = f"--method {args.method} sees data, and none is named"
        raise UsageError(what, remedy="name training data of what was learned, --data SPEC")
    inputs.refuse_folders(args, args.out)
    # An adapter is put into the module, and what sees data runs with it.
    deferred = not is_adapter(args.tuned) and args.fit is None and args.data is None
    inputs.require_room(args, [args.base, args.to], spooled=2 if deferred else 0)
    base, to = (inputs.weighted(spec, args, deferred=deferred) for spec in (args.base, args.to))
    tuned = args.tuned if is_adapter(args.tuned) else inputs.weighted(args.tuned, args, deferred=deferred)
    fit = None if args.fit is None else fitting(args).load(to)
    data = scoring(args)
    method = {} if data is None else {"method": args.method, "data": data.load(base)}
    learning = {"learning": {"steps": args.steps, "lr": args.lr}} if args.method == LEARNED else {}
    how = _how(args, spool=deferred) | method | learning
    with console.working("transporting"):
        found = transport(base, tuned, to, scale=args.scale, fit=fit, per_tensor=args.per_tensor, **how)
    out = write_transported(found, args.out, command=args.typed, **inputs.writing(args))
    console.wrote(found, out)
    return 0


def _beside(args: Arguments, console: Console) -> int:
    """A file of what belongs to a model."""
    from symgraph.match.carry import CarriedVectors, transport_vectors
    from symgraph.match.moments import CarriedMoments, transport_moments

    inputs.refuse_unread(
        args, "name a model with --tuned", "scale", "fit", "per_tensor", "method", "like", "shard_size"
    )
    if args.vectors is None or args.alignment is not None:
        inputs.refuse_unread(args, "name vectors, and no alignment", "data")
    if args.data is None:
        inputs.refuse_unread(args, "name data with --data", "split", "limit")
    inputs.refuse_files(args, args.out)
    base, to = (inputs.weighted(spec, args) for spec in (args.base, args.to))
    found: CarriedVectors | CarriedMoments
    with console.working("transporting"):
        if args.moments:
            found = transport_moments(base, args.moments, to, **_how(args))
        else:
            about = {"at": args.at, "kind": args.kind, "centred": args.centred}
            found = transport_vectors(base, args.vectors, to, **about, **_by(args, base), **_how(args))
    out = found.save(args.out, overwrite=args.overwrite)
    console.wrote(found, out)
    return 0


def _by(args: Arguments, base: Model) -> dict[str, Any]:
    """By what models are aligned for vectors."""
    if args.by_weights:
        inputs.refuse_unread(args, "leave out --by-weights", "data", "alignment")
        return {"method": METHODS[0]}
    data = scoring(args)
    return {} if data is None else {"data": data.load(base)}


def _how(args: Arguments, *, spool: bool = False) -> dict[str, Any]:
    """How the models are brought into one basis; with `spool` blocks of the match wait on disk."""
    if args.alignment is None:
        return {"options": chosen(args, MatchOptions), **inputs.settings(args, PairSettings, spool=spool)}
    scratch = inputs.scratch(args) if spool else None
    return {"alignment": args.alignment, "rules": inputs.rule_book(args), "scratch": scratch}
