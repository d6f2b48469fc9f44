"""Training with a symmetry that is driven in: f = f_eq + gamma f_neq, layer by layer.

Manolache, Chamon and Niepert, "Learning (Approximately) Equivariant Networks via Constrained Optimization" (NeurIPS
2025, arXiv 2505.13631): every layer may break the symmetry at first, and a multiplier drives how much it does to zero,
or to a bound that it pays for. Here f_eq is the projection of a layer's own weights on those that a group does not
move; which these are follows from the symmetry graph of the model, for any architecture and any representation that
its spaces admit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import UsageError, argument
from symgraph.inference.open_ends import WITHIN, OpenEnds, first_output, named_call, require_inputs_named
from symgraph.inference.pipeline import run
from symgraph.inference.sources import RuleSources, rule_book, with_state
from symgraph.io.example import Size, example_of
from symgraph.orbit.equivariant_weights import End, Equivariance, equivariance
from symgraph.orbit.orbit_means import OrbitMean
from symgraph.orbit.representation import Representation, shape_of
from symgraph.prove.equivariant import require_equivariant
from symgraph.tracing import state_of, trace
from symgraph.tracing.sampling import float64
from symgraph.tracing.wrap import evaluating


@dataclass(frozen=True, slots=True)
class LayerReport:
    """How far one layer breaks the symmetry: its gamma, its multiplier, and what of its weights is not equivariant.

    `departure` is |theta - P theta| / |theta|, P being the projection; it is what gamma multiplies.
    """

    layer: str
    gamma: float
    multiplier: float
    departure: float
    parameters: int


class Relaxed(nn.Module):
    """A model of which every layer is f_eq + gamma f_neq; called as the model itself is.

    `gamma` (layers,) is trained with the weights; `multipliers` (layers,) are those of `DualAscent`. The module given
    is trained in place: it holds theta, and what is computed with is P theta + gamma (theta - P theta).
    """

    def __init__(self, module: nn.Module, found: Equivariance) -> None:
        super().__init__()
        self.module, self.equivariance = module, found
        own = state_of(module)
        self.means: dict[str, OrbitMean] = {
            name.removeprefix(WITHIN): mean for name, mean in found.means.items() if name.startswith(WITHIN)
        }
        self._held = nn.ModuleList(self.means.values())
        self.trained = [name for name in self.means if isinstance(own[name], nn.Parameter)]
        self.layers = tuple(dict.fromkeys(map(_layer, self.trained)))
        if not self.trained:
            what = f"the group moves no parameter of {type(module).__name__}"
            raise UsageError(what, cause=str(found), remedy="act on an axis that the model's weights read")
        like = own[self.trained[0]]
        self.gamma = nn.Parameter(torch.ones(len(self.layers), device=like.device, dtype=like.dtype))
        self.register_buffer("multipliers", torch.zeros_like(self.gamma.detach()))
        self.multipliers: Tensor

    def weights(self) -> dict[str, Tensor]:
        """What is computed with, in the place of the parameters that the group moves; differentiable."""
        found, gates = {}, dict(zip(self.layers, self.gamma, strict=True))
        for name in self.trained:
            theta = self.module.get_parameter(name)
            mean = self.means[name](theta)
            found[name] = mean + gates[_layer(name)] * (theta - mean)
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model at these weights."""
        return torch.func.functional_call(self.module, self.weights(), args, kwargs)

    @torch.no_grad()
    def equivariant(self) -> nn.Module:
        """A copy of the model with gamma at zero everywhere: exactly equivariant, stored statistics included."""
        own = state_of(self.module)
        return with_state(self.module, {name: mean(own[name]) for name, mean in self.means.items()})

    @torch.no_grad()
    def as_trained(self) -> nn.Module:
        """A copy of the model at the weights that are computed with now."""
        return with_state(self.module, self.weights())

    @torch.no_grad()
    def report(self) -> tuple[LayerReport, ...]:
        """Which layers break the symmetry, and how hard they are held."""
        rows = []
        for number, layer in enumerate(self.layers):
            names = [name for name in self.trained if _layer(name) == layer]
            thetas = [self.module.get_parameter(name) for name in names]
            apart = sum(
                float((t - self.means[name](t)).double().square().sum()) for name, t in zip(names, thetas, strict=True)
            )
            whole = sum(float(t.double().square().sum()) for t in thetas)
            departure = (apart / whole) ** 0.5 if whole else 0.0
            size = sum(t.numel() for t in thetas)
            rows.append(LayerReport(layer, float(self.gamma[number]), float(self.multipliers[number]), departure, size))
        return tuple(rows)

    def table(self) -> str:
        """The report as text, a line for each layer."""
        rows = self.report()
        wide = max((len(row.layer) for row in rows), default=0)
        head = f"{'layer':<{wide}}    gamma  multiplier  not equivariant"
        lines = [
            f"{row.layer:<{wide}}  {row.gamma:7.4f}  {row.multiplier:10.4f}  {row.departure:15.1%}" for row in rows
        ]
        return "\n".join([head, *lines])


