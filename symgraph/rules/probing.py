"""An operator is called with many shapes, to see which of its axes belong together: `input[i j], weight[k j] -> [i k]`.

Nothing but the operator's own schema is read. Axes that only run while they have one size are one axis; an axis of the
result is the one whose size it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import Any

import torch

from symgraph.errors import RuleError
from symgraph.rules.trial import REFUSALS, typed
from symgraph.tracing.arguments import Argument, call, operator, parameters

EQUAL, OTHERS = 12, (20, 8)
# Pairwise different, so that axes can be told apart by their sizes, and divisible, for operators that take axes apart.
SIZES = tuple(range(4, 52, 4))
MOST_AXES, MOST_TOGETHER = 4, 3
NUMBER = 0.37
NO_NAME = "_"
# What arguments are called that give the position of an axis.
POSITIONS = ("dim", "dims", "axis", "axes")
Place = tuple[str, int]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """How an operator is called: the rank of each tensor, what each holds (float, int or bool), the other arguments."""

    target: str
    ranks: Mapping[str, int]
    kinds: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    def run(self, sizes: Mapping[Place, int], limit: int = EQUAL) -> list[torch.Tensor] | None:
        """Results for operands of these sizes (`EQUAL` where none is given); None where the operator refuses them."""
        generator = torch.Generator().manual_seed(0)
        shapes = {name: [sizes.get((name, axis), EQUAL) for axis in range(rank)] for name, rank in self.ranks.items()}
        values = {
            name: _drawn(self.kinds.get(name, "float"), shape, limit, generator) for name, shape in shapes.items()
        }
        try:
            answer = call(self.target, {**{name: typed(name, value) for name, value in self.given.items()}, **values})
        except REFUSALS:
            return None
        results = list(answer) if isinstance(answer, list | tuple) else [answer]
        return results if all(isinstance(result, torch.Tensor) for result in results) else None

    @property
    def places(self) -> list[Place]:
        """Every axis of every operand."""
        return [(name, axis) for name, rank in self.ranks.items() for axis in range(rank)]


@dataclass(frozen=True)
class Layout:
    """The axes of operands and results by name; `_` is an axis of a result whose size is none of an operand's.

    `sizes` are some at which the operator runs, `fixed` the axes that it takes at one size alone.
    """

    call: Call
    operands: Mapping[str, Names]
    results: tuple[Names, ...]
    sizes: Mapping[str, int]
    fixed: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> Names:
        """Every axis of an operand, in order."""
        return tuple(dict.fromkeys(name for names in self.operands.values() for name in names if name != NO_NAME))


def _drawn(kind: str, shape: list[int], limit: int, generator: torch.Generator) -> torch.Tensor:
    if kind == "int":
        return torch.randint(0, limit, shape, generator=generator)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values > 0 if kind == "bool" else values


# -- which axes are one ------------------------------------------------------------------------------------------------


def layout(call: Call) -> Layout | None:
    """Which axes of a call are one axis; None where the operator does not run at these ranks."""
    if call.run({}) is None:
        return None
    groups, fixed = _groups(call)
    name_of = {place: _letter(number) for number, group in enumerate(groups) for place in group}
    ran = []
    for sizes in _assignments(groups, fixed):
        results = call.run(sizes, min(sizes.values(), default=EQUAL))
        if results is not None:
            ran.append((sizes, _named(results, name_of, sizes)))
    if not ran or len({tuple(map(len, results)) for _, results in ran}) > 1:
        return None
    held = frozenset(name_of[place] for place in fixed)
    axes = {name: tuple(name_of[name, axis] for axis in range(rank)) for name, rank in call.ranks.items()}
    operands = {name: _once(names) for name, names in axes.items()}
    chosen = {name_of[place]: size for place, size in ran[0][0].items()}
    return Layout(call, operands, _agreed([results for _, results in ran]), chosen, held)


def _named(results: list[torch.Tensor], name_of: Mapping[Place, str], sizes: Mapping[Place, int]) -> tuple[Names, ...]:
    by_size = {size: name_of[place] for place, size in sizes.items()}
    return tuple(tuple(by_size.get(size, NO_NAME) for size in result.shape) for result in results)


def _agreed(layouts: list[tuple[Names, ...]]) -> tuple[Names, ...]:
    """The names that do not depend on the sizes: one size may be another's by chance."""
    return tuple(
        _once(tuple(names[0] if len(set(names)) == 1 else NO_NAME for names in zip(*axes, strict=True)))
        for axes in zip(*layouts, strict=True)
    )


def _letter(number: int) -> str:
    return "abcdefghklmnopqrstuvw"[number]


def _once(names: Names) -> Names:
    """Names of one tensor; axes that would have one name there cannot be told apart, and nothing is said of them."""
    return tuple(NO_NAME if names.count(name) > 1 else name for name in names)


def _groups(call: Call) -> tuple[list[list[Place]], set[Place]]:
    """Axes in the groups that change their size together, and those that cannot change it."""
    left, groups, fixed = list(call.places), list[list[Place]](), set[Place]()
    while left:
        first = left[0]
        group = next((list(candidate) for candidate in _candidates(first, left[1:]) if _runs(call, candidate)), None)
        if group is None:
            fixed.add(first)
        group = group or [first]
        groups.append(group)
        left = [place for place in left if place not in group]
    return sorted(groups, key=lambda group: call.places.index(group[0])), fixed


