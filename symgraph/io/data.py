"""Batches for losses and metrics, from files, Hugging Face datasets, or a factory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import SHOWN, DataError, SymgraphError, argument, one_line, shorten
from symgraph.io.columns import (
    Batch,
    Rows,
    Source,
    image_rows,
    load_tokenizer,
    token_rows,
    window_rows,
    window_size,
)
from symgraph.io.factories import call_factory, is_factory
from symgraph.io.files import existing
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.io.reading import Reading

_READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
_IMAGES = ("pixel_values", "img", "image")
_TEXTS = ("input_ids", "text")
_LABELS = ("labels", "label")
_HELD_OUT = ("test", "validation", "valid", "val")
# Parts of data that has no splits: all but the last tenth of its batches, and that.
HEAD, TAIL = "head", "tail"
_TAIL = 10
_CACHE_BYTES = 1 << 30
# What is named where there is no data.
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """That there is none: the models make inputs themselves, as `symgraph.measure.synthetic` says.

    `examples`, `length`: how many, and of text how many tokens each; None: as many as are usual. `steps`: at most so
    many are taken from noise towards what the models are sure of.
    """

    examples: int | None = None
    batch_size: int = 32
    length: int | None = None
    seed: int = 0
    steps: int = 8


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of examples that can be gone through any number of times, always in the same order.

    `fetch(i)` makes the i-th of `count` batches; up to a gibibyte of them is kept once made. `remarks` say what was
    assumed of the data.
    """

    source: str
    split: str
    examples: int
    count: int
    fetch: Callable[[int], Batch] = field(repr=False)
    remarks: tuple[str, ...] = ()
    _kept: dict[int, Batch] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Batch:
        batch = self._kept.get(i)
        if batch is None:
            if not 0 <= i < self.count:
                raise IndexError(f"batch {i} of {self.count}")
            batch = self.fetch(i)
            if self._room() >= _bytes(batch):
                self._kept[i] = batch
        return dict(batch)

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(self.count))

    def _room(self) -> int:
        return _CACHE_BYTES - sum(map(_bytes, self._kept.values()))


def load(
    spec: str | Path,
    reading: Reading | Mapping[str, Any] | None = None,
    *,
    limit: int | None = None,
    split: str | None = None,
    model: Model | None = None,
    **more: Any,
) -> Batches:
    """Batches from what `spec` names: a `datasets` folder, a folder or file of data, or `package.module:factory`.

    Images become `pixel_values`, scaled to [0, 1] and normalised. Text becomes windows of `input_ids` with `labels`:
    the same tokens, or for a masked language model the hidden ones. Where a split is not named, the held-out one is
    taken. Of data without splits `split` may be "head" or "tail": all but the last tenth of the batches, or these.
    `limit` counts examples.

    Args:
        reading, more: how it is read: fields of `symgraph.io.reading.Reading`.

    Raises:
        DataError: nothing is there, it is empty, has no usable columns, or does not fit the model.
    """
    spec, path, options = str(spec), existing(spec), given(Reading, reading, more)
    batch_size = options.batch_size
    if split in (HEAD, TAIL) and not splits(spec):
        return _part(load(spec, options, model=model), split, limit)
    if batch_size < 1 or (limit is not None and limit < 1):
        raise DataError(f"batch size {batch_size}, limit {limit}: too small", remedy="give numbers from 1")
    if path is None and is_factory(spec):
        _refuse_split(spec, split)
        return from_batches(call_factory(spec, DataError), spec, limit=limit)
    if path is None:
        remedy = "name a folder written by save_to_disk, a data file, or package.module:factory"
        raise DataError(f"{spec}: no such file or folder", remedy=remedy)
    if path.suffix == ".txt":
        _refuse_split(spec, split)
        return _windows([_read_text(path)], Source(spec, "all", model, options), batch_size, limit)
    table, name = _pick_split(_read(path), spec, split)
    return _from_table(table, Source(spec, name, model, options), batch_size, limit)


