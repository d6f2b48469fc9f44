"""Reading, comparing and writing checkpoints."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, one_line, shorten
from symgraph.io.alike import compute_alike
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
    "architecture_differences",
    "canonical_state",
    "check_finite",
    "check_same_architecture",
    "check_state",
    "dtypes",
    "module_hash",
    "read_state",
    "state_hash",
    "tied_names",
    "write",
]

# Keys of a config that change neither a shape nor the function computed in evaluation mode.
_IRRELEVANT = re.compile(
    r"_.*|(name_or_path|transformers_version|(torch_)?dtype|architectures|auto_map|use_cache|return_dict|id2label"
    r"|label2id|task_specific_params|finetuning_task|problem_type|prefix|tokenizer_class|gradient_checkpointing"
    r"|output_\w+|initializer_\w+|\w*_std|\w*drop(out|_path)?\w*|\w*_pdrop|\w*token_id|summary_\w+|loss_\w+)"
)

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
)


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
    found = {name: t.dtype for name, t in model.module.state_dict().items()}
    stored = {name: found.dtype for name, found in _stored(model).items()}
    # Tensors that are stored under other names, as transformers renames some while loading.
    renamed = usual_dtype(dtype for name, dtype in stored.items() if name not in found)
    if renamed is not None:
        found = {name: renamed if dtype.is_floating_point else dtype for name, dtype in found.items()}
    found |= {name: dtype for name, dtype in stored.items() if name in found}
    for name, first in tied_names(model.module).items():
        if name in stored and first in found and first not in stored:
            found[first] = stored[name]
    return found


def module_hash(module: nn.Module) -> str:
    """The `state_hash` of what a module stores: a trace, and what the code computes itself, leave it as it is."""
    return state_hash(module.state_dict())


def checked_hash(module: nn.Module, state: Mapping[str, Tensor], where: str) -> str:
    """The `module_hash`, once `check_finite` has passed the tensors of a state of the module; each is read once.

    Raises:
        CheckpointError: naming the tensors that are not finite.
    """
    stored, checks = module.state_dict(), FiniteChecks()
    found = state_hash(stored, noted)
    for name, tensor in state.items():
        checks.look(name, stored.get(name, tensor))
    checks.done(where)
    return found


def tied_names(module: nn.Module) -> dict[str, str]:
    """For every further name of a shared parameter or buffer, the first name it has.

    >>> shared = nn.Linear(2, 2)
    >>> tied_names(nn.Sequential(shared, shared))
    {'1.weight': '0.weight', '1.bias': '0.bias'}
    """
    first: dict[int, str] = {}
    tied = {}
    for name, t in _named_tensors(module):
        canonical = first.setdefault(id(t), name)
        if canonical != name:
            tied[name] = canonical
    return tied


def architecture_differences(a: Model, b: Model) -> list[str]:
    """What tells two architectures apart: the class; or config (as far as it changes what is computed) and shapes."""
    if found := [*_class_differences(a, b)]:
        return found
    configs, shapes = [*_config_differences(a, b)], [*_shape_differences(a.module, b.module)]
    # Many settings change nothing: how long a text may be, what labels are called.
    return shapes if configs and not shapes and compute_alike(a, b) else [*configs, *shapes]


def check_same_architecture(a: Model, b: Model) -> None:
    """Raise unless the two models have one class, one config (as far as it matters) and the same shapes.

    Raises:
        CheckpointError: listing what differs.
    """
    problems = architecture_differences(a, b)
    if problems:
        raise CheckpointError(
            f"{a.spec} and {b.spec} are of different architectures",
            cause="; ".join(problems),
            remedy="name checkpoints of one class and one size; `symgraph align` and `merge` also take narrower ones",
        )


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise unless `state` has exactly the tensors that `module` needs, with their shapes.

    A tied tensor may be given under one or all of its names, with equal values.

    Raises:
        CheckpointError: listing what is missing, unexpected, of another shape, or tied and different.
    """
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    tied = {n: c for n, c in tied_names(module).items() if n in expected}
    missing = [n for n in expected if n not in state and _twin(n, tied, state) is None]
    unexpected = [n for n in state if n not in expected]
    shapes = [
        f"{n} {tuple(t.shape)} instead of {expected[n]}" for n, t in state.items() if _differs(t, expected.get(n))
    ]
    apart = [f"{n} and {c}" for n, c in tied.items() if n in state and c in state and not _equal(state[n], state[c])]
    found = {"missing": missing, "unexpected": unexpected, "wrong shapes:": shapes, "tied but different:": apart}
    problems = [f"{problem} {shorten(names)}" for problem, names in found.items() if names]
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
    names = (n for n in module.state_dict() if n not in tied)
    return {n: state[_twin(n, tied, state) or n] for n in names}


