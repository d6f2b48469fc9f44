"""Outputs appear whole or not at all, whatever fails, and nothing is replaced unasked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import refused

from symgraph.io.files import OutputError, atomic_dir, atomic_path, existing, refuse_existing, write_text

Stage = Callable[..., AbstractContextManager[Path]]
FAILURES: list[BaseException] = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("I/O error: No space left on device (os error 28)"),
    ValueError("a fault of the writer"),
    KeyboardInterrupt(),
    SystemExit(3),
]


def fill(stage: Stage, path: Path, text: str) -> None:
    if stage is atomic_path:
        path.write_text(text)
        return
    (path / "inner").mkdir()
    (path / "inner" / "a").write_text(text)


def content(out: Path) -> str:
    return (out / "inner" / "a" if out.is_dir() else out).read_text()


@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_it_appears_at_the_end_and_leaves_nothing_else(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "out.png"
    with stage(out) as temporary:
        fill(stage, temporary, "text")
        assert not out.exists() and temporary.suffix == ".png" and temporary.parent == out.parent
    assert content(out) == "text" and os.listdir(out.parent) == ["out.png"]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_after_a_failure_there_is_what_there_was(stage: Stage, tmp_path: Path, failure: BaseException) -> None:
    old, new = tmp_path / "out", tmp_path / "new" / "deep" / "out"
    with stage(old) as temporary:
        fill(stage, temporary, "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    for out in (old, new):
        with pytest.raises((type(failure), OutputError)) as caught, stage(out, overwrite=True) as temporary:
            fill(stage, temporary, "new")
            raise failure
        if "os error" in str(failure) or isinstance(failure, OSError):
            assert isinstance(caught.value, OutputError) and str(out) in str(caught.value)
            assert "No space left on device" in str(caught.value) and caught.value.remedy
        else:
            assert caught.value is failure
    assert content(old) == "old"
    assert sorted(os.listdir(tmp_path)) == ["new", "out"] and os.listdir(tmp_path / "new") == ["mine"]


@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_an_old_result_is_replaced_only_where_asked(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with stage(out) as temporary:
        fill(stage, temporary, "old")
    with refused(OutputError, out, "exists already", remedy="overwrite=True"), stage(out) as temporary:
        fill(stage, temporary, "never")
    with stage(out, overwrite=True) as temporary:
        fill(stage, temporary, "new")
    assert content(out) == "new" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_what_appears_there_meanwhile_is_kept(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with refused(OutputError, out, "exists already"), stage(out) as temporary:
        fill(stage, temporary, "mine")
        out.write_text("theirs")
    assert content(out) == "theirs" and os.listdir(tmp_path) == ["out"]


def test_a_file_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with refused(OutputError, tmp_path / "file", "is a file, and a folder is to be written"):
        refuse_existing(tmp_path / "file", True, folder=True)
    with refused(OutputError, tmp_path / "folder", "is a folder, and a file is to be written"):
        refuse_existing(tmp_path / "folder", True, folder=False)


@pytest.mark.parametrize("out", [".", "..", "../here", "../here/below/.."])
def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with refused(OutputError, Path(out), "holds the working folder"), atomic_dir(out, overwrite=True) as found:
        fill(atomic_dir, found, "never")


@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_a_link_is_replaced_and_not_followed(stage: Stage, tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "link"
    with stage(kept) as temporary:
        fill(stage, temporary, "kept")
    link.symlink_to(kept)
    with stage(link, overwrite=True) as temporary:
        fill(stage, temporary, "new")
    assert content(kept) == "kept" and content(link) == "new" and not link.is_symlink()


def test_a_link_to_nothing_is_something(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with refused(OutputError, tmp_path / "link", "exists already"):
        write_text(tmp_path / "link", "x")
    assert write_text(tmp_path / "link", "x", overwrite=True).read_text() == "x"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("stage", [atomic_path, atomic_dir])
def test_a_place_that_cannot_be_written_to(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "out"
    with refused(OutputError, below, "could not be written", remedy="permissions"), stage(below) as found:
        fill(stage, found, "never")
    with refused(OutputError, "x" * 256, "could not be written", "too long"), stage(tmp_path / ("x" * 256)) as found:
        fill(stage, found, "text")
    assert os.listdir(tmp_path) == ["file"] and content(tmp_path / "file") == "mine"


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    out = tmp_path / "out"
    with refused(OutputError, out, "could not be written", "Permission denied"), atomic_dir(out) as found:
        fill(atomic_dir, found, "never")


def test_a_writer_that_writes_nothing(tmp_path: Path) -> None:
    with refused(OutputError, tmp_path / "out", "could not be written", "No such file"), atomic_path(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == []


def test_an_old_folder_comes_back_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with atomic_dir(out) as temporary:
        fill(atomic_dir, temporary, "old")
    rename = os.rename

    def fails_once(a: Path, b: Path) -> None:
        if content(a) == "new":
            raise OSError(errno.EIO, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(os, "rename", fails_once)
    with refused(OutputError, out, "Input/output error"), atomic_dir(out, overwrite=True) as temporary:
        fill(atomic_dir, temporary, "new")
    assert content(out) == "old" and os.listdir(tmp_path) == ["out"]


FILE_NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=255).filter(
    lambda name: len(name.encode()) <= 255 and name not in (".", "..")
)


@given(FILE_NAMES, st.text().filter(lambda text: "\r" not in text))
def test_any_name_that_a_file_may_have_will_do(name: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        assert write_text(out, text).read_text(encoding="utf-8") == text
        assert existing(out) == out and os.listdir(folder) == [name]
        out.unlink()
        with atomic_dir(out) as temporary:
            (temporary / "a").touch()
        assert os.listdir(folder) == [name] and os.listdir(out) == ["a"]


@pytest.mark.parametrize("spec", ["", "x" * 300, "~nobody-of-this-name", "a\0b", "gone/down/here"])
def test_what_is_not_there(spec: str) -> None:
    assert existing(spec) is None


def _dead() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_dead_run_left_is_undone_and_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", os.rename
    with atomic_dir(out) as temporary:
        fill(atomic_dir, temporary, "old")
    moves: list[str] = []

    def dying(source: Path, target: Path) -> None:
        if moves:
            raise _Killed
        moves.append(str(target))
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("symgraph.io.files.os.rename", dying)
        patched.setattr("symgraph.io.files.os.getpid", _dead)
        patched.setattr("symgraph.io.files._remove", lambda path: None)
        with pytest.raises(_Killed), atomic_dir(out, overwrite=True) as temporary:
            fill(atomic_dir, temporary, "new")
    (left,) = [p for p in tmp_path.iterdir() if p.name.endswith(".old")]
    assert not out.exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="exists already"):
        refuse_existing(out, folder=True)
    assert content(out) == "old" and os.listdir(tmp_path) == ["out"] and not left.exists()


def test_what_a_living_run_writes_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_dir(out) as temporary:
        fill(atomic_dir, temporary, "first")
        refuse_existing(out, folder=True)
        assert temporary.exists()
    assert content(out) == "first"


class _Killed(BaseException):
    """The process ends here."""


def test_nothing_is_written_into_or_around_what_is_read(tmp_path: Path) -> None:
    read = tmp_path / "in"
    read.mkdir()
    (read / "file").touch()
    for out in (read, read / "new", read / "file", tmp_path):
        with pytest.raises(OutputError, match="which is read"):
            refuse_existing(out, True, folder=True, inputs=[read, "no.such:factory"])
    refuse_existing(tmp_path / "beside", True, folder=True, inputs=[read])
