"""All that the trace of a model depends on, as one hash: what is kept on disk is found by it.

The config, every module with its class and its plain attributes, names, shapes and kinds of all tensors, numbers of
buffers that no checkpoint stores; the sources of the classes and of all of transformers that they reach, the code of
other classes (`reached_code`), the sources of the tracer, and the versions of what is not read. Where something is not
of these kinds (a hook, a function put in the place of another, code that reads a file) there is no hash, and nothing is
kept.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import symgraph.ir
from symgraph.tracing.meta import numbers
from symgraph.tracing.reached_code import Reached, Unknown

_LIBRARY = "transformers"
_KNOWN = frozenset({_LIBRARY, "torch", *sys.stdlib_module_names})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# What every module has, and where a model came from.
_SHARED = frozenset(vars(nn.Module())) | {"_is_hf_initialized", "name_or_path"}
_ATTENTION = (None, "eager", "sdpa")


def fingerprint(
    model: nn.Module, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> str | None:
    """A hash of all that decides about the trace of a model on example inputs; None where that is not known.

    Without inputs they follow from the model.
    """
    try:
        classes = tuple(
            dict.fromkeys(base for module in model.modules() for base in type(module).__mro__ if _is_ours(base))
        )
        given = tree_map_only(
            torch.Tensor, lambda tensor: outline(tensor, held=tensor.is_meta), (args, dict(kwargs or {}))
        )
        code = (*sources(("tracing",)), *_sources(classes))
        parts = (name, _text(given), *versions(), *code, *_modules(model), *_tensors(model))
    except Unknown:
        return None
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def versions() -> Iterator[str]:
    """What runs, where its code is not read."""
    yield from (sys.version, torch.__version__, _library_version(), str(torch.get_default_dtype()))


@cache
def _library_version() -> str:
    """The version that is installed, whether it has been imported or not."""
    with suppress(PackageNotFoundError):
        return version(_LIBRARY)
    return ""


@cache
def sources(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Hashes of our own code, in these folders and of the graph."""
    package = Path(symgraph.ir.__file__).parent
    paths = [path for folder in folders for path in sorted((package / folder).glob("*.py"))]
    return tuple(_source(str(path)) for path in (*paths, package / "ir.py"))


# -- the model -------------------------------------------------------------------------------------------------------


def _modules(model: nn.Module) -> Iterator[str]:
    reached = Reached(partial(_text, code=_refused))
    for path, module in model.named_modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise Unknown
        own = not _is_of_library(type(module))
        if own:
            yield from reached.of_class(type(module))
        code = (lambda value: "".join(reached.of(value))) if own else _own
        held = {name: _text(value, code) for name, value in vars(module).items() if name not in _SHARED}
        yield f"{path} {type(module).__module__}.{type(module).__qualname__} {sorted(held.items())}"


def _refused(value: Any) -> str:
    raise Unknown


def _text(value: Any, code: Callable[[Any], str] = _refused) -> str:
    """What an attribute of a module is; `code` gives the text of a function or class."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | torch.Size):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, list | tuple | set | frozenset):
        texts = [_text(item, code) for item in value]
        return f"{type(value).__name__} {texts if isinstance(value, list | tuple) else sorted(texts)}"
    if isinstance(value, Mapping):
        return f"mapping {[(_text(key), _text(item, code)) for key, item in value.items()]}"
    if isinstance(value, torch.Tensor):
        return f"tensor {outline(value, held=True)}"
    if callable(getattr(value, "to_dict", None)) and _is_ours(type(value)):
        return _config(value)
    if isinstance(value, type | FunctionType) or type(value).__name__ == "builtin_function_or_method":
        return code(value)
    raise Unknown


def _config(config: Any) -> str:
    """A config with what its text leaves out."""
    hidden = {
        name: setting
        for name, setting in vars(config).items()
        if name.startswith("_attn") or name.startswith("_experts")
    }
    if hidden.get("_attn_implementation_internal", hidden.get("_attn_implementation")) not in _ATTENTION:
        raise Unknown
    inner = [_config(setting) for setting in vars(config).values() if callable(getattr(setting, "to_dict", None))]
    said = {name: setting for name, setting in config.to_dict().items() if name != "_name_or_path"}
    return f"{_own(type(config))} {sorted(said.items())!r} {sorted(hidden.items())!r} {inner}"


def _tensors(model: nn.Module) -> Iterator[str]:
    first: dict[int, str] = {}
    stored = model.state_dict().keys()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield f"{name} {first.setdefault(id(parameter), name)} {outline(parameter)}"
    for name, tensor in model.named_buffers(remove_duplicate=False):
        said = outline(tensor, held=name not in stored)
        yield f"{name} {first.setdefault(id(tensor), name)} {name in stored} {said}"


def outline(tensor: torch.Tensor, *, held: bool = False) -> str:
    """Shape and kind of a tensor, and a hash of the numbers that it holds, as far as they are known."""
    said = f"{tuple(tensor.shape)} {tensor.stride()} {tensor.dtype} {tensor.is_meta} {type(tensor).__name__}"
    if not held:
        return said
    known = numbers(tensor)
    if known is None:
        return f"{said} unknown"
    flat = known.detach().cpu().contiguous().reshape(-1)
    digits = flat.view(torch.uint8).numpy().tobytes() if known.numel() else b""
    return f"{said} {hashlib.sha256(digits).hexdigest()}"


# -- the code --------------------------------------------------------------------------------------------------------


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == _LIBRARY


def _is_of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in (_LIBRARY, "torch")


def _own(value: Any) -> str:
    """A function or class that has not been put in the place of another one by somebody else."""
    module = str(getattr(value, "__module__", None) or "builtins")
    code = getattr(value, "__code__", None)
    if module.partition(".")[0] not in _KNOWN or (code is not None and code.co_filename.startswith("<")):
        raise Unknown
    return f"{module}.{getattr(value, '__qualname__', '')}"


def _sources(classes: Iterable[type]) -> Iterator[str]:
    """The sources of classes and of what they reach, and what stands in them under which name."""
    modules = dict.fromkeys(cls.__module__ for cls in classes)
    for cls in classes:
        yield from (
            f"{cls.__qualname__}.{name} {_own(function)}"
            for name, function in vars(cls).items()
            if isinstance(function, FunctionType)
        )
    for name in modules:
        if name.startswith(f"{_LIBRARY}.models."):
            yield from _globals(sys.modules[name])
    yield from (_source(str(sys.modules[name].__file__)) for name in sorted(_reached(modules)))


def _globals(module: ModuleType) -> Iterator[str]:
    for key, value in vars(module).items():
        if isinstance(value, FunctionType):
            yield f"{module.__name__}.{key} {_own(value)}"
        elif isinstance(value, Mapping) and not key.startswith("__"):
            yield from (
                f"{key}.{name} {_own(function)}"
                for name, function in value.items()
                if isinstance(function, FunctionType)
            )


def _reached(names: Iterable[str]) -> set[str]:
    """Modules of the library that these use, and those that these use, and so on."""
    modules: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in modules or not getattr(sys.modules.get(name), "__file__", None):
            continue
        modules.add(name)
        for value in list(vars(sys.modules[name]).values()):
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(used, str) and used.startswith(f"{_LIBRARY}."):
                left.append(used)
    return modules


@cache
def _source(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
