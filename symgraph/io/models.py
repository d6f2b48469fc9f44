"""Naming and loading models.

A model is named by a checkpoint folder, a hub id, a `config.json` (architecture only, no weights allocated), or
`package.module:factory`. Nothing that a checkpoint brings is executed unless remote code is trusted explicitly;
weights are read as safetensors, or as PyTorch files with `weights_only=True`.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from symgraph.errors import CheckpointError, one_line, shorten
from symgraph.io.example import example_of
from symgraph.io.factories import call_factory, is_factory
from symgraph.io.files import existing
from symgraph.io.layouts import SUFFIXES, Layout, is_weights, read_weights
from symgraph.io.model_class import Named, Trust
from symgraph.io.programs import SUFFIX, callable_module, load_program, module_of, own_example
from symgraph.io.shards import deferred_state, stored_tensors
from symgraph.io.shown import Shown
from symgraph.io.state import usual_dtype
from symgraph.io.usable import check_integers, check_values, computable
from symgraph.tracing.meta import weightless

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_ARCHITECTURE_ONLY = {"config.json", "README.md", ".gitattributes"}

Kind = Literal["checkpoint", "hub", "config", "factory", "program"]


@dataclass(frozen=True, slots=True, repr=False)
class Model(Shown):
    """A network together with where it came from.

    `module` is in evaluation mode, and on the meta device where only the architecture was asked for. `example` holds
    inputs that came with it; for transformers models it is None, since inputs follow from the config. `program` is the
    exported program that it was given as, `layout` how the file of its weights holds them.
    """

    module: nn.Module
    config: Any
    example: tuple[Any, ...] | dict[str, Any] | None
    spec: str
    kind: Kind
    files: tuple[Path, ...] = ()
    program: ExportedProgram | None = None
    layout: Layout | None = None

    def __str__(self) -> str:
        total = sum(parameter.numel() for parameter in self.module.parameters())
        held = "" if self.has_weights else ", without weights"
        return f"{self.spec}: {type(self.module).__name__}, {total:,} parameters{held}"

    @property
    def has_weights(self) -> bool:
        """Whether the parameters hold values."""
        return not any(parameter.is_meta for parameter in self.module.parameters())


def load(
    spec: str | Path,
    *,
    weights: bool = True,
    trust_remote_code: bool = False,
    model_class: str | type[Any] | None = None,
    dtype: torch.dtype | None = None,
    deferred: bool = False,
) -> Model:
    """Load the model that `spec` names, or only its architecture if `weights` is false.

    With `deferred` the weights of safetensors files stay where they are, and each tensor is read anew whenever an
    operator asks for it: for what goes through a model a few times, in the memory of its largest tensors.

    `package.module:factory`, or `path/file.py:factory(depth=4)`, imports the module and calls the factory: this is the
    one place where a user's code runs. The factory returns an `nn.Module` with an attribute `example_inputs`, or a pair
    of a module and its inputs. `FACTORY@FILE` reads its weights from a file.

    `model_class` is that of a checkpoint whose config names one that transformers does not know, or its name,
    `package.module:Class` or `path/file.py:Class`. Tensors that it does not have are kept then, as `layout.extra`.

    Raises:
        CheckpointError: nothing is there, it is not a checkpoint, its class is unknown or needs remote code that is
            not trusted, or its weights are missing, unexpected, of other shapes, quantised, or not finite.
    """
    spec, trust = str(spec), Trust(trust_remote_code, model_class)
    path = existing(spec)
    if path is not None:
        return _load_path(path, spec, weights, trust, dtype, deferred)
    named, at, file = spec.rpartition("@")
    if at and is_factory(named):
        return _of_file(_load_factory(named, True, dtype), file, spec, dtype)
    if is_factory(spec):
        return _load_factory(spec, weights, dtype)
    if _HUB_ID.fullmatch(spec):
        return _load_hub(spec, weights, trust, dtype)
    raise CheckpointError(
        f"{spec}: no such file or folder",
        remedy="name a checkpoint folder, a hub id (owner/name), a config.json, a .pt2 file, package.module:factory, "
        "or path/file.py:factory(depth=4)",
    )


def weight_sizes(spec: str) -> tuple[int, int]:
    """How many bytes the weight files of a checkpoint folder have, and how many numbers they hold; zeros where unknown.

    Raises:
        CheckpointError: the folder has no weights, an index names a file that is not there, or a file is corrupt.
    """
    path = existing(spec)
    if path is None or not path.is_dir() or not (path / "config.json").exists() or _holds_architecture_only(path):
        return 0, 0
    files = _weight_files(path, spec)
    held = stored_tensors(files)
    size = sum(file.stat().st_size for file in files)
    return size, sum(math.prod(stored.shape) for stored in held.values())


def config_alone(spec: str) -> Path | None:
    """The file of a config that alone decides about the architecture of what `spec` names; None where there is more.

    Raises:
        PermissionError: it cannot be looked at.
    """
    path = existing(spec)
    file = path / "config.json" if path is not None and path.is_dir() else path
    if file is None or file.suffix != ".json" or not file.is_file():
        return None
    # Files for other versions of transformers stand beside it.
    return None if b"configuration_files" in file.read_bytes() else file


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing reports and progress bars; what they say is raised as an error instead."""
    from transformers.utils import logging as transformers_logging

    log: Any = transformers_logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _load_path(path: Path, spec: str, weights: bool, trust: Trust, dtype: torch.dtype | None, deferred: bool) -> Model:
    if path.is_file() and path.suffix == SUFFIX:
        return of_program(load_program(path), spec)
    if path.is_file() and path.suffix != ".json":
        raise CheckpointError(f"{spec} is not a checkpoint", cause="it is a single file", remedy=_of_single(path))
    config_file = path if path.is_file() else path / "config.json"
    if not config_file.exists():
        entries = shorten(sorted(entry.name for entry in path.iterdir())) or "nothing"
        held = path / WEIGHT_FILES[0]
        remedy = "name a folder written by save_pretrained (config.json and model.safetensors)"
        remedy = _of_single(held) if held.exists() else remedy
        raise CheckpointError(f"{spec} is not a checkpoint", cause=f"no config.json; it holds {entries}", remedy=remedy)
    raw = _read_json(config_file)
    # By its folder where that is the same, since remote code stands beside it; the folder may hold other configs.
    named = config_file.parent if config_file.name == "config.json" else config_file
    source = Named(str(named), spec, raw, trust, offline=True)
    if path.is_file() or (weights and _holds_architecture_only(path)):
        return Model(_architecture(source, dtype), source.config, None, spec, "config", (config_file,))
    if not weights:
        return Model(_architecture(source, dtype), source.config, None, spec, "checkpoint", (config_file,))
    files = _weight_files(path, spec)
    module, extra = _weights(source, files, dtype, deferred and all(file.suffix == ".safetensors" for file in files))
    layout = Layout(files[0].suffix, extra=extra) if extra else None
    return Model(module, module.config, None, spec, "checkpoint", (config_file, *files), layout=layout)


