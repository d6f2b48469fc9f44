"""What a user gives, as what the stages take: a model, a graph, a symmetry graph, a rule book.

A model is given as a `Model`, an `nn.Module` (with example inputs, unless it is a transformers model), a transformers
config, or the text that names one (see `symgraph.io.models.load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symgraph.errors import UsageError, shorten
from symgraph.inference.pipeline import infer as _infer
from symgraph.io.checkpoint import canonical_state, tied_names
from symgraph.io.models import Model, load
from symgraph.io.tied import untie
from symgraph.ir import Graph
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.schema import Rule
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace as _trace
from symgraph.tracing import trace_config

Source = Model | nn.Module | Graph | SymmetryGraph | str | Path | Any
RuleSources = RuleBook | Iterable[str | Path | Rule] | None
Progress = Callable[[str], None]


def model(source: Source, example: Any = None, *, weights: bool = True, trust_remote_code: bool = False) -> Model:
    """Any way of giving a model, as a `Model`.

    Raises:
        CheckpointError: the text names nothing that can be loaded.
        UsageError: the object is none of the things a model can be given as.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, str | Path):
        return load(source, weights=weights, trust_remote_code=trust_remote_code)
    if isinstance(source, nn.Module):
        example = getattr(source, "example_inputs", None) if example is None else example
        return Model(source, getattr(source, "config", None), example, type(source).__name__, "factory")
    raise UsageError(
        f"{type(source).__name__} is not a model",
        remedy="give an nn.Module, a checkpoint folder, a hub id, a config, or package.module:factory",
    )


def rule_book(rules: RuleSources = None) -> RuleBook:
    """The shipped rules, with the user's in front."""
    if isinstance(rules, RuleBook):
        return rules
    return with_user_rules(default_rules(), rules) if rules else default_rules()


def trace(source: Source, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a model: ATen operators, parameters, shapes; no weights are needed.

    Raises:
        TraceError: naming the user's line, the cause and what to try.
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, SymmetryGraph):
        return source.graph
    if not isinstance(source, Model | nn.Module | str | Path):
        return trace_config(source)
    found = model(source, weights=False)
    if not args and not kwargs and found.example is not None:
        args, kwargs = (), {}
        if isinstance(found.example, Mapping):
            kwargs = dict(found.example)
        else:
            args = found.example if isinstance(found.example, tuple) else (found.example,)
    return _trace(found.module, args, dict(kwargs or {}), name=type(found.module).__name__)


def infer(
    source: Source,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: RuleSources = None,
    strict: bool = False,
) -> SymmetryGraph:
    """The symmetry graph of a model: spaces, groups, and the evidence behind every bound.

    Raises:
        TraceError: the model cannot be traced.
        RuleError: a user's rule is malformed or unsound.
        CoverageError: with `strict`, an operator has no rule.
    """
    if isinstance(source, SymmetryGraph):
        return source
    return _infer(trace(source, args, kwargs), rule_book(rules), strict=strict)


def ready(sources: Sequence[Source], tied: str, roles: Sequence[str]) -> tuple[list[Model], tuple[str, ...]]:
    """Models of one architecture with weights, their shared tensors kept or cut apart, and what that means.

    Raises:
        UsageError: a model has no weights (it is named by its role), or `tied` is no choice.
        CheckpointError: a model is of another architecture than the first.
    """
    if tied not in ("keep", "untie"):
        raise UsageError(f"tied={tied!r} is neither 'keep' nor 'untie'")
    models = [model(s) for s in sources]
    for role, m in zip(roles, models, strict=True):
        if not m.has_weights:
            raise UsageError(f"{role} ({m.spec}) has no weights", remedy="name a checkpoint, not a config")
    if tied == "keep":
        return models, _kept(models[0])
    cut = [untie(m) for m in models]
    return [u.model for u in cut], (str(cut[0]),) if cut[0].cut else ("nothing is tied",)


def stored(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint of the module holds: each tied tensor once, no transient buffers, no constants of the code."""
    names = module.state_dict().keys()
    return canonical_state(module, {n: t.detach() for n, t in state.items() if n in names})


def _kept(m: Model) -> tuple[str, ...]:
    """What keeping shared tensors means, if there are any."""
    ties = tied_names(m.module)
    if not ties:
        return ()
    state = m.module.state_dict()
    pairs = shorten(f"{name} = {first}" for name, first in sorted(ties.items()))
    more = sum(state[n].numel() for n in ties if n in state)
    return (f"kept tied: {pairs}; the group is smaller for it (tied='untie' costs {more:,} more parameters)",)
