"""What `torch.export` writes down beside the operators, cut to what a graph of ours reads.

Whole stacks of every call, and the splits of a program at every change of the gradient mode, take up to a third of the
time of a trace. Of a stack a graph keeps one line, and a trace runs without gradients, where a change to that mode does
nothing. A torch that has other names for these two takes its time, and gives the same graph.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from traceback import FrameSummary, StackSummary
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch.fx import proxy
from torch.fx.experimental import proxy_tensor

from symgraph.tracing.places import is_user_file

_RECORDED = "_side_effectful_need_to_be_preserved_pre_dispatch"


class _UserLine:
    """In the place of `CapturedTraceback`: a stack of the innermost `forward` of the user alone."""

    def __init__(self, frame: FrameType | None) -> None:
        self.frames = [] if frame is None else [_line_of(frame)]

    @classmethod
    def extract(cls, **_: Any) -> _UserLine:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not _is_forward_of_user(frame):
            frame = frame.f_back
        return cls(frame)

    def summary(self) -> StackSummary:
        return StackSummary.from_list(self.frames)


def _is_forward_of_user(frame: FrameType) -> bool:
    return frame.f_code.co_name == "forward" and is_user_file(frame.f_code.co_filename)


def _line_of(frame: FrameType) -> FrameSummary:
    # With a text, even an empty one, no file is opened for it.
    return FrameSummary(frame.f_code.co_filename, frame.f_lineno, "forward", line="")


@contextmanager
def few_notes() -> Iterator[None]:
    """`torch.export` inside of the block, without gradients, notes one line of a call and no gradient mode.

    Example:
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         with torch.no_grad():
        ...             return x + 1
        >>> with few_notes(), torch.no_grad():
        ...     program = torch.export.export(Net(), (torch.zeros(2),), strict=False)
        >>> [node.name for node in program.graph.nodes]
        ['x', 'add', 'output']
    """
    with ExitStack() as stack:
        if hasattr(proxy, "CapturedTraceback"):
            stack.enter_context(patch.object(proxy, "CapturedTraceback", _UserLine))
        if hasattr(proxy_tensor, _RECORDED):
            kept = [call for call in getattr(proxy_tensor, _RECORDED) if call is not torch._C._set_grad_enabled]
            stack.enter_context(patch.object(proxy_tensor, _RECORDED, kept))
        yield
