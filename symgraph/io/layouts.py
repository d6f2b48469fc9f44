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
    while not any(isinstance(v, Tensor) for v in state.values()):
        key = next((k for k in KEYS if isinstance(state.get(k), Mapping)), None)
        if key is None:
            cause = f"it holds {shorten(map(repr, state)) or 'nothing'}"
            raise CheckpointError(f"{path} holds no state", cause=cause, remedy="save model.state_dict() by itself")
        keys, state = (*keys, key), state[key]
    tensors = {str(n): t for n, t in state.items() if isinstance(t, Tensor)}
    names = _matched(tensors, module, path)
    beside = {"": {k: v for k, v in state.items() if not isinstance(v, Tensor)}} if not keys else dict(raw)
    own = {n: tensors[file] for n, file in names.items()}
    extra = {n: t for n, t in tensors.items() if n not in names.values()}
    return own, Layout(path.suffix, names, keys, beside, extra, header)


def write_weights(path: Path, state: Mapping[str, Tensor], layout: Layout | None, *, overwrite: bool = False) -> Path:
    """Writes a state into one file, laid out as another one.

    Args:
        layout: of what file; by default the names of the state at the top. Its tensors that no model has are kept.
    """
    chosen = layout or Layout(path.suffix)
    names = {n: n for n in state} | {n: file for n, file in chosen.names.items() if n in state}
    tensors = {names[n]: t.detach() for n, t in state.items()} | dict(chosen.extra)
    with atomic_path(path, overwrite=overwrite) as temporary:
        if path.suffix == ".safetensors":
            write_tensors(temporary, tensors, chosen.header)
        else:
            torch.save(_nested({n: made(t).cpu().contiguous() for n, t in tensors.items()}, chosen), temporary)
    return path


def _nested(tensors: dict[str, Tensor], layout: Layout) -> dict[str, Any]:
    if not layout.keys:
        return {**tensors, **layout.beside.get("", {})}
    return _replaced(layout.beside, layout.keys, tensors)


def _replaced(holder: Mapping[str, Any], keys: tuple[str, ...], tensors: dict[str, Tensor]) -> dict[str, Any]:
    first, *rest = keys
    inner = holder[first]
    found: Any = (
        _replaced(inner, tuple(rest), tensors)
        if rest
        else {**tensors, **{k: v for k, v in inner.items() if not isinstance(v, Tensor)}}
    )
    return {**holder, first: found}


def _raw(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str] | None]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                return {n: file.get_tensor(n) for n in names}, file.metadata() or None
        # What is mapped takes memory when it is used; files of old forms cannot be.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
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
    if not isinstance(found, Mapping):
        cause = f"it holds a {type(found).__name__}"
        raise CheckpointError(f"{path} holds no state", cause=cause, remedy="save model.state_dict() with torch.save")
    return found, None


def _matched(tensors: Mapping[str, Tensor], module: nn.Module, path: Path) -> dict[str, str]:
    """The file's name for each tensor of the module."""
    wanted = module.state_dict(keep_vars=True)
    best = max(_readings(tensors), key=lambda names: len(wanted.keys() & names.keys()))
    first: dict[int, str] = {}
    for name, tensor in wanted.items():
        if name in best:
            first.setdefault(id(tensor), name)
    missing = [n for n, t in wanted.items() if n not in best and id(t) not in first]
    shapes = [
        f"{n} {tuple(tensors[best[n]].shape)} instead of {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in best and tensors[best[n]].shape != t.shape
    ]
    problems = [f"missing {shorten(missing)}"] if missing else []
    problems += [f"wrong shapes: {shorten(shapes)}"] if shapes else []
    if problems:
        cause = f"{'; '.join(problems)}; it holds {shorten(tensors)}"
        remedy = "give the factory the arguments that the weights were trained with, or name another file"
        raise CheckpointError(f"{path}: the weights do not fit {type(module).__name__}", cause=cause, remedy=remedy)
    return {n: best[n] for n in wanted if n in best}


def _readings(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names without the prefixes of wrappers, one prefix after the other."""
    names = {n: n for n in tensors}
    yield dict(names)
    while prefix := next((p for p in PREFIXES if any(n.startswith(p) for n in names)), None):
        names = {n.removeprefix(prefix): file for n, file in names.items()}
        yield dict(names)
    # Compiled parts of a model keep the prefix inside of names.
    yield {n.replace("_orig_mod.", ""): file for n, file in names.items()}