def _of_single(path: Path) -> str:
    """What to name in the place of a single file."""
    if path.suffix == ".py":
        return f"name a function in it that makes the model: {path}:make"
    if is_weights(path) and not (path.parent / "config.json").exists():
        return f"name a function that makes its model, path/file.py:make@{path}"
    return "name its folder (with config.json beside the weights) or a config.json"


def _load_hub(spec: str, weights: bool, trust: Trust, dtype: torch.dtype | None) -> Model:
    raw, offline = _hub_config(spec)
    source = Named(spec, spec, raw, trust, offline)
    if not weights:
        return Model(_architecture(source, dtype), source.config, None, spec, "hub")
    module, _ = _weights(source, (), dtype)
    return Model(module, module.config, None, spec, "hub", _cached_files(spec))


def _load_factory(spec: str, weights: bool, dtype: torch.dtype | None) -> Model:
    made = call_factory(spec)
    if isinstance(made, tuple) and len(made) == 2:
        module, example = made
    else:
        module, example = made, None
    if not isinstance(module, nn.Module):
        remedy = "return an nn.Module with .example_inputs, or (module, example_inputs)"
        raise CheckpointError(f"{spec} gave no module", cause=f"it gave a {type(module).__name__}", remedy=remedy)
    module = callable_module(module).eval().to(device=None if weights else "meta", dtype=dtype)
    check_integers(module, spec, {})
    check_values(module, spec)
    return Model(module, getattr(module, "config", None), example_of(module, example), spec, "factory")