def write(
    model: Model,
    state: Mapping[str, Tensor],
    out: str | Path,
    *,
    overwrite: bool = False,
    card: str | None = None,
    stored: Mapping[str, torch.dtype] | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    shard_size: int = SHARD_SIZE,
) -> Path:
    """Write `state` as a checkpoint of the model's own class, each tensor in the dtype it was stored in.

    With `stored` in those instead. One tensor at a time is made and written, into files of at most `shard_size` bytes.

    For a transformers model this is a folder that `from_pretrained` opens: config, generation config, weights, model
    card, and the tokenizer or preprocessor files of the source. For a factory's model it is `model.safetensors` alone,
    or where `out` is called as a file of weights is, that file, laid out as the one its weights were read from; for an
    exported program a `.pt2` file.

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
        _write_folder(model, shell, tensors, folder, shard_size)
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


def _write_folder(model: Model, shell: Any, tensors: Mapping[str, Tensor], folder: Path, shard_size: int) -> None:
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
    for companion in _companions(model):
        shutil.copyfile(companion, folder / companion.name)


def _as_files_name_them(shell: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names, and in the form, that checkpoints of the class keep."""
    from transformers.core_model_loading import revert_weight_conversion

    ignored = set(shell._keys_to_ignore_on_save or ())
    found: dict[str, Tensor] = revert_weight_conversion(shell, {n: t for n, t in tensors.items() if n not in ignored})
    return found


def names_in_files(model: Model) -> dict[str, str]:
    """For every name in the files of a checkpoint of the model the one in its module, where it is another one.

    Raises:
        CheckpointError: files hold a tensor in another form.
    """
    if not _is_transformers(model.module):
        return {}
    tied, state = tied_names(model.module), model.module.state_dict()
    names = {n: torch.empty(t.shape, dtype=t.dtype, device="meta") for n, t in state.items() if n not in tied}
    by_tensor = {id(t): n for n, t in names.items()}
    with quiet():
        kept = _as_files_name_them(model.module, names)
    for name, t in kept.items():
        if id(t) not in by_tensor:
            what = f"files of {model.spec} hold {name} in another form than the model"
            raise CheckpointError(what, remedy="use `symgraph apply`, which goes through the model")
    return {n: by_tensor[id(t)] for n, t in kept.items() if n != by_tensor[id(t)]}


def _to_save(
    shell: nn.Module, state: Mapping[str, Tensor], stored: Mapping[str, torch.dtype], where: str
) -> dict[str, Tensor]:
    # Each tied tensor is converted and kept under its first name only; loading ties the others again.
    given = canonical_state(shell, state, where)
    buffers = {n for n, _ in shell.named_buffers()}
    return {n: _converted(n, t.detach(), stored.get(n, t.dtype), where, n in buffers) for n, t in given.items()}


