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
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch._C._functorch import peek_interpreter_stack, pop_dynamic_layer_stack
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument
from torch.nn.modules import transformer

from symgraph.errors import SymgraphError, TraceError, argument, one_line
from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.called import following
from symgraph.tracing.every_node import EveryNode
from symgraph.tracing.fingerprint import fingerprint
from symgraph.tracing.graph_module import GraphModule
from symgraph.tracing.joint import joined
from symgraph.tracing.kept import keep, kept
from symgraph.tracing.kinds import further_kinds, numbers_of
from symgraph.tracing.lowering import Lowering, describe, innermost_user_line, without_dropout
from symgraph.tracing.meta import as_if_on_cpu, numbers, weightless
from symgraph.tracing.normalize import normalize
from symgraph.tracing.operators import draws
from symgraph.tracing.places import trace_error
from symgraph.tracing.repeats import Repeat, all_names, repeats_of, shortened, with_copies
from symgraph.tracing.touched import touched
from symgraph.tracing.unaltered import unaltered
from symgraph.tracing.wrap import TensorsOnly, evaluating, example_inputs, gathered_experts, is_pretrained, named_inputs
from symgraph.tracing.writes import without_writes

_log = logging.getLogger(__name__)
# Constants written in the code of a model (`torch.tensor([...])`) belong to no module, so they are kept beside it.
_literals: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()


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
    found = None if key is None else kept(key)
    if found is not None:
        return replace(found, known=_known(model))
    graph = _of_every_kind(model, name) if is_pretrained(model) else _traced(model, model, args, inputs, name)
    if key is not None and model not in _literals:
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
    found, failed, unread = dict[str, Graph](), dict[str, str](), set(plain.unread)
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
            found[kind], unread = graph, unread & set(graph.unread)
    return replace(joined(plain, found), untraced=tuple(f"{k}: {why}" for k, why in failed.items()))


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
        reader = partial(_Program, model, prefix, name, kind)
        short = None if whole else _by_two_blocks(model, wrapper, given, reader)
        graph, names = short or _as_a_whole(model, wrapper, given, reader)
    # Where there are no other inputs, what these do not reach is reached by none.
    idle = names if _takes_more(model, args, inputs) else dict(model.named_parameters())
    return _deterministic(replace(normalize(graph), idle=frozenset(idle)), model)


def _as_a_whole(
    model: nn.Module, wrapper: nn.Module, given: tuple[Any, Any], reader: Callable[[], _Program]
) -> tuple[Graph, set[str]]:
    """The graph of a model, and the parameters that its code reads."""
    with unaltered(model), touched(model) as names:
        program = _export(wrapper, *given, model)
    found = _without_writes(lambda p: reader().graph(p), program)
    if found is not None:
        return found, names
    raise TraceError(
        f"{type(model).__name__} cannot be traced",
        cause="it writes to a tensor in place in a way that has no functional form",
        remedy="write the result to a new tensor instead",
    )


