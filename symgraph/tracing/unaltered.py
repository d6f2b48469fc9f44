"""What modules remember of a call, forgotten: attributes, buffers, and entries of lists, sets and dictionaries."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# Other classes of container may not allow what these do (an output of transformers cannot be cleared).
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


@contextmanager
def unaltered(model: nn.Module) -> Iterator[None]:
    """Inside the block a model may be called in any way; afterwards it holds what it held before."""
    seen: dict[int, Any] = {}
    before = [
        (container, container.copy()) for module in model.modules() for container in _containers(vars(module), seen)
    ]
    try:
        yield
    finally:
        for container, held in before:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(held)


def _containers(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """A container and all that stand in it, each once."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if type(container) in _CONTAINERS and id(container) not in seen:
            seen[id(container)] = container
            yield container
            waiting += container.values() if isinstance(container, dict) else container
