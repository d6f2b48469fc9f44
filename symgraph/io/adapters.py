"""Low-rank adapters of PEFT: what each adds to a parameter, and back into two factors of the same rank."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, one_line, shorten
from symgraph.io.checkpoint import tied_names
from symgraph.io.files import atomic_dir
from symgraph.io.models import Model

CONFIG = "adapter_config.json"
NAME = "default"
# Fields of a configuration that make an adapter more than products of two factors, each with the value that does not.
_MORE = {"use_dora": False, "modules_to_save": None, "bias": "none", "lora_bias": False}
_MORE |= {"trainable_token_indices": None, "layer_replication": None, "target_parameters": None}
# How PEFT calls what it stores: files, and tensors, of which those that are no factors are parameters of the model.
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX, _FACTOR, _BASE = "base_model.model.", "lora_", ".base_layer."
_FACTORS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: what it adds to the parameters of its model.

    Shapes: deltas as the parameters, in float64; `ranks` are those of their factors.
    """

    folder: str
    deltas: dict[str, Tensor]
    ranks: dict[str, int]

    def moved(self, deltas: Mapping[str, Tensor]) -> Adapter:
        """The same with other deltas, of which as much is kept as factors of its ranks hold."""
        halves = {name: factors(_matrix(delta), self.ranks[name]) for name, delta in deltas.items()}
        return replace(
            self, deltas={name: (left @ right).reshape(deltas[name].shape) for name, (left, right) in halves.items()}
        )

    def scaled(self, scale: float) -> Adapter:
        """The same, so many times as strong."""
        return replace(self, deltas={name: scale * delta for name, delta in self.deltas.items()})


def is_adapter(source: object) -> TypeGuard[str | Path]:
    """Whether this names a folder that holds an adapter."""
    return isinstance(source, str | Path) and (Path(source) / CONFIG).is_file()


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "fetch the adapter again"
        raise CheckpointError(f"{folder / CONFIG} cannot be read", cause=one_line(error), remedy=remedy) from error
    return config if isinstance(config, dict) else {}


def read_adapter(folder: str | Path, base: Model) -> Adapter:
    """What an adapter adds to each parameter of a model.

    Raises:
        CheckpointError: it is damaged, changes modules that the model lacks, or brings tables of another one.
        UsageError: it is of a kind that has no two factors, or PEFT is not installed.
    """
    _check_kind(Path(folder))
    _check_tables(folder, base)
    names = {id(parameter): name for name, parameter in base.module.named_parameters()}
    tied = {*tied_names(base.module), *tied_names(base.module).values()}
    deltas, ranks = {}, {}
    for layer in _layers(_wrapped(base, folder)):
        name = names[id(layer.get_base_layer().weight)]
        if name in tied:
            cause = "what it adds there is not added where else the tensor is read"
            remedy = "merge the adapter into its model, and name that"
            raise UsageError(f"{folder}: it moves {name}, which is a shared tensor", cause=cause, remedy=remedy)
        for factor in _factors_of(layer):
            factor.data = factor.data.double()
        deltas[name], ranks[name] = layer.get_delta_weight(NAME).detach(), int(layer.r[NAME])
    return Adapter(str(folder), deltas, ranks)


