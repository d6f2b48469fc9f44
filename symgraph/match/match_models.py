"""Matching models in canonical form: one to another, or many, each to the mean of all others (design section 11).

*One* is brought nearest to another by coordinate descent over units of spaces. It minimises
sum_T w_T |T_A - (g.B)_T|^2 over the compact part of the group. One unit (a space with everything fibred over it) is
solved exactly given the others, so the objective never rises; a step that would raise it by rounding is not taken. The
start follows the anchors: a unit is first solved from those blocks alone whose other axes are rigid or already solved,
in the order of how much of it is anchored (residual streams by embeddings and head, first layers by their inputs),
before sweeps over everything. Tensors and their products are float32, unless float64 is asked for; small matrices, sums
and elements are float64.

*Many* minimise  sum_m |g_m . X_m - U|^2,  U the mean of all g_m . X_m,  which is up to a constant -|sum_m g_m . X_m|^2
and therefore linear in each g_m given the others: the optimum of one model is its match to the *other* models' mean. A
mean that held the model itself would pull it towards where it is. No step raises the objective. The mean of canonical
models is not canonical; the match compares tensors and does not ask for it.

Activations are linear in the same way: what was seen of every pair of models moves with both elements, and the mean
over the others is the table of one model. With a share alpha of them what is minimised is

    (1 - alpha) sum_m |g_m . X_m - U|^2  +  alpha S / M  sum_(i < j) (2 - 2 correlation of i and j),

where S is the mean of the models' squared norms; the first sum is 1 / M times that of all pairs' squared distances.

Source: many models by alignment to a mean, Theus et al., arXiv 2506.22712; generalised Procrustes analysis, Gower 1975;
each against the mean of the others, Ten Berge 1977.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from symgraph.errors import UsageError, argument
from symgraph.match.activations import Activations, agreement, mean_of
from symgraph.match.descent import Descent, Nearest
from symgraph.match.input_moments import weighted
from symgraph.match.match_options import MatchOptions
from symgraph.match.paired_blocks import Keep
from symgraph.match.run_file import Parts, RunSection
from symgraph.match.tensor_weights import tensor_weights
from symgraph.match.unit_trees import units
from symgraph.orbit.action import GroupElement, packed, unpacked
from symgraph.orbit.steps import Act, State, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import Deferred, made
from symgraph.tracing.progress import Progress, tell

_log = logging.getLogger(__name__)

DEFAULT = MatchOptions()
SWEEPS = 2
# Where so little of |A|^2 is left between the models, products do not resolve it: it is done again by differences.
RESOLVED = 1e-4


@dataclass(frozen=True, slots=True)
class Matched:
    """The models as matched, the element of each, and how far apart they are.

    `objective`: after the start and after every round, or every sweep of two models, the sum of the weighted squared
    distances from the mean, or from the first of two (mixed with that of activations where they count); `scale` is the
    weighted squared norm of what is summed. `before` and `after` are the distances of each model from the mean, or from
    the first, over its norm.
    """

    states: tuple[State, ...]
    elements: tuple[GroupElement, ...]
    objective: tuple[float, ...]
    scale: float
    before: tuple[float, ...]
    after: tuple[float, ...]


def nearest(
    symmetry: SymmetryGraph,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    options: MatchOptions = DEFAULT,
    progress: Progress | None = None,
    seen: Activations | None = None,
    warm: bool = False,
    keep: Keep = made,
    opened: Parts | None = None,
) -> Nearest:
    """The element g of the compact group that brings B nearest to A.

    Args:
        a, b: states in canonical form, floating and of equal shapes.
        seen: activations of both, which then count with the share `alpha` (and their moments, for "inputs").
        warm: B has been matched before: sweep from where it is, without a start of its own and without restarts.
        keep: called with every tensor that the match works with; what it returns is held, and made when it is needed.
        opened: given the name of a descent its place in a file, which is written after every sweep, and taken up where
            something is there.

    Raises:
        UsageError: an unknown weighting or parameter, a pattern that matches no space, or no number for `alpha`.

    Source: coordinate descent of Ainsworth et al., arXiv 2209.04836; classes of Theus et al., arXiv 2506.22712.
    """
    if seen is not None and seen.correlations and options.alpha == "auto":
        raise UsageError(
            "a single match has one share of activations",
            remedy=f"give a number, {argument('alpha', 0.5, within='options')}",
        )
    if seen is not None and options.weighting == "inputs":
        a, b = weighted(a, seen.moments, 0), weighted(b, seen.moments, 1)
    restarts = 0 if warm else options.restarts

    def descent(number: int, close: bool = False) -> Nearest:
        section = None if opened is None else opened(f"{'close' if close else 'descent'} {number}")
        run = Descent(symmetry, a, b, options, number, seen, close=close, keep=keep, section=section)
        return run.run(progress, warm)

    runs = [descent(number) for number in range(restarts + 1)]
    best_run = min(range(restarts + 1), key=lambda number: runs[number].objective[-1])
    found = runs[best_run]
    if found.objective[-1] > RESOLVED * found.scale:
        return found
    close = descent(best_run, close=True)
    return close if close.objective[-1] <= RESOLVED * close.scale else found


def match(
    symmetry: SymmetryGraph,
    states: Iterable[Mapping[str, Tensor]],
    options: MatchOptions,
    rounds: int = 10,
    progress: Progress | None = None,
    seen: Mapping[tuple[int, int], Activations] | None = None,
    keep: Keep = made,
    opened: Parts | None = None,
) -> Matched:
    """The elements of the compact group that bring all models nearest to their mean.

    Of two models the second is brought nearest to the first, which stays; with `rounds` it is said how far they are
    from their mean. Otherwise it starts from the models as they are (those of one origin), or one after the other, each
    matched to the mean of those before it, or all matched to the first, whichever is nearest; then each is improved in
    turn for at most `rounds` rounds. The result depends on the order of the models only where local optima differ.

    Args:
        states: models in canonical form, floating and of equal shapes; only the moved ones are held.
        seen: activations of every pair (i, j) of them, i < j, which then count with the share `alpha` of the options.
        keep: where tensors that the match works with are put.
        opened: given the name of a part of the match its place in a file, which is written after every sweep, or round,
            and taken up where something is there.

    Raises:
        UsageError: an unknown weighting or parameter, or a pattern that matches no space.
    """
    held: list[State] = [dict(state) for state in states]
    # Of two models each is the mean of the others: rounds would be no more than further sweeps.
    if len(held) == 2 and (seen is None or not rounds):
        first, second = held
        both = None if seen is None else seen[0, 1]
        descend = partial(nearest, symmetry, first, second, options, progress, both, keep=keep)
        return _second_to_first(symmetry, first, second, descend, opened, about_mean=bool(rounds))
    names = [name for name in symmetry.graph.parameters if all(name in state for state in held)]
    weights = tensor_weights(symmetry, options.weighting, *({name: state[name] for name in names} for state in held))
    section = None if opened is None else opened("rounds")
    run = _Rounds(symmetry, held, weights, replace(options, weighting=weights), progress, seen or {}, keep)
    # The run lets go of what it has moved.
    del held
    before = run.distances()
    # Of two models one round is enough.
    most = rounds if len(run.moved) > 2 else min(rounds, len(run.moved) - 1)
    history = _rounds(run, most, options.tolerance, section)
    return Matched(tuple(run.moved), tuple(run.elements), tuple(history), run.scale, before, run.distances())


def _rounds(run: _Rounds, rounds: int, tolerance: float, section: RunSection | None) -> list[float]:
    """Starts, or goes on from what a file has, and improves every model in turn; the objective on the way."""
    found = {} if section is None else section.content
    history: list[float] = list(found.get("history", ()))
    if found:
        run.hold([unpacked(run.symmetry, element) for element in found["elements"]])
    else:
        run.start()
        history.append(run.objective())
    ended = found.get("ended", False)
    while not ended and len(history) <= rounds:
        run.round(len(history) - 1)
        history.append(run.objective())
        ended = history[-2] - history[-1] <= tolerance * run.scale
        if section is not None:
            section.keep(history=history, ended=ended, elements=list(map(packed, run.elements)))
        done, spread = len(history) - 1, (history[-1] / run.scale) ** 0.5
        tell(_log, run.progress, f"round {done}: spread {spread:.6g}", done, rounds)
    return history


def _second_to_first(
    symmetry: SymmetryGraph,
    first: State,
    second: State,
    descend: Callable[..., Nearest],
    opened: Parts | None,
    *,
    about_mean: bool,
) -> Matched:
    """What a descent of the second of two models comes to, or two where their mean counts."""
    found = descend(opened=opened)
    if not about_mean:
        return _pair(symmetry, first, second, found)
    # Models of one origin may be nearer as they are than anchors bring them.
    if found.objective[-1] > found.initial:
        found = descend(warm=True, opened=None if opened is None else lambda part: opened(f"{part}, as they are"))
    return _about_mean(symmetry, first, second, found)


def _pair(symmetry: SymmetryGraph, first: State, second: State, found: Nearest) -> Matched:
    """What a descent of the second model towards the first comes to."""
    ends = (found.initial, found.objective[-1])
    before, after = ((max(objective, 0.0) / found.scale) ** 0.5 for objective in ends)
    elements, moved = (GroupElement(symmetry, {}), found.element), acted(found.element, second)
    return Matched((first, moved), elements, found.objective, found.scale, (0.0, before), (0.0, after))


def _about_mean(symmetry: SymmetryGraph, first: State, second: State, found: Nearest) -> Matched:
    """The same, as distances from the mean of both: half of what is between them."""
    elements, moved = (GroupElement(symmetry, {}), found.element), acted(found.element, second)
    lengths = [(square + 1e-300) ** 0.5 for square in found.squares]
    halves = ((max(objective, 0.0) / 4) ** 0.5 for objective in (found.initial, found.objective[-1]))
    distances = (tuple(half / length for length in lengths) for half in halves)
    scale = sum(found.squares) + 1e-300
    return Matched((first, moved), elements, (found.objective[-1] / 2,), scale, *distances)


class _Rounds:
    def __init__(
        self,
        symmetry: SymmetryGraph,
        moved: list[State],
        weights: Mapping[str, float],
        options: MatchOptions,
        progress: Progress | None,
        seen: Mapping[tuple[int, int], Activations],
        keep: Keep,
    ) -> None:
        self.symmetry, self.given, self.weights, self.options = symmetry, moved, weights, options
        self._nearest = partial(nearest, symmetry, keep=keep)
        self.progress, self.seen = progress, seen
        self.share = float(options.alpha) if any(pair.correlations for pair in seen.values()) else 0.0
        # The mean moves with every model, so that few sweeps of one are worth it at a time.
        self.brief = replace(options, sweeps=min(options.sweeps, SWEEPS))
        self.hold([GroupElement(symmetry, {}) for _ in moved])
        self.squares = list(map(self._square, moved))
        self.scale = sum(self.squares) + 1e-300

    def hold(self, elements: Sequence[GroupElement]) -> None:
        """Takes all models from where they were given to where these elements bring them."""
        self.elements = list(elements)
        self.moved = list(map(acted, elements, self.given))

    def start(self) -> None:
        """The nearest of three: as given, each matched to the mean of those before it, all matched to the first."""
        neutral = self.elements
        best = (self.objective(), neutral)
        # Of two models the ways are one. Elements are kept and not states, which may be large.
        for way in (self._in_turn, self._to_first)[: len(self.given) - 1]:
            self.hold(neutral)
            way()
            best = min(best, (self.objective(), list(self.elements)), key=lambda way: way[0])
        self.hold(best[1])

    def _in_turn(self) -> None:
        for model in range(1, len(self.moved)):
            self._say(model, "the models before it")
            mean = self._mean(range(model))
            given = self._seen(model, range(model), mean)
            self._take(model, self._nearest(mean, self.moved[model], self.options, seen=given))

    def _to_first(self) -> None:
        for model in range(1, len(self.moved)):
            self._say(model, "the first")
            given = self._seen(model, [0], self.moved[0])
            self._take(model, self._nearest(self.moved[0], self.moved[model], self.options, seen=given))

    def round(self, number: int) -> None:
        """Every model is improved once; in the first round it is also matched afresh, since its start saw fewer."""
        for model, state in enumerate(self.moved):
            self._say(model, "all others")
            beside = [other for other in range(len(self.moved)) if other != model]
            others = self._mean(beside)
            given = self._seen(model, beside, others)
            found = self._nearest(others, state, self.brief, warm=True, seen=given)
            if not number:
                fresh = self._nearest(others, state, self.options, seen=given)
                found = min(found, fresh, key=lambda match: match.objective[-1])
            if found.objective[-1] < found.initial:
                self._take(model, found)

    def objective(self) -> float:
        """The sum of the weighted squared distances from the mean, or its mixture with that of activations."""
        spread = (1 - self.share) * sum(self._spread())
        return spread + (self.share * self._apart() if self.share else 0.0)

    def _apart(self) -> float:
        """What activations add: S / M times the sum of 2 - 2 correlation over all pairs."""
        trees, still = units(self.symmetry, self.options.spaces), GroupElement(self.symmetry, {})
        total = 0.0
        for (one, other), seen in self.seen.items():
            there = seen.after(self.elements[one], self.elements[other])
            total += 2 - 2 * sum(agreement(there.moved(unit, still)) for unit in trees)
        return total * self.scale / len(self.moved) ** 2

    def _seen(self, model: int, others: Iterable[int], mean: Mapping[str, Tensor]) -> Activations | None:
        """What was seen of a model beside the others, as all are now, in proportion to S and not to their mean."""
        if not self.share:
            return None

        def beside(other: int) -> Activations:
            pair = self.seen[other, model] if other < model else self.seen[model, other].turned()
            return pair.after(self.elements[other], self.elements[model])

        return mean_of(map(beside, others), self.scale / len(self.moved) / (self._square(mean) + 1e-300))

    def distances(self) -> tuple[float, ...]:
        """The distance of every model from the mean, over its norm."""
        pairs = zip(self._spread(), self.squares, strict=True)
        return tuple((distance / (square + 1e-300)) ** 0.5 for distance, square in pairs)

    def _spread(self) -> list[float]:
        found = [0.0] * len(self.moved)
        for name, weight in self.weights.items():
            tensors = [made(state[name]) for state in self.moved]
            mean = _average(tensors)
            for model, tensor in enumerate(tensors):
                found[model] += float(weight * (tensor - mean).square().sum())
        return found

    def _square(self, state: Mapping[str, Tensor]) -> float:
        read = self.symmetry.raised(state)
        return sum(float(weight * read[name].square().sum()) for name, weight in self.weights.items())

    def _mean(self, models: Sequence[int]) -> State:
        """The mean of some of the models as they are now, tensor by tensor."""
        return {name: _averaged([self.moved[model][name] for model in models]) for name in self.weights}

    def _take(self, model: int, found: Nearest) -> None:
        self.elements[model] = found.element.after(self.elements[model])
        self.moved[model] = acted(self.elements[model], self.given[model])

    def _say(self, model: int, to: str) -> None:
        tell(_log, self.progress, f"matching model {model + 1} of {len(self.moved)} to {to}")


def acted(element: GroupElement, state: State) -> State:
    """The state where an element brings it."""
    return Transform((Act(element),)).moved(state)


def _average(tensors: Sequence[Tensor]) -> Tensor:
    total = made(tensors[0]).clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total.div_(len(tensors))


def _averaged(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors, which is made where it is needed if they are."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if not any(isinstance(tensor, Deferred) for tensor in tensors):
        return _average(tensors)
    return Deferred(lambda: _average(tensors), first.shape, first.dtype)
