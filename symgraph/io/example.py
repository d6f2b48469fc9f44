"""Example inputs in any form that people have them, as a module is called with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from symgraph.errors import DataError, UsageError, shorten

# Under which names a batch holds what its inputs are compared with.
LABEL_KEYS = ("labels", "label", "targets")
Call = tuple[Any, ...] | dict[str, Any]
"""Inputs in order, or by name."""
Size = Sequence[int] | Mapping[str, Sequence[int]]


def example_of(module: nn.Module, example: Any = None, input_size: Size | None = None) -> Call | None:
    """Inputs as the forward of a module takes them; None where nobody gave any.

    Labels, and what the forward does not take, are left out. Floats have the dtype of the parameters, if these have
    one: inputs may be given for several models that are stored in different dtypes.

    Args:
        example: a tensor, a tuple, a dictionary by name, a batch (inputs and labels), or the loader that it comes from;
            by default the attribute `example_inputs` of the module.
        input_size: the shape of the input, or shapes by name, in the place of inputs: (1, 3, 32, 32).

    Raises:
        UsageError: both are given, a shape is none or stands in the place of inputs, or a dictionary lacks what the
            forward needs.
        DataError: the loader is empty.
    """
    if input_size is not None:
        if example is not None:
            raise UsageError("inputs and their shape are given", remedy="leave out one of the two")
        return _of_size(module, input_size)
    call = _call(module, example)
    dtypes = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if call is None or len(dtypes) != 1:
        return call
    (dtype,) = dtypes
    found: Call = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, call)
    return found


def _call(module: nn.Module, example: Any) -> Call | None:
    given = getattr(module, "example_inputs", None) if example is None else example
    if isinstance(given, DataLoader):
        given = _first(given)
    if given is None:
        return None
    if isinstance(given, Mapping):
        return _by_name(module, given)
    if not isinstance(given, list | tuple):
        return (given,)
    if given and all(isinstance(number, int) for number in given):
        raise UsageError(f"the numbers {tuple(given)} are no inputs", remedy=f"as a shape: input_size={tuple(given)}")
    return _in_order(module, given)


def _first(loader: DataLoader[Any]) -> Any:
    for batch in loader:
        return batch
    raise DataError("the loader of example inputs is empty", remedy="check the length of its data set")


def _of_size(module: nn.Module, size: Size) -> Call:
    if isinstance(size, Mapping):
        return {name: _drawn(module, each) for name, each in size.items()}
    return (_drawn(module, size),)


def _drawn(module: nn.Module, size: Sequence[int]) -> Tensor:
    """Random numbers of a shape, where and as the module computes; on the meta device no numbers at all."""
    if (
        not isinstance(size, list | tuple)
        or not size
        or not all(isinstance(length, int) and length > 0 for length in size)
    ):
        remedy = "give positive whole numbers, one for each axis, the batch first: (1, 3, 32, 32)"
        raise UsageError(f"{size!r} is no shape of an input", remedy=remedy)
    like = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*size, generator=generator).to(like.device, like.dtype)


def _by_name(module: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(module.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    taken = [name for name in given if name in parameters or anything]
    if lacking := sorted(needed - set(taken)):
        near = get_close_matches(lacking[0], list(given), n=1)
        raise UsageError(
            f"the example inputs lack {shorten(map(repr, lacking))}, which {type(module).__name__} takes",
            cause=f"they have {shorten(map(repr, given)) or 'nothing'}",
            remedy=f"call {near[0]!r} {lacking[0]!r}" if near else "call them as the arguments of its forward",
        )
    return {name: given[name] for name in taken if name in needed or name not in LABEL_KEYS}


def _in_order(module: nn.Module, given: Sequence[Any]) -> Call:
    """All of them, or all but the labels: a list is a batch of a loader, a tuple one where it is too long otherwise."""
    forms = [given, given[:-1]] if isinstance(given, tuple) else [given[:-1], given]
    chosen = next((form for form in forms if form and _fits(module, form)), given)
    if len(chosen) == 1 and isinstance(chosen[0], Mapping):
        return _by_name(module, chosen[0])
    return tuple(chosen)


def _fits(module: nn.Module, given: Sequence[Any]) -> bool:
    try:
        inspect.signature(module.forward).bind(*given)
    except TypeError:
        return False
    except ValueError:  # compiled code has no signature
        return True
    return True
