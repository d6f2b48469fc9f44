"""The public functions: what the command line and the documents call, each one line away from a stage.

A model is given as a `Model`, an `nn.Module` (with example inputs, unless it is a transformers model), a transformers
config, or the text that names one (see `symgraph.models.load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symgraph.audit import LARGEST, Audit
from symgraph.audit import audit as _audit
from symgraph.canonical import Canonical
from symgraph.canonical import canonicalise as _canonicalise
from symgraph.checkpoint import canonical_state, tied_names
from symgraph.errors import UsageError
from symgraph.infer.engine import infer as _infer
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.ir import Graph
from symgraph.messages import shorten
from symgraph.models import Model, load
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.schema import Rule
from symgraph.sampling import float64
from symgraph.tied import untie
from symgraph.trace import state_of, trace_config
from symgraph.trace import trace as _trace
from symgraph.trace.softmax import seen_by_softmax
from symgraph.trace.wrap import is_pretrained
from symgraph.verify import Verification
from symgraph.verify import verify as _verify

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


def verify(
    source: Source, *, symmetry: SymmetryGraph | None = None, rules: RuleSources = None, **options: Any
) -> Verification:
    """Samples random elements of every inferred group and compares outputs in float64 (see `symgraph.verify.verify`).

    A model without weights (a config) is verified at random parameters.
    """
    found = symmetry if symmetry is not None else infer(source, rules=rules)
    state = None
    if isinstance(source, Model | nn.Module):
        m = model(source)
        state = state_of(m.module) if m.has_weights else None
    return _verify(found, state, **options)


def audit(
    source: Source,
    *,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    logits: bool = False,
    **options: Any,
) -> Audit:
    """Measures whether any continuous symmetry was missed (see `symgraph.audit.audit`).

    Of a model of transformers that is too large for that a tiny instance is made: the same architecture has the same
    symmetries, but for what its sizes leave undetermined. Any other model has to be given at a small size.

    Args:
        logits: infer and measure with outputs up to a shift along their last axis, as a softmax loss sees them.
    """
    found = symmetry if symmetry is not None else infer(source, rules=rules)
    if logits:
        found = _infer(seen_by_softmax(found.graph), rule_book(rules))
    m = model(source, weights=False) if isinstance(source, Model | nn.Module | str | Path) else None
    if m is not None and is_pretrained(m.module) and found.graph.size > LARGEST:
        from symgraph.tiny.instance import tiny_instance

        small = tiny_instance(m.module, LARGEST)
        options |= {"rules": rules, "logits": logits}
        return replace(audit(small.module, **options), instance=small.changes)
    state = state_of(m.module) if m is not None and m.has_weights else None
    return _audit(found, state, **options)


def canonicalise(source: Source, *, symmetry: SymmetryGraph | None = None, rules: RuleSources = None) -> Canonical:
    """The canonical form of a model, computed in float64 (design section 8)."""
    m = model(source)
    return _canonicalise(symmetry or infer(m, rules=rules), float64(state_of(m.module)))


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
