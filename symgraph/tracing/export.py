"""A model and example inputs, or a config alone, to our own graph by way of `torch.export`."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import fx, nn
from torch._C._functorch import peek_interpreter_stack, pop_dynamic_layer_stack
from torch.export import ExportedProgram
from torch.nn.modules import transformer

from symgraph.errors import SymgraphError, TraceError, argument, one_line
from symgraph.ir import Graph
from symgraph.tracing.called import following
from symgraph.tracing.every_node import EveryNode
from symgraph.tracing.export_notes import few_notes
from symgraph.tracing.fingerprint import fingerprint
from symgraph.tracing.graph_module import GraphModule
from symgraph.tracing.joint import joined
from symgraph.tracing.kept import keep, kept
from symgraph.tracing.kinds import further_kinds, numbers_of
from symgraph.tracing.lowering import without_dropout
from symgraph.tracing.meta import as_if_on_cpu, weightless
from symgraph.tracing.normalize import normalize
from symgraph.tracing.operators import draws
from symgraph.tracing.places import trace_error
from symgraph.tracing.program_reader import ProgramReader, has_literals, known_numbers
from symgraph.tracing.repeats import Repeat, all_names, repeats_of, shortened, with_copies
from symgraph.tracing.touched import touched
from symgraph.tracing.unaltered import unaltered
from symgraph.tracing.uncollected import uncollected
from symgraph.tracing.wrap import TensorsOnly, evaluating, example_inputs, gathered_experts, is_pretrained, named_inputs
from symgraph.tracing.writes import without_writes

_log = logging.getLogger(__name__)


@uncollected()
def trace(
    model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Graph:
    """The graph of what a model computes in eval mode, on example inputs.

    A model of `transformers` takes example inputs from its config when none are given, and is traced as a function
    from tensors to tensors (no cache, no loss). Parameters and buffers have the names of `model.state_dict()`.

    Raises:
        TraceError: the model cannot be traced; the message begins with the module and line that stopped it.
    """
    inputs = dict(kwargs or {})
    if isinstance(model, GraphModule):
        return model.graph(args, inputs)
    # Inputs of a model of transformers are few and large, and its code goes by what they hold.
    if is_pretrained(model) and (args or inputs):
        return _traced(model, TensorsOnly(model), (), _named(model, args, inputs), name)
    key = fingerprint(model, name, args, inputs)
    stored = None if key is None else kept(key)
    if stored is not None:
        return replace(stored, known=known_numbers(model))
    graph = _of_every_kind(model, name) if is_pretrained(model) else _traced(model, model, args, inputs, name)
    if key is not None and not has_literals(model):
        keep(key, graph)
    return graph


def _of_every_kind(model: nn.Module, name: str) -> Graph:
    """The trace of a model of transformers, on inputs that follow from its config."""
    inputs = example_inputs(model)
    return _with_kinds(model, _traced_by_example(model, TensorsOnly(model), inputs, name), inputs, name)


def trace_nodes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> tuple[Graph, dict[str, str]]:
    """The graph of a torch.fx graph, and which of its values each node gives.

    Raises:
        TraceError: it cannot be traced, or a node gives no value of the graph.
    """
    wrapper = EveryNode(model)
    graph = _traced(model, wrapper, args, dict(kwargs or {}), name, whole=True)
    outputs, names = wrapper.listed.outputs, wrapper.listed.names
    if len(graph.outputs) != outputs + len(names):
        raise TraceError(
            f"{name or 'the graph'} has nodes without a value",
            cause="their results are constants, or views that are written to",
            remedy="export the model anew, with torch.export.export",
        )
    return replace(graph, outputs=graph.outputs[:outputs]), dict(zip(names, graph.outputs[outputs:], strict=True))


def _with_kinds(model: nn.Module, plain: Graph, inputs: dict[str, torch.Tensor], name: str) -> Graph:
    """The plain trace with those of further kinds of input, as long as there are parameters that none has read."""
    graphs: dict[str, Graph] = {}
    failed: dict[str, str] = {}
    unread = set(plain.unread)
    for kind, make in further_kinds(model, inputs):
        if not unread:
            break
        try:
            given = make()
            wrapper = TensorsOnly(model, numbers_of(given))
            with unaltered(model):
                graph = _traced(model, wrapper, (), given, name, kind)
        # Whatever the user's code raises on inputs that it may not take.
        except Exception as error:
            failed[kind] = one_line(error)
            _leave_vmap()
            continue
        if unread - set(graph.unread):
            graphs[kind], unread = graph, unread & set(graph.unread)
    return replace(joined(plain, graphs), untraced=tuple(f"{k}: {why}" for k, why in failed.items()))


def _leave_vmap() -> None:
    """A trace that fails inside of `vmap` does not leave it."""
    while peek_interpreter_stack() is not None:
        pop_dynamic_layer_stack()


def _traced_by_example(model: nn.Module, wrapper: nn.Module, inputs: dict[str, torch.Tensor], name: str) -> Graph:
    try:
        return _traced(model, wrapper, (), inputs, name)
    except TraceError:
        masked = example_inputs(model, masks=True)
        if masked.keys() == inputs.keys():
            raise
        # Some models make the mask that they were not given, but leave that out while they are traced.
        with suppress(TraceError):
            return _traced(model, wrapper, (), masked, name)
        raise


def _traced(
    model: nn.Module,
    wrapper: nn.Module,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
    name: str,
    kind: str = "",
    *,
    whole: bool = False,
) -> Graph:
    prefix = "" if wrapper is model else "model."
    plain = patch.object(transformer, "_detect_is_causal_mask", _is_called_causal)
    with (
        evaluating(wrapper),
        torch.no_grad(),
        plain,
        gathered_experts(model),
        as_if_on_cpu(wrapper, tuple(args), inputs) as given,
    ):
        reader = partial(ProgramReader, model, prefix, name, kind)
        short = None if whole else _by_two_blocks(model, wrapper, given, reader)
        graph, names = short or _as_a_whole(model, wrapper, given, reader)
    closed = not _takes_more(model, args, inputs)
    return _deterministic(replace(normalize(graph), idle=frozenset(names), closed=closed), model)


def _as_a_whole(
    model: nn.Module, wrapper: nn.Module, given: tuple[Any, Any], reader: Callable[[], ProgramReader]
) -> tuple[Graph, set[str]]:
    """The graph of a model, and the parameters that its code reads."""
    with unaltered(model), touched(model) as names:
        program = _export(wrapper, *given, model)
    graph = _without_writes(lambda exported: reader().graph(exported), program)
    if graph is not None:
        return graph, names
    raise TraceError(
        f"{type(model).__name__} cannot be traced",
        cause="it writes to a tensor in place in a way that has no functional form",
        remedy="write the result to a new tensor instead",
    )


def _by_two_blocks(
    model: nn.Module, wrapper: nn.Module, given: tuple[Any, Any], reader: Callable[[], ProgramReader]
) -> tuple[Graph, set[str]] | None:
    """The same, of a model that repeats its blocks; None for any other."""
    with unaltered(model):
        repeats = repeats_of(model, wrapper, *given)
    if not repeats:
        return None
    # What cannot be traced says so for the whole model.
    with suppress(TraceError), unaltered(model):
        with touched(model) as names, shortened(model, repeats):
            program = _export(wrapper, *given, model)
        graph = _without_writes(lambda exported: _repeated(reader(), exported, repeats), program)
        if graph is not None:
            return graph, all_names(names, repeats)
    return None


def _repeated(reader: ProgramReader, program: ExportedProgram, repeats: tuple[Repeat, ...]) -> Graph | None:
    """The program of a short model as the graph of the whole one."""
    graph = reader.graph(program)
    return None if reader.literals else with_copies(graph, repeats)


def _takes_more(model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> bool:
    """Whether a call of the model may give it inputs that this one does not."""
    signature = inspect.signature(model.forward)
    try:
        given = signature.bind_partial(*args, **inputs).arguments
    except TypeError:
        return True
    return any(
        name not in given or parameter.kind is parameter.VAR_KEYWORD for name, parameter in signature.parameters.items()
    )


def _deterministic(graph: Graph, model: nn.Module) -> Graph:
    drawn = next((call for call in graph.calls if draws(call.target, call.args, dict(call.kwargs))), None)
    if drawn is None:
        return graph
    raise TraceError(
        f"{type(model).__name__} draws random numbers in eval mode, at {drawn.where}",
        cause="what it computes is no function of its parameters and inputs",
        remedy="draw the numbers outside and give them as an input, or make them a parameter or a buffer",
    )


def trace_config(config: Any, *, model_class: Any = None, trust_remote_code: bool = False) -> Graph:
    """The graph of the model that a `transformers` config describes, without allocating its weights.

    Raises:
        TraceError: the config names no class of model, or the model cannot be traced.
    """
    with weightless():
        model = _build(config, model_class, trust_remote_code)
    return trace(model, name=type(model).__name__)


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        return named_inputs(model, args, kwargs)
    except TypeError as error:
        raise trace_error(error, model) from error


def _build(config: Any, model_class: Any, trust_remote_code: bool) -> nn.Module:
    import transformers

    automatic = getattr(config, "auto_map", None) or {}
    named = next(iter(getattr(config, "architectures", None) or ()), None)
    if model_class is None and trust_remote_code and automatic:
        key = next((name for name in automatic if name.startswith("AutoModelFor")), "AutoModel")
        return getattr(transformers, key).from_config(config, trust_remote_code=True)  # type: ignore[no-any-return]
    class_named = model_class or getattr(transformers, str(named), None)
    if class_named is None:
        raise TraceError(
            f"no class of model for {type(config).__name__}",
            cause=f"transformers has no `{named}`" if named else "config.architectures is empty",
            remedy=f"name the class, {argument('model_class', 'package.module:Class')}, or trust the code that the "
            f"config brings, {argument('trust_remote_code', True)}",
        )
    return class_named(config) if hasattr(class_named, "forward") else class_named.from_config(config)  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing the half-made graph of a trace that fails; its error says what is needed."""
    logs = [
        logging.getLogger(f"torch.{part}") for part in ("fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")
    ]
    before = [log.disabled for log in logs]
    try:
        for log in logs:
            log.disabled = True
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


