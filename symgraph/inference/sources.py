"""What a user gives, as what the stages take: a model, a graph, a symmetry graph, a rule book.

A model is given as a `Model`, an `nn.Module` (with example inputs, unless it is a transformers model: as an attribute
`example_inputs` or as a pair of both), a transformers config, the text that names one (see `symgraph.io.models.load`
and `symgraph.io.adapted`), or a pair of a graph and a state, from whatever front end.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from symgraph.errors import TraceError, UsageError, argument, either, shorten
from symgraph.inference.pipeline import infer as _infer
from symgraph.io.adapted import load_named
from symgraph.io.checkpoint import canonical_state, tied_names
from symgraph.io.example import Size, example_of
from symgraph.io.factories import is_factory
from symgraph.io.models import Model, of_module, of_program
from symgraph.io.tied import untie
from symgraph.ir import Graph
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.schema import Rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of, trace_config
from symgraph.tracing import trace as _trace
from symgraph.tracing.graph_module import GraphModule
from symgraph.tracing.progress import tell
from symgraph.tracing.wrap import is_pretrained

Source = Model | nn.Module | Graph | SymmetryGraph | str | Path | Any
RuleSources = RuleBook | Iterable[str | Path | Rule] | None
Weights = Mapping[str, Tensor] | nn.Module | Model


_log = logging.getLogger(__name__)


def model(
    source: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    weights: bool = True,
    trust_remote_code: bool = False,
    model_class: str | type[Any] | None = None,
) -> Model:
    """Any way of giving a model, as a `Model`.

    Args:
        example, input_size: inputs of a module, or the shape of one; as for `trace`.
        trust_remote_code, model_class: of a checkpoint, as for `symgraph.io.models.load`.

    Raises:
        CheckpointError: the text names nothing that can be loaded.
        UsageError: the object is none of the things a model can be given as, a state does not fit its graph, or the
            example inputs do not fit the module.

    >>> symgraph.model(torch.nn.Linear(6, 8), input_size=(5, 6))
    Linear: Linear, 56 parameters
    """
    found = _as_model(source, weights, trust_remote_code=trust_remote_code, model_class=model_class)
    if example is None and input_size is None:
        return found
    if not isinstance(found.module, GraphModule):
        return replace(found, example=example_of(found.module, example, input_size))
    if isinstance(example, Mapping) and input_size is None:
        return _of_graph(found.module.traced, example)
    remedy = "give the state of the graph beside it, (graph, state)"
    raise UsageError("a graph has the inputs that it was traced with", remedy=remedy)


def _as_model(source: Source, weights: bool, **trusted: Any) -> Model:
    if isinstance(source, tuple) and len(source) == 2:
        return _of_pair(*source)
    if isinstance(source, Model):
        return source
    if isinstance(source, str | Path):
        return load_named(source, weights=weights, **trusted)
    if isinstance(source, Graph | SymmetryGraph):
        return _of_graph(source, None)
    if isinstance(source, ExportedProgram):
        return of_program(source)
    if isinstance(source, nn.Module):
        return of_module(source)
    raise _no_model(source)


def _of_pair(source: Any, beside: Any) -> Model:
    """A module with example inputs, or a graph with a state."""
    if isinstance(source, Graph | SymmetryGraph):
        return _of_graph(source, beside)
    if isinstance(source, nn.Module | ExportedProgram):
        return model(source, beside)
    raise _no_model((source, beside))


def _of_graph(source: Graph | SymmetryGraph, state: Weights | None) -> Model:
    graph = source.graph if isinstance(source, SymmetryGraph) else source
    held = None if state is None else _as_state(state)
    return Model(GraphModule(graph, held), None, None, graph.model or "graph", "factory")


def _as_state(weights: Weights) -> Mapping[str, Tensor]:
    """Weights as a state, also where the module that holds them is given."""
    if isinstance(weights, Model):
        return state_of(weights.module)
    if isinstance(weights, nn.Module):
        return state_of(weights)
    if isinstance(weights, Mapping):
        return weights
    raise UsageError(
        f"{type(weights).__name__} is no state",
        cause="weights are asked for here",
        remedy="give a mapping of names to tensors, or the module whose weights they are",
    )


def _no_model(source: Any) -> UsageError:
    kind = type(source).__name__
    if isinstance(source, Mapping) and any(isinstance(value, Tensor) for value in source.values()):
        return UsageError(
            f"a state ({kind} of tensors) is not a model",
            cause="it holds weights, and says nothing of what is computed with them",
            remedy="give the nn.Module that it belongs to, or a graph with the state: (graph, state)",
        )
    if isinstance(source, type):
        return UsageError(f"{source.__name__} is a class, not a model", remedy="give an instance of it")
    if isinstance(source, list):
        return UsageError("a list is not a model", remedy="give one model, or call `universe` or `merge` with several")
    return UsageError(
        f"{kind} is not a model",
        remedy="give an nn.Module with example inputs, an exported program, a checkpoint folder, a hub id, a config, "
        "package.module:factory, or a graph with a state: (graph, state)",
    )


def rule_book(rules: RuleSources = None) -> RuleBook:
    """The shipped rules, with the user's in front.

    >>> len(symgraph.rule_book().rules) > 100
    True
    """
    if isinstance(rules, RuleBook):
        return rules
    return with_user_rules(default_rules(), rules) if rules else default_rules()


def trace(
    source: Source,
    example: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    input_size: Size | None = None,
) -> Graph:
    """The graph of a model: ATen operators, parameters, shapes; no weights are needed.

    Args:
        example: inputs of a module that is no transformers model: a tensor, a tuple of them, a dictionary by name, a
            batch (inputs and labels), or the loader that it comes from; `kwargs` are further ones by name.
        input_size: the shape of an input in its place, (1, 3, 32, 32), or shapes by name.

    Raises:
        TraceError: naming the user's line, the cause and what to try.
        UsageError: this is no model, or the inputs do not fit it.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symgraph.trace(net, input_size=(1, 6))
    graph Sequential: 3 calls, 83 parameters, inputs input (1, 6)
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, SymmetryGraph):
        return source.graph
    if _is_config(source):
        return trace_config(source)
    found = model(source, example, input_size=input_size, weights=False)
    args, named = called_with(found)
    named |= dict(kwargs or {})
    require_inputs(found, args, named)
    name = type(found.module).__name__
    tell(_log, None, f"tracing {name}")
    return _trace(found.module, args, named, name=name)


