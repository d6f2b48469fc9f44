"""What a loss barrier lies between: models in any form, as states of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, shorten
from symgraph.inference.sources import Source
from symgraph.inference.sources import model as model_of
from symgraph.io.checkpoint import canonical_state, read_state
from symgraph.io.models import Model
from symgraph.io.same_architecture import check_same_architecture

Endpoint = Source | Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Models by their names, as states of one network."""

    network: nn.Module
    states: tuple[Mapping[str, Tensor], ...]
    names: tuple[str, ...]


def endpoints(given: Sequence[Endpoint], module: Source, names: Sequence[str] | None) -> Endpoints:
    """Models as states of `module`, or of the network of the first one that has one.

    Raises:
        UsageError: there is not one name for each, or no network.
        CheckpointError: models are of different architectures, or have no weights.
    """
    models = [source if isinstance(source, Model | nn.Module | Mapping) else model_of(source) for source in given]
    named = _names(models, names)
    network = _network(models, None if module is None else model_of(module).module)
    called = (
        ("endpoint A", "endpoint B") if len(models) == 2 else [f"model {number + 1}" for number in range(len(models))]
    )
    states = tuple(_state(model, network, end) for model, end in zip(models, called, strict=True))
    return Endpoints(network, states, named)


def _names(models: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None:
        if len(names) != len(models):
            raise UsageError(f"{len(models)} models and {len(names)} names", remedy="give one for each")
        return tuple(names)
    if len(models) == 2:
        return ("A", "B")
    return tuple(
        Path(model.spec).name if isinstance(model, Model) else f"model {number + 1}"
        for number, model in enumerate(models)
    )


def _network(models: Sequence[Any], module: nn.Module | None) -> nn.Module:
    """The network that is evaluated: `module`, or that of the first model that has one.

    Raises:
        UsageError: none of them has one.
        CheckpointError: models are of different architectures, or the network has buffers without values.
    """
    loaded = [model for model in models if isinstance(model, Model)]
    for other in loaded[1:]:
        check_same_architecture(loaded[0], other)
    candidates = (module, *(model.module if isinstance(model, Model) else model for model in models))
    network = next((candidate for candidate in candidates if isinstance(candidate, nn.Module)), None)
    if network is None:
        many = "two" if len(models) == 2 else str(len(models))
        raise UsageError(f"{many} states do not say which network they belong to", remedy="pass it as module=")
    saved = network.state_dict()
    if any(buffer.is_meta for name, buffer in network.named_buffers() if name not in saved):
        remedy = "pass a module built with weights"
        raise CheckpointError("the network has buffers without values", cause="it was built without", remedy=remedy)
    return network


def _state(model: Any, network: nn.Module, name: str) -> Mapping[str, Tensor]:
    """The state of a model, which messages call `name`.

    Raises:
        CheckpointError: it does not fit the network, or has no weights.
    """
    if isinstance(model, Model):
        state: Mapping[str, Tensor] = read_state(model)
    else:
        state = model.state_dict() if isinstance(model, nn.Module) else model
    state = canonical_state(network, state, name)
    if empty := [name for name, tensor in state.items() if tensor.is_meta]:
        raise CheckpointError(
            f"{name} has no weights", cause=f"no values for {shorten(empty)}", remedy="load it with weights"
        )
    return state