def _of_file(model: Model, file: str, spec: str, dtype: torch.dtype | None) -> Model:
    """A factory's model with the weights of a file."""
    path = existing(file)
    if path is None or not path.is_file() or not is_weights(path):
        cause = "there is no such file" if path is None else f"it is no file that ends in {', '.join(SUFFIXES)}"
        raise CheckpointError(
            f"{spec}: {file} cannot be read", cause=cause, remedy="name a file of weights after the @"
        )
    state, layout = read_weights(path, model.module)
    model.module.load_state_dict(state, strict=False, assign=True)
    module = model.module.eval().to(dtype=dtype)
    check_integers(module, spec, {})
    check_values(module, spec)
    return replace(model, module=module, spec=spec, files=(path,), layout=layout)


def of_module(module: nn.Module) -> Model:
    """A module with the example inputs that it brings: as an attribute, or in the graph that was traced of it."""
    made = callable_module(module)
    example = example_of(made)
    example = own_example(module, made) if example is None else example
    return Model(made, getattr(module, "config", None), example, type(module).__name__, "factory")


def of_program(program: ExportedProgram, spec: str = "") -> Model:
    """An exported program, with the inputs that it was exported with."""
    module = module_of(program)
    name = spec or "exported program"
    return Model(module, None, own_example(program, module), name, "program", program=program)


def _architecture(source: Named, dtype: torch.dtype | None) -> nn.Module:
    try:
        with quiet(), weightless():
            module = source.cls._from_config(source.config, dtype=dtype or source.config.dtype)
    except Exception as e:
        remedy = "compare config.json with the one of a checkpoint that works"
        raise CheckpointError(f"{source.spec}: the model cannot be built", cause=one_line(e), remedy=remedy) from e
    return module.eval()  # type: ignore[no-any-return]


def _weights(
    source: Named, files: tuple[Path, ...], dtype: torch.dtype | None, deferred: bool = False
) -> tuple[Any, dict[str, Tensor]]:
    """The module with its weights, and tensors that it does not have, where its class was given."""
    stored = stored_tensors(files)
    # What the config says may be narrower than what is stored.
    usual = usual_dtype(tensor.dtype for tensor in stored.values())
    usual = usual if usual is not None and computable(usual) else None
    try:
        with quiet():
            module, report = source.cls.from_pretrained(
                None if deferred else source.location,
                config=source.config,
                state_dict=deferred_state(files) if deferred else None,
                dtype=dtype or usual or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **source.common,
            )
    except Exception as e:
        raise CheckpointError(
            f"{source.spec}: the weights cannot be read",
            cause=one_line(e),
            remedy="fetch the checkpoint again; only safetensors files and PyTorch files of plain tensors are read",
        ) from e
    check_integers(module, source.spec, stored)
    extra = _extra(report, source, files)
    _check_report(report, source, extra)
    check_values(module, source.spec)
    return module.eval(), extra