def _by_two_blocks(
    model: nn.Module, wrapper: nn.Module, given: tuple[Any, Any], reader: Callable[[], _Program]
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
        found = _without_writes(lambda p: _repeated(reader(), p, repeats), program)
        if found is not None:
            return found, all_names(names, repeats)
    return None


def _repeated(reader: _Program, program: ExportedProgram, repeats: tuple[Repeat, ...]) -> Graph | None:
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
    return any(name not in given or p.kind is p.VAR_KEYWORD for name, p in signature.parameters.items())


def _deterministic(graph: Graph, model: nn.Module) -> Graph:
    drawn = next((n for n in graph.calls if draws(n.target, n.args, dict(n.kwargs))), None)
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


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants of a model under the names that its graph uses (a shared one once)."""
    found: dict[str, torch.Tensor] = dict(model.named_parameters())
    found |= dict(model.named_buffers())
    found |= {k: v for k, v in _attributes(model).items() if k not in found}
    return found | _literals.get(model, {})


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
        key = next((k for k in automatic if k.startswith("AutoModelFor")), "AutoModel")
        return getattr(transformers, key).from_config(config, trust_remote_code=True)  # type: ignore[no-any-return]
    found = model_class or getattr(transformers, str(named), None)
    if found is None:
        raise TraceError(
            f"no class of model for {type(config).__name__}",
            cause=f"transformers has no `{named}`" if named else "config.architectures is empty",
            remedy=f"name the class, {argument('model_class', 'package.module:Class')}, or trust the code that the "
            f"config brings, {argument('trust_remote_code', True)}",
        )
    return found(config) if hasattr(found, "forward") else found.from_config(config)  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing the half-made graph of a trace that fails; its error says what is needed."""
    logs = [logging.getLogger(f"torch.{n}") for n in ("fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")]
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
        with _quiet(), following(_log, wrapper, "tracing"):
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
    calls = (n.target for m in program.graph_module.modules() if isinstance(m, fx.GraphModule) for n in m.graph.nodes)
    batched = any(getattr(c, "__name__", "") == "_add_batch_dim" for c in calls)
    return program.run_decompositions({}) if batched else program


def _without_writes(read: Callable[[ExportedProgram], Graph | None], program: ExportedProgram) -> Graph | None:
    """A program as a graph without writes; None where these have no functional form, or it cannot be read."""
    graph = read(program)
    found = None if graph is None else without_writes(graph)
    if found is not None or graph is None:
        return found
    with _quiet():
        functional = program.run_decompositions({})
    graph = read(functional)
    return None if graph is None else without_writes(graph)


class _Program:
    """Reads one exported program as a graph over the names of the user's model."""

    def __init__(self, model: nn.Module, prefix: str, name: str, kind: str = "") -> None:
        self.model, self.prefix, self.name, self.kind = model, prefix, name or type(model).__name__, kind
        self.canonical, self.tied = state_names(model)
        self.stored, self.buffers = frozenset(model.state_dict()), dict(model.named_buffers())
        self.attributes = _attributes(model)
        self.constants: dict[str, Node] = {}
        self.inputs: dict[str, str] = {}
        self.literals: dict[str, torch.Tensor] = {}

    def graph(self, program: ExportedProgram) -> Graph:
        """The program as nodes: parameters, buffers, inputs, calls."""
        specs = program.graph_signature.input_specs
        placeholders = {n.name: n for n in program.graph_module.graph.nodes if n.op == "placeholder"}
        tensors = [s.arg.name for s in specs if s.kind is InputKind.USER_INPUT and isinstance(s.arg, TensorArgument)]
        # A parameter may be called as an input is; the input then gives way.
        self.inputs = {n: f"{n}_input" if n in self.canonical else n for n in tensors}
        inputs = [Node(v, Kind.INPUT, n, result=describe(placeholders[n].meta["val"])) for n, v in self.inputs.items()]
        lowering = Lowering(self._locate, self._constant, (*self.canonical, *(n.name for n in inputs)))
        self.lowering = lowering
        operands = [self._operand(s, program) for s in specs]
        outputs = lowering.run(program.graph_module, operands)
        kept = zip(outputs, program.graph_signature.output_specs, strict=True)
        names = tuple(o.name for o, s in kept if s.kind is OutputKind.USER_OUTPUT and isinstance(o, Ref))
        state = self._state()
        if self.literals:
            _literals.setdefault(self.model, {}).update(self.literals)
        nodes = (*state, *self.constants.values(), *inputs, *lowering.nodes)
        known = _known(self.model) | {n: t.detach() for n, t in self.literals.items() if numbers(t) is not None}
        return Graph(nodes, names, dict(self.tied), self._transient(), self.name, known=known)

    def _operand(self, spec: InputSpec, program: ExportedProgram) -> Any:
        if isinstance(spec.arg, ConstantArgument):
            return spec.arg.value
        if spec.kind is InputKind.USER_INPUT:
            return Ref(self.inputs[spec.arg.name])
        target = str(spec.target).removeprefix(self.prefix)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            name = self.tied.get(target, target)
            return self._made_of_numbers(name) or Ref(name)
        return self._constant(target, program.constants[str(spec.target)])

    def _made_of_numbers(self, name: str) -> Ref | None:
        """A buffer that no checkpoint stores and that only counts, or holds one number, as the call that makes it."""
        buffer = self.buffers.get(name) if name not in self.stored else None
        held = numbers(buffer) if buffer is not None else None
        if held is None or not held.numel():
            return None
        return self.lowering.run_of(held) or self.lowering.constant_of(held)

    def _constant(self, target: str, value: torch.Tensor) -> Ref:
        """A tensor that is neither parameter nor buffer: an attribute of a module, or one made in the code."""
        target = target.removeprefix(self.prefix)
        if target in self.attributes:
            return self._unregistered(target, value)
        made = self.lowering.literal(value)
        if made is None:
            target = f"{self.kind}.{target}" if self.kind else target
            self.literals[target] = value
            made = self._unregistered(target, value)
        return made

    def _unregistered(self, target: str, value: torch.Tensor) -> Ref:
        self.constants.setdefault(target, Node(target, Kind.BUFFER, target, result=describe(value)))
        return Ref(target)

    def _state(self) -> Iterator[Node]:
        for kind, tensors in (
            (Kind.PARAMETER, self.model.named_parameters()),
            (Kind.BUFFER, self.model.named_buffers()),
        ):
            for name, tensor in tensors:
                yield Node(name, kind, name, result=describe(tensor))

    def _transient(self) -> frozenset[str]:
        return frozenset(n for n in (*self.canonical, *self.constants) if n not in self.stored)

    def _locate(self, node: fx.Node) -> tuple[str, str]:
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(stack.values()))[0]) if stack else ""
        return f"{path}.".removeprefix(self.prefix).removesuffix("."), innermost_user_line(node.meta.get("stack_trace"))


def _known(model: nn.Module) -> dict[str, torch.Tensor]:
    """What buffers and constants of a model hold, where they hold anything."""
    held = {**dict(model.named_buffers()), **_attributes(model)}
    return {n: found.detach() for n, t in held.items() if (found := numbers(t)) is not None}


def state_names(model: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of parameters and buffers, one for each tensor, and for every further name the one that stands."""
    names: dict[str, str] = {}
    first: dict[int, str] = {}
    for found in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in found:
            names[name] = first.setdefault(id(tensor), name)
    return tuple(first.values()), {k: v for k, v in names.items() if k != v}


def _attributes(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors that modules hold without registering them."""
    return {
        f"{path}.{k}" if path else k: v
        for path, module in model.named_modules()
        for k, v in vars(module).items()
        if isinstance(v, torch.Tensor)
    }
