"""Which parameters the code of a model reads while it is traced, be it for an output or for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class _Touched(TorchFunctionMode):
    """Notes the operands of every call that are parameters, under their names."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._named: dict[int, str] = {}

    def start(self, model: nn.Module, *_: Any) -> None:
        """The model is called: its parameters are what a trace has put in their place."""
        self._named = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Attributes, and questions that are answered with a number, read nothing.
        if getattr(func, "__name__", "") != "__get__" and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            leaves = tree_leaves((args, kwargs or {}))
            self.names |= {self._named[id(leaf)] for leaf in leaves if id(leaf) in self._named}
        return result


@contextmanager
def touched(model: nn.Module) -> Iterator[set[str]]:
    """The names of the parameters that calls inside of the block read."""
    mode = _Touched()
    # Compiled modules take no hooks, and no trace either.
    hook = None if isinstance(model, ScriptModule) else model.register_forward_pre_hook(mode.start)
    try:
        with mode:
            yield mode.names
    finally:
        if hook is not None:
            hook.remove()
