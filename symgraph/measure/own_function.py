"""Losses and metrics as people have them: functions of outputs and labels, or of outputs and their own batch."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from symgraph.errors import SymgraphError, UsageError, one_line, shorten
from symgraph.io.example import LABEL_KEYS

# What the second argument is called where it is no batch, and where it is one.
_LABELS = {*LABEL_KEYS, "target", "y", "y_true", "true", "truth", "gold", "expected"}
_BATCH = {"batch", "inputs", "data", "sample", "samples", "examples"}
# Whose losses take tensors, never what a model of transformers returns.
_OF_TENSORS = ("torch", "torchmetrics")


class OwnFunction:
    """A user's loss or metric, called with what its second argument is for.

    Its name tells: `labels`, `target` or `y`; or `batch`, which is then what the user's loader gave. Any other one is
    tried, first with the batch, then with the labels. A function of the outputs alone is called with these.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        name = getattr(function, "__name__", type(function).__name__)
        self.name = name if name.isidentifier() else "loss"
        self.takes = _takes(function)
        self.tensors = str(getattr(function, "__module__", "")).split(".")[0] in _OF_TENSORS

    def __call__(self, outputs: Any, batch: Mapping[str, Tensor]) -> Any:
        """The value, or a value for each example.

        Raises:
            UsageError: the function fails; its line and what it raised are named.
        """
        failures: list[str] = []
        predicted = _logits(outputs) if self.tensors else outputs
        for what, arguments in self._forms(batch):
            try:
                score = self.function(predicted, *arguments)
            except SymgraphError:
                raise
            # Whatever a user's code raises.
            except Exception as error:
                failures.append(f"with {what}: {one_line(error)}{_place(error, self.function)}")
                continue
            self.takes = (what,)
            return score
        given = f"the batch has {shorten(batch)}"
        remedy = "write it as a function of (outputs, labels) or of (outputs, batch), with these names"
        raise UsageError(f"the function {self.name} fails, and {given}", cause="; ".join(failures), remedy=remedy)

    def _forms(self, batch: Mapping[str, Tensor]) -> list[tuple[str, tuple[Any, ...]]]:
        own = getattr(batch, "given", batch)
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        every: dict[str, tuple[Any, ...]] = {"the outputs": (), "the batch": (own,)}
        if not isinstance(own, Mapping):
            every["the batch by name"] = (batch,)
        if labels is not None:
            every["the labels"] = (labels,)
        return [(what, every[what]) for what in self.takes if what in every]


def _takes(function: Callable[..., Any]) -> tuple[str, ...]:
    """What a function may be called with beside the outputs."""
    called = getattr(function, "forward", function)
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return ("the batch", "the batch by name", "the labels")
    ordered = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(ordered) == 1 and not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return ("the outputs",)
    second = ordered[1].name if len(ordered) > 1 else ""
    if second in _LABELS:
        return ("the labels",)
    if second in _BATCH:
        return ("the batch", "the batch by name")
    return ("the batch", "the batch by name", "the labels")


def _place(error: Exception, function: Callable[..., Any]) -> str:
    """The line of the user's file that raised, and what stands there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = inspect.unwrap(function)
    file = getattr(getattr(own, "__code__", None), "co_filename", None)
    there: Sequence[traceback.FrameSummary] = [frame for frame in frames if frame.filename == file] if file else []
    if not there:
        return ""
    last = there[-1]
    place = f"{last.filename}:{last.lineno}"
    return f" ({place}: `{last.line}`)" if last.line else f" ({place})"


def _logits(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return outputs if logits is None else logits
