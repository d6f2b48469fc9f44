"""A universe: any number of models, each taken into one common basis and gauge.

The models are taken in the order of the hashes of their weights: the order in which they are given changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from symgraph.errors import UsageError
from symgraph.inference.sources import Source, several
from symgraph.io.options import given
from symgraph.match.cards import element_spaces
from symgraph.match.match_options import ELSEWHERE, LearnOptions, MatchOptions, UniverseSettings
from symgraph.match.match_step import MatchStep, refuse_inputs
from symgraph.match.one_basis import Shaped, Universe, bring, planned, shaped
from symgraph.match.plan_program import Wanted, asked
from symgraph.match.program import Program


def universe(
    sources: Sequence[Source],
    example: Any = None,
    *,
    method: str = "weights",
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    data: Any = None,
    program: Program | None = None,
    **settings: Any,
) -> Universe:
    """Brings any number of models into one basis and one gauge without changing the function of any.

    Narrower models are embedded exactly into the shape of the widest first.

    Args:
        example: inputs of modules that bring none, as for `trace`.
        method: "weights"; "activations", alone or mixed with weights (`alpha` of the options); or "learned": from a
            match by weights trained on the task loss at mixtures of all models.
        options: how to match.
        learning: how to train, by default with mixtures from a Dirichlet distribution; all models but the reference
            move.
        data: batches of the training split, for all but "weights".
        program: run this program (see `plan`) instead of planning one.
        settings: fields of `UniverseSettings`: input_size, reference, rounds, symmetry, rules, tied, strict, device,
            dtype, ...

    Raises:
        UsageError: fewer than two models, or an option or a choice that does not exist.
        CheckpointError: the architectures or symmetries differ (which model's), or a weight is not finite.
        VerifyError: a model does not compute what it computed.

    >>> nets = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in range(3)]
    >>> len(symgraph.universe(nets, torch.randn(5, 6)).states)
    3

    Source: Theus et al., arXiv 2506.22712; Ten Berge 1977; gauge: design section 10.
    """
    how = given(UniverseSettings, None, {**settings, "example": example}, ELSEWHERE)
    wanted = wanted_of_all(how, method, options, learning, data, program)
    models = all_to_match(sources, how)
    chosen = program or planned(models, wanted)
    return bring(models, chosen, wanted, network="", called={name: model.spec for name, model in models.models.items()})


def wanted_of_all(
    how: UniverseSettings, method: str, options: Any, learning: Any, data: Any, program: Program | None = None
) -> Wanted:
    """What is asked for of any number of models: trained between all of them, unless something else is said."""
    trained = {"sampler": "dirichlet", **(learning or {})} if not isinstance(learning, LearnOptions) else learning
    matching = given(MatchOptions, options)
    refuse_inputs(matching)
    return asked(how, method, matching, trained, data, program)


def all_to_match(sources: Sequence[Source], how: UniverseSettings) -> Shaped:
    """Models by their numbers.

    Raises:
        UsageError: there are fewer than two, or the reference is none of them.
    """
    sources = several(sources, "universe")
    count = len(sources)
    if count < 2:
        raise UsageError(f"{count} model is no universe", remedy="name two models or more")
    if how.reference is not None and how.reference >= count:
        raise UsageError(f"there is no model {how.reference} among {count}", remedy=f"count from 0 to {count - 1}")
    roles = [f"model {i + 1}" for i in range(count)]
    return shaped({str(i): source for i, source in enumerate(sources)}, how, roles)


def joined(found: Universe) -> str:
    """How the models of a universe came into one basis, in words."""
    rounds = f"{len(found.objective) - 1} rounds" if len(found.objective) > 2 else "one round"
    learned = ", then learned matching of all of them" if found.learned else ""
    step = next((step for step in found.program.steps if isinstance(step, MatchStep)), None)
    what = "activation" if step is not None and step.method == "activations" else "weight"
    return f"{what} matching of each to the mean of the others ({rounds}){learned}"


def moved_spaces(found: Universe) -> tuple[str, ...]:
    """The spaces on which something acts on the way of any model into a universe."""
    moved = {name for member in found.members for name in element_spaces(found.symmetry, member.alignment)}
    return tuple(space.name for space in found.symmetry.active if space.name in moved)
