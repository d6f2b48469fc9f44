"""Numbers that modules keep beside their parameters, changed by experiment until a smaller module runs.

A number that is what an axis or a space was long (`split_size` of a fused projection, `num_heads`) is changed to what
that is now, of all modules of a class together or of one alone. A change is kept if the module comes further: its
calls are those of the original, with lengths that changed by no other proportions, up to a later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symgraph.resize.smaller import Smaller

Shape = tuple[int, ...]
Call = tuple[str, tuple[Shape, ...]]
# Modules are run so many times at most.
TRIALS = 400


@dataclass(frozen=True, slots=True)
class Change:
    """An attribute of modules, `Class.name`, that held one number and is to hold another."""

    owners: tuple[Any, ...]
    name: str
    before: int
    after: int

    def make(self, *, back: bool = False) -> None:
        """Sets the attribute, or what it was."""
        for owner in self.owners:
            setattr(owner, self.name, self.before if back else self.after)

    def __str__(self) -> str:
        times = f" ({len(self.owners)} modules)" if len(self.owners) > 1 else ""
        return f"{type(self.owners[0]).__name__}.{self.name} {self.before} -> {self.after}{times}"


def with_numbers(
    module: nn.Module, original: nn.Module, wanted: Smaller, args: Sequence[Any], named: Mapping[str, Any]
) -> tuple[Change, ...]:
    """Changes numbers of a smaller module, in place, until it runs as the original does, or none helps.

    Args:
        args, named: inputs that the original runs on.
    """
    search = _Search(module, wanted, _calls(original, args, named)[0], args, named)
    made: list[Change] = []
    while not search.done and search.trials < TRIALS:
        chosen = next((candidate for candidate in search.candidates() if search.helps(candidate)), None)
        if chosen is None:
            break
        made.append(chosen)
    return tuple(made)


class _Search:
    """How far a module comes, and what could be changed."""

    def __init__(
        self, module: nn.Module, wanted: Smaller, calls: list[Call], args: Sequence[Any], named: Mapping[str, Any]
    ) -> None:
        self.module, self.wanted, self.calls, self.inputs = module, wanted, calls, (args, named)
        self.trials = 0
        self.reached = self._reach()

    @property
    def done(self) -> bool:
        """Whether it runs to its end, by the same calls."""
        return self.reached[0] and self.reached[1] == len(self.calls)

    def helps(self, change: Change) -> bool:
        """Makes a change, and takes it back unless the module comes further."""
        try:
            change.make()
        except Exception:
            # A class may refuse to be set: that is no number to change.
            change.make(back=True)
            return False
        now = self._reach()
        if now <= self.reached:
            change.make(back=True)
            return False
        self.reached = now
        return True

    def candidates(self) -> Iterator[Change]:
        """Numbers that are what changes, of all modules of a class together, then of one alone."""
        held: dict[tuple[type, str, int, int], list[Any]] = {}
        for owner in (*self.module.modules(), *_configs(self.module)):
            for name, value in vars(owner).items():
                if type(value) is int:
                    for before, after in self.wanted.lengths:
                        if value == before:
                            held.setdefault((type(owner), name, before, after), []).append(owner)
        for (_, name, before, after), owners in held.items():
            yield Change(tuple(owners), name, before, after)
        for (_, name, before, after), owners in held.items():
            yield from (Change((owner,), name, before, after) for owner in owners if len(owners) > 1)

    def _reach(self) -> tuple[bool, int, int]:
        """Whether it ends; how many calls are as predicted; how many there are."""
        self.trials += 1
        calls, ends = _calls(self.module, *self.inputs)
        pairs = zip(calls, self.calls, strict=False)
        alike = next(
            (place for place, (new, old) in enumerate(pairs) if not self._fits(old, new)),
            min(len(calls), len(self.calls)),
        )
        return ends, alike, len(calls)

    def _fits(self, old: Call, new: Call) -> bool:
        ranks = [[len(shape) for shape in call[1]] for call in (old, new)]
        if old[0] != new[0] or ranks[0] != ranks[1]:
            return False
        return all(
            self._follows(size, other_size)
            for shape, other in zip(old[1], new[1], strict=True)
            for size, other_size in zip(shape, other, strict=True)
        )

    def _follows(self, old: int, new: int) -> bool:
        ratios = self.wanted.ratios
        return (
            old == new or (old, new) in self.wanted.lengths or any(old * after == new * size for size, after in ratios)
        )


def _configs(module: nn.Module) -> list[Any]:
    """The configs that modules hold, each once."""
    configs = (vars(part).get("config") for part in module.modules())
    return list(
        {id(config): config for config in configs if config is not None and hasattr(config, "__dict__")}.values()
    )


def _calls(module: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> tuple[list[Call], bool]:
    """The operators that a module calls with the shapes of their results, and whether it ends."""
    recorder = _Recorder()
    try:
        with torch.no_grad(), recorder:
            module(*args, **named)
    except Exception:
        # Whatever code makes of sizes that it was not written for.
        return recorder.calls, False
    return recorder.calls, True


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        self.calls.append((str(func), tuple(tuple(tensor.shape) for tensor in results if isinstance(tensor, Tensor))))
        return result