def called_with(found: Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs of a model, those by place and those by name."""
    inputs = found.example
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs or ()), {})


def require_inputs(found: Model, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise where a module has no example inputs, and no config that they follow from."""
    if args or named or is_pretrained(found.module):
        return
    try:
        inspect.signature(found.module.forward).bind()
    except TypeError as error:
        remedy = "give them, infer(model, inputs), or as its attribute `example_inputs`; a shape alone serves: "
        remedy += "input_size=(1, 3, 32, 32)"
        if is_factory(found.spec):
            remedy = f"let {found.spec} return (module, example_inputs)"
        remedy = either(remedy, f"let {found.spec} return (module, example_inputs)")
        name = type(found.module).__name__
        raise TraceError(f"{name} has no example inputs", cause=f"{error} of its forward", remedy=remedy) from error


def _is_config(source: Any) -> bool:
    """Whether this is a config of transformers, or like one."""
    return hasattr(source, "model_type") and not isinstance(source, nn.Module)


def infer(
    source: Source,
    example: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    input_size: Size | None = None,
    rules: RuleSources = None,
    strict: bool = False,
) -> SymmetryGraph:
    """The symmetry graph of a model: spaces, groups, and the evidence behind every bound.

    Args:
        example, kwargs, input_size: example inputs, or the shape of one, as for `trace`.

    Raises:
        TraceError: the model cannot be traced.
        UsageError: this is no model.
        RuleError: a user's rule is malformed or unsound.
        CoverageError: with `strict`, an operator has no rule.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> graph = symgraph.infer(net, torch.randn(5, 6))
    >>> [space.name for space in graph], str(graph["hidden"].group)
    (['hidden'], 'positive monomial')
    """
    if isinstance(source, SymmetryGraph):
        return source
    return _infer(trace(source, example, kwargs, input_size=input_size), rule_book(rules), strict=strict)


def given(
    source: Source,
    example: Any = None,
    state: Weights | None = None,
    *,
    input_size: Size | None = None,
    weights: bool = True,
) -> tuple[Model | Graph | SymmetryGraph | Any, dict[str, Tensor] | None]:
    """What `infer` takes, and beside it the weights under the names of the graph where there are any.

    Args:
        example: inputs of a module; of a graph, its state.
        state: weights in the place of the model's own, or a module that has them.
    """
    if isinstance(source, Graph | SymmetryGraph):
        held = example if state is None else state
        return source, None if held is None else state_of(model((source, held)).module)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], Graph | SymmetryGraph):
        return given(*source, state)
    if _is_config(source):
        return source, None if state is None else dict(_as_state(state))
    found = model(source, example, input_size=input_size, weights=weights)
    own = state_of(found.module) if found.has_weights else None
    return found, own if state is None else {**(own or {}), **_as_state(state)}