def write_adapter(adapter: Adapter, to: Model, out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes an adapter of another model, with the configuration of the one it came from; returns the folder.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    wrapped = _wrapped(to, adapter.folder)
    names = {id(parameter): name for name, parameter in to.module.named_parameters()}
    for layer in _layers(wrapped):
        _fill(layer, adapter.deltas[names[id(layer.get_base_layer().weight)]])
    wrapped.peft_config[NAME].base_model_name_or_path = to.spec
    with atomic_dir(out, overwrite) as folder:
        # The embeddings are those of the model: PEFT would ask the hub whether they are.
        wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return Path(out)


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Two factors of a matrix of this rank, of equal norms; of one of a higher rank the nearest that is found.

    Shapes: matrix (n, m); factors (n, rank), (rank, m).

    Source: Halko et al., arXiv 0909.4061, algorithm 4.1; exact here, as the range is no larger.
    """
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(matrix.shape[1], rank, generator=generator, dtype=matrix.dtype)
    basis, _ = torch.linalg.qr(matrix @ probes)
    inside, lengths, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    root = lengths.sqrt()
    missing = rank - len(lengths)
    left = torch.nn.functional.pad((basis @ inside) * root, (0, missing))
    return left, torch.nn.functional.pad(root[:, None] * right, (0, 0, 0, missing))


def _matrix(delta: Tensor) -> Tensor:
    return delta.reshape(len(delta), -1)


def _fill(layer: Any, delta: Tensor) -> None:
    """Factors of a layer whose product is this."""
    first, second = _factors_of(layer)
    turned = isinstance(layer.get_base_layer(), nn.Embedding) or getattr(layer, "fan_in_fan_out", False)
    matrix = delta.mT if turned else _matrix(delta)
    left, right = factors(matrix / layer.scaling[NAME], int(layer.r[NAME]))
    first.data = right.reshape(first.shape).to(first)
    second.data = left.reshape(second.shape).to(second)


def _factors_of(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """The factor that reads and the one that writes."""
    for names in _FACTORS:
        held = [getattr(layer, name) for name in names]
        if all(NAME in layers for layers in held):
            first, second = (layers[NAME] for layers in held)
            return getattr(first, "weight", first), getattr(second, "weight", second)
    raise UsageError(f"an adapter of a {type(layer).__name__} has no two factors", remedy="merge it into its model")


def _layers(wrapped: Any) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in wrapped.base_model.model.modules() if isinstance(module, LoraLayer))


def _wrapped(model: Model, folder: str | Path) -> Any:
    """The model with an adapter, on the same parameters: no second copy of them, and none of them is written to."""
    peft = _peft()
    held = {id(tensor): tensor for tensor in chain(model.module.parameters(), model.module.buffers())}
    tensors = {name: tensor for name, tensor in _stored(model, folder).items() if _FACTOR in name}
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        # What it was is no news: it would be warned of.
        config.base_model_name_or_path = None
        wrapped = peft.get_peft_model(copy.deepcopy(model.module, held), config, adapter_name=NAME)
        loaded = peft.set_peft_model_state_dict(wrapped, tensors, adapter_name=NAME)
    except Exception as error:
        raise _misfit(model, folder, _strangers(model, tensors) or one_line(error)) from error
    without = [name for name in loaded.missing_keys if _FACTOR in name]
    if cause := _strangers(model, loaded.unexpected_keys) or _strange("the adapter", without):
        raise _misfit(model, folder, cause)
    return wrapped


def _stored(model: Model, folder: str | Path) -> dict[str, Tensor]:
    """The tensors of an adapter, by the names that PEFT gives them."""
    from peft.utils import load_peft_weights

    if not any((Path(folder) / file).is_file() for file in _FILES):
        remedy = "fetch the adapter again, or save it with save_pretrained"
        raise CheckpointError(f"{folder} holds no adapter", cause=f"there is no {_FILES[0]} in it", remedy=remedy)
    renamed = getattr(model.module, "_checkpoint_conversion_mapping", None)
    try:
        tensors: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu", key_mapping=renamed)
    except Exception as error:
        remedy = "fetch the adapter again"
        raise CheckpointError(f"{folder} cannot be read", cause=one_line(error), remedy=remedy) from error
    return tensors


def _misfit(model: Model, folder: str | Path, cause: str) -> CheckpointError:
    remedy = "name the base model that the adapter was trained on, and models of its architecture"
    return CheckpointError(f"{folder} is no adapter of {model.spec}", cause=cause, remedy=remedy)


def _strangers(model: Model, names: Iterable[str]) -> str:
    """What a model lacks of the modules that tensors of an adapter change."""
    known = {name for name, _ in model.module.named_modules()}
    return _strange(model.spec, [name for name in names if _changed(name) not in known])


def _strange(owner: str, names: Iterable[str]) -> str:
    modules = dict.fromkeys(map(_changed, names))
    return f"{owner} has nothing for {shorten(modules)}" if modules else ""


def _changed(name: str) -> str:
    """The module that a factor changes."""
    return name.removeprefix(_PREFIX).partition(f".{_FACTOR}")[0]


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UsageError("adapters need PEFT", remedy='install it: pip install "symgraph[adapters]"') from error
    return peft


def _check_tables(folder: str | Path, base: Model) -> None:
    """Whether tables that are stored beside factors are those of the model, as they are where nobody made others."""
    own = dict(base.module.named_parameters(remove_duplicate=False))
    for name, tensor in _stored(base, folder).items():
        here = own.get(name.removeprefix(_PREFIX).replace(_BASE, "."))
        if _FACTOR not in name and (here is None or not torch.equal(here.detach().to(tensor), tensor)):
            cause = f"it brings {name.removeprefix(_PREFIX)}, other than that of {base.spec}"
            raise _misfit(base, folder, cause)


def _check_kind(folder: Path) -> None:
    config = config_of(folder)
    kind, more = (
        config.get("peft_type"),
        [key for key, none in _MORE.items() if config.get(key, none) not in (none, [])],
    )
    if kind != "LORA" or more:
        what = f"of the kind {kind}" if kind != "LORA" else f"with {', '.join(f'{key}={config[key]}' for key in more)}"
        cause = "only adapters that are products of two factors are read"
        remedy = "merge it into its model, and name that"
        raise UsageError(f"{folder} is an adapter {what}", cause=cause, remedy=remedy)
