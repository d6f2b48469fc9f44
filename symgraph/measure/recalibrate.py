"""Stored statistics of norms, computed anew for weights that no training has seen.

The variance of a mean of two networks' activations is smaller than the mean of their variances, and the statistics that
a batch norm interpolates do not know. They are computed on batches of the training split instead: each call of
the operator normalises by its own batch, as in training, and the stored values become the mean over the batches.
Nothing else is in training mode, and it is the operator that is looked for, whichever module calls it.

Source: Jordan et al., REPAIR, arXiv 2211.08403.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from symgraph.errors import DataError, UsageError, one_line
from symgraph.measure.batches import placed
from symgraph.measure.forward import Point
from symgraph.tracing.progress import counted
from symgraph.tracing.wrap import evaluating

_log = logging.getLogger(__name__)

_BATCH_NORM = inspect.signature(functional.batch_norm)
# What `functional.batch_norm` calls, whose arguments have no names that can be asked for.
_TORCH_BATCH_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")


class _OwnStatistics(TorchFunctionMode):
    """Calls of batch norm with given statistics normalise by their batch and take it into the average."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.ours = {id(tensor) for tensor in tensors.values()}
        self.calls: dict[int, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = _arguments(func, args, kwargs or {})
        mean = named.get("running_mean")
        if mean is None or named.get("training") or id(mean) not in self.ours:
            return func(*args, **(kwargs or {}))
        count = self.calls[id(mean)] = self.calls.get(id(mean), 0) + 1
        # The n-th batch enters with weight 1 / n: a mean in which all batches count alike.
        return functional.batch_norm(**named | {"training": True, "momentum": 1.0 / count})


def _arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of batch norm by name, as `functional.batch_norm` takes them; else none."""
    if func is functional.batch_norm:
        return dict(_BATCH_NORM.bind(*args, **kwargs).arguments)
    if func is torch.batch_norm:
        return {
            name: value
            for name, value in (dict(zip(_TORCH_BATCH_NORM, args, strict=False)) | kwargs).items()
            if name in _TORCH_BATCH_NORM
        }
    return {}


def recalibrate_(network: nn.Module, tensors: Mapping[str, Tensor], batches: Iterable[Any]) -> None:
    """Writes statistics of these batches into those among `tensors` that a batch norm of the network reads.

    Args:
        tensors: what the network is called with in the place of its own parameters and buffers; written to.

    Raises:
        UsageError: the network has no stored statistics.
        DataError: there are no batches, they do not fit the model, or one is too small to have a variance.
    """
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    point, mode = Point(network, tensors, dtype), _OwnStatistics(tensors)
    count = 0
    with evaluating(network), torch.no_grad():
        for number, raw in enumerate(batches):
            batch = placed(raw, point.device, point.dtype)
            try:
                with mode:
                    point.outputs(batch)
            except (IndexError, RuntimeError, ValueError, TypeError) as e:
                remedy = "check that the data is the kind the model takes, in batches of several examples"
                raise DataError(
                    f"recalibration, batch {number}: no statistics", cause=one_line(e), remedy=remedy
                ) from e
            _require(mode)
            count += 1
    if not count:
        raise DataError("no batches to recalibrate on", remedy="check the length of the data")


def _require(mode: _OwnStatistics) -> None:
    if not mode.calls:
        raise UsageError(
            "there is nothing to recalibrate",
            cause="no batch norm of this model reads statistics that it stores",
            remedy="leave recalibration out: other norms use no statistics of the training data",
        )


def recalibrated(
    network: nn.Module,
    state: Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """A state of the network with its stored statistics computed on batches of the training split.

    Args:
        state: as `state_dict` gives it, shared tensors under one name or all.
        device, dtype: where and in which precision to compute; halves are computed in float32.

    Raises:
        UsageError: the network has no stored statistics.
        DataError: there are no batches, they do not fit the model, or one is too small to have a variance.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    >>> state = symgraph.recalibrated(net, net.state_dict(), [[torch.randn(16, 6)]])
    >>> torch.equal(state["1.running_mean"], net[1].running_mean)
    False

    Source: Jordan et al., arXiv 2211.08403.
    """
    buffers = {name for name, _ in network.named_buffers()}
    own = {name: tensor for name, tensor in (*network.named_parameters(), *network.named_buffers())} | dict(state)
    tensors = {name: _computed(tensor, device, dtype, copy=name in buffers) for name, tensor in own.items()}
    count = len(batches) if isinstance(batches, Sized) else None
    recalibrate_(network, tensors, counted(_log, batches, count, "statistics of batch"))
    return {
        name: tensors[name].to(tensor.device, tensor.dtype) if name in buffers else tensor
        for name, tensor in state.items()
    }


def _computed(tensor: Tensor, device: str | torch.device, dtype: torch.dtype | None, copy: bool) -> Tensor:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    wanted = (dtype or (torch.float32 if half else tensor.dtype)) if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device, wanted, copy=copy)