def _is_called_causal(mask: Any, is_causal: bool | None, size: int | None = None) -> bool:
    """Torch's layers would look into a mask to find a faster kernel; a trace cannot, and reads the mask itself."""
    return is_causal is True


def _export(wrapper: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], model: nn.Module) -> ExportedProgram:
    try:
        with _quiet(), following(_log, wrapper, "tracing"), few_notes():
            program = _unbatched(torch.export.export(wrapper, args, kwargs, strict=False))
    except SymgraphError:
        raise
    # Whatever the user's forward raises comes through here, and must come out as one typed error.
    except Exception as error:
        raise trace_error(error, model) from error
    without_dropout(program.graph_module)
    return program


def _unbatched(program: ExportedProgram) -> ExportedProgram:
    """A program whose calls under `vmap` are calls on whole batches."""
    calls = (
        node.target
        for module in program.graph_module.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.nodes
    )
    batched = any(getattr(call, "__name__", "") == "_add_batch_dim" for call in calls)
    return program.run_decompositions({}) if batched else program


def _without_writes(read: Callable[[ExportedProgram], Graph | None], program: ExportedProgram) -> Graph | None:
    """A program as a graph without writes; None where these have no functional form, or it cannot be read."""
    graph = read(program)
    rewritten = None if graph is None else without_writes(graph)
    if rewritten is not None or graph is None:
        return rewritten
    with _quiet():
        functional = program.run_decompositions({})
    graph = read(functional)
    return None if graph is None else without_writes(graph)
