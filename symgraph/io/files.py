"""Outputs that appear complete or not at all.

Everything is written under a temporary name beside its final place and moved there at the end, so that neither an
error nor a full disk leaves a half-written result, and an older result stays until the new one is whole. A folder is
replaced by two renames; what a run that was killed between them, or before, has left is cleared away by the next one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from symgraph.errors import CheckpointError, argument

# Bytes that a file of a checkpoint has at most.
SHARD_SIZE = 5 * 10**9
_OLD = ".old"


class OutputError(CheckpointError):
    """An output exists already, or its place cannot be written to."""

    title = "output"


def existing(spec: str | Path) -> Path | None:
    """The path that `spec` names, with `~` for the home folder, if something is there."""
    try:
        path = Path(spec).expanduser()
        return path if str(spec) and path.exists() else None
    except PermissionError:
        raise
    except (OSError, RuntimeError):
        # Longer than any path, or the home of nobody: what was meant is no path.
        return None


@contextmanager
def atomic_path(out: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path of the same suffix that becomes the file `out` when the block ends well.

    Raises:
        OutputError: `out` exists and `overwrite` is not set, is a folder, or cannot be written.
    """
    with _staged(Path(out), overwrite, folder=False) as temporary:
        yield temporary


@contextmanager
def atomic_dir(out: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well; an old `out` is replaced only then.

    Raises:
        OutputError: `out` exists and `overwrite` is not set, is a file, holds the working folder, or cannot be written.
    """
    with _staged(Path(out), overwrite, folder=True) as temporary:
        yield temporary


def write_text(out: str | Path, text: str, overwrite: bool = False) -> Path:
    """Write a text file atomically and return its path.

    Raises:
        OutputError: as for `atomic_path`.
    """
    with atomic_path(out, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(out)


def refuse_existing(
    out: str | Path, overwrite: bool = False, *, folder: bool, inputs: Iterable[str | Path] = ()
) -> None:
    """Raise now what writing `out` later would raise, before any work is spent on it.

    Args:
        inputs: what is read; nothing is written into it, or in its place, whatever may be replaced.

    Raises:
        OutputError: as for `atomic_path` and `atomic_dir`; or `out` is an input, inside of one, or holds one.
    """
    out = Path(out)
    _recover(out)
    _refuse_inputs(out, inputs)
    if not os.path.lexists(out):
        _require_room(out)
        return
    if not overwrite:
        raise OutputError(
            f"{out} exists already", remedy=f"choose another path, or replace it, {argument('overwrite', True)}"
        )
    if out.is_dir() is not folder:
        there, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise OutputError(f"{out} is {there}, and {wanted} is to be written", remedy="choose another path")
    if folder and Path.cwd().is_relative_to(out.resolve()):
        raise OutputError(f"{out} holds the working folder and is not replaced", remedy="choose another path")


def require_space(out: str | Path, size: int) -> None:
    """Raise now if so many bytes have no room where `out` is to be written.

    Raises:
        OutputError: saying how much there is, and how much there has to be.
    """
    require_spaces([(Path(out), size)])


def require_spaces(outputs: Iterable[tuple[Path, int]]) -> None:
    """The same of several, some of which may be written to one disk.

    Raises:
        OutputError: saying how much there is, and how much there has to be.
    """
    sizes: dict[int, int] = {}
    for out, size in outputs:
        folder = _above(out)
        disk = folder.stat().st_dev
        sizes[disk] = total = sizes.get(disk, 0) + size
        free = shutil.disk_usage(folder).free
        if total > free:
            cause = f"{total / 2**20:,.0f} MiB are to be written, and {free / 2**20:,.0f} MiB are free"
            raise OutputError(
                f"{out} does not fit on its disk", cause=cause, remedy="make room, or choose another disk"
            )


def _above(out: Path) -> Path:
    return next(parent for parent in out.absolute().parents if os.path.lexists(parent))


def _refuse_inputs(out: Path, inputs: Iterable[str | Path]) -> None:
    place = out.resolve()
    for given in filter(None, map(existing, inputs)):
        read = given.resolve()
        if place.is_relative_to(read) or (out.is_dir() and read.is_relative_to(place)):
            how = "is" if place == read else "lies in" if place.is_relative_to(read) else "holds"
            cause = f"{out} {how} {given}, which is read"
            raise OutputError(f"{out} is not written", cause=cause, remedy="choose a path outside of what is read")


def _require_room(out: Path) -> None:
    """Raises if nothing can be made there."""
    above = _above(out)
    if not above.is_dir():
        raise _cannot_write(out, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(above, os.W_OK | os.X_OK):
        raise _cannot_write(out, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _recover(out: Path) -> None:
    """Undoes what a dead run has left half done in the place of `out`, and removes what it was writing."""
    with suppress(OSError):
        left = [path for path in out.parent.iterdir() if path.name.startswith(_mark(out)) and not _is_alive(path, out)]
        for old in (path for path in left if path.name.endswith(_OLD) and not os.path.lexists(out)):
            os.rename(old, out)
        for rest in left:
            _remove(rest)


def _is_alive(path: Path, out: Path) -> bool:
    """Whether the process that a temporary name tells of is still there."""
    number = path.name.removeprefix(_mark(out)).partition(".")[0]
    if not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _staged(out: Path, overwrite: bool, *, folder: bool) -> Iterator[Path]:
    refuse_existing(out, overwrite, folder=folder)
    missing = [folder for folder in (out.parent, *out.parent.parents) if not os.path.lexists(folder)]
    temporary = out.with_name(f"{_hidden(out)}{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            temporary.mkdir()
        yield temporary
        refuse_existing(out, overwrite, folder=folder)
        _move(temporary, out)
    except BaseException as error:
        _remove(temporary)
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        if _is_write_failure(error):
            raise _cannot_write(out, error) from error
        raise


def _mark(out: Path) -> str:
    # Short, since a name that is as long as names may be leaves no room for additions; told apart by the whole of it.
    return f".{out.stem[:40]}.{zlib.crc32(out.name.encode()):08x}."


def _hidden(out: Path) -> str:
    return f"{_mark(out)}{os.getpid()}.{secrets.token_hex(4)}"


def _is_write_failure(error: BaseException) -> bool:
    # Writers in other languages report a full disk as an exception of their own with the system's text in it.
    return isinstance(error, OSError) or (isinstance(error, Exception) and "(os error" in str(error))


def _cannot_write(out: Path, error: BaseException) -> OutputError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    remedy = "make room or check the permissions there; nothing half-written was left behind"
    return OutputError(f"{out} could not be written", cause=cause, remedy=remedy)


def _move(temporary: Path, out: Path) -> None:
    if not temporary.is_dir():
        os.replace(temporary, out)
        return
    old = out.with_name(f"{_hidden(out)}{_OLD}")
    replaced = os.path.lexists(out)
    if replaced:
        os.rename(out, old)
    try:
        os.rename(temporary, out)
    except BaseException:
        if replaced:
            os.rename(old, out)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