def ready(
    sources: Sequence[Source], tied: str, roles: Sequence[str], example: Any = None, input_size: Size | None = None
) -> tuple[list[Model], tuple[str, ...]]:
    """Models of one architecture with weights, their shared tensors kept or cut apart, and what that means.

    Raises:
        UsageError: a model has no weights (it is named by its role), or `tied` is no choice.
        CheckpointError: a model is of another architecture than the first.
    """
    if tied not in ("keep", "untie"):
        raise UsageError(f"{argument('tied', tied)} is neither 'keep' nor 'untie'", remedy=argument("tied", "keep"))
    models = [with_inputs(s, example, input_size) for s in sources]
    for role, m in zip(roles, models, strict=True):
        if not m.has_weights:
            raise UsageError(f"{role} ({m.spec}) has no weights", remedy="name a checkpoint, not a config")
    if tied == "keep":
        return models, _kept(models[0])
    cut = [untie(m) for m in models]
    return [u.model for u in cut], (str(cut[0]),) if cut[0].cut else ("nothing is tied",)


def several(sources: Any, verb: str) -> list[Source]:
    """Models that were given in one list.

    Raises:
        UsageError: they were given one by one, or it is no list.
    """
    if isinstance(sources, Iterable) and not isinstance(sources, str | Mapping | nn.Module):
        return list(sources)
    what = f"{verb} takes its models in one list, and was given a {type(sources).__name__}"
    raise UsageError(what, remedy=f"{verb}([a, b, ...])")


def with_inputs(source: Source, example: Any = None, input_size: Size | None = None) -> Model:
    """A model with example inputs, unless it has inputs of its own; as for `model`."""
    found = model(source)
    if found.example is not None or isinstance(found.module, GraphModule):
        return found
    return model(found, example, input_size=input_size)


def stored(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `load_state_dict` of the module takes: no transient buffers, no constants of the code.

    A tied tensor stands under all of its names, as one tensor.

    Raises:
        CheckpointError: the state does not fit the module.
    """
    tied = tied_names(module)
    names = module.state_dict().keys()
    once = canonical_state(module, {name: tensor.detach() for name, tensor in state.items() if name in names})
    return {name: once[tied.get(name, name)] for name in names}


def with_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module with these weights, under the names of its graph; tied tensors stay tied."""
    found = copy.deepcopy(module)
    for name, tensor in state_of(found).items():
        if name in state:
            tensor.data = state[name].to(tensor.device, tensor.dtype, copy=True)
    return found


def _kept(m: Model) -> tuple[str, ...]:
    """What keeping shared tensors means, if there are any."""
    ties = tied_names(m.module)
    if not ties:
        return ()
    state = m.module.state_dict()
    pairs = shorten(f"{name} = {first}" for name, first in sorted(ties.items()))
    more = sum(state[name].numel() for name in ties if name in state)
    return (
        f"kept tied: {pairs}; the group is smaller for it ({argument('tied', 'untie')} costs {more:,} more parameters)",
    )
