"""The program that would bring models into one basis, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from symgraph.inference.sources import Source, several
from symgraph.io.options import given
from symgraph.match.align import pair_to_match
from symgraph.match.match_options import ELSEWHERE, LearnOptions, MatchOptions, PairSettings, UniverseSettings
from symgraph.match.one_basis import planned
from symgraph.match.plan_program import asked
from symgraph.match.program import Program
from symgraph.match.suitable import WEIGHTS
from symgraph.match.universe import all_to_match, wanted_of_all


def plan(
    sources: Sequence[Source],
    example: Any = None,
    *,
    common: bool = False,
    method: str | None = None,
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    data: Any = None,
    **settings: Any,
) -> Program:
    """The program that `align` would run on two models, or `universe` on any number, with its arguments.

    Args:
        common: two go to a common basis as well, as more of them do, instead of the second to the first.
        data: where it is given and no method is, two models are matched by the one that suits them.
        settings: fields of `PairSettings`, or of `UniverseSettings`.

    Raises:
        UsageError: fewer than two models, or an option or a choice that does not exist.
        CheckpointError: the architectures differ in more than widths.

    >>> nets = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in range(2)]
    >>> [type(step).__name__ for step in symgraph.plan(nets, torch.randn(5, 6)).steps]
    ['Canonicalise', 'Canonicalise', 'MatchStep', 'Settle']
    """
    sources, named = several(sources, "plan"), {**settings, "example": example}
    if common or len(sources) != 2:
        of_all = given(UniverseSettings, None, named, ELSEWHERE)
        return planned(all_to_match(sources, of_all), wanted_of_all(of_all, method or WEIGHTS, options, learning, ()))
    how = given(PairSettings, None, named, ELSEWHERE)
    # No data is read for a plan.
    wanted = asked(how, method or WEIGHTS, options, learning, ())
    models, wanted, _ = pair_to_match(sources, how, wanted, is_open=method is None and data is not None)
    return planned(models, wanted)
