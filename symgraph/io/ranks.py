"""Processes that share one run, as `torchrun` starts them, and how what they find comes together.

All of them run the same lines: each computes what is its own, and what all have to know is exchanged. A run by itself
is that of a group of one, where nothing is sent. The first process alone prints and writes.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from symgraph.errors import SymgraphError, UsageError, either, one_line, shorten
from symgraph.io.launched import started

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Found = TypeVar("Found")
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
# For so long a process waits for the others: as long as one may compute by itself.
PATIENCE = timedelta(hours=12)
# How many seconds the others have to say why they are gone.
GRACE = 3.0
_FAILED, _LEFT = "failed", "left"


class LostProcess(SymgraphError):
    """A process of a run that several share has ended, or has failed."""

    title = "processes"


class Released(BaseException):
    """This process has done its part of a run; the first one goes on alone."""


class Ranks:
    """A group of processes; without anything, a group of one.

    What is exchanged is plain data and tensors, which arrive on a device of the same kind.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.rank, self.count, self._store = rank, count, store

    @property
    def is_first(self) -> bool:
        """Whether it is this process that prints and writes."""
        return self.rank == 0

    def gathered(self, mine: Item) -> list[Item]:
        """What every process has, in their order."""
        if self.count == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        self._exchange(lambda: dist.all_gather_object(found, _on_host(mine)))
        return [_back(one) for one in found]

    def sent(self, home: int, make: Callable[[], Found]) -> Found:
        """What one process makes, for all."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        found: list[Any] = [_on_host(make()) if self.rank == home else None]
        self._exchange(lambda: dist.broadcast_object_list(found, src=home))
        return _back(found[0])  # type: ignore[no-any-return]

    def total(self, mine: float) -> float:
        """The sum of what every process has, to the same bits everywhere."""
        return sum(self.gathered(mine))

    def each(self, items: Sequence[Item], homes: Sequence[int], make: Callable[[Item], Found]) -> list[Found]:
        """What is made of every item, each by the process that is its home."""
        here = [i for i, home in enumerate(homes) if home == self.rank or self.count == 1]
        found: dict[int, Found] = {}
        for part in self.gathered({i: make(items[i]) for i in here}):
            found |= part
        return [found[i] for i in range(len(items))]

    def summed(self, home: int, tables: dict[Key, Tensor]) -> dict[Key, Tensor]:
        """The sum of the tables that every process has under a key, for one of them; the others have nothing then."""
        if self.count == 1:
            return tables
        import torch.distributed as dist

        known: dict[Key, tuple[tuple[int, ...], torch.dtype, str]] = {}
        for part in self.gathered({k: (tuple(t.shape), t.dtype, t.device.type) for k, t in tables.items()}):
            known = {**part, **known}
        found: dict[Key, Tensor] = {}
        for key, (shape, dtype, device) in known.items():
            held = tables[key].cpu().contiguous() if key in tables else torch.zeros(shape, dtype=dtype)
            self._exchange(lambda held=held: dist.reduce(held, dst=home))  # type: ignore[misc]
            found[key] = held.to(device)
        return found if self.rank == home else {}

    def failed(self, error: Exception) -> None:
        """Tells the first process why this one ends."""
        if self._store is None or isinstance(error, LostProcess):
            return
        plain = error.to_plain() if isinstance(error, SymgraphError) else {"what": one_line(error), "exit_code": 70}
        with suppress(RuntimeError):
            self._store.set(f"{_FAILED}{self.rank}", json.dumps(plain))

    def lost(self) -> SymgraphError:
        """Why the others do not answer: what one of them has said, or which of them say nothing any more."""
        # The launcher ends what is left of a run; this process still has to say why.
        _when_ended(signal.SIG_IGN)
        with suppress(RuntimeError):
            return self._why()
        return LostProcess("the other processes of the run are gone", remedy=_AGAIN)

    def _why(self) -> SymgraphError:
        store, others = self._store, [r for r in range(self.count) if r != self.rank]
        if store is None:
            raise RuntimeError("a group of one has lost nobody")
        store.set(f"{_LEFT}{self.rank}", "")
        until = time.monotonic() + GRACE
        while True:
            for other in others:
                if store.check([f"{_FAILED}{other}"]):
                    return _told(other, json.loads(store.get(f"{_FAILED}{other}")))
            silent = [other for other in others if not store.check([f"{_LEFT}{other}"])]
            if not silent or time.monotonic() > until:
                break
            time.sleep(0.05)
        named = shorten(map(str, silent or others))
        what = f"process {named} of 0 to {self.count - 1} has ended before the run was done"
        return LostProcess(what, cause="it was killed, or its machine has failed", remedy=_AGAIN)

    def _exchange(self, run: Callable[[], object]) -> None:
        try:
            run()
        except RuntimeError as error:
            raise self.lost() from error


_AGAIN = "nothing was written; start again, with --resume where there is a --checkpoint"
ALONE = Ranks()
# How often this process has joined others: each time they find one another by other names.
_joins = itertools.count()
_current = ContextVar("ranks", default=ALONE)


def current() -> Ranks:
    """The processes that share the run."""
    return _current.get()


def release() -> None:
    """From here on the first process goes on alone: the others are done with their part.

    Raises:
        Released: in those, up to where they have joined.
    """
    ranks = current()
    if not ranks.is_first:
        raise Released
    if ranks.count > 1:
        _when_ended(signal.SIG_DFL)
    _current.set(ALONE)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within it all processes that `torchrun` has started share what is matched; alone, it does nothing.

    Once that is done the first one goes on with the block, and the others leave it.

    Raises:
        UsageError: they are joined in another way already.
        LostProcess: one of them has ended.

    >>> with symgraph.joined() as ranks:
    ...     ranks.rank, ranks.count, ranks.total(0.5)
    (0, 1, 0.5)
    """
    rank, count = started()
    if count == 1:
        yield ALONE
        return
    ranks = Ranks(rank, count, _connected(rank, count))
    before = _when_ended(lambda *_: _end(ranks)) if ranks.is_first else None
    token = _current.set(ranks)
    try:
        yield ranks
    except Released:
        pass
    except Exception as error:
        ranks.failed(error)
        raise
    finally:
        _current.reset(token)
        _disconnect()
        if before is not None:
            _when_ended(before)


