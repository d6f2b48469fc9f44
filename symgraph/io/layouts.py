"""Files of weights as people write them: read by the names of a module, and written again as they were laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from symgraph.errors import CheckpointError, one_line, shorten
from symgraph.io.files import atomic_path
from symgraph.io.shards import write_tensors
from symgraph.tracing.deferred import made

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# What wrappers put in front of names, and under which keys training scripts keep a state.
PREFIXES = ("module.", "_orig_mod.", "model.")
KEYS = ("state_dict", "model_state_dict", "model_state", "model", "weights", "net", "module")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file holds a state: in the place of which names, under which keys, beside what else.

    `names` has the file's name for each of the module's; `beside` are the entries of the file that are no part of the
    state, and `extra` tensors in it that the module does not have. `header` is that of a safetensors file.
    """

    suffix: str
    names: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    header: Mapping[str, str] | None = None


def is_weights(path: str | Path) -> bool:
    """Whether a path is called as files of weights are."""
    return Path(path).suffix in SUFFIXES


def read_weights(path: Path, module: nn.Module) -> tuple[dict[str, Tensor], Layout]:
    """The state of a module from a file, and how the file holds it.

    Tensors are all that is unpickled. Prefixes of wrappers (`module.`, `_orig_mod.`) are understood, and states under a
    key of a training script's checkpoint.

    Raises:
        CheckpointError: the file cannot be read, holds no state, or lacks tensors of the module.
    """
    raw, header = _raw(path)
    keys: tuple[str, ...] = ()
    state: Mapping[str, Any] = raw
    while not any(isinstance(value, Tensor) for value in state.values()):
        key = next((key for key in KEYS if isinstance(state.get(key), Mapping)), None)
        if key is None:
            cause = f"it holds {shorten(map(repr, state)) or 'nothing'}"
            raise CheckpointError(f"{path} holds no state", cause=cause, remedy="save model.state_dict() by itself")
        keys, state = (*keys, key), state[key]
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    names = _matched(tensors, module, path)
    beside = (
        {"": {key: value for key, value in state.items() if not isinstance(value, Tensor)}} if not keys else dict(raw)
    )
    own = {name: tensors[file] for name, file in names.items()}
    extra = {name: tensor for name, tensor in tensors.items() if name not in names.values()}
    return own, Layout(path.suffix, names, keys, beside, extra, header)


def write_weights(path: Path, state: Mapping[str, Tensor], layout: Layout | None, *, overwrite: bool = False) -> Path:
    """Writes a state into one file, laid out as another one.

    Args:
        layout: of what file; by default the names of the state at the top. Its tensors that no model has are kept.
    """
    chosen = layout or Layout(path.suffix)
    names = {name: name for name in state} | {name: file for name, file in chosen.names.items() if name in state}
    tensors = {names[name]: tensor.detach() for name, tensor in state.items()} | dict(chosen.extra)
    with atomic_path(path, overwrite=overwrite) as temporary:
        if path.suffix == ".safetensors":
            write_tensors(temporary, tensors, chosen.header)
        else:
            torch.save(
                _nested({name: made(tensor).cpu().contiguous() for name, tensor in tensors.items()}, chosen), temporary
            )
    return path


def _nested(tensors: dict[str, Tensor], layout: Layout) -> dict[str, Any]:
    if not layout.keys:
        return {**tensors, **layout.beside.get("", {})}
    return _replaced(layout.beside, layout.keys, tensors)


def _replaced(holder: Mapping[str, Any], keys: tuple[str, ...], tensors: dict[str, Tensor]) -> dict[str, Any]:
    first, *rest = keys
    inner = holder[first]
    replaced: Any = (
        _replaced(inner, tuple(rest), tensors)
        if rest
        else {**tensors, **{key: value for key, value in inner.items() if not isinstance(value, Tensor)}}
    )
    return {**holder, first: replaced}


def _raw(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str] | None]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) for name in names}, file.metadata() or None
        # What is mapped takes memory when it is used; files of old forms cannot be.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path} cannot be read", cause=one_line(e), remedy="fetch the file again") from e
    except UnpicklingError as e:
        remedy = "save model.state_dict() with torch.save: nothing but plain data and tensors is unpickled"
        raise CheckpointError(
            f"{path} cannot be read", cause="it holds objects, whose code would run", remedy=remedy
        ) from e
    except Exception as e:
        remedy = "save model.state_dict() with torch.save: nothing but plain data and tensors is unpickled"
        raise CheckpointError(f"{path} cannot be read", cause=one_line(e), remedy=remedy) from e
    if not isinstance(held, Mapping):
        cause = f"it holds a {type(held).__name__}"
        raise CheckpointError(f"{path} holds no state", cause=cause, remedy="save model.state_dict() with torch.save")
    return held, None


def _matched(tensors: Mapping[str, Tensor], module: nn.Module, path: Path) -> dict[str, str]:
    """The file's name for each tensor of the module."""
    wanted = module.state_dict(keep_vars=True)
    best = max(_readings(tensors), key=lambda names: len(wanted.keys() & names.keys()))
    first: dict[int, str] = {}
    for name, tensor in wanted.items():
        if name in best:
            first.setdefault(id(tensor), name)
    missing = [name for name, tensor in wanted.items() if name not in best and id(tensor) not in first]
    shapes = [
        f"{name} {tuple(tensors[best[name]].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in best and tensors[best[name]].shape != tensor.shape
    ]
    problems = [f"missing {shorten(missing)}"] if missing else []
    problems += [f"wrong shapes: {shorten(shapes)}"] if shapes else []
    if problems:
        cause = f"{'; '.join(problems)}; it holds {shorten(tensors)}"
        remedy = "give the factory the arguments that the weights were trained with, or name another file"
        raise CheckpointError(f"{path}: the weights do not fit {type(module).__name__}", cause=cause, remedy=remedy)
    return {name: best[name] for name in wanted if name in best}


def _readings(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names without the prefixes of wrappers, one prefix after the other."""
    names = {name: name for name in tensors}
    yield dict(names)
    while prefix := next((known for known in PREFIXES if any(name.startswith(known) for name in names)), None):
        names = {name.removeprefix(prefix): file for name, file in names.items()}
        yield dict(names)
    # Compiled parts of a model keep the prefix inside of names.
    yield {name.replace("_orig_mod.", ""): file for name, file in names.items()}