def _candidates(first: Place, others: list[Place]) -> Iterator[tuple[Place, ...]]:
    """Axes that may be one with the first: none, then one of every other operand, then ever more."""
    for count in range(MOST_TOGETHER + 1):
        for chosen in combinations(others, count):
            group = (first, *chosen)
            # Two axes of one tensor are one only as a last resort: a square matrix.
            if len({operand for operand, _ in group}) == len(group) or count == MOST_TOGETHER:
                yield group
    yield (first, *others)


def _runs(call: Call, group: Iterable[Place]) -> bool:
    return any(call.run(dict.fromkeys(group, size)) is not None for size in OTHERS)


def _assignments(groups: list[list[Place]], fixed: set[Place]) -> Iterator[dict[Place, int]]:
    """Pairwise different sizes for all axes, in several orders: an axis may have to be longer than another one."""
    free = [group for group in groups if group[0] not in fixed]
    sizes = [size for size in SIZES if size != EQUAL or not fixed][: len(free)]
    for order in (sizes, sizes[::-1], [*sizes[1:], *sizes[:1]]):
        found = {place: size for group, size in zip(free, order, strict=True) for place in group}
        yield found | dict.fromkeys(fixed, EQUAL)


# -- how an operator can be called -------------------------------------------------------------------------------------


def calls(
    target: str,
    given: Mapping[str, Any],
    ranks: Mapping[str, int] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> list[Layout]:
    """Ways of calling an operator with the tensors that it needs, at the fewest axes first.

    Args:
        given: arguments that are no tensors, by name.
        ranks: the number of axes of each tensor, where it is known.
        kinds: what tensors hold, where it is known and no floating-point numbers.

    Raises:
        RuleError: an argument is missing, or the operator does not run on anything that was tried.
    """
    schema = parameters(target) or ()
    needed = [
        argument.name
        for argument in schema
        if argument.tensor and (needs(argument) if ranks is None else argument.name in ranks)
    ]
    layouts: list[Layout] = []
    for held in _kinds(needed) if kinds is None else (kinds,):
        for arguments in _arguments(target, schema, given):
            for chosen in _ranks(needed, ranks):
                made = layout(Call(target, chosen, held, arguments))
                if made is not None and made.results:
                    layouts.append(made)
            if layouts:
                return layouts
    raise _refusal(target, needed, given)


def needs(argument: Argument) -> bool:
    """Whether an operator does not run without a tensor."""
    return argument.required and not argument.nullable


def _ranks(needed: list[str], ranks: Mapping[str, int] | None) -> Iterator[dict[str, int]]:
    if ranks is not None:
        yield {name: ranks[name] for name in needed}
        return
    most = MOST_AXES if len(needed) < 3 else MOST_AXES - 1
    for chosen in sorted(product(range(most + 1), repeat=len(needed)), key=sum):
        yield dict(zip(needed, chosen, strict=True))


def _kinds(needed: list[str]) -> Iterator[dict[str, str]]:
    """What the tensors may hold: numbers, else one of them positions or a mask."""
    yield {}
    for name in reversed(needed):
        yield from ({name: kind} for kind in ("int", "bool"))


def _arguments(target: str, schema: tuple[Argument, ...], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Values for the arguments that have no default and are not given; the last axis where one is asked for."""
    types = {argument.name: str(argument.type) for argument in operator(target)._schema.arguments}  # type: ignore[union-attr]
    missing = [argument.name for argument in schema if _open(argument) and argument.name not in given]
    choices = [_positions(types[name]) if name in POSITIONS else _values(types[name]) for name in missing]
    # Two numbers that are the same may cancel: an axis moved to where it is.
    for chosen in sorted(product(*choices), key=lambda values: -len(set(map(str, values)))):
        yield {**given, **dict(zip(missing, chosen, strict=True))}


def _open(argument: Argument) -> bool:
    return not argument.tensor and (argument.required or argument.name in POSITIONS)


def _positions(kind: str) -> tuple[Any, ...]:
    return ([-1],) if "int[" in kind or "List" in kind else (-1,)


def _values(kind: str) -> tuple[Any, ...]:
    if kind in ("number", "float"):
        return (NUMBER,)
    if kind == "int":
        return (2, 1, 0)
    if kind == "bool":
        return (False, True)
    return ([-1], [1], [1, 1], [2, 2]) if kind.startswith("List[int") else ()


def _refusal(target: str, needed: list[str], given: Mapping[str, Any]) -> RuleError:
    others = [
        argument.name for argument in parameters(target) or () if not argument.tensor and argument.name not in given
    ]
    tried = f"tensors of up to {MOST_AXES} axes were tried for {', '.join(needed)}"
    remedy = f"say how it is called with --args (it takes {', '.join(others)})" if others else "write the rule by hand"
    return RuleError(
        f"`{target}` does not run on anything that was tried",
        cause=tried,
        remedy=f"{remedy}, or name a model that calls it with --model",
    )