def _extra(report: Mapping[str, Any], source: Named, files: tuple[Path, ...]) -> dict[str, Tensor]:
    """What files hold beside the model, of a class that was given: it stays in them."""
    if not source.own or not all(file.suffix == ".safetensors" for file in files):
        return {}
    held = stored_tensors(files)
    return {name: held[name].deferred() for name in sorted(report["unexpected_keys"]) if name in held}


def _check_report(report: Mapping[str, Any], source: Named, extra: Mapping[str, Tensor]) -> None:
    problems = [f"missing {shorten(sorted(report['missing_keys']))}"] if report["missing_keys"] else []
    if unexpected := sorted(set(report["unexpected_keys"]) - extra.keys()):
        problems.append(f"unexpected {shorten(unexpected)}")
    if report["mismatched_keys"]:
        shapes = [
            f"{name} {tuple(there)} instead of {tuple(wanted)}"
            for name, there, wanted in sorted(report["mismatched_keys"])
        ]
        problems.append(f"wrong shapes: {shorten(shapes)}")
    if problems:
        raise CheckpointError(
            f"{source.spec}: the weights do not fit {source.cls.__name__} with this config.json",
            cause="; ".join(problems),
            remedy="check that config.json and the weights belong together and `architectures` is the trained class",
        )


def _weight_files(folder: Path, spec: str) -> tuple[Path, ...]:
    chosen = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if chosen is None:
        cause = f"config.json is there, but none of {', '.join(WEIGHT_FILES)}"
        remedy = f"fetch the weights, or name {folder / 'config.json'} to work without them"
        if (folder / "adapter_config.json").exists():
            remedy = "merge the adapter into its base model and save that"
        raise CheckpointError(f"{spec} is not a complete checkpoint", cause=cause, remedy=remedy)
    if chosen.suffix != ".json":
        return (chosen,)
    listed = _read_json(chosen).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        cause = f"{chosen.name} has no `weight_map` from names to files"
        raise CheckpointError(f"{spec} is not a complete checkpoint", cause=cause, remedy="fetch that file again")
    if outside := sorted({name for name in listed.values() if Path(name).is_absolute() or ".." in Path(name).parts}):
        cause = f"{chosen.name} lists files outside of the folder: {shorten(outside)}"
        raise CheckpointError(f"{spec} is not read", cause=cause, remedy="name a checkpoint that holds its own files")
    shards = sorted({folder / name for name in listed.values()})
    if gone := [shard.name for shard in shards if not shard.exists()]:
        cause = f"{chosen.name} lists files that are not there: {shorten(gone)}"
        raise CheckpointError(f"{spec} is not a complete checkpoint", cause=cause, remedy="fetch the missing files")
    return tuple(shards)


def _holds_architecture_only(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} <= _ARCHITECTURE_ONLY


def _hub_config(spec: str) -> tuple[dict[str, Any], bool]:
    from transformers import PreTrainedConfig

    failure = _hub_failure()
    offline = failure is not None
    try:
        with quiet():
            return PreTrainedConfig.get_config_dict(spec, local_files_only=offline)[0], offline
    except Exception as e:
        reason = "the hub cannot be reached" if failure else "the hub has no such model"
        raise CheckpointError(
            f"{spec}: no such file or folder, and {reason}",
            cause=one_line(failure or e),
            remedy="check the spelling, the working folder and the network; private models need `hf auth login`",
        ) from e


def _hub_failure() -> Exception | None:
    # The hub's client retries for half a minute where there is no network at all; one short request tells at once.
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return OSError("HF_HUB_OFFLINE is set")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as e:
        return e
    return None


def _cached_files(spec: str) -> tuple[Path, ...]:
    from transformers.utils.hub import cached_file

    config = Path(str(cached_file(spec, "config.json", local_files_only=True)))
    return (config, *_weight_files(config.parent, spec))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        remedy = "fetch it again, or correct it at that place"
        raise CheckpointError(f"{path} cannot be read", cause=one_line(e), remedy=remedy) from e
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} is not a config", cause="it is JSON, but no object", remedy="name another file")
    return plain
