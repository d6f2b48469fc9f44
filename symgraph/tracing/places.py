"""Where in the user's model something happened, and errors that begin there."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from symgraph.errors import TraceError

_HIDDEN = tuple(f"{Path(p).resolve()}/" for p in (Path(torch.__file__).parent, Path(__file__).parent))
_PACKAGES = f"{Path(torch.__file__).resolve().parent.parent}/"
_STANDARD = f"{Path(sysconfig.get_paths()['stdlib']).resolve()}/"


@cache
def is_user_file(path: str) -> bool:
    """Whether a file is the user's or a library's of models: not torch, not the tracer, not Python's own."""
    full = str(Path(path).resolve())
    if path.startswith("<") or full.startswith(_HIDDEN):
        return False
    # Installed packages may lie inside the folder of the standard library.
    return full.startswith(_PACKAGES) or not full.startswith(_STANDARD)


def trace_error(error: BaseException, model: nn.Module) -> TraceError:
    """What stopped a trace, as an error that leads with the module and the user's own line."""
    place = next(
        (place for exception in _chain(error) for place in [_user_frame(exception)] if place is not None), None
    )
    where = f"{type(model).__name__} cannot be traced"
    if place is not None:
        frame, line = place
        path, owner = Path(frame.f_code.co_filename), _module_path(frame, model)
        where = f"{owner} ({frame.f_code.co_name}, {path.name}:{line}) cannot be traced"
    cause, remedy = _explain(error, model)
    return TraceError(where, cause=cause, remedy=remedy)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _user_frame(error: BaseException) -> tuple[FrameType, int] | None:
    user_frame, step = None, error.__traceback__
    while step is not None:
        if is_user_file(step.tb_frame.f_code.co_filename) and _inside_forward(step.tb_frame, user_frame):
            user_frame = (step.tb_frame, step.tb_lineno)
        step = step.tb_next
    return user_frame


def _inside_forward(frame: FrameType, user_frame: Any) -> bool:
    """Frames count from the first method of a module on: what called the trace is the user's too, but not the model."""
    return user_frame is not None or isinstance(_receiver(frame), nn.Module)


def _receiver(frame: FrameType) -> Any:
    """The first argument of the function that a frame runs, whatever the user calls it."""
    names = frame.f_code.co_varnames[:1]
    return frame.f_locals.get(names[0]) if names else None


def _module_path(frame: FrameType | None, model: nn.Module) -> str:
    names = {id(module): path for path, module in model.named_modules()}
    while frame is not None:
        name = names.get(id(_receiver(frame)))
        if name is not None:
            return name or type(model).__name__
        frame = frame.f_back
    return type(model).__name__


def _explain(error: BaseException, model: nn.Module) -> tuple[str, str]:
    kinds = {type(exception).__name__ for exception in _chain(error)}
    if "GuardOnDataDependentSymNode" in kinds or "data-dependent" in str(error):
        return (
            "what runs next depends on the values of a tensor, so there is no single graph",
            "replace the branch by torch.where or a mask, or trace the part of the model without it",
        )
    if any(isinstance(module, ScriptModule) for module in model.modules()):
        return (
            "it is TorchScript, or a part of it is, of which only the compiled code is left",
            "trace the module that it was scripted from; its state dict can be loaded into that",
        )
    if "FakeTensorDeviceMismatchError" in kinds or "same device" in str(error):
        return (
            f"tensors on several devices: {_first_line(error)}",
            "put the model and all inputs on one device (`model.cpu()`); buffers and constants as well",
        )
    if "torch.classes" in str(error) or "quantized" in str(error):
        return (
            f"weights packed for a kernel: {_first_line(error)}",
            "trace the model as it was before it was quantised, or after it is dequantised",
        )
    if (
        "must have the same dtype" in str(error)
        or "not implemented for" in str(error)
        or "expected scalar" in str(error)
    ):
        return (
            f"dtypes that do not go together: {_first_line(error)}",
            "give inputs in the dtype of the model, or trace it in float32 (`model.float()`)",
        )
    return (
        f"{type(error).__name__}: {_first_line(error)}".removesuffix(": "),
        "check that the model runs on these inputs; give others as example inputs",
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