def _when_ended(do: Any) -> Any:
    """Sets what is done when the launcher ends this process; what was done before, None outside of the main thread."""
    with suppress(ValueError):
        return signal.signal(signal.SIGTERM, do)
    return None


def _end(ranks: Ranks) -> NoReturn:
    raise ranks.lost()


def _connected(rank: int, count: int) -> Store:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        remedy = either("join before `init_process_group`, or after `destroy_process_group`", "start it by torchrun")
        raise UsageError("the processes are joined in another way already", remedy=remedy)
    if torch.cuda.is_available():
        # Each takes the next device of its machine, so that all of them may be told to use "cuda".
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    name = f"symgraph {next(_joins)}"
    try:
        store, *_ = next(rendezvous("env://", rank, count, timeout=PATIENCE))
        own = PrefixStore(name, store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        remedy = "start them by `torchrun --nproc-per-node N -m symgraph ...`"
        raise LostProcess("the processes do not find one another", cause=one_line(error), remedy=remedy) from error
    return PrefixStore(f"{name} says", store)


def _disconnect() -> None:
    import torch.distributed as dist

    with suppress(RuntimeError):
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class _Sent:
    """A tensor on its way, and the kind of device that it comes from."""

    held: Tensor
    device: str


def _on_host(found: Any) -> Any:
    # A view would take all that it is a view of along.
    return tree_map_only(Tensor, lambda t: _Sent(t.detach().to("cpu", copy=True).contiguous(), t.device.type), found)


def _back(found: Any) -> Any:
    return tree_map_only(_Sent, lambda s: s.held.to(s.device), found)


def _told(rank: int, plain: Mapping[str, Any]) -> SymgraphError:
    """What another process has said of itself."""
    error = LostProcess(
        f"process {rank}: {plain['what']}", cause=plain.get("cause", ""), remedy=plain.get("help") or _AGAIN
    )
    error.exit_code, error.title = plain["exit_code"], plain.get("kind", error.title)
    return error
