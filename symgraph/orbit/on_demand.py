"""A state on its way through steps, each tensor made when it is asked for: a large model moves in little memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from torch import Tensor

from symgraph.orbit.step import Step
from symgraph.tracing.deferred import Deferred, made, waiting

# Tensors of at most so many entries are kept once they are made.
SMALL = 2**16
# Of larger ones that others are made of the last few are kept: branches that change places, and the matrices that say
# how much of a constant arrives somewhere, are asked for again.
LAST = 8


class Carried(Mapping[str, Tensor]):
    """A state after the steps it has taken so far.

    Args:
        linear: the state is a difference of two models: constants that steps add are left out.
    """

    def __init__(self, state: Mapping[str, Tensor], *, linear: bool = False) -> None:
        self._given, self._linear = state, linear
        self._steps: list[Step] = []
        self._touching: dict[str, list[int]] = {}
        self._small: dict[tuple[str, int], Tensor] = {}
        self._last: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def take(self, step: Step) -> None:
        """One more step."""
        for name in step.touched:
            if name in self._given:
                self._touching.setdefault(name, []).append(len(self._steps))
        self._steps.append(step)

    def __getitem__(self, name: str) -> Tensor:
        return self._after(name, len(self._steps))

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def whole(self) -> dict[str, Tensor]:
        """All tensors after these steps; of a state that is read where it is needed, each made where it is needed."""
        if not waiting(self._given):
            return {name: self[name] for name in self}
        self._last.clear()
        return {
            name: self._deferred(name) if name in self._touching else tensor for name, tensor in self._given.items()
        }

    def small(self) -> list[str]:
        """The tensors that have changed, of a state that is read where it is needed, and that are kept once made."""
        return [name for name in self._touching if self._given[name].numel() <= SMALL] if waiting(self._given) else []

    def know(self, name: str, tensor: Tensor) -> None:
        """Takes a small tensor after these steps as it was made elsewhere."""
        self._small[name, self._touching[name][-1]] = tensor

    def _deferred(self, name: str) -> Tensor:
        given, count = self._given[name], len(self._steps)
        if given.numel() <= SMALL:
            return made(self[name])
        return Deferred(lambda: self.alone(name, count), given.shape, given.dtype)

    def alone(self, name: str, count: int | None = None) -> Tensor:
        """A tensor after the first `count` steps, or all; of what it was made of only its like of the last are kept."""
        count = len(self._steps) if count is None else count
        tensor, last = made(self._after(name, count)), self._last_step(name, count)
        beside = () if last is None else self._steps[last].beside(name)
        wanted = {(other, last) for other in beside}
        self._last = OrderedDict((at, known) for at, known in self._last.items() if at in wanted)
        return tensor

    def _after(self, name: str, count: int) -> Tensor:
        """A tensor as it is after the first `count` steps."""
        last = self._last_step(name, count)
        if last is None:
            return self._given[name]
        kept = self._small.get((name, last), self._last.get((name, last)))
        return self._made(name, last) if kept is None else kept

    def _last_step(self, name: str, count: int) -> int | None:
        """The last of the first `count` steps that changes a tensor."""
        return max((number for number in self._touching.get(name, ()) if number < count), default=None)

    def _made(self, name: str, number: int) -> Tensor:
        """What a step makes of a tensor."""
        step = self._steps[number]
        others = [other for other in dict.fromkeys(step.beside(name)) if other != name and other in self._given]
        given = {needed: self._after(needed, number) for needed in (name, *others)}
        for other in others:
            if (last := self._last_step(other, number)) is not None:
                self._keep((other, last), given[other])
        results = step.apply(given, linear=self._linear)
        # The others were given with all that they are made of: what came of them is right as well.
        for result in (name, *(other for other in others if other in step.touched)):
            if others or results[result].numel() <= SMALL:
                self._keep((result, number), results[result])
        return results[name]

    def _keep(self, place: tuple[str, int], tensor: Tensor) -> None:
        if tensor.numel() <= SMALL:
            self._small[place] = tensor
            return
        self._last[place] = tensor
        self._last.move_to_end(place)
        while len(self._last) > LAST:
            self._last.popitem(last=False)
