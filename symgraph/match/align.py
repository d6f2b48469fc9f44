"""Two models in one basis: the plan, its run, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError, shorten
from symgraph.inference.sources import Progress, RuleSources, Source, infer, ready, rule_book, stored
from symgraph.io.models import Model
from symgraph.io.state import check_finite, state_hash
from symgraph.match.execute import execute
from symgraph.match.learn_options import LearnOptions
from symgraph.match.learned import Learned, Lesson
from symgraph.match.planning import BlendOptions, learning_options, plan_alignment
from symgraph.match.program import MATCHINGS, Program
from symgraph.match.program_steps import Embed, Reduce, Soften
from symgraph.match.registers import Registers, narrowed
from symgraph.match.unchanged import Endpoint, calls_on
from symgraph.match.weights import MatchOptions
from symgraph.measure.losses import PerExample
from symgraph.orbit.alignment import Alignment, growth
from symgraph.orbit.canonical import Canonical
from symgraph.resize.shapes import Shape, common_shape, model_like
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of

METHODS = ("weights", "activations", "learned")
# Growth of a norm that is worth a word.
SAID = 10.0


@dataclass(frozen=True)
class Aligned:
    """The result of `align`.

    `a`, `b` are the models as aligned (untied copies where asked); `state` is B after alignment, `reference` the A it
    was aligned to: A itself, bit for bit, unless `singular` names gains for which A's gauge has no inverse, or one in
    which norms grow beyond bounds; it is A in canonical form then. `before` and `after` are distances in canonical
    form, as the match weighs it, over |A|. Where A was moved as well (dual learned matching), `reference` is A moved,
    and `moved_a` its alignment. `embedded` names the model that was narrower ("A" or "B"): it is then the one embedded
    into the shape of the other. With `narrowed` B was wider and has been reduced to A's shape, with another function.
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

    @property
    def growth(self) -> dict[str, float]:
        """By how much the norm of each tensor of B has grown, most first; new ones are left out."""
        return growth(self.state, state_of(self.b.module))

    def __str__(self) -> str:
        sweeps = len(self.alignment.objective) - 1
        line = f"distance in canonical form {self.before:.4f} -> {self.after:.4f} (relative to |A|), {sweeps} sweeps"
        grown = [f"{n} {g:.0f} times" for n, g in self.growth.items() if g > SAID]
        return "\n".join([line, *([f"norms of B that grow: {shorten(grown)}"] if grown else []), *self.notes])


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
    examples: Any = None,
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
        data: batches of the training split: `symgraph.io.data.Batches`, a list, or a loader; for all but "weights".
        validation: batches to stop on; without them every tenth of `data` is set apart.
        learning: steps, optimiser, what moves (see `LearnOptions`); `spaces` of `options` restrict it as well.
        loss: what is trained, a name or a function as for `loss_barrier`.
        split: copy units of B into idle ones (those that padding added) where that brings it nearer to A; exact.
        soft: temperature of soft permutations, which only approximate B's function; the notes say by how much.
        narrow: where B is wider, reduce it to A's shape instead of embedding A: approximate; the notes say by how much.
        checkpoint, resume: a file to write as training goes on, and whether to go on from it.
        examples: batches on whose first one the results are compared too, as on `data` and on inputs of every kind.

    Raises:
        UsageError: an unknown method or choice, or a program for another architecture.
        CheckpointError: the architectures differ in more than widths, or a weight is not finite.
        DataError: data is missing, empty, or does not fit the model.
        VerifyError: a model does not compute what it computed, with the space that is to blame.

    Source: Theus et al., arXiv 2506.22712, section 4; both models moving: arXiv 2606.23607; gauge: design section 10.
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
    network = (mb if shape.narrow == "A" else ma).module
    given = (network, data, validation, loss, checkpoint, resume)
    lesson = None if data is None else Lesson(*given, device=device, book=rule_book(rules))
    run = execute(
        plan,
        shape.symmetry,
        states,
        hashes={k: state_hash(s) for k, s in states.items()},
        device=device,
        dtype=dtype,
        progress=progress,
        lesson=lesson,
        other=shape.other,
    )
    found = _aligned(*_of_one_shape(ma, mb, shape, run), plan, run, notes)
    calls = calls_on(network, data, examples)
    for end in _endpoints(found, (ma, mb), shape, run):
        end.check(calls)
    return replace(found, embedded=shape.narrow, narrowed=bool(shape.wide))


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


def _of_one_shape(a: Model, b: Model, shape: Shape, run: Registers) -> tuple[Model, Model]:
    """The models, the one of another width as what the program has made of it."""
    if shape.narrow == "A":
        return model_like(b, a, run.states["A.embedded"]), b
    if shape.narrow or shape.wide:
        return a, model_like(a, b, run.states["B.embedded" if shape.narrow else "B.reduced"])
    return a, b


def _endpoints(found: Aligned, sources: tuple[Model, Model], shape: Shape, run: Registers) -> Iterator[Endpoint]:
    """What has to compute what it computed: B, unless it is an approximation, and A where it has moved."""
    start = run.states.get("B.embedded") or run.states.get("B.reduced")
    if not any(isinstance(s, Soften) for s in found.program.steps):
        source = sources[1] if shape.narrow == "B" else None
        yield Endpoint(found.b, run.states["B.aligned"], found.alignment, start, source)
    if found.moved_a is not None and "A.aligned" in run.states:
        yield Endpoint(found.a, run.states["A.aligned"], found.moved_a, run.states.get("A.embedded"))
    elif found.singular:
        yield Endpoint(found.a, _canonical(run).state, start=run.states.get("A.embedded"))
    if shape.narrow == "A":
        yield Endpoint(found.a, run.states["A.embedded"], source=sources[0])


def _canonical(run: Registers) -> Canonical:
    return run.canonical.get("A.embedded") or run.canonical["A"]


def _aligned(a: Model, b: Model, plan: Program, run: Registers, notes: tuple[str, ...]) -> Aligned:
    """What a run of the program leaves in its registers, as a result."""
    whole = {k.split(".")[0] for k in run.canonical} >= {"A", "B"}
    if not run.alignments or not whole or "B.aligned" not in run.states:
        raise UsageError(
            "the program does not align B to A",
            cause="it makes no alignment, or no state called B.aligned",
            remedy="write one with `symgraph align A B --emit-program FILE`",
        )
    states = {"A": state_of(a.module), "B": state_of(b.module)}
    canonical = _canonical(run)
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
