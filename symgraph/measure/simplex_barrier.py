"""The loss barrier among many models of one architecture.

    B_l = L(sum_m l_m A_m) - sum_m l_m L(A_m),   B = max over mixtures l, which are not negative and sum to one.

Source: Theus et al., arXiv 2506.22712 (many models).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import nn

from symgraph.errors import UsageError
from symgraph.io.models import Model
from symgraph.measure.curve import Surface
from symgraph.measure.evaluate import Progress
from symgraph.measure.forward import evaluating
from symgraph.measure.losses import Metric, PerExample
from symgraph.measure.mixture import check_weights, dirichlet
from symgraph.measure.simplex import SimplexBarrier, mixture_text, vertex
from symgraph.measure.survey import Endpoint, Survey, described, endpoint_state, evaluator_of, network_of, repeatable

Mixture = tuple[float, ...]
# A lattice grows fast with the number of models: beyond this many they get edges, and the way to the middle.
_SURFACE_MODELS = 4
_PROFILE = (0.25, 0.5, 0.75)


def simplex_barrier(
    models: Sequence[Endpoint],
    batches: Iterable[Any],
    *,
    mixtures: Sequence[Sequence[float]] | None = None,
    resolution: int | None = None,
    samples: int = 0,
    concentration: float = 1.0,
    seed: int = 0,
    module: nn.Module | None = None,
    names: Sequence[str] | None = None,
    loss: str | PerExample = "cross-entropy",
    metrics: Iterable[str] | Mapping[str, PerExample | Metric] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    recalibrate: Iterable[Any] | None = None,
) -> SimplexBarrier:
    """Loss and metrics at mixtures of the models' parameters, and their barriers.

    The models themselves are always among the mixtures. Without `mixtures` these are the midpoints of all pairs, the
    even mixture, points from each model to it (unless there are three models), and all multiples of 1 / `resolution`
    (default 4 up to four models, 2 for more). `samples` draws of a Dirichlet distribution with this concentration are
    added.

    Mixed parameters go through one module; beside the models there is one more set of weights at a time. Everything
    else is as for `symgraph.measure.barrier`.

    Raises:
        UsageError: there is one model, a mixture has a negative weight or does not sum to one, or an option does not
            exist.
        CheckpointError: the models are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.

    Source: Theus et al., arXiv 2506.22712.
    """
    named = tuple(names) if names is not None else tuple(_name(m, i) for i, m in enumerate(models))
    if len(named) != len(models):
        raise UsageError(f"{len(models)} models and {len(named)} names", remedy="give one for each")
    points = _given(mixtures, len(models)) if mixtures is not None else _grid(len(models), resolution)
    points = list(dict.fromkeys([*points, *_drawn(len(models), samples, concentration, seed)]))
    network = network_of(models, module)
    data = repeatable(batches)
    states = [endpoint_state(m, network, f"model {i + 1}") for i, m in enumerate(models)]
    evaluator = evaluator_of(network, states, data, len(points), loss, metrics, device, dtype, progress, recalibrate)
    survey = Survey(evaluator)
    with evaluating(network):
        for weights in points:
            survey.visit(weights, f"mixture {mixture_text(weights)}")
    return _result(survey, data, named)


def _result(survey: Survey, data: Any, names: tuple[str, ...]) -> SimplexBarrier:
    surfaces = []
    for key, name in survey.names():
        values, errors = zip(*(found[key] for found in survey.found.values()), strict=True)
        surfaces.append(Surface(name, tuple(survey.found), values, errors, survey.higher_is_better(key)))
    loss, *metrics = surfaces
    e = survey.evaluator
    return SimplexBarrier(loss, tuple(metrics), names, e.examples, *described(data), e.recalibrated)


def _name(model: Endpoint, number: int) -> str:
    return Path(model.spec).name if isinstance(model, Model) else f"model {number + 1}"


def _vertices(models: int) -> list[Mixture]:
    return [vertex(i, models) for i in range(models)]


def _given(mixtures: Sequence[Sequence[float]], models: int) -> list[Mixture]:
    """The models, and the mixtures that were asked for.

    Raises:
        UsageError: naming the mixture that is none.
    """
    found = [tuple(map(float, m)) for m in mixtures]
    for weights in found:
        check_weights(weights, models)
        if bad := [w for w in weights if not w >= 0]:
            raise UsageError(f"a mixture has a weight of {bad[0]:g}", remedy="weights are not negative and sum to one")
    points = list(dict.fromkeys([*_vertices(models), *found]))
    if len(points) == models:
        raise UsageError(
            "there is no mixture", cause="only the models themselves", remedy="give weights such as 0.5 0.5"
        )
    return points


def _grid(models: int, resolution: int | None) -> list[Mixture]:
    """The models first, then midpoints of pairs, the even mixture, the ways to it, and the lattice."""
    check_weights(_even(models), models)
    steps = (4 if models <= _SURFACE_MODELS else 2) if resolution is None else resolution
    if steps < 1:
        raise UsageError(f"a resolution of {steps}", remedy="give a whole number from 1")
    middle = _even(models)
    points = _vertices(models)
    points += [tuple(0.5 * (i in pair) for i in range(models)) for pair in combinations(range(models), 2)]
    # Three models have a surface to look at, all others lines to the middle.
    ways = () if models == 3 else _PROFILE
    points += [_toward(v, middle, x) for x in ways for v in _vertices(models)]
    return [*points, middle] + [tuple(k / steps for k in counts) for counts in _compositions(steps, models)]


def _even(models: int) -> Mixture:
    return (1 / max(models, 1),) * models


def _toward(v: Mixture, middle: Mixture, x: float) -> Mixture:
    return tuple((1 - x) * a + x * b for a, b in zip(v, middle, strict=True))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of `parts` numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _compositions(total - first, parts - 1))


def _drawn(models: int, samples: int, concentration: float, seed: int) -> list[Mixture]:
    if samples < 0 or not 0 < concentration < math.inf:
        what = f"{samples} samples of concentration {concentration:g}"
        raise UsageError(what, remedy="give 0 or more, of a positive concentration")
    return dirichlet(models, concentration, samples, seed) if samples else []
