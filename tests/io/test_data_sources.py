"""Data: files, folders, splits and factories, each as batches that can be gone through again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import refused
from torch import Tensor

from symgraph.errors import DataError, UsageError
from symgraph.io import data
from symgraph.io.data import Batches, batch_length, from_batches

ROWS = [{"input_ids": [i, i + 1, i + 2], "label": i % 3} for i in range(7)]

MADE = """
import torch


def pairs():
    return [(torch.arange(4.0).view(2, 2) + i, torch.tensor([0, i])) for i in range(3)]


def generated():
    yield {"x": torch.zeros(2, 1)}
    yield {"x": torch.ones(3, 1)}


def breaks():
    yield {"x": torch.zeros(2, 1)}
    raise LookupError("no more")


def knows():
    from symgraph.errors import UsageError
    raise UsageError("said already", remedy="listen")


def nothing():
    return []


def one():
    return {"x": torch.zeros(2)}


def words():
    return [{"x": ["a", "b"]}]
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "made_batches.py").write_text(MADE)
    monkeypatch.chdir(tmp_path)


def ids(found: Batches) -> list[list[int]]:
    return [row for batch in found for row in batch["input_ids"].tolist()]


def table() -> Any:
    import datasets

    return datasets.Dataset.from_list(ROWS)


# -- files and folders -----------------------------------------------------------------------------------------------


def _lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", _lines),
        ("rows.json", _lines),
        ("rows.parquet", lambda p: table().to_parquet(p)),
        ("with a space", lambda p: table().save_to_disk(p)),
    ],
)
def test_every_kind_of_file_gives_the_same_batches(name: str, write: Any) -> None:
    write(Path(name))
    found = data.load(name, batch_size=3)
    assert (found.source, found.split, found.examples, len(found)) == (name, "all", 7, 3)
    assert [batch_length(b) for b in found] == [3, 3, 1]
    assert ids(found) == [row["input_ids"] for row in ROWS]
    assert [label for b in found for label in b["labels"].tolist()] == [row["label"] for row in ROWS]


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_columns_of_text_files(name: str, separator: str) -> None:
    Path(name).write_text(f"words{separator}label\nno tokens here{separator}1\n")
    with refused(DataError, f"{name} (all)", "no usable columns", "it has words, label", remedy="text_column="):
        data.load(name)
    with refused(DataError, name, "no column 'text'", "it has words, label", remedy="name one of these"):
        data.load(name, text_column="text")
    with refused(DataError, name, "text needs a tokenizer", remedy="tokenizer="):
        data.load(name, text_column="words")


def test_a_limit_counts_examples_and_not_batches() -> None:
    table().save_to_disk("rows")
    for limit, lengths in [(1, [1]), (3, [3]), (4, [3, 1]), (99, [3, 3, 1])]:
        found = data.load("rows", batch_size=3, limit=limit)
        assert [batch_length(b) for b in found] == lengths and found.examples == sum(lengths)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"limit": 0}])
def test_numbers_that_are_too_small(options: dict[str, int]) -> None:
    with refused(DataError, "batch size", "too small", remedy="numbers from 1"):
        data.load("made_batches:pairs", **options)  # type: ignore[arg-type]


def test_the_held_out_split_is_taken_unless_one_is_named() -> None:
    import datasets

    parts = {"train": table(), "validation": table().select([0, 1]), "test": table().select([2])}
    datasets.DatasetDict(parts).save_to_disk("split")
    assert (data.load("split").split, data.load("split").examples) == ("test", 1)
    assert data.load("split", split="validation").examples == 2
    with refused(DataError, "split: no split 'dev'", "it has train, validation, test", remedy="split="):
        data.load("split", split="dev")
    datasets.DatasetDict({"one": table(), "two": table()}).save_to_disk("unclear")
    with refused(DataError, "unclear: no held-out split to choose", "it has one, two"):
        data.load("unclear")
    datasets.DatasetDict({"one": table()}).save_to_disk("single")
    assert data.load("single").split == "one"


def test_a_split_of_what_is_not_split() -> None:
    table().save_to_disk("rows")
    Path("text.txt").write_text("a b c")
    for spec in ("rows", "text.txt", "made_batches:pairs"):
        with refused(DataError, f"{spec} has no split 'test'", "it is not split", remedy="leave out"):
            data.load(spec, split="test")


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("gone.csv", None, ("no such file or folder",)),
        ("x" * 300, None, ("no such file or folder",)),
        ("~nobody-of-this-name/rows", None, ("no such file or folder",)),
        ("notes.pdf", b"%PDF", ("data of an unknown kind", "the suffix is '.pdf'")),
        ("empty.csv", b"", ("cannot be read as data",)),
        ("rows.parquet", b"PAR1 and then nothing", ("cannot be read as data",)),
        ("rows.json", b"{", ("cannot be read as data",)),
        ("text.txt", b"\xff\xfe\x00", ("cannot be read as text", "UnicodeDecodeError")),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes | None, texts: tuple[str, ...]) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with refused(DataError, name, *texts):
        data.load(name)


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with refused(DataError, "folder cannot be read as data", remedy="save_to_disk"):
        data.load("folder")


