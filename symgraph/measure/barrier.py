"""The loss barrier among models of one architecture.

    B_l = L(sum_m l_m A_m) - sum_m l_m L(A_m),   B = max over mixtures l, which are not negative and sum to one.

Of two models mixtures are points of a segment: (1 - lambda) A + lambda B.

Source: Theus et al., arXiv 2506.22712, section 2 (loss barrier; many models); Frankle et al. 2020, arXiv 1912.05671
(error barrier along a linear path).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from symgraph.errors import UsageError, argument, called, one_line
from symgraph.inference.sources import Source
from symgraph.measure.batches import counted
from symgraph.measure.endpoints import endpoints
from symgraph.measure.grid import Simplex, line
from symgraph.measure.losses import Metrics, Named
from symgraph.measure.mixture import Mixtures
from symgraph.measure.objective import Objective
from symgraph.measure.product_form import ProductMixtures
from symgraph.measure.result import LossBarrier
from symgraph.measure.survey import Survey
from symgraph.rules.book import RuleBook, default_rules
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import Progress

_REFINEMENTS = 3


def loss_barrier(
    *models_and_batches: Any,
    batches: Iterable[Any] | None = None,
    points: int | Sequence[float] = 11,
    refine: bool = False,
    mixtures: Sequence[Sequence[float]] | None = None,
    resolution: int | None = None,
    samples: int = 0,
    concentration: float = 1.0,
    seed: int = 0,
    module: Source = None,
    names: Sequence[str] | None = None,
    loss: Named = "cross-entropy",
    metrics: Metrics = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    recalibrate: Iterable[Any] | None = None,
    product: SymmetryGraph | None = None,
    book: RuleBook | None = None,
) -> LossBarrier:
    """Loss and metrics at mixtures of the parameters of two models or more, and their barriers.

    `loss_barrier(a, b, batches)`, or any number of models before the batches. A model is given in any form, or as a
    state of `module`. Mixed parameters go through one module; beside the models there is one more set of weights at a
    time. Buffers of integers are those of the first; half precision is computed in float32 unless `dtype` says
    otherwise.

    Args:
        points: of two models: how many points of the segment, or which lambdas; with `refine`, three more are placed
            around the largest barrier.
        mixtures: these beside the models. By default, of more than two, the midpoints of all pairs, the even mixture,
            points from each model to it (unless there are three models), and all multiples of 1 / `resolution` (4 up
            to four models, 2 for more). `samples` draws of a Dirichlet distribution of this `concentration` are added.
        names: what the models are called, by default A and B or after their files.
        loss: "cross-entropy", "mse" or "model" (its own), or a function: torch's, or one of `(outputs, labels)` or
            `(outputs, batch)`, which is the batch as it was given; a value per example, or one for the batch.
        metrics: "accuracy", "perplexity", functions like a loss, objects of torchmetrics; or several, listed or named.
        progress: is told which of how many batches is done, as text with `.done` of `.total`.
        recalibrate: batches of the training split, on which the stored statistics of norms are computed anew at every
            mixture.
        product: the symmetry of two models (inferred with the rules of `book`): what lies inside of heads is mixed in
            product form, a model of more than the architecture's rank, for comparison alone.

    Raises:
        CheckpointError: the models are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.
        UsageError: there is one model, a mixture has a negative weight or does not sum to one, or the points, the loss,
            a metric or the device do not exist.

    >>> a, b = (torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in "ab")
    >>> batches = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))]
    >>> found = symgraph.loss_barrier(a, b, batches, points=3, loss=torch.nn.functional.cross_entropy)
    >>> found.lambdas, found.barrier >= 0
    ((0.0, 0.5, 1.0), True)

    Source: Theus et al., arXiv 2506.22712; Frankle et al. 2020.
    """
    given, batches = _told_apart(models_and_batches, batches)
    simplex = Simplex(mixtures, resolution, samples, concentration, seed)
    _check_options(len(given), refine, product is not None, recalibrate is not None)
    segment = len(given) == 2 and simplex == Simplex(seed=seed)
    places = line(points) if segment else simplex.places(len(given))
    ends = endpoints(given, module, names)
    data = counted(batches, "to evaluate on")
    training = None if recalibrate is None else counted(recalibrate, "to recalibrate on")
    point: Mixtures | ProductMixtures
    if product is None:
        point = Mixtures(ends.network, ends.states, usable(device), dtype, own=training is not None)
    else:
        point = ProductMixtures(ends.network, ends.states, product, book or default_rules(), usable(device), dtype)
    survey = Survey(Objective(ends.network, loss, metrics=metrics), point, data, training, progress)
    survey.visit_all(places, _REFINEMENTS * refine)
    return survey.result(ends.names)


def _told_apart(given: tuple[Any, ...], batches: Any) -> tuple[list[Any], Any]:
    """Models, which may come in one list, and what follows them."""
    if batches is None:
        if len(given) < 2:
            raise UsageError("a loss barrier needs models and batches", remedy="loss_barrier(a, b, batches)")
        given, batches = given[:-1], given[-1]
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = tuple(given[0])
    if len(given) < 2:
        what = f"a loss barrier needs two models and batches, not {len(given)} model"
        raise UsageError(what, remedy="loss_barrier(a, b, batches)")
    return list(given), batches


def _check_options(models: int, refine: bool, product: bool, recalibrate: bool) -> None:
    if models > 2 and (refine or product):
        what = "refine" if refine else "product"
        raise UsageError(
            f"{called(what)} is for two models, not {models}",
            remedy=f"raise {called('resolution')} or {called('samples')}",
        )
    if product and recalibrate:
        raise UsageError("statistics are not recalibrated in product form", remedy="leave out one of the two")


def usable(device: str | torch.device) -> torch.device:
    """The device, if torch can compute there.

    Raises:
        UsageError: naming the device and what torch says about it.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {device} cannot be used", cause=one_line(e), remedy=argument("device", "cpu")) from e
