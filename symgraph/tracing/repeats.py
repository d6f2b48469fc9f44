"""Deep models are traced by two of the blocks that they repeat, and the others are copies of the second one.

That blocks do the same is seen and not supposed. The whole model is run once on tensors without numbers, and so is the
model with the copies left out, every call noted (`symgraph.tracing.recording`). Repeating the calls of the short run
must give those of the whole run, one by one: operators, constants, shapes, parameters, and what reads what. Then the
same is done to the trace of the short model. Whatever does not fit leaves the model to be traced as a whole.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from symgraph.ir import Graph, Kind, Node, Ref, map_refs, rewired
from symgraph.tracing.called import following
from symgraph.tracing.recording import Recording, recorded

_log = logging.getLogger(__name__)
# A period of more blocks than this is not looked for, and fewer blocks left out are not worth a second run.
_LONGEST, _FEWEST = 8, 4


@dataclass(frozen=True, slots=True)
class Repeat:
    """Blocks of one list that do the same: `times` periods of `period` blocks from `start` on, of `length` in all."""

    path: str
    start: int
    period: int
    times: int
    length: int

    @property
    def left_out(self) -> range:
        """The blocks that are copies."""
        return range(self.start + 2 * self.period, self.start + self.times * self.period)

    def block(self, name: str) -> int | None:
        """The block that a module or a parameter belongs to."""
        head, _, _ = name.removeprefix(f"{self.path}.").partition(".")
        return int(head) if head.isdigit() and name.startswith(f"{self.path}.{head}") else None

    def is_second(self, name: str) -> bool:
        """Whether a name is that of something in the blocks of the second period."""
        at = self.block(name)
        return at is not None and self.period <= at - self.start < 2 * self.period

    def moved(self, name: str, periods: int) -> str:
        """What a name inside of a block is called some periods further on."""
        at = self.block(name)
        if at is None:
            return name
        rest = name.removeprefix(f"{self.path}.{at}")
        return f"{self.path}.{at + periods * self.period}{rest}"


# -- finding them ----------------------------------------------------------------------------------------------------


def repeats_of(
    model: nn.Module, wrapper: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]
) -> tuple[Repeat, ...]:
    """The repeated blocks of a model, as far as a run of the whole shows them; none where it does not."""
    lists = _lists(model)
    if not lists:
        return ()
    blocks = [f"{path}.{number}" for path, held in lists.items() for number in range(len(held))]
    # Whatever the user's code raises where it has tensors without numbers.
    try:
        with following(_log, wrapper, "looking for repeated blocks"):
            whole = recorded(model, wrapper, args, inputs, blocks)
        repeats = tuple(repeat for path, held in lists.items() for repeat in _repeat(whole, path, len(held)))
        with shortened(model, repeats):
            kept = [block for block in blocks if not any(repeat.block(block) in repeat.left_out for repeat in repeats)]
            short = recorded(model, wrapper, args, inputs, kept) if repeats else whole
    except Exception:
        return ()
    again = repeated(short.calls, short.outputs, repeats)
    return repeats if again is not None and _numbered(*again) == _numbered(whole.calls, whole.outputs) else ()


def _lists(model: nn.Module) -> dict[str, nn.ModuleList | nn.Sequential]:
    """Lists of blocks, of which none is inside of another one's block."""
    lists: dict[str, nn.ModuleList | nn.Sequential] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in lists)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) >= _FEWEST + 2 and path and not inside:
            lists[path] = module
    return lists


