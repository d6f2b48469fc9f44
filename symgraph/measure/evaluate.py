"""Losses and metrics of every example at weighted means of states of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError, one_line, shorten
from symgraph.io.data import batch_length
from symgraph.measure.forward import accepted_names, arguments, batch_tensors, forward, placed
from symgraph.measure.losses import LOSS, Metric, NoLossFits, PerExample, Scored, model_loss, scored
from symgraph.measure.product_form import ProductForm
from symgraph.measure.recalibrate import recalibrate_
from symgraph.rules.book import RuleBook
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Sample:
    """One quantity at one point: a value and a weight for every example."""

    values: Tensor
    weights: Tensor

    @property
    def mean(self) -> float:
        """The weighted mean."""
        return float((self.values * self.weights).sum() / self.weights.sum())

    def scaled(self, factor: float) -> Sample:
        """The same with every value times a factor."""
        return Sample(self.values * factor, self.weights)

    def standard_error(self, ends: Sequence[Sample], weights: Sequence[float]) -> float:
        """Of the mean of each example's own distance from the weighted mean of what it has at the ends."""
        distance = self.values - sum(w * end.values for end, w in zip(ends, weights, strict=True))
        share = self.weights / self.weights.sum()
        count = int((share > 0).sum())
        if count < 2:
            return 0.0
        spread = (share * (distance - (share * distance).sum())).square().sum()
        return float((spread * count / (count - 1)).sqrt())


class Mixtures:
    """The tensors of the network at weighted means of states, always in the same memory.

    With `own` all floating tensors are copies, which may be written to until the next move.
    """

    def __init__(
        self,
        network: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype | None,
        own: bool = False,
    ) -> None:
        self.device = device
        self.moving: list[tuple[tuple[Tensor, ...], Tensor]] = []
        self.tensors: dict[str, Tensor] = {}
        buffers = {name for name, _ in network.named_buffers()}
        for name, t in (*network.named_parameters(), *network.named_buffers()):
            given = tuple(s.get(name, t).detach() for s in states)
            stays = _stays(given, name in buffers)
            if stays and not (own and t.is_floating_point()):
                self.tensors[name] = given[0].to(device, _compute_dtype(given[0], dtype))
                continue
            self.tensors[name] = torch.empty(t.shape, dtype=_compute_dtype(given[0], dtype), device=device)
            self.moving.append((given[:1] if stays else given, self.tensors[name]))
        self.dtype = next((t.dtype for _, t in self.moving), dtype or torch.float32)

    @torch.inference_mode()
    def move_to(self, weights: Sequence[float]) -> None:
        """Put the point there; where one weight is 1 it is that model, to the bit."""
        present = [(i, w) for i, w in enumerate(weights) if w]
        for states, point in self.moving:
            if len(states) == 1:
                point.copy_(states[0])
                continue
            (first, total), *others = present
            point.copy_(states[first])
            for i, w in others:
                # What all models share stays as it is, to the bit.
                total += w
                torch.lerp(point, states[i].to(point), w / total, out=point)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor], accepted: frozenset[str], labels: bool) -> Any:
        """What the network returns at the point; with `labels` it is given those too."""
        return forward(network, self.tensors, batch, accepted, labels=labels)


