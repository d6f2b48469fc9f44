"""What rounding does to what a model predicts: an objective of its weights on data, to descend on over their orbit.

Matrices are rounded, and where that is asked for what they read, at each position by itself; slopes go through the
rounding as if there were none, and into its steps: without those nothing would say that a largest entry is too large.

Source: Bengio et al. 2013, arXiv 1308.3432 (straight-through); Liu et al. 2024, arXiv 2405.16406 (SpinQuant).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from symgraph.errors import DataError, one_line
from symgraph.measure.batches import Batch, placed
from symgraph.measure.forward import Point, fixed_tensors, usual_dtype
from symgraph.measure.losses import SOFT, NoLossFits, logits_of
from symgraph.orbit.rounding_error import Rounding
from symgraph.tracing.sampling import in_dtype

# So many batches are read; one of every eight says where a descent is, the others lead it.
BATCHES, HELD_OUT = 32, 8


def readers(network: nn.Module, matrices: Iterable[str]) -> tuple[str, ...]:
    """The modules whose one matrix is among these, and that are called with what it reads: its input is rounded."""
    names = [name.removesuffix(".weight") for name in matrices if name.endswith(".weight")]
    return tuple(name for name in names if network.get_submodule(name).get_parameter("weight").dim() == 2)


@contextmanager
def rounded_inputs(network: nn.Module, names: Collection[str], bits: int) -> Iterator[None]:
    """What these modules are called with, rounded to so many bits at each position."""
    grid = Rounding(bits)

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = inputs
        return grid(first, -1), *others

    handles = [network.get_submodule(name).register_forward_pre_hook(hook) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Divergence:
    """How far what is predicted with rounded matrices is from what the model predicts.

    Of labels, or of next tokens, it is the divergence of Kullback and Leibler for each; of other outputs the squared
    change over their squares. With gradients it is that of one batch after the other, else that of some held out.

    Args:
        matrices: those that are rounded, with the axis of their inputs; `inputs`: bits of what they read (0: as it is).

    Raises:
        DataError: there are no batches, or the model cannot be evaluated on them.
    """

    def __init__(
        self, network: nn.Module, matrices: Mapping[str, int], rounding: Rounding, inputs: int, batches: Iterable[Any]
    ) -> None:
        self.network, self.matrices, self.rounding, self.inputs = network, dict(matrices), rounding, inputs
        self.dtype = usual_dtype(network)
        self.readers = readers(network, matrices) if inputs else ()
        self.own = fixed_tensors(network, (), self.dtype, torch.device("cpu"))
        read = [self._placed(raw) for raw in islice(batches, BATCHES)]
        if not read:
            raise DataError("the calibration data is empty", remedy="give at least one batch")
        self.held = [(batch, self._predicted(batch)) for batch in read[::HELD_OUT]]
        self.leading = cycle([batch for number, batch in enumerate(read) if number % HELD_OUT] or read)

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        """It, of a model of the orbit; differentiable in its tensors."""
        pairs = self.held
        if torch.is_grad_enabled():
            batch = next(self.leading)
            pairs = [(batch, self._predicted(batch))]
        tensors = self._rounded(state)
        with rounded_inputs(self.network, self.readers, self.inputs):
            found = [_apart(self._outputs(tensors, batch), before, batch) for batch, before in pairs]
        return torch.stack(found).mean()

    def _rounded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moved = in_dtype(state, self.dtype)
        turned = {name: self.rounding(moved[name], axis) for name, axis in self.matrices.items()}
        return {**self.own, **moved, **turned}

    def _placed(self, raw: Any) -> Batch:
        return placed(raw, torch.device("cpu"), self.dtype)

    @torch.no_grad()
    def _predicted(self, batch: Batch) -> Tensor:
        try:
            return self._outputs(self.own, batch)
        except (IndexError, RuntimeError, ValueError, TypeError, NoLossFits) as error:
            remedy = "check that the data is the kind the model takes (shapes, vocabulary)"
            what = "the model cannot be evaluated on the calibration data"
            raise DataError(what, cause=one_line(error), remedy=remedy) from error

    def _outputs(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return logits_of(Point(self.network, tensors, self.dtype).outputs(batch))


def _apart(found: Tensor, before: Tensor, batch: Batch) -> Tensor:
    labels = batch.get("labels")
    if SOFT in batch or (labels is not None and not labels.is_floating_point()):
        pair = found.log_softmax(-1), before.log_softmax(-1)
        return functional.kl_div(*pair, reduction="none", log_target=True).sum(-1).mean()
    return (found - before).square().sum() / before.square().sum().clamp_min(1e-30)