def _converted(name: str, tensor: Tensor, dtype: torch.dtype, where: str, infinite_ok: bool) -> Tensor:
    """A tensor in the dtype that a file keeps, made and checked when it is written."""
    allowed = (name,) if infinite_ok else ()

    def make() -> Tensor:
        given = made(tensor)
        check_finite({name: given}, where=where, infinite_ok=allowed)
        found = given.to(device="cpu", dtype=dtype)
        # float16 ends at 65504: values that were finite may not be any more.
        if found.dtype != given.dtype:
            check_finite({name: found}, where=f"{where}, after conversion to the stored dtype", infinite_ok=allowed)
        return found.contiguous()

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
    copied = {"generation_config"} & {p.stem for p in _companions(model)}
    for attribute in {"generation_config", "_weight_conversions", "_auto_class"} - copied:
        if getattr(module, attribute, None) is not None:
            setattr(shell, attribute, getattr(module, attribute))
    return shell


def folders_of(*models: Model) -> set[Path]:
    """The folders that models were read from."""
    return {f.parent for m in models for f in m.files if f.name == "config.json"}


def _refuse_other_folder(out: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    refuse_existing(out, overwrite, folder=True, inputs=inputs)
    if not out.exists() or not any(out.iterdir()):
        return
    if not any((out / name).exists() for name in ("config.json", "model.safetensors")):
        cause = f"it is no checkpoint; it holds {shorten(sorted(p.name for p in out.iterdir()))}"
        raise OutputError(f"{out} is not replaced", cause=cause, remedy="choose another path, or empty it yourself")


def _companions(model: Model) -> Iterator[Path]:
    for folder in folders_of(model):
        for pattern in _COMPANIONS:
            yield from (p for p in folder.glob(pattern) if p.is_file() and p.suffix != ".safetensors")


def _is_transformers(module: Any) -> bool:
    return hasattr(module, "save_pretrained") and hasattr(type(module), "_from_config")


def _stored(model: Model) -> dict[str, Stored]:
    return stored_tensors(model.files) if model.has_weights else {}


def _read_tensor(found: Stored, like: Tensor) -> Tensor:
    # A checkpoint that transformers rearranges while loading keeps the loaded values.
    if found.shape != tuple(like.shape):
        return like
    return found.deferred() if isinstance(like, Deferred) else found.read()


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _twin(name: str, tied: Mapping[str, str], state: Mapping[str, Tensor]) -> str | None:
    canonical = tied.get(name, name)
    names = (canonical, *(n for n, c in tied.items() if c == canonical))
    return next((n for n in names if n in state), None)


def _differs(t: Tensor, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and tuple(t.shape) != shape


def _equal(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    a, b = made(a), made(b)
    return (a.data_ptr() == b.data_ptr() and a.shape == b.shape) or torch.equal(a, b)


def _class_differences(a: Model, b: Model) -> Iterator[str]:
    names = type(a.module).__name__, type(b.module).__name__
    if names[0] != names[1]:
        yield f"the classes are {names[0]} and {names[1]}"


def _config_differences(a: Model, b: Model) -> Iterator[str]:
    if a.config is None or b.config is None or type(a.config) is not type(b.config):
        return
    x, y = _flat(a.config), _flat(b.config)
    keys = sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))
    if keys:
        yield "the configs differ in " + shorten(f"{k} ({x.get(k)} and {y.get(k)})" for k in keys)


def _flat(config: Any) -> dict[str, Any]:
    found = config.to_dict() if hasattr(config, "to_dict") else config
    return dict(_relevant(found if isinstance(found, dict) else vars(found), ""))


def _relevant(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if _IRRELEVANT.fullmatch(str(key)):
            continue
        if isinstance(value, dict):
            yield from _relevant(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shape_differences(a: nn.Module, b: nn.Module) -> Iterator[str]:
    x, y = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (a, b))
    shapes = [f"{n} {x[n]} and {y[n]}" for n in x if n in y and x[n] != y[n]]
    alone = [f"{n} only in the first" for n in x if n not in y] + [f"{n} only in the second" for n in y if n not in x]
    if shapes:
        yield f"shapes differ: {shorten(shapes)}"
    if alone:
        yield f"parameters differ: {shorten(alone)}"
