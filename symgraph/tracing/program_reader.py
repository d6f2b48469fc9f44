"""An exported program as our graph, over the names that the user's model gives its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument

from symgraph.ir import Graph, Kind, Node, Ref
from symgraph.tracing.lowering import Lowering, describe, innermost_user_line
from symgraph.tracing.meta import numbers

# Constants written in the code of a model (`torch.tensor([...])`) belong to no module, so they are kept beside it.
_literals: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()


class ProgramReader:
    """Reads one exported program as a graph over the names of the user's model."""

    def __init__(self, model: nn.Module, prefix: str, name: str, kind: str = "") -> None:
        self.model, self.prefix, self.name, self.kind = model, prefix, name or type(model).__name__, kind
        self.canonical, self.tied = state_names(model)
        self.stored, self.buffers = frozenset(model.state_dict()), dict(model.named_buffers())
        self.parameters, self.attributes = dict(model.named_parameters()), _attributes(model)
        self.constants: dict[str, Node] = {}
        self.inputs: dict[str, str] = {}
        self.literals: dict[str, torch.Tensor] = {}

    def graph(self, program: ExportedProgram) -> Graph:
        """The program as nodes: parameters, buffers, inputs, calls."""
        specs = program.graph_signature.input_specs
        placeholders = {node.name: node for node in program.graph_module.graph.nodes if node.op == "placeholder"}
        tensors = [
            spec.arg.name
            for spec in specs
            if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
        ]
        # A parameter may be called as an input is; the input then gives way.
        self.inputs = {name: f"{name}_input" if name in self.canonical else name for name in tensors}
        inputs = [
            Node(value, Kind.INPUT, name, result=describe(placeholders[name].meta["val"]))
            for name, value in self.inputs.items()
        ]
        lowering = Lowering(self._locate, self._constant, (*self.canonical, *(node.name for node in inputs)))
        self.lowering = lowering
        operands = [self._operand(spec, program) for spec in specs]
        outputs = lowering.run(program.graph_module, operands)
        kept = zip(outputs, program.graph_signature.output_specs, strict=True)
        names = tuple(
            output.name for output, spec in kept if spec.kind is OutputKind.USER_OUTPUT and isinstance(output, Ref)
        )
        state = self._state()
        if self.literals:
            _literals.setdefault(self.model, {}).update(self.literals)
        nodes = (*state, *self.constants.values(), *inputs, *lowering.nodes)
        known = known_numbers(self.model) | {
            name: tensor.detach() for name, tensor in self.literals.items() if numbers(tensor) is not None
        }
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
        """A tensor that is no parameter or buffer by its name: an attribute of a module, or one made in the code."""
        if registered := self._registered(value):
            return Ref(registered)
        target = target.removeprefix(self.prefix)
        if target in self.attributes:
            return self._unregistered(target, value)
        made = self.lowering.literal(value)
        if made is None:
            target = f"{self.kind}.{target}" if self.kind else target
            self.literals[target] = value
            made = self._unregistered(target, value)
        return made

    def _registered(self, value: torch.Tensor) -> str | None:
        """The parameter that a constant is: code may read it from a list of its own, where it has no name."""
        return next((name for name, parameter in self.parameters.items() if value.is_set_to(parameter)), None)

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
        return frozenset(name for name in (*self.canonical, *self.constants) if name not in self.stored)

    def _locate(self, node: fx.Node) -> tuple[str, str]:
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(stack.values()))[0]) if stack else ""
        return f"{path}.".removeprefix(self.prefix).removesuffix("."), innermost_user_line(node.meta.get("stack_trace"))


def known_numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """What buffers and constants of a model hold, where they hold anything."""
    held = {**dict(model.named_buffers()), **_attributes(model)}
    return {name: value.detach() for name, tensor in held.items() if (value := numbers(tensor)) is not None}


def state_names(model: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of parameters and buffers, one for each tensor, and for every further name the one that stands."""
    names: dict[str, str] = {}
    first: dict[int, str] = {}
    for tensors in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            names[name] = first.setdefault(id(tensor), name)
    return tuple(first.values()), {name: standing for name, standing in names.items() if name != standing}


def _attributes(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors that modules hold without registering them."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants of a model under the names that its graph uses (a shared one once)."""
    state: dict[str, torch.Tensor] = dict(model.named_parameters())
    state |= dict(model.named_buffers())
    state |= {name: tensor for name, tensor in _attributes(model).items() if name not in state}
    return state | _literals.get(model, {})


def has_literals(model: nn.Module) -> bool:
    """Whether constants of a trace are kept beside a model, which alone has them."""
    return model in _literals
