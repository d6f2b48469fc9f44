"""Reading, checking and writing checkpoints."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, one_line, shorten
from symgraph.io.companions import companions, folders_of
from symgraph.io.files import SHARD_SIZE, OutputError, atomic_dir, refuse_existing, require_space
from symgraph.io.layouts import SUFFIXES as WEIGHT_SUFFIXES
from symgraph.io.layouts import is_weights, write_weights
from symgraph.io.models import Model, quiet
from symgraph.io.programs import SUFFIX as PROGRAM
from symgraph.io.programs import save_program, with_weights
from symgraph.io.shards import Stored, size_of, stored_tensors, write_shards
from symgraph.io.state import FiniteChecks, check_finite, state_hash, usual_dtype
from symgraph.io.sums import noted
from symgraph.tracing.deferred import Deferred, cast, made

__all__ = [
    "canonical_state",
    "check_finite",
    "check_state",
    "dtypes",
    "module_hash",
    "read_state",
    "state_hash",
    "tied_names",
    "write",
]


def read_state(model: Model) -> dict[str, Tensor]:
    """Every tensor of the model's state under its name, in the dtype it is stored in.

    Tensors share memory with the module, except those that the checkpoint stores in another dtype; of a module whose
    tensors are read where they are needed, these are as well.

    Raises:
        CheckpointError: the model was loaded without weights.
    """
    if not model.has_weights:
        remedy = "name a checkpoint folder or a hub id instead"
        raise CheckpointError(f"{model.spec} has no weights", cause="only its config was read", remedy=remedy)
    state, stored = dict(model.module.state_dict()), _stored(model)
    for name, dtype in dtypes(model).items():
        if state[name].dtype != dtype:
            own = state[name]
            state[name] = _read_tensor(stored[name], own) if name in stored else cast(own, dtype)
    return state


def dtypes(model: Model) -> dict[str, torch.dtype]:
    """The dtype in which each tensor of the model's state is stored."""
    every = {name: tensor.dtype for name, tensor in model.module.state_dict().items()}
    stored = {name: held.dtype for name, held in _stored(model).items()}
    # Tensors that are stored under other names, as transformers renames some while loading.
    renamed = usual_dtype(dtype for name, dtype in stored.items() if name not in every)
    if renamed is not None:
        every = {name: renamed if dtype.is_floating_point else dtype for name, dtype in every.items()}
    every |= {name: dtype for name, dtype in stored.items() if name in every}
    for name, first in tied_names(model.module).items():
        if name in stored and first in every and first not in stored:
            every[first] = stored[name]
    return every


def module_hash(module: nn.Module) -> str:
    """The `state_hash` of what a module stores: a trace, and what the code computes itself, leave it as it is."""
    return state_hash(module.state_dict())


def checked_hash(module: nn.Module, state: Mapping[str, Tensor], where: str) -> str:
    """The `module_hash`, once `check_finite` has passed the tensors of a state of the module; each is read once.

    Raises:
        CheckpointError: naming the tensors that are not finite.
    """
    # Attention masks kept as buffers hold minus infinity by design.
    stored, checks = module.state_dict(), FiniteChecks({name for name, _ in module.named_buffers()})
    digest = state_hash(stored, noted)
    for name, tensor in state.items():
        checks.look(name, stored.get(name, tensor))
    checks.done(where)
    return digest


def tied_names(module: nn.Module) -> dict[str, str]:
    """For every further name of a shared parameter or buffer, the first name it has.

    >>> shared = nn.Linear(2, 2)
    >>> tied_names(nn.Sequential(shared, shared))
    {'1.weight': '0.weight', '1.bias': '0.bias'}
    """
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in _named_tensors(module):
        canonical = first.setdefault(id(tensor), name)
        if canonical != name:
            tied[name] = canonical
    return tied


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise unless `state` has exactly the tensors that `module` needs, with their shapes.

    A tied tensor may be given under one or all of its names, with equal values.

    Raises:
        CheckpointError: listing what is missing, unexpected, of another shape, or tied and different.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    tied = {name: standing for name, standing in tied_names(module).items() if name in expected}
    missing = [name for name in expected if name not in state and _twin(name, tied, state) is None]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {expected[name]}"
        for name, tensor in state.items()
        if _differs(tensor, expected.get(name))
    ]
    apart = [
        f"{name} and {standing}"
        for name, standing in tied.items()
        if name in state and standing in state and not _equal(state[name], state[standing])
    ]
    by_problem = {"missing": missing, "unexpected": unexpected, "wrong shapes:": shapes, "tied but different:": apart}
    problems = [f"{problem} {shorten(names)}" for problem, names in by_problem.items() if names]
    if problems:
        remedy = "use a state of this very architecture"
        if apart:
            remedy = "untie them in the config (tie_word_embeddings=False), or keep the tied tensors equal"
        raise CheckpointError(f"{where}: the state does not fit the model", cause="; ".join(problems), remedy=remedy)