def _repeat(whole: Recording, path: str, length: int) -> Iterator[Repeat]:
    """The repetition in a list by which most blocks can be left out."""
    kinds = _kinds(whole, path, length)
    best = Repeat(path, 0, 1, 0, length)
    for period in range(1, _LONGEST + 1):
        start = 0
        for end in range(length - period + 1):
            if end + period < length and kinds[end] is not None and kinds[end] == kinds[end + period]:
                continue
            candidate = Repeat(path, start, period, (end + period - start) // period, length)
            best = max(best, candidate, key=lambda repeat: len(repeat.left_out))
            start = end + 1
    if len(best.left_out) >= _FEWEST:
        yield best


def _kinds(whole: Recording, path: str, length: int) -> list[int | None]:
    """A number for what each block calls, equal for those that call the same; None for one that calls nothing."""
    held = Repeat(path, 0, 1, 0, length)
    said: list[list[Any]] = [[] for _ in range(length)]
    block: dict[str, int | None] = {call.name: held.block(call.module) if call.module else None for call in whole.calls}
    readers = _readers(whole, block)
    position: dict[str, int] = {}

    def seen_from(at: int, ref: Ref) -> Any:
        """A value as other blocks may say it of theirs: inside, their own parameter, or what several read."""
        head, own = _whole(ref.name), f"{path}.{at}."
        if block.get(head) == at:
            return position[head]
        if ref.name.startswith(own):
            return ref.name.removeprefix(own)
        return head if block.get(head) is None and len(readers[head]) > 1 else "outside"

    for node in whole.calls:
        at = block[node.name]
        if at is None:
            continue
        place = partial(seen_from, at)
        position[node.name] = len(said[at])
        said[at].append((node.target, map_refs(node.args, place), map_refs(node.kwargs, place), node.result))
    numbers: dict[str, int] = {}
    return [numbers.setdefault(repr(calls), len(numbers)) if calls else None for calls in said]


def _readers(whole: Recording, block: Mapping[str, int | None]) -> defaultdict[str, set[int | None]]:
    """The blocks that read each value."""
    readers: defaultdict[str, set[int | None]] = defaultdict(set)
    for node in whole.calls:
        for name in node.refs():
            readers[_whole(name)].add(block[node.name])
    return readers


def _numbered(calls: Sequence[Node], outputs: Sequence[str]) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Calls named by their order."""
    names: dict[str, str] = {}
    renamed = partial(_renamed, names)
    nodes = []
    for number, node in enumerate(calls):
        nodes.append(rewired(node, renamed, name=f"%{number}", module=node.module))
        names[node.name] = f"%{number}"
    return tuple(nodes), tuple(renamed(Ref(output)).name for output in outputs)


# -- a model without them --------------------------------------------------------------------------------------------


@contextmanager
def shortened(model: nn.Module, repeats: Iterable[Repeat]) -> Iterator[None]:
    """Inside the block a model lacks the copies; the other blocks keep their names."""
    before = [(held := model.get_submodule(repeat.path), held._modules, repeat) for repeat in repeats]
    for held, modules, repeat in before:
        held._modules = {name: module for name, module in modules.items() if int(name) not in repeat.left_out}
    try:
        yield
    finally:
        for held, modules, _ in before:
            held._modules = modules


def all_names(names: Iterable[str], repeats: Iterable[Repeat]) -> set[str]:
    """Names of parameters, with those of the copies."""
    every_name = set(names)
    for repeat in repeats:
        second = filter(repeat.is_second, every_name)
        every_name |= {repeat.moved(name, time) for name in second for time in range(1, repeat.times - 1)}
    return every_name


# -- and with them again ---------------------------------------------------------------------------------------------


def with_copies(graph: Graph, repeats: tuple[Repeat, ...]) -> Graph | None:
    """The graph of a short model, its state being that of the whole one, with the calls of the copies."""
    copied = repeated(graph.calls, graph.outputs, repeats)
    if copied is None:
        return None
    nodes = (*(node for node in graph.nodes if node.kind is not Kind.CALL), *copied[0])
    known: set[str] = set()
    for node in nodes:
        if not known.issuperset(node.refs()):
            return None
        known.add(node.name)
    return replace(graph, nodes=nodes, outputs=copied[1])


def repeated(
    calls: Sequence[Node], outputs: Sequence[str], repeats: Iterable[Repeat]
) -> tuple[tuple[Node, ...], tuple[str, ...]] | None:
    """Calls of a short model, with copies of the second period of each repetition; None if it is no repetition."""
    copied: tuple[tuple[Node, ...], tuple[str, ...]] | None = (tuple(calls), tuple(outputs))
    for repeat in repeats:
        copied = _Copies(repeat, *copied).made() if copied is not None else None
    return copied


class _Copies:
    """The calls of two periods, that they are the same, and copies of the second one."""

    def __init__(self, repeat: Repeat, calls: tuple[Node, ...], outputs: tuple[str, ...]) -> None:
        self.repeat, self.calls, self.outputs = repeat, calls, outputs
        start, middle = (self._begin(repeat.start + number * repeat.period) for number in range(2))
        stop = middle + (middle - start)
        self.before, self.after = calls[:start], calls[stop:]
        self.first, self.second = calls[start:middle], calls[middle:stop]
        self.at = [{node.name: place for place, node in enumerate(period)} for period in (self.first, self.second)]

    def _begin(self, block: int) -> int:
        own = (
            place for place, call in enumerate(self.calls) if call.module and self.repeat.block(call.module) == block
        )
        return next(own, len(self.calls))

    def made(self) -> tuple[tuple[Node, ...], tuple[str, ...]] | None:
        """All calls and the outputs, or None where the periods differ or something reads what is inside of them."""
        if not self.first or len(self.first) != len(self.second) or not all(map(self._alike, self.first, self.second)):
            return None
        copies = [self.second]
        for time in range(1, self.repeat.times - 1):
            copies.append(tuple(self._copy(node, time) for node in self.second))
        last = {node.name: copies[-1][place].name for place, node in enumerate(self.second)}
        read_behind = [*(name for node in self.after for name in node.refs()), *self.outputs]
        if not self.at[0].keys().isdisjoint(map(_whole, read_behind)):
            return None
        at_last = partial(_renamed, last)
        after = tuple(rewired(node, at_last, name=node.name, module=node.module) for node in self.after)
        inside = tuple(node for period in copies for node in period)
        outputs = tuple(at_last(Ref(output)).name for output in self.outputs)
        return (*self.before, *self.first, *inside, *after), outputs

    def _alike(self, one: Node, other: Node) -> bool:
        """Whether two calls of two periods are the same, and read the same a period apart."""
        if (one.target, one.result, one.source) != (other.target, other.result, other.source):
            return False
        if self.repeat.moved(one.module, 1) != other.module:
            return False
        pairs: list[tuple[str, str]] = [*zip(one.refs(), other.refs(), strict=False)]
        blank = [(map_refs(node.args, _any), map_refs(node.kwargs, _any)) for node in (one, other)]
        return repr(blank[0]) == repr(blank[1]) and all(self._same(mine, theirs) for mine, theirs in pairs)

    def _same(self, one: str, other: str) -> bool:
        """Whether a value is to the first period what another one is to the second."""
        (head, _, part), (other_head, _, other_part) = one.partition("#"), other.partition("#")
        if part != other_part:
            return False
        first, second = self.at
        if other_head in second:
            return first.get(head) == second[other_head]
        if other_head in first:
            return head not in first
        return (self.repeat.moved(one, 1) if self.repeat.is_second(other) else one) == other

    def _copy(self, node: Node, time: int) -> Node:
        """A call of the second period, `time` periods further on."""
        first, second = self.at

        def of_copy(name: str) -> str:
            return self.repeat.moved(name, time) if self.repeat.is_second(name) else name

        def moved(ref: Ref) -> Ref:
            head, mark, part = ref.name.partition("#")
            if head in second:
                return Ref(f"{head}.{time}{mark}{part}")
            if head in first:
                name = self.second[first[head]].name
                return Ref(f"{f'{name}.{time - 1}' if time > 1 else name}{mark}{part}")
            return Ref(of_copy(ref.name))

        return rewired(node, moved, name=f"{node.name}.{time}", module=of_copy(node.module))


def _whole(name: str) -> str:
    return name.partition("#")[0]


def _any(_: Ref) -> Ref:
    return Ref("")


def _renamed(names: Mapping[str, str], ref: Ref) -> Ref:
    head, mark, part = ref.name.partition("#")
    return Ref(f"{names[head]}{mark}{part}") if head in names else ref