def relax(
    module: nn.Module,
    example: Any = None,
    *,
    representation: Representation | Mapping[str, Any] | str | Path,
    input_size: Size | None = None,
    rules: RuleSources = None,
) -> Relaxed:
    """A model whose layers may break a symmetry as far as they are let: every layer is f_eq + gamma f_neq.

    Args:
        module: it is trained in place.
        example, input_size: its inputs, as for `symgraph.infer`.
        representation: how the group acts on inputs and output (`symgraph.orbit.representation`), as data, YAML, or a
            file of it.

    Raises:
        UsageError: the representation is malformed, does not fit the tensors, or asks for what the model's operators do
            not admit.
        VerifyError: with gamma at zero f(g x) = g f(x) fails on the example inputs; the counterexample is named.

    >>> plane = {"plane": {"circle": [1]}}
    >>> rule = {"inputs": {"input": "rows plane"}, "output": "rows plane", "group": {"turn": plane}}
    >>> relaxed = symgraph.relax(torch.nn.Linear(2, 2), torch.randn(5, 2), representation=rule)
    >>> w = relaxed.equivariant().weight
    >>> torch.allclose(w[0, 0], w[1, 1]), torch.allclose(w[0, 1], -w[1, 0]), relaxed.layers
    (True, True, ('the model itself',))
    """
    rule = Representation.of(representation)
    found = example_of(module, example, input_size)
    if found is None:
        remedy = f"give {argument('example')} or {argument('input_size')}"
        raise UsageError(f"{type(module).__name__} has no example inputs", remedy=remedy)
    call = named_call(module, found)
    require_inputs_named(call, rule.inputs, module)
    with evaluating(module):
        # Inputs and weights axis by axis, not as parts of larger tensors: the group acts on axes.
        symmetry = run(trace(_open(module, call, rule), (torch.ones(()),)), rule_book(rules))
    ends = [End(f"inputs.{name}", axes) for name, axes in rule.input_axes.items()]
    chosen = equivariance(symmetry, [*ends, End("output", rule.output_axes, output=True)], rule)
    relaxed = Relaxed(module, chosen)
    exact = float64(state_of(module))
    require_equivariant(module, call, rule, exact | {name: mean(exact[name]) for name, mean in relaxed.means.items()})
    return relaxed


def _open(module: nn.Module, call: Mapping[str, Any], rule: Representation) -> OpenEnds:
    shapes = {
        name: shape_of(axes, tuple(call[name].shape), rule.acting, f"the input {name!r}")
        for name, axes in rule.input_axes.items()
    }
    with torch.no_grad():
        output = first_output(module(**call))
    shape = shape_of(rule.output_axes, tuple(output.shape), rule.acting, "the output")
    return OpenEnds(module, call, shapes, output.reshape(shape)).eval()


def _layer(parameter: str) -> str:
    """The layer that holds a parameter."""
    return parameter.rpartition(".")[0] or "the model itself"
