"""The public functions: what the command line and the documents call, each one line away from a stage.

A model is given as a `Model`, an `nn.Module` (with example inputs, unless it is a transformers model), a transformers
config, or the text that names one (see `symgraph.models.load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.align.alignment import Alignment
from symgraph.align.execute import execute
from symgraph.align.learn import Learned, LearnOptions, Lesson
from symgraph.align.match import MatchOptions
from symgraph.align.narrowing.reduce import Reduction, reduce
from symgraph.align.planning import BlendOptions, plan_alignment
from symgraph.align.program import MATCHINGS, Program
from symgraph.align.registers import Registers, narrowed
from symgraph.align.steps import Embed, Reduce
from symgraph.audit import LARGEST, Audit
from symgraph.audit import audit as _audit
from symgraph.canonical import Canonical
from symgraph.canonical import canonicalise as _canonicalise
from symgraph.checkpoint import canonical_state, tied_names
from symgraph.errors import UsageError
from symgraph.infer.engine import infer as _infer
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.ir import Graph
from symgraph.losses import PerExample
from symgraph.messages import shorten
from symgraph.models import Model, load
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.schema import Rule
from symgraph.sampling import float64
from symgraph.state import check_finite, state_hash
from symgraph.tied import untie
from symgraph.trace import state_of, trace_config
from symgraph.trace import trace as _trace
from symgraph.trace.softmax import seen_by_softmax
from symgraph.trace.wrap import is_pretrained
from symgraph.verify import Verification
from symgraph.verify import verify as _verify
from symgraph.widening.embed import Embedding
from symgraph.widening.embed import embed as _embed
from symgraph.widening.models import Shape, common_shape, model_like

Source = Model | nn.Module | Graph | SymmetryGraph | str | Path | Any
METHODS = ("weights", "activations", "learned")
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


@dataclass(frozen=True)
class Embedded:
    """A stock model in the shape of a wider one with the function of a narrower one, and how its spaces grew."""

    model: Model
    embedding: Embedding

    @property
    def state(self) -> dict[str, Tensor]:
        """The state that a checkpoint of the model holds."""
        return stored(self.model.module, state_of(self.model.module))

    def __str__(self) -> str:
        return str(self.embedding)


def embed(b: Source, *, like: Source, rules: RuleSources = None, tied: str = "keep") -> Embedded:
    """B in the shape of a wider model of its architecture, with B's function up to 1e-9 in float64.

    Raises:
        CheckpointError: the models differ in more than widths, or a width admits no exact embedding, with the reason.
        UsageError: B is not narrower, or has no weights.

    Source: Theus et al., arXiv 2506.22712, on unequal widths; docs/design.md, Unequal widths.
    """
    (wide, narrow), _ = ready((like, b), tied, ("the wider model", "the narrower model"))
    shape = common_shape(wide, narrow, lambda m: infer(m, rules=rules))
    if shape.narrow != "B" or shape.other is None:
        what = "wider than" if shape.narrow else "as wide as"
        raise UsageError(f"{narrow.spec} is {what} {wide.spec}", remedy="name the wider model as `like`")
    found = _embed(shape.symmetry, shape.other, state_of(narrow.module), state_of(wide.module))
    return Embedded(model_like(wide, narrow, found.state), found)


@dataclass(frozen=True)
class Narrowed:
    """A stock model in the shape of a narrower one made from a wider one, and what that lost."""

    model: Model
    reduction: Reduction

    @property
    def state(self) -> dict[str, Tensor]:
        """The state that a checkpoint of the model holds."""
        return stored(self.model.module, state_of(self.model.module))

    def __str__(self) -> str:
        return str(self.reduction)


def narrow(b: Source, *, like: Source, rules: RuleSources = None, tied: str = "keep") -> Narrowed:
    """B in the shape of a narrower model of its architecture: approximate, with what is lost stated.

    Units and heads that are equal up to the group are merged, dead ones dropped, empty directions left out, all of it
    exactly; beyond that units are merged with the nearest, and streams and circuits lose their least directions.

    Raises:
        CheckpointError: the models differ in more than widths, or a space cannot be had in that size.
        UsageError: B is not wider, or has no weights.

    Source: docs/design.md, Narrowing; merging as in Intra-Fusion, arXiv 2402.07839.
    """
    (small, wide), _ = ready((like, b), tied, ("the narrower model", "the wider model"))
    shape = common_shape(small, wide, lambda m: infer(m, rules=rules), reduce=True)
    if shape.other is None or not shape.wide:
        what = "narrower than" if shape.narrow else "as wide as"
        raise UsageError(f"{wide.spec} is {what} {small.spec}", remedy="name the narrower model as `like`")
    found = reduce(shape.other, shape.symmetry, state_of(wide.module), state_of(small.module))
    return Narrowed(model_like(small, wide, found.state), found)


@dataclass(frozen=True)
class Aligned:
    """The result of `align`.

    `a`, `b` are the models as aligned (untied copies where asked); `state` is B after alignment, `reference` the A it
    was aligned to: A itself, bit for bit, unless `singular` says that A's gauge has no inverse, when it is A in
    canonical form. `before` and `after` are distances in canonical form, as the match weighs it, over |A|. Where A was
    moved as well (dual learned matching), `reference` is A moved, and `moved_a` its alignment. `embedded` names the
    model that was narrower ("A" or "B"): it is then the one embedded into the shape of the other. With `narrowed` B was
    wider and has been reduced to A's shape, with another function.
    """

    a: Model
    b: Model
    alignment: Alignment
    program: Program
    state: dict[str, Tensor]
    reference: dict[str, Tensor]
    singular: tuple[str, ...]
    before: float
    after: float
    notes: tuple[str, ...] = ()
    learned: Learned | None = None
    moved_a: Alignment | None = None
    embedded: str = ""
    narrowed: bool = False

    def __str__(self) -> str:
        sweeps = len(self.alignment.objective) - 1
        line = f"distance in canonical form {self.before:.4f} -> {self.after:.4f} (relative to |A|), {sweeps} sweeps"
        return "\n".join([line, *self.notes])


def align(
    a: Source,
    b: Source,
    *,
    method: str = "weights",
    options: MatchOptions | None = None,
    program: Program | None = None,
    symmetry: SymmetryGraph | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
    strict: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
    data: Any = None,
    validation: Any = None,
    learning: LearnOptions | None = None,
    loss: str | PerExample = "cross-entropy",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    start: str = "weights",
    split: bool = False,
    soft: float = 0.0,
    narrow: bool = False,
) -> Aligned:
    """Brings B into the basis and the gauge of A without changing B's function.

    Where one model is narrower, it is embedded exactly into the shape of the other first.

    Args:
        method: "weights"; "activations", alone or mixed with weights (`alpha` of the options); or "learned", trained
            on the task loss at interpolated weights from a match by `start` on.
        options: sweeps, tolerance, weighting, seed, restarts, and patterns of the spaces to align.
        program: run this program instead of planning one.
        tied: "keep" shared embeddings (a smaller group), or "untie" them (more parameters; both models are copied).
        device, dtype: where and in which precision to compute.
        data: batches of the training split: `symgraph.data.Batches`, a list, or a loader; for all but "weights".
        validation: batches to stop on; without them every tenth of `data` is set apart.
        learning: steps, optimiser, what moves (see `LearnOptions`); `spaces` of `options` restrict it as well.
        loss: what is trained, a name or a function as for `loss_barrier`.
        split: copy units of B into idle ones (those that padding added) where that brings it nearer to A; exact.
        soft: temperature of soft permutations, which only approximate B's function; the notes say by how much.
        narrow: where B is wider, reduce it to A's shape instead of embedding A: approximate; the notes say by how much.
        checkpoint, resume: a file to write as training goes on, and whether to go on from it.

    Raises:
        UsageError: an unknown method or choice, or a program for another architecture.
        CheckpointError: the architectures differ in more than widths, or a weight is not finite.
        DataError: data is missing, empty, or does not fit the model.

    Source: Theus et al., arXiv 2506.22712, section 4; both models moving: arXiv 2606.23607; gauge: design section 8.
    """
    options = options or MatchOptions()
    _check_method(method, start, program, data, options)
    (ma, mb), notes = ready((a, b), tied, ("A", "B"))
    shape = common_shape(ma, mb, lambda m: infer(m, rules=rules, strict=strict), symmetry, reduce=narrow)
    states = {k: dict(state_of(m.module)) for k, m in (("A", ma), ("B", mb))}
    for name, state in states.items():
        check_finite({k: v for k, v in state.items() if k in shape.symmetry.terms}, where=name)
    plan = program or _plan(ma, mb, shape, method, options, learning, start, BlendOptions(split, soft))
    _check_embedding(plan, shape)
    hashes = {k: state_hash(s) for k, s in states.items()}
    lesson = None
    if data is not None:
        book = rule_book(rules)
        network = (mb if shape.narrow == "A" else ma).module
        lesson = Lesson(network, data, validation, loss, checkpoint, resume, device=device, book=book)
    how: dict[str, Any] = {"device": device, "dtype": dtype, "progress": progress, "lesson": lesson}
    run = execute(plan, shape.symmetry, states, hashes=hashes, other=shape.other, **how)
    if shape.narrow == "A":
        ma = model_like(mb, ma, run.states["A.embedded"])
    elif shape.narrow:
        mb = model_like(ma, mb, run.states["B.embedded"])
    elif shape.wide:
        mb = model_like(ma, mb, run.states["B.reduced"])
    states = {"A": state_of(ma.module), "B": state_of(mb.module)}
    return replace(_aligned(ma, mb, plan, run, states, notes), embedded=shape.narrow, narrowed=bool(shape.wide))


def plan(
    a: Source,
    b: Source,
    *,
    method: str = "weights",
    options: MatchOptions | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
    strict: bool = False,
    learning: LearnOptions | None = None,
    start: str = "weights",
    split: bool = False,
    soft: float = 0.0,
    narrow: bool = False,
) -> Program:
    """The program that `align` would run, with its arguments.

    Raises:
        CheckpointError: the architectures differ in more than widths.
    """
    (ma, mb), _ = ready((a, b), tied, ("A", "B"))
    shape = common_shape(ma, mb, lambda m: infer(m, rules=rules, strict=strict), reduce=narrow)
    return _plan(ma, mb, shape, method, options or MatchOptions(), learning, start, BlendOptions(split, soft))


def _plan(
    a: Model,
    b: Model,
    shape: Shape,
    method: str,
    options: MatchOptions,
    learning: LearnOptions | None,
    start: str,
    blend: BlendOptions,
) -> Program:
    other = "B" if shape.narrow == "A" else "A"
    reshape: Embed | Reduce | None = None
    if shape.narrow:
        reshape = Embed(shape.narrow, other, f"{shape.narrow}.embedded", tuple(map(str, shape.spaces)))
    elif shape.wide:
        reshape = Reduce("B", "A", "B.reduced", tuple(s.reverse for s in shape.spaces))
    return plan_alignment(
        shape.symmetry,
        options,
        {"A": a.spec, "B": b.spec},
        learning_options(method, options, learning),
        start if method == "learned" else method,
        reshape,
        blend,
    )


def _check_embedding(program: Program, shape: Shape) -> None:
    """A program for models of other widths than these would fail somewhere in the middle."""
    found = next((s.model for s in program.steps if isinstance(s, Embed)), "")
    if any(isinstance(s, Reduce) for s in program.steps) != bool(shape.wide):
        raise UsageError(
            "the program reduces B" if not shape.wide else "the program does not reduce B, which is wider",
            remedy="say narrow=True (--narrow) for both, or for neither, and give it a wider B",
        )
    if found != shape.narrow:
        raise UsageError(
            f"the program embeds {found or 'neither model'}, and {shape.narrow or 'neither'} is narrower",
            remedy="write it anew with `symgraph align A B --emit-program FILE`",
        )


def _check_method(method: str, start: str, program: Program | None, data: Any, options: MatchOptions) -> None:
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", remedy=f"method= one of {', '.join(METHODS)}")
    if start not in MATCHINGS:
        raise UsageError(f"learning cannot start from {start!r}", remedy=f"start= one of {', '.join(MATCHINGS)}")
    if options.weighting == "inputs" and program is None and data is None:
        raise UsageError("the weighting 'inputs' needs data", remedy="pass data=, batches of the training split")
    if method != "weights" and program is None and data is None:
        raise UsageError(f"method {method!r} needs data", remedy="pass data=, batches of the training split")


def learning_options(method: str, options: MatchOptions, learning: LearnOptions | None) -> LearnOptions | None:
    """The options of learning where it is asked for, restricted to the spaces that are matched."""
    if method != "learned":
        return None
    learning = learning or LearnOptions()
    if options.spaces != ("*",) and learning.motion.spaces == ("*",):
        learning = replace(learning, motion=replace(learning.motion, spaces=options.spaces))
    return learning


def _aligned(
    a: Model, b: Model, plan: Program, run: Registers, states: Mapping[str, dict[str, Tensor]], notes: tuple[str, ...]
) -> Aligned:
    """What a run of the program leaves in its registers, as a result."""
    whole = {k.split(".")[0] for k in run.canonical} >= {"A", "B"}
    if not run.alignments or not whole or "B.aligned" not in run.states:
        raise UsageError(
            "the program does not align B to A",
            cause="it makes no alignment, or no state called B.aligned",
            remedy="write one with `symgraph align A B --emit-program FILE`",
        )
    canonical = run.canonical.get("A.embedded") or run.canonical["A"]
    matched = next(iter(run.matches.values()))
    moved_a = run.alignments.get("alignment.A")
    if moved_a is not None and "A.aligned" in run.states:
        reference = narrowed(run.states["A.aligned"], states["A"])
    else:
        reference = states["A"] if not canonical.singular else narrowed(canonical.state, states["A"])
    return Aligned(
        a,
        b,
        next(iter(run.alignments.values())),
        plan,
        stored(b.module, narrowed(run.states["B.aligned"], states["B"])),
        stored(a.module, reference),
        canonical.singular,
        (max(matched.initial, 0.0) / matched.scale) ** 0.5,
        (max(matched.objective[-1], 0.0) / matched.scale) ** 0.5,
        (*notes, *run.notes),
        next(iter(run.learned.values()), None),
        moved_a,
    )


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
