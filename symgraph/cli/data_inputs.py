"""The data that commands read: what is trained on, what is measured on, and what statistics are computed on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from symgraph.cli.console import Console
from symgraph.cli.parser import Arguments, chosen
from symgraph.errors import UsageError, read_at
from symgraph.io.reading import Reading

if TYPE_CHECKING:
    from symgraph.io.data import Batches, NoData
    from symgraph.io.models import Model
    from symgraph.io.pinned import DataInput

_NAMED = "name it with --data, or with --train-data; --data none where there is none"


def reads_training(args: Arguments) -> bool:
    """Whether what is to be done reads training data."""
    from symgraph.match.program import Program

    if args.program:
        return Program.load(args.program).reads_data
    wanted = args.weighting == "inputs" or args.outer == "loss"
    if args.method is None:
        return wanted or has_training(args)
    return bool(args.method != "weights" or wanted)


def has_training(args: Arguments) -> bool:
    """Whether training data is named: by itself, or as the train split of what is measured on."""
    if args.train_data or args.train_split:
        return True
    return bool(args.data) and args.split != "train" and _train_of(args.data) is not None


def training(args: Arguments, found: Model, console: Console) -> tuple[Batches | NoData, Batches | NoData | None]:
    """Training data, or that models make it themselves; and validation data where it is named.

    Raises:
        UsageError: there is no training data.
        DataError: it cannot be read, or has no split to train on.
    """
    named = training_inputs(args)
    if not named:
        option = "weighting inputs" if args.weighting == "inputs" else "order by loss"
        what = option if args.method in (None, "weights") else f"method {args.method}"
        raise UsageError(f"the {what} needs training data", remedy=_NAMED)
    if named["train"].split == "head":
        console.remark(f"{args.data} has no splits: its last tenth is set apart for what is measured, the rest trains")
    first, *others = (_loaded(given, found, f"{role}-split") for role, given in named.items())
    return first, others[0] if others else None


def training_inputs(args: Arguments) -> dict[str, DataInput]:
    """The training and validation data of a method that needs some, as a program names them."""
    spec = args.train_data or args.data
    if spec is None:
        return {}
    split = args.train_split or (_train_of(spec) if args.train_data else "head" if _sets_apart(args) else "train")
    found = {"train": _data(args, spec, split)}
    if args.validation_data or args.validation_split:
        found["validation"] = _data(args, args.validation_data or spec, args.validation_split)
    return found


def _sets_apart(args: Arguments) -> bool:
    """Whether the data is to be trained on and measured on, and nothing says which part is which."""
    named = args.train_data or args.train_split or args.split
    return bool(args.data) and not named and not _splits(args.data)


def _train_of(spec: str) -> str | None:
    """The split to train on, where data has splits: without a name the held-out one would be taken."""
    return "train" if "train" in _splits(spec) else None


def _splits(spec: str) -> tuple[str, ...]:
    from symgraph.io.data import splits

    return splits(spec)


def held_out(args: Arguments) -> DataInput:
    """The data of `--data`."""
    apart = "method" in args and reads_training(args) and _sets_apart(args)
    return _data(args, args.data, "tail" if apart else args.split, args.limit)


def batches(args: Arguments, found: Model) -> Batches:
    """The data of `--data`, as the model takes it."""
    return held_out(args).load(found)


def fitting(args: Arguments) -> DataInput:
    """The data of `--fit`."""
    return _data(args, args.fit, args.split, args.limit)


def scoring(args: Arguments) -> DataInput | None:
    """The training data of `--data`, where it is named; a split that is named beside `--fit` is that of the latter."""
    named = None if getattr(args, "fit", None) else args.split
    return None if args.data is None else _data(args, args.data, named or _train_of(args.data), args.limit)


def recalibration(args: Arguments) -> DataInput | None:
    """The training data of `--recalibrate`, where it is named."""
    if args.recalibrate is None:
        return None
    split = args.recalibrate_split or _train_of(args.recalibrate)
    return _data(args, args.recalibrate, split, args.recalibrate_limit)


def _data(args: Arguments, spec: str, split: str | None, limit: int | None = None) -> DataInput:
    from symgraph.io.pinned import DataInput

    return DataInput(data=spec, split=split, limit=limit, **asdict(chosen(args, Reading)))


def _loaded(given: DataInput, found: Model, split: str) -> Batches | NoData:
    """Data whose split is named by an option of that name."""
    with read_at(split=f"--{split}"):
        return given.training(found)
