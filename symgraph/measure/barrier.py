"""The loss barrier among models of one architecture.

    B_l = L(sum_m l_m A_m) - sum_m l_m L(A_m),   B = max over mixtures l, which are not negative and sum to one.

Of two models mixtures are points of a segment: (1 - lambda) A + lambda B.

Source: Theus et al., arXiv 2506.22712, section 2 (loss barrier; many models); Frankle et al. 2020, arXiv 1912.05671
(error barrier along a linear path).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, one_line, shorten
from symgraph.inference.sources import Source
from symgraph.inference.sources import model as model_of
from symgraph.io.checkpoint import canonical_state, check_same_architecture, read_state
from symgraph.io.models import Model
from symgraph.measure.batches import counted
from symgraph.measure.grid import Simplex, line, refined
from symgraph.measure.losses import LOSS, Metrics, PerExample
from symgraph.measure.measured import mixture_text
from symgraph.measure.mixture import Mixtures, check_weights
from symgraph.measure.objective import Objective
from symgraph.measure.product_form import ProductMixtures
from symgraph.measure.result import LossBarrier
from symgraph.measure.survey import Progress, Survey
from symgraph.rules.book import RuleBook, default_rules
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.wrap import evaluating

Endpoint = Source | Mapping[str, Tensor]
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
    loss: str | PerExample = "cross-entropy",
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
        loss: maps outputs and batch to a value per example or one for the batch.
        progress: gets done and total steps.
        recalibrate: batches of the training split, on which the stored statistics of norms are computed anew at every
            mixture.
        product: the symmetry of two models (inferred with the rules of `book`): what lies inside of heads is mixed in
            product form, a model of more than the architecture's rank, for comparison alone.

    Raises:
        CheckpointError: the models are of different architectures or have no weights.
        DataError: there are no batches, they do not fit the model, or a loss is not finite.
        UsageError: there is one model, a mixture has a negative weight or does not sum to one, or the points, the loss,
            a metric or the device do not exist.

    Source: Theus et al., arXiv 2506.22712; Frankle et al. 2020.
    """
    given, batches = _told_apart(models_and_batches, batches)
    two = len(given) == 2
    simplex = Simplex(mixtures, resolution, samples, concentration, seed)
    _check_options(len(given), refine, product is not None, recalibrate is not None)
    places = line(points) if two and simplex == Simplex(seed=seed) else simplex.places(len(given))
    models = [m if isinstance(m, Model | nn.Module | Mapping) else model_of(m) for m in given]
    called = _names(models, names)
    network = _network(models, None if module is None else model_of(module).module)
    data = counted(batches, "to evaluate on")
    ends = ("endpoint A", "endpoint B") if two else [f"model {i + 1}" for i in range(len(models))]
    states = [_state(m, network, end) for m, end in zip(models, ends, strict=True)]
    training = None if recalibrate is None else counted(recalibrate, "to recalibrate on")
    point: Mixtures | ProductMixtures
    if product is None:
        point = Mixtures(network, states, _device(device), dtype, own=training is not None)
    else:
        point = ProductMixtures(network, states, product, book or default_rules(), _device(device), dtype)
    further = _REFINEMENTS * refine
    total = (len(places) + further) * len(data)
    objective = Objective(network, loss, metrics=metrics)
    survey = Survey(objective, point, data, training=training, progress=progress, total=total)
    with evaluating(network):
        for weights in places:
            survey.visit(weights, _place(weights))
        for _ in range(further):
            so_far = survey.measured()
            weights = refined(so_far.places, so_far.barriers)
            survey.visit(weights, _place(weights))
    source, split = (str(getattr(data, a, "")) for a in ("source", "split"))
    statistics = "" if training is None else str(getattr(training, "source", "") or "the training data")
    found = [survey.measured(name) for name in (LOSS, *objective.metrics)]
    return LossBarrier(found[0], tuple(found[1:]), called, survey.examples, source, split, statistics)


def _told_apart(given: tuple[Any, ...], batches: Any) -> tuple[list[Any], Any]:
    """Models, which may come in one list, and what follows them."""
    if batches is None:
        if len(given) < 2:
            raise UsageError("a loss barrier needs models and batches", remedy="loss_barrier(a, b, batches)")
        given, batches = given[:-1], given[-1]
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = tuple(given[0])
    check_weights([1 / max(len(given), 1)] * len(given), len(given))
    return list(given), batches


def _check_options(models: int, refine: bool, product: bool, recalibrate: bool) -> None:
    if models > 2 and (refine or product):
        what = "refine" if refine else "product"
        raise UsageError(f"{what}= is for two models, not {models}", remedy="raise resolution or samples instead")
    if product and recalibrate:
        raise UsageError("statistics are not recalibrated in product form", remedy="leave out one of the two")


def _names(models: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None:
        if len(names) != len(models):
            raise UsageError(f"{len(models)} models and {len(names)} names", remedy="give one for each")
        return tuple(names)
    if len(models) == 2:
        return ("A", "B")
    return tuple(Path(m.spec).name if isinstance(m, Model) else f"model {i + 1}" for i, m in enumerate(models))


def _place(weights: tuple[float, ...]) -> str:
    """What messages call a mixture."""
    return f"lambda {weights[1]:g}" if len(weights) == 2 else f"mixture {mixture_text(weights)}"


def _network(models: Sequence[Any], module: nn.Module | None) -> nn.Module:
    """The network that is evaluated: `module`, or that of the first model that has one.

    Raises:
        UsageError: none of them has one.
        CheckpointError: models are of different architectures, or the network has buffers without values.
    """
    loaded = [m for m in models if isinstance(m, Model)]
    for other in loaded[1:]:
        check_same_architecture(loaded[0], other)
    candidates = (module, *(m.module if isinstance(m, Model) else m for m in models))
    found = next((c for c in candidates if isinstance(c, nn.Module)), None)
    if found is None:
        many = "two" if len(models) == 2 else str(len(models))
        raise UsageError(f"{many} states do not say which network they belong to", remedy="pass it as module=")
    saved = found.state_dict()
    if any(t.is_meta for n, t in found.named_buffers() if n not in saved):
        remedy = "pass a module built with weights"
        raise CheckpointError("the network has buffers without values", cause="it was built without", remedy=remedy)
    return found


def _state(model: Any, network: nn.Module, name: str) -> Mapping[str, Tensor]:
    """The state of a model, which messages call `name`.

    Raises:
        CheckpointError: it does not fit the network, or has no weights.
    """
    if isinstance(model, Model):
        state: Mapping[str, Tensor] = read_state(model)
    else:
        state = model.state_dict() if isinstance(model, nn.Module) else model
    state = canonical_state(network, state, name)
    if empty := [n for n, t in state.items() if t.is_meta]:
        raise CheckpointError(
            f"{name} has no weights", cause=f"no values for {shorten(empty)}", remedy="load it with weights"
        )
    return state


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {device} cannot be used", cause=one_line(e), remedy="pass --device cpu") from e