def splits(spec: str | Path) -> tuple[str, ...]:
    """Names of the splits that data has; none where it is not split, or made by a factory.

    Raises:
        DataError: it cannot be read.
    """
    path = existing(str(spec))
    if path is None or path.suffix == ".txt":
        return ()
    held = _read(path)
    return tuple(map(str, held)) if isinstance(held, dict) else ()


def from_batches(found: Any, source: str = "batches", *, limit: int | None = None) -> Batches:
    """`Batches` from an iterable of dictionaries of tensors, or of pairs (inputs, labels); all are held in memory.

    Raises:
        DataError: `found` is not such an iterable, or is empty.
    """
    if isinstance(found, Batches) and limit is None:
        return found
    if not isinstance(found, Iterable) or isinstance(found, Mapping | Tensor | str):
        cause = f"it is a {type(found).__name__}"
        raise DataError(f"{source} gave no batches", cause=cause, remedy="give an iterable of dictionaries of tensors")
    batches: list[Batch] = []
    examples = 0
    for number, raw in _numbered(found, source):
        batch = _first(_as_batch(raw, f"{source}, batch {number}"), None if limit is None else limit - examples)
        batches.append(batch)
        examples += batch_length(batch)
        if limit is not None and examples >= limit:
            break
    if not examples:
        raise DataError(f"{source}: no examples", cause="there are no batches", remedy="check the length of the data")
    return Batches(source, "all", examples, len(batches), batches.__getitem__)


def _numbered(found: Iterable[Any], source: str) -> Iterator[tuple[int, Any]]:
    rest = iter(found)
    for number in count():
        try:
            yield number, next(rest)
        except StopIteration:
            return
        except SymgraphError:
            raise
        except Exception as e:
            remedy = "go through the batches by hand to see the traceback"
            raise DataError(f"{source}: batch {number} cannot be made", cause=one_line(e), remedy=remedy) from e


