"""Two models in one basis: the second is brought to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from symgraph.errors import argument
from symgraph.inference.sources import Source, stored, with_inputs
from symgraph.io.adapted import refuse_alone
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.match.aligned import Aligned
from symgraph.match.learn_step import LearnStep
from symgraph.match.match_options import ELSEWHERE, METHODS, PAIR, LearnOptions, MatchOptions, PairSettings
from symgraph.match.match_step import MatchStep
from symgraph.match.one_basis import Shaped, Universe, bring, planned, shaped, shared_rows
from symgraph.match.pair_basis import PairBasis
from symgraph.match.plan_program import Wanted, asked
from symgraph.match.prepare_steps import Embed, Reduce
from symgraph.match.program import Program
from symgraph.match.program_run import narrowed
from symgraph.match.suitable import WEIGHTS, suitable
from symgraph.match.unchanged import Endpoint
from symgraph.orbit.steps import Transform
from symgraph.resize.overlap import Overlap
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64


def align(
    a: Source,
    b: Source,
    example: Any = None,
    *,
    method: str | None = None,
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    data: Any = None,
    program: Program | None = None,
    **settings: Any,
) -> Aligned:
    """Brings B into the basis and the gauge of A without changing B's function.

    Where one model is narrower, it is embedded exactly into the shape of the other first.

    Args:
        example: inputs of modules that bring none, as for `trace`: a tensor, a tuple, a dictionary, or a batch.
        method: "weights"; "activations", alone or mixed with weights (`alpha` of the options); or "learned", trained
            on the task loss at interpolated weights from a match by `start` on. By default "weights"; where there is
            `data`, "activations" if batch norms or permutations alone are found, which is said in the notes.
        options: how to match: sweeps, tolerance, weighting, seed, restarts, patterns of the spaces to align, and more.
        learning: how to train: steps, optimiser, what moves; `spaces` of `options` restrict it as well.
        data: batches of the training split: `symgraph.io.data.Batches`, a list, or a loader; for all but "weights".
        program: run this program instead of planning one.
        settings: fields of `PairSettings`: input_size, start, split, soft, narrow, symmetry, rules, tied, strict,
            device, dtype, progress, validation, examples, loss, checkpoint, resume.

    Raises:
        UsageError: an unknown option, method or choice, or a program for another architecture.
        CheckpointError: the architectures differ in more than widths, a weight is not finite, or an adapter is named
            without its base.
        DataError: data is missing, empty, or does not fit the model.
        VerifyError: a model does not compute what it computed, with the space that is to blame.

    >>> a, b = (torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in "ab")
    >>> x = torch.randn(5, 6)
    >>> aligned = symgraph.align(a, b, x)
    >>> torch.allclose(aligned.module(x), b(x), atol=1e-5), aligned.after < aligned.before
    (True, True)

    Source: Theus et al., arXiv 2506.22712, section 4; both models moving: arXiv 2606.23607; gauge: design section 10.
    """
    refuse_alone(*(source for source in (a, b) if isinstance(source, str | Path)))
    how = given(PairSettings, None, {**settings, "example": example}, ELSEWHERE)
    wanted = asked(how, method or WEIGHTS, options, learning, data, program)
    models = [with_inputs(source, example, how.input_size) for source in (a, b)]
    shared = shared_rows(models, how, like=1)
    found = _brought(shared.matched if shared else models, how, wanted, is_chosen=method is not None)
    return _with_rows(found, shared) if shared else found


def _brought(pair: Sequence[Model], how: PairSettings, wanted: Wanted, *, is_chosen: bool) -> Aligned:
    """Two models of the same rows in one basis, by the method that suits them, unless one is chosen."""
    is_open = not is_chosen and wanted.data is not None and wanted.program is None
    models, wanted, why = pair_to_match(pair, how, wanted, is_open=is_open)
    program = wanted.program or planned(models, wanted)
    found = _aligned(bring(models, program, wanted, network=models.like, called={}))
    return replace(found, notes=(*why, *found.notes))


def pair_to_match(
    pair: Sequence[Source], how: PairSettings, wanted: Wanted, *, is_open: bool
) -> tuple[Shaped, Wanted, tuple[str, ...]]:
    """Two models and what is wanted of them; by the method that suits them, and saying so, where that is open."""
    models = shaped(dict(zip(PAIR, pair, strict=True)), how, PAIR, reduce=how.narrow)
    return models, *(_chosen(models, wanted) if is_open else (wanted, ()))


def _chosen(models: Shaped, wanted: Wanted) -> tuple[Wanted, tuple[str, ...]]:
    """What is wanted with the method that suits the models, given data, and what is said of that."""
    method, why = suitable(models.symmetry)
    others = " and ".join(argument("method", m) for m in METHODS if m != method)
    return replace(wanted, method=method), (f"matched by {method}, since {why} ({others} are the other ways)",)


def _with_rows(aligned: Aligned, shared: Overlap) -> Aligned:
    """B with all its rows, of which a part was matched, by what was found."""
    own, state = state_of(shared.like.module), aligned.alignment.transform.apply(float64(shared.whole[1]))
    Endpoint(shared.like, state, aligned.alignment).check()
    kept = stored(shared.like.module, narrowed(state, own))
    return replace(aligned, b=shared.like, state=kept, notes=(*shared.notes, *aligned.notes))


def _aligned(found: Universe) -> Aligned:
    a, b = found.members
    steps = found.program.steps
    moved = any(step.dual or step.gauge for step in steps if isinstance(step, LearnStep))
    matched = next((step for step in steps if isinstance(step, MatchStep)), None)
    basis = PairBasis(
        found.symmetry,
        (a.model, b.model),
        (a.canonical, b.canonical),
        (a.basis, b.basis),
        Transform() if found.reference is None else a.canonical.inverse(),
        "uniform" if matched is None else matched.weighting,
    )
    return Aligned(
        a.model,
        b.model,
        b.alignment,
        found.program,
        b.state,
        a.state,
        a.singular,
        b.before,
        b.after,
        found.notes,
        found.learned,
        a.alignment if moved else None,
        next((step.model for step in steps if isinstance(step, Embed)), ""),
        any(isinstance(step, Reduce) for step in steps),
        basis,
    )