def canonical_state(module: nn.Module, state: Mapping[str, Tensor], where: str = "state") -> dict[str, Tensor]:
    """`state` with each tied tensor under the first of its names only, whichever name it came under.

    Raises:
        CheckpointError: `state` does not fit `module`.
    """
    check_state(module, state, where)
    tied = tied_names(module)
    names = (name for name in module.state_dict() if name not in tied)
    return {name: state[_twin(name, tied, state) or name] for name in names}


def write(
    model: Model,
    state: Mapping[str, Tensor],
    out: str | Path,
    *,
    overwrite: bool = False,
    card: str | None = None,
    stored: Mapping[str, torch.dtype] | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, bytes] | None = None,
    shard_size: int = SHARD_SIZE,
) -> Path:
    """Write `state` as a checkpoint of the model's own class, each tensor in the dtype it was stored in.

    With `stored` in those instead. One tensor at a time is made and written, into files of at most `shard_size` bytes.

    For a transformers model this is a folder that `from_pretrained` opens: config, generation config, weights, model
    card, and the preprocessor and tokenizer files of the source (or those that are given). For a factory's model it is
    `model.safetensors` alone, or where `out` is called as a file of weights is, that file, laid out as the one its
    weights were read from; for an exported program a `.pt2` file.

    Raises:
        CheckpointError: `state` does not fit or is not finite, or `out` exists or cannot be written.
    """
    out = Path(out)
    if is_file(out):
        return _write_file(model, state, out, overwrite, dtypes(model) if stored is None else stored)
    _refuse_other_folder(out, overwrite, folders_of(model))
    stored = dtypes(model) if stored is None else stored
    shell = _shell(model, dict(config_overrides or {}), usual_dtype(stored.values()))
    # Tensors of its files that the model does not have go with it.
    tensors = _to_save(shell, state, stored, str(out)) | dict(model.layout.extra if model.layout else {})
    require_space(out, sum(map(size_of, tensors.values())))
    with atomic_dir(out, overwrite) as folder:
        _write_folder(model, shell, tensors, folder, shard_size, tokenizer)
        if card is not None and model.config is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def is_file(out: str | Path) -> bool:
    """Whether a result of that name is one file, not a folder."""
    return is_weights(out) or Path(out).suffix == PROGRAM


def _write_file(
    model: Model, state: Mapping[str, Tensor], out: Path, overwrite: bool, stored: Mapping[str, torch.dtype]
) -> Path:
    """A state as one file, of the weights or of the whole program."""
    refuse_existing(out, overwrite, folder=False, inputs=folders_of(model))
    if _is_transformers(model.module) and model.config is not None:
        remedy = "name a folder, which from_pretrained opens"
        raise OutputError(f"{out} is no folder", cause="a model of transformers is more than a file", remedy=remedy)
    tensors = _to_save(model.module, state, stored, str(out))
    if out.suffix != PROGRAM:
        return write_weights(out, tensors, model.layout, overwrite=overwrite)
    if model.program is None:
        remedy = f"name a folder, or a file that ends in {', '.join(WEIGHT_SUFFIXES)}"
        raise OutputError(f"{out} cannot be written", cause=f"{model.spec} is no exported program", remedy=remedy)
    return save_program(with_weights(model.program, tensors), out, overwrite=overwrite)


def _write_folder(
    model: Model,
    shell: Any,
    tensors: Mapping[str, Tensor],
    folder: Path,
    shard_size: int,
    tokenizer: Mapping[str, bytes] | None,
) -> None:
    if not _is_transformers(shell) or model.config is None:
        write_shards(folder, tensors, shard_size)
        return
    try:
        with quiet():
            # All but the weights: those follow one by one.
            shell.save_pretrained(folder, state_dict={})
            (folder / "model.safetensors").unlink(missing_ok=True)
            kept = _as_files_name_them(shell, tensors)
    except ValueError as e:
        remedy = "correct the config or generation config of the model"
        raise CheckpointError(f"{model.spec} cannot be saved", cause=one_line(e), remedy=remedy) from e
    write_shards(folder, kept, shard_size)
    for companion in companions(model, tokenizer=tokenizer is None):
        shutil.copyfile(companion, folder / companion.name)
    for name, content in (tokenizer or {}).items():
        (folder / name).write_bytes(content)


