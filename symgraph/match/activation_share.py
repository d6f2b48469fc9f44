"""How much activations count beside weights, and on which spaces, chosen by the loss of the mixed models.

What the weights of two models say of a space and what their activations say are of different worth from model to model.
Both tables are there after one pass over the data, so that another share of them costs the solvers alone. Every
candidate is judged by the loss barrier of the even mixture of the models it brings together: each set of kinds of
spaces at one half, then other shares on the best of these sets; weights alone are among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice
from typing import Any, Generic, TypeVar

from torch import Tensor

from symgraph.errors import DataError
from symgraph.match.learned_matching import Lesson
from symgraph.match.match_options import MatchOptions
from symgraph.measure.batches import repeatable
from symgraph.measure.losses import NoLossFits
from symgraph.measure.objective import EvenMixture, Objective
from symgraph.orbit.wreath import Tree
from symgraph.tracing.wrap import evaluating

Found = TypeVar("Found")
# How much activations count, and on which units.
Share = tuple[float, frozenset[int]]
Run = Callable[[MatchOptions, frozenset[int]], Found]
FIRST, THEN = 0.5, (0.25, 0.75, 1.0)
# The choice is between few candidates, which see the same examples.
JUDGED = 16


def judge(lesson: Lesson, states: Sequence[Mapping[str, Tensor]], after: int) -> EvenMixture | None:
    """What candidates are judged by, on validation data; None where no loss fits it (there are no labels).

    Without any: training batches after the first so many, which were read; where there are none, the first ones. A
    match sees no labels.

    Raises:
        DataError: there are no batches, or they do not fit the model.
    """
    batches = _batches(lesson, after)
    objective = Objective(lesson.network, lesson.loss)
    try:
        with evaluating(lesson.network):
            return EvenMixture(objective, states, batches, "data for the choice of alpha")
    except DataError as error:
        if isinstance(error.__cause__, NoLossFits):
            return None
        raise


def _batches(lesson: Lesson, after: int) -> list[Any]:
    if lesson.validation is not None:
        return list(islice(repeatable(lesson.validation, "validation data"), JUDGED))
    given = iter(repeatable(lesson.training, "training data"))
    first = list(islice(given, JUDGED))
    later = list(islice(given, max(after - len(first), 0), None if not after else after + JUDGED - len(first)))
    return later[-JUDGED:] or first


def chosen(
    trees: Iterable[Tree],
    options: MatchOptions,
    run: Run[Found],
    mixture: EvenMixture | None,
    states: Callable[[Found], Sequence[Mapping[str, Tensor]]],
) -> tuple[Found, str, Share]:
    """The best candidate, what is to be said of all, and its share; one half on all spaces where nothing judges them.

    Args:
        trees: units whose activations were seen.
        run: a match with given options, where the activations of these units count.
        mixture: what judges the models so matched.
        states: these models.
    """
    if mixture is None:
        everywhere = frozenset(tree.space.id for tree in trees)
        note = f"activations count {FIRST:g}, which nothing has chosen: no loss fits the data (are there labels?)"
        return run(replace(options, alpha=FIRST), everywhere), note, (FIRST, everywhere)
    kinds: dict[str, set[int]] = {}
    for tree in trees:
        kinds.setdefault(_kind(tree), set()).add(tree.space.id)
    trial = _Trial(options, kinds, run, lambda found: mixture.barrier(states(found)))
    trial.take(0.0, ())
    sets = [names for n in range(1, len(kinds) + 1) for names in combinations(kinds, n)]
    best = min(sets, key=lambda names: trial.take(FIRST, names), default=())
    for alpha in THEN if best else ():
        trial.take(alpha, best)
    return trial.best()


def _kind(tree: Tree) -> str:
    if tree.children:
        return "spaces with an inside"
    return "rotated spaces" if tree.space.is_matrix else "reordered spaces"


class _Trial(Generic[Found]):
    """Candidates as they are tried; of all matches only the best is held."""

    def __init__(
        self, options: MatchOptions, kinds: Mapping[str, set[int]], run: Run[Found], barrier: Callable[[Found], float]
    ) -> None:
        self.options, self.kinds, self.run, self.barrier = options, kinds, run, barrier
        self.figures: dict[tuple[float, tuple[str, ...]], float] = {}
        self.held: list[Found] = []

    def take(self, alpha: float, names: tuple[str, ...]) -> float:
        """The barrier of a candidate."""
        found = self.run(replace(self.options, alpha=alpha), self._ids(names))
        value = self.barrier(found)
        if not self.held or value < min(self.figures.values()):
            self.held = [found]
        self.figures[alpha, names] = value
        return value

    def _ids(self, names: tuple[str, ...]) -> frozenset[int]:
        return frozenset(i for name in names for i in self.kinds[name])

    def best(self) -> tuple[Found, str, Share]:
        """The one with the smallest barrier, the figures of all, and its share."""
        alpha, names = min(self.figures, key=self.figures.__getitem__)
        what = f"alpha {alpha:g} on {_listed(names, self.kinds)}" if names else "weights alone"
        others = "; ".join(
            f"{v:.4f} {f'{a:g} {_listed(n, self.kinds)}' if n else 'weights alone'}"
            for (a, n), v in self.figures.items()
        )
        note = f"chosen by the barrier of the even mixture: {what} (of {others})"
        return self.held[0], note, (alpha, self._ids(names))


def _listed(names: tuple[str, ...], kinds: Mapping[str, set[int]]) -> str:
    return "all spaces" if len(names) == len(kinds) else " and ".join(names)