class ProductMixtures:
    """Mixtures of two states in product form: see `symgraph.measure.product_form`.

    The network is traced anew for each shape of a batch. Losses that it computes itself do not exist there.

    Raises:
        UsageError: the model has no product form, or one that cannot be followed.
    """

    def __init__(
        self,
        symmetry: SymmetryGraph,
        book: RuleBook,
        network: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.symmetry, self.book, self.device = symmetry, book, device
        floating = next(t for t in states[0].values() if t.is_floating_point())
        self.dtype = _compute_dtype(floating, dtype)
        held = {n: t.detach() for n, t in state_of(network).items()}
        self.a, self.b = (
            placed({n: s.get(n, t).detach() for n, t in held.items()}, device, self.dtype) for s in states
        )
        self.forms: dict[tuple[object, ...], ProductForm] = {}
        self.point = 0.0

    def move_to(self, weights: Sequence[float]) -> None:
        """Put the point there."""
        self.point = weights[1]

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor], accepted: frozenset[str], labels: bool) -> Any:
        """What the mixture returns at the point: a tuple of its floating outputs, logits first."""
        positional, named = arguments(batch, accepted, labels=labels)
        given = {n: t for n, t in named.items() if isinstance(t, Tensor)}
        key = (*((n, t.shape) for n, t in given.items()), *(t.shape for t in positional))
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = self._form(network, positional, given)
        return form.run_mixed(form.mixed(self.a, self.b, self.point), positional or given)

    @torch.inference_mode(False)
    def _form(self, network: nn.Module, positional: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> ProductForm:
        args, kwargs = tuple(t.clone() for t in positional), {n: t.clone() for n, t in named.items()}
        graph = trace(network, args, kwargs, name=type(network).__name__)
        form = ProductForm(self.symmetry, graph, self.book, dtype=self.dtype, device=self.device)
        form.check(self.a, self.b, args or kwargs)
        return form


class Evaluator:
    """Every quantity at a mixture of models, over all batches."""

    def __init__(
        self,
        network: nn.Module,
        data: Iterable[Any],
        loss: tuple[str, PerExample],
        metrics: Mapping[str, Metric],
        mixtures: Mixtures | ProductMixtures,
        progress: Progress | None,
        total: int,
        training: Iterable[Any] | None = None,
    ) -> None:
        self.network, self.data, self.metrics, self.mixtures = network, data, metrics, mixtures
        self.loss_name, loss_of = loss
        self.quantities = {LOSS: loss_of, **{n: m.per_example for n, m in metrics.items() if m.per_example}}
        self.accepted = accepted_names(network)
        self.passes = _Passes()
        self.progress, self.done, self.total = progress, 0, total
        self.examples = 0
        self.training = training

    @property
    def recalibrated(self) -> str:
        """What the statistics of norms were computed on, if they were."""
        if self.training is None:
            return ""
        return str(getattr(self.training, "source", "") or "the training data")

    def at(self, weights: Sequence[float], where: str) -> dict[str, Sample]:
        """The loss and every metric of all examples at one mixture, which messages call `where`.

        Raises:
            DataError: the batches do not fit the model, are other ones than before, or a value is not finite.
        """
        self.mixtures.move_to(weights)
        # A model of its own has the statistics of its own training.
        if self.training is not None and max(weights) < 1 and isinstance(self.mixtures, Mixtures):
            recalibrate_(self.network, self.mixtures.tensors, self.training)
        found: dict[str, list[Scored]] = {name: [] for name in self.quantities}
        examples = 0
        for i, raw in enumerate(self.data):
            self.passes.require_same(i, batch_tensors(raw))
            batch = placed(raw, self.mixtures.device, self.mixtures.dtype)
            examples += batch_length(batch)
            for name, result in self._score(batch, f"{where}, batch {i}").items():
                found[name].append(result)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
        if not examples:
            raise DataError("no examples to evaluate on", remedy="check the length of the data")
        self.passes.end()
        self.examples = examples
        return {name: _sample(results, f"the {name}", where) for name, results in found.items()}

    # Only here: what a loader makes and keeps must stay usable for training.
    @torch.inference_mode()
    def _score(self, batch: dict[str, Tensor], where: str) -> dict[str, Scored]:
        remedy = "check that the data is the kind the model takes (shapes, vocabulary, number of classes)"
        try:
            outputs, loss = self._forward_and_loss(batch)
            others = {n: f for n, f in self.quantities.items() if n != LOSS}
            return {LOSS: loss, **{n: scored(f(outputs, batch), batch) for n, f in others.items()}}
        except NoLossFits as e:
            cause = f"{e}; the batch has {shorten(batch)}"
            remedy = "name the label column, or pass a function of outputs and batch"
            raise DataError(f"{where}: no loss or metric fits", cause=cause, remedy=remedy) from e
        except (IndexError, RuntimeError, ValueError, TypeError) as e:
            raise DataError(f"{where}: the model cannot be evaluated", cause=one_line(e), remedy=remedy) from e

    def _forward_and_loss(self, batch: Mapping[str, Tensor]) -> tuple[Any, Scored]:
        outputs = self._forward(batch)
        try:
            return outputs, scored(self.quantities[LOSS](outputs, batch), batch)
        except NoLossFits:
            if self.quantities[LOSS] is model_loss or not self._has_own_loss(batch):
                raise
        self.loss_name, self.quantities[LOSS] = "model", model_loss
        outputs = self._forward(batch)
        return outputs, scored(model_loss(outputs, batch), batch)

    def _has_own_loss(self, batch: Mapping[str, Tensor]) -> bool:
        return "labels" in batch and "labels" in self.accepted

    def _forward(self, batch: Mapping[str, Tensor]) -> Any:
        own_loss = self.quantities[LOSS] is model_loss
        return self.mixtures.forward(self.network, batch, self.accepted, own_loss)


class _Passes:
    """Raises where a later pass over the data differs from the first: each example is compared with itself."""

    def __init__(self) -> None:
        self.first: list[dict[str, Tensor]] = []
        self.count, self.complete = 0, False

    @torch.inference_mode()
    def require_same(self, i: int, batch: Mapping[str, Tensor]) -> None:
        """Note the i-th batch of a pass, and raise if it is not what it was in the first."""
        self.count = i + 1
        # One sum for each example, so that examples that change places are noticed too.
        sums = {k: t.flatten(1).sum(1) if t.ndim > 1 else t.clone() for k, t in batch.items()}
        if not self.complete:
            self.first.append(sums)
        elif i >= len(self.first) or not _same(sums, self.first[i]):
            self._fail(f"batch {i} is another one than before")

    def end(self) -> None:
        """Note that a pass is over, and raise if it was shorter than the first."""
        if self.count != len(self.first):
            self._fail(f"{len(self.first)} batches in the first pass and {self.count} in a later one")
        self.complete = True

    def _fail(self, cause: str) -> None:
        remedy = "use a loader without shuffling, sampling or augmentation, or pass a list of its batches"
        raise DataError("the batches change between passes", cause=cause, remedy=remedy)


def _stays(given: Sequence[Tensor], is_buffer: bool) -> bool:
    first = given[0]
    if not (first.is_floating_point() or first.is_complex()):
        return True
    # Infinite entries of a mask would become NaN on the way from one to the same.
    return is_buffer and all(torch.equal(first, t.to(first)) for t in given[1:])


def _compute_dtype(t: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is not None and t.is_floating_point():
        return dtype
    return torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else t.dtype


def _sample(results: list[Scored], what: str, where: str) -> Sample:
    """The values of all batches, those without weight as zeros."""
    for i, (values, weights) in enumerate(results):
        bad = ~values.isfinite() & (weights != 0)
        if bool(bad.any()):
            raise DataError(
                f"{what} is not finite at {where}, batch {i}",
                cause=f"{int(bad.sum())} of {len(values)} values are NaN or infinite",
                remedy="evaluate in a wider dtype, and look for NaN or huge values in that batch",
            )
    values, weights = (torch.cat(parts).double() for parts in zip(*results, strict=True))
    if not bool((weights > 0).any()):
        cause = "no example has a weight, as where every label is one that is ignored"
        raise DataError(f"{what} at {where} is that of nothing", cause=cause, remedy="check the labels")
    return Sample(values.where(weights != 0, 0.0), weights)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and _equal(a[k], b[k]) for k in a)


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