def _as_files_name_them(shell: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names, and in the form, that checkpoints of the class keep."""
    from transformers.core_model_loading import revert_weight_conversion

    ignored = set(shell._keys_to_ignore_on_save or ())
    renamed: dict[str, Tensor] = revert_weight_conversion(
        shell, {name: tensor for name, tensor in tensors.items() if name not in ignored}
    )
    return renamed


def names_in_files(model: Model) -> dict[str, str]:
    """For every name in the files of a checkpoint of the model the one in its module, where it is another one.

    Raises:
        CheckpointError: files hold a tensor in another form.
    """
    if not _is_transformers(model.module):
        return {}
    tied, state = tied_names(model.module), model.module.state_dict()
    names = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in state.items()
        if name not in tied
    }
    by_tensor = {id(tensor): name for name, tensor in names.items()}
    with quiet():
        kept = _as_files_name_them(model.module, names)
    for name, tensor in kept.items():
        if id(tensor) not in by_tensor:
            what = f"files of {model.spec} hold {name} in another form than the model"
            raise CheckpointError(what, remedy="use `symgraph apply`, which goes through the model")
    return {name: by_tensor[id(tensor)] for name, tensor in kept.items() if name != by_tensor[id(tensor)]}


def _to_save(
    shell: nn.Module, state: Mapping[str, Tensor], stored: Mapping[str, torch.dtype], where: str
) -> dict[str, Tensor]:
    # Each tied tensor is converted and kept under its first name only; loading ties the others again.
    given = canonical_state(shell, state, where)
    buffers = {name for name, _ in shell.named_buffers()}
    return {
        name: _converted(name, tensor.detach(), stored.get(name, tensor.dtype), where, name in buffers)
        for name, tensor in given.items()
    }


def _converted(name: str, tensor: Tensor, dtype: torch.dtype, where: str, infinite_ok: bool) -> Tensor:
    """A tensor in the dtype that a file keeps, made and checked when it is written."""
    allowed = (name,) if infinite_ok else ()

    def make() -> Tensor:
        given = made(tensor)
        check_finite({name: given}, where=where, infinite_ok=allowed)
        stored = given.to(device="cpu", dtype=dtype)
        # float16 ends at 65504: values that were finite may not be any more.
        if stored.dtype != given.dtype:
            check_finite({name: stored}, where=f"{where}, after conversion to the stored dtype", infinite_ok=allowed)
        return stored.contiguous()

    return Deferred(make, tensor.shape, dtype)


def _shell(model: Model, overrides: dict[str, Any], dtype: torch.dtype | None) -> Any:
    """The module that does the writing: without weights, so that the caller's module stays untouched."""
    module: Any = model.module
    if not _is_transformers(module) or model.config is None:
        if overrides:
            what = f"{model.spec}: a factory's model has no config to override"
            raise CheckpointError(what, remedy="change the factory instead")
        return module
    config = copy.deepcopy(module.config)
    for key, value in overrides.items():
        setattr(config, key, value)
    with quiet(), torch.device("meta"):
        shell = type(module)._from_config(config, dtype=dtype)
    # Its file is copied as it is: transformers opens generation configs that it then refuses to save.
    copied = {"generation_config"} & {companion.stem for companion in companions(model)}
    for attribute in {"generation_config", "_weight_conversions", "_auto_class"} - copied:
        if getattr(module, attribute, None) is not None:
            setattr(shell, attribute, getattr(module, attribute))
    return shell


def _refuse_other_folder(out: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    refuse_existing(out, overwrite, folder=True, inputs=inputs)
    if not out.exists() or not any(out.iterdir()):
        return
    if not any((out / name).exists() for name in ("config.json", "model.safetensors")):
        cause = f"it is no checkpoint; it holds {shorten(sorted(entry.name for entry in out.iterdir()))}"
        raise OutputError(f"{out} is not replaced", cause=cause, remedy="choose another path, or empty it yourself")


def _is_transformers(module: Any) -> bool:
    return hasattr(module, "save_pretrained") and hasattr(type(module), "_from_config")


def _stored(model: Model) -> dict[str, Stored]:
    return stored_tensors(model.files) if model.has_weights else {}


def _read_tensor(stored: Stored, like: Tensor) -> Tensor:
    # A checkpoint that transformers rearranges while loading keeps the loaded values.
    if stored.shape != tuple(like.shape):
        return like
    return stored.deferred() if isinstance(like, Deferred) else stored.read()


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _twin(name: str, tied: Mapping[str, str], state: Mapping[str, Tensor]) -> str | None:
    canonical = tied.get(name, name)
    names = (canonical, *(name for name, standing in tied.items() if standing == canonical))
    return next((name for name in names if name in state), None)


def _differs(tensor: Tensor, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and tuple(tensor.shape) != shape


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    one, other = made(one), made(other)
    return (one.data_ptr() == other.data_ptr() and one.shape == other.shape) or torch.equal(one, other)