def _part(batches: Batches, name: str, limit: int | None) -> Batches:
    """All but the last tenth of the batches, or these."""
    if batches.count < 2:
        other = f"name other data to train on, {argument('data')}"
        size = argument("batch_size", max(1, batches.examples // _TAIL))
        # A factory makes its batches by itself.
        own = ":" in batches.source
        remedy = f"{other}, or make more batches" if own else f"{other}, or make batches smaller, {size}"
        raise DataError(f"{batches.source}: nothing can be set apart", cause="it is one batch", remedy=remedy)
    cut = batches.count - max(1, batches.count // _TAIL)
    numbers = range(cut) if name == HEAD else range(cut, batches.count)
    apart = sum(batch_length(batches[number]) for number in range(cut, batches.count))
    examples = apart if name == TAIL else batches.examples - apart
    part = Batches(
        batches.source, name, examples, len(numbers), lambda number: batches[numbers[number]], batches.remarks
    )
    return (
        part
        if limit is None
        else replace(from_batches(part, batches.source, limit=limit), split=name, remarks=batches.remarks)
    )


def batch_length(batch: Mapping[str, Tensor]) -> int:
    """How many examples a batch holds."""
    return next((len(tensor) for tensor in batch.values() if tensor.ndim), 0)


def _as_batch(raw: Any, where: str) -> Batch:
    if isinstance(raw, list | tuple) and len(raw) == 2:
        raw = {"inputs": raw[0], "labels": raw[1]}
    if isinstance(raw, Mapping) and raw and all(isinstance(value, Tensor) for value in raw.values()):
        return dict(raw)
    kind = f"keys {shorten(map(str, raw))}" if isinstance(raw, Mapping) else type(raw).__name__
    remedy = "give dictionaries of tensors, or pairs (inputs, labels)"
    raise DataError(f"{where} is no batch", cause=f"it is a {kind}, not all of it tensors", remedy=remedy)


def _first(batch: Batch, count: int | None) -> Batch:
    length = batch_length(batch)
    if count is None or count >= length:
        return batch
    return {name: tensor[:count] if tensor.ndim and len(tensor) == length else tensor for name, tensor in batch.items()}


def _read(path: Path) -> Any:
    import datasets

    remedy = f"name a folder written by save_to_disk, or files of {', '.join(_READERS)}"
    if path.is_file() and path.suffix not in _READERS:
        raise DataError(f"{path}: data of an unknown kind", cause=f"the suffix is {path.suffix!r}", remedy=remedy)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if path.is_file():
            more = {"sep": "\t"} if path.suffix == ".tsv" else {}
            return datasets.load_dataset(_READERS[path.suffix], data_files=str(path), split="train", **more)
        if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path))
    except Exception as e:
        raise DataError(f"{path} cannot be read as data", cause=one_line(e), remedy=remedy) from e
    finally:
        if bars:
            datasets.enable_progress_bars()


def _pick_split(held: Any, spec: str, split: str | None) -> tuple[Any, str]:
    if not isinstance(held, dict):
        _refuse_split(spec, split)
        return held, "all"
    name = (
        split
        or next((name for name in _HELD_OUT if name in held), None)
        or (next(iter(held)) if len(held) == 1 else None)
    )
    if name in held:
        return held[name], str(name)
    problem = f"no split {split!r}" if split else "no held-out split to choose"
    raise DataError(
        f"{spec}: {problem}",
        cause=f"it has {shorten(held)}",
        remedy=" or ".join(argument("split", name) for name in list(held)[:SHOWN]),
    )


def _refuse_split(spec: str, split: str | None) -> None:
    if split not in (None, "all"):
        raise DataError(
            f"{spec} has no split {split!r}", cause="it is not split", remedy=f"leave out {argument('split')}"
        )


def _from_table(table: Any, source: Source, batch_size: int, limit: int | None) -> Batches:
    names, options = tuple(table.column_names), source.options
    image = _column(names, options.image_column, () if options.text_column else _IMAGES, source)
    text = None if image else _column(names, options.text_column, _TEXTS, source)
    label = _column(names, options.label_column, _LABELS, source)
    if image is None and text is None:
        remedy = f"name one, {argument('image_column', 'NAME')} or {argument('text_column', 'NAME')}; "
        remedy += f"known are {', '.join(_IMAGES + _TEXTS)}"
        raise source.error("no usable columns", f"it has {shorten(names) or 'none'}", remedy)
    if not len(table):
        raise source.error("no examples", "the table is empty", "name another file or split")
    if text and label is None and isinstance(table[0][text], str):
        return _windows(((row[text] or "") + "\n" for row in table), source, batch_size, limit)
    length = min(len(table), limit or len(table))
    if image is None:
        return _sliced(token_rows(table, str(text), label, source), length, source, batch_size)
    rows, remarks = image_rows(table, image, label, source)
    return replace(_sliced(rows, length, source, batch_size), remarks=remarks)


def _windows(texts: Iterable[str], source: Source, batch_size: int, limit: int | None) -> Batches:
    tokenizer, size = load_tokenizer(source), window_size(source)
    ids: list[int] = []
    for text in texts:
        ids.extend(tokenizer.encode(text))
        if limit is not None and len(ids) >= limit * size:
            break
    if len(ids) < 2:
        raise source.error("no examples", f"the text has {len(ids)} tokens", "name a longer text")
    size = min(size, len(ids))
    make = window_rows(torch.tensor(ids), size, tokenizer, source)
    return _sliced(make, min(len(ids) // size, limit or len(ids)), source, batch_size)


def _sliced(make: Rows, examples: int, source: Source, batch_size: int) -> Batches:
    def fetch(number: int) -> Batch:
        return make(number * batch_size, min((number + 1) * batch_size, examples))

    return Batches(source.spec, source.split, examples, -(-examples // batch_size), fetch)


def _column(names: Sequence[str], given: str | None, usual: Sequence[str], source: Source) -> str | None:
    if given is not None and given not in names:
        raise source.error(f"no column {given!r}", f"it has {shorten(names)}", "name one of these")
    return given or next((name for name in usual if name in names), None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path} cannot be read as text", cause=one_line(e), remedy="save it as UTF-8") from e


def _bytes(batch: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