def test_a_table_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rows.csv").touch()
    monkeypatch.setattr(data, "_read", lambda path: table().select([]))
    with refused(DataError, "rows.csv (all): no examples", "the table is empty"):
        data.load("rows.csv")


# -- factories and iterables -----------------------------------------------------------------------------------------


def test_pairs_become_inputs_and_labels() -> None:
    found = data.load("made_batches:pairs", limit=5)
    assert (found.source, found.examples, len(found)) == ("made_batches:pairs", 5, 3)
    first, *_, last = found
    assert torch.equal(first["inputs"], torch.tensor([[0.0, 1.0], [2.0, 3.0]])) and first["labels"].tolist() == [0, 0]
    assert batch_length(last) == 1 and last["labels"].tolist() == [0]


def test_a_generator_is_kept_so_that_it_can_be_gone_through_again() -> None:
    found = data.load("made_batches:generated")
    assert [batch_length(b) for b in found] == [batch_length(b) for b in found] == [2, 3]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("breaks", ("batch 1 cannot be made", "LookupError: no more")),
        ("nothing", ("no examples", "there are no batches")),
        ("one", ("gave no batches", "it is a dict")),
        ("words", ("batch 0 is no batch", "keys x")),
        ("gone", ("cannot be imported", "AttributeError")),
    ],
)
def test_what_gives_no_batches(name: str, texts: tuple[str, ...]) -> None:
    with refused(DataError, f"made_batches:{name}", *texts):
        data.load(f"made_batches:{name}")


def test_an_error_that_says_all_is_passed_on() -> None:
    def known() -> Iterator[Any]:
        yield {"x": torch.zeros(1)}
        raise UsageError("said already", remedy="listen")

    with refused(UsageError, "said already", remedy="listen"):
        from_batches(known())


@pytest.mark.parametrize("found", [3, torch.zeros(2, 2), "batches", {"x": torch.zeros(2)}, [torch.zeros(2)], [[1, 2]]])
def test_what_is_no_iterable_of_batches(found: Any) -> None:
    with refused(DataError, "here"):
        from_batches(found, "here")


SIZES = st.lists(st.integers(0, 4), max_size=5)


@given(SIZES, st.none() | st.integers(1, 20))
def test_batches_are_cut_at_the_limit_and_nowhere_else(sizes: list[int], limit: int | None) -> None:
    rows = torch.arange(sum(sizes))
    given = [{"x": x, "scale": torch.tensor(2.0)} for x in torch.split(rows, sizes)] if sizes else []
    kept = len(rows) if limit is None else min(limit, len(rows))
    if not kept:
        with refused(DataError, "batches: no examples"):
            from_batches(iter(given), limit=limit)
        return
    found = from_batches(iter(given), limit=limit)
    for _ in range(2):
        assert torch.equal(torch.cat([b["x"] for b in found]), rows[:kept])
        assert all(b["scale"] == 2 for b in found)
    assert found.examples == kept and len(found) == len(list(found))
    assert from_batches(found) is found


def test_batches_are_made_once_and_never_changed_by_who_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fetch(i: int) -> dict[str, Tensor]:
        calls.append(i)
        return {"x": torch.full((2,), i)}

    found = Batches("here", "all", 6, 3, fetch)
    for batch in found:
        del batch["x"]
    assert [int(b["x"][0]) for b in found] == [0, 1, 2] and calls == [0, 1, 2]
    monkeypatch.setattr(data, "_CACHE_BYTES", 20)
    calls.clear()
    small = Batches("here", "all", 6, 3, fetch)
    assert [len(list(small)), len(list(small))] == [3, 3] and calls == [0, 1, 2, 1, 2]


def test_a_tail_of_what_is_not_split() -> None:
    head, tail = (data.load("made_batches:pairs", split=part) for part in ("head", "tail"))
    whole = data.load("made_batches:pairs")
    assert [b["labels"].tolist() for b in (*head, *tail)] == [b["labels"].tolist() for b in whole]
    assert len(tail) == 1 and head.examples + tail.examples == whole.examples
    assert data.load("made_batches:pairs", split="tail", limit=1).examples == 1


def test_one_batch_has_no_tail() -> None:
    table().save_to_disk("rows")
    with refused(DataError, "rows: nothing can be set apart", "one batch", remedy="batch_size=1"):
        data.load("rows", split="tail")
