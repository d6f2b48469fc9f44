"""How far a run of a model is: which of its modules have been called."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from symgraph.tracing.progress import tell


@contextmanager
def following(log: logging.Logger, model: nn.Module, what: str) -> Iterator[None]:
    """While it lasts, each module of a model is told of once it has been called, and how many there are.

    Lists of modules are never called, and count for nothing; nor does what a model holds without calling it, so that a
    run may end before all are told of.

    >>> net, log = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), logging.getLogger("symgraph")
    >>> with following(log, net, "running"):
    ...     net(torch.ones(1, 2)).shape
    torch.Size([1, 2])
    """
    left = {id(m) for m in model.modules() if not isinstance(m, nn.ModuleList | nn.ModuleDict)}
    total = len(left)

    def called(module: nn.Module, *_: Any) -> None:
        if id(module) in left:
            left.discard(id(module))
            done = total - len(left)
            tell(log, None, f"{what}: {done} of {total} modules", done, total)

    handle = register_module_forward_hook(called)
    try:
        yield
    finally:
        handle.remove()
