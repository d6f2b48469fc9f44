"""How much every unit counts: by the norms of its weights, by what the loss says of it, or by what the user says.

The scores of units that are not given follow from the weights when a space is folded, in whatever gauge it is then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from symgraph.errors import DataError, UsageError, near, one_line, shorten
from symgraph.measure.objective import Objective
from symgraph.orbit.grams import blocks_on
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing import state_of

NORMS = ("l1", "l2", "lamp")
KINDS = (*NORMS, "taylor")
Scores = Mapping[str, Tensor]
State = Mapping[str, Tensor]
Sides = Mapping[bool, Tensor]
# A user's own: the name of a space, what enters its units (F, m, p), what leaves them (F, m, q); gives scores (F, m).
Own = Callable[[str, Tensor, Tensor], Tensor]


def sides(symmetry: SymmetryGraph, space: Space, state: State) -> dict[bool, Tensor]:
    """What enters every unit (False) and what leaves it (True), as rows for each position of the fibre.

    Shapes: (F, m, p) each, in a state whose branches are stacked.
    """
    shape = (*symmetry.fibre_sizes(space), space.size, 0)
    rows_of = {dual: [torch.zeros(shape, dtype=torch.float64)] for dual in (False, True)}
    for block in blocks_on(symmetry, space.id, [state], symmetry.acting_parameters.__contains__):
        rows_of[block.leaf(space).dual].append(block.rows(space))
    whole = {dual: torch.cat(rows, dim=-1) for dual, rows in rows_of.items()}
    positions = math.prod(shape[:-2])
    return {dual: rows.reshape(positions, *rows.shape[-2:]) for dual, rows in whole.items()}


def by_norm(kind: str, space: Space, rows: Sides, *, inside: bool) -> Tensor:
    """Scores by the weights of each unit: (F, m).

    Where what enters a unit and what leaves it can be rescaled against one another it is the product of both norms,
    which no rescaling changes, else their sum. With `inside` the units have a basis of their own inside, on which l1
    would depend: l2 is taken. Lamp makes spaces comparable; inside of one it has the order of l2.

    Source: LAMP, Lee et al., arXiv 2010.07611, equation 3, of units in the place of weights.
    """
    order = 1 if kind == "l1" and not inside else 2
    enters, leaves = (torch.linalg.vector_norm(rows[dual], order, dim=-1) for dual in (False, True))
    score: Tensor = enters * leaves if space.scales else enters + leaves
    return _among_larger(score.square()) if kind == "lamp" else score


def _among_larger(squares: Tensor) -> Tensor:
    """The share of every entry in the sum of all that are not smaller: (F, m)."""
    ordered = squares.sort(-1).values.contiguous()
    tails = ordered.flip(-1).cumsum(-1).flip(-1)
    sums = tails.gather(-1, torch.searchsorted(ordered, squares.contiguous()))
    return squares / sums.clamp_min(torch.finfo(squares.dtype).tiny)


def by_function(own: Own, space: Space, rows: Sides, *, inside: bool) -> Tensor:
    """Scores by a function of the user's: (F, m).

    Raises:
        UsageError: it fails, or what it gives are no scores.
    """
    try:
        scores = torch.as_tensor(own(space.name, rows[False], rows[True])).double()
    except Exception as error:
        remedy = "it is given the name of a space, what enters its units, and what leaves them, and gives scores"
        raise UsageError(
            f"importance of {space.name}: the function fails", cause=one_line(error), remedy=remedy
        ) from error
    wanted = tuple(rows[False].shape[:2])
    scores = scores.unsqueeze(0) if scores.dim() == 1 and wanted[0] == 1 else scores
    _check(space.name, scores, wanted)
    return scores


def by_gradient(
    network: nn.Module, symmetry: SymmetryGraph, spaces: Iterable[Space], batches: Iterable[Any], loss: Any
) -> dict[str, Tensor]:
    """Scores |sum of weight times gradient| over what leaves each unit, the mean over batches: (F, m) for each space.

    That is what the loss changes by, to first order, where the unit is put to zero, in every gauge.

    Raises:
        DataError: there are no batches, or they do not fit the model.

    Source: Molchanov et al., arXiv 1611.06440, equation 7, and arXiv 1906.10771.
    """
    chosen, objective = list(spaces), Objective(network, loss)
    totals: dict[str, Tensor] = {}
    count = 0
    for changes in _changes(network, objective, symmetry, batches):
        count += 1
        for space in chosen:
            rows = sides(symmetry, space, changes)
            side = rows[True] if rows[True].shape[-1] else rows[False]
            totals[space.name] = totals.get(space.name, 0.0) + side.sum(-1).abs()
    if not count:
        raise DataError("no batches to tell the importance from", remedy="check the length of the data")
    return {name: total / count for name, total in totals.items()}


def _changes(
    network: nn.Module, objective: Objective, symmetry: SymmetryGraph, batches: Iterable[Any]
) -> Iterator[dict[str, Tensor]]:
    """Weight times gradient of the mean loss of every batch, in float64, branches stacked."""
    own = {name: tensor.detach().clone() for name, tensor in state_of(network).items()}
    names = [name for name in symmetry.graph.parameters if own[name].is_floating_point()]
    for number, batch in enumerate(batches):
        tensors = own | {name: own[name].detach().requires_grad_() for name in names}
        mean, _ = objective.mean(tensors, batch, f"importance, batch {number}")
        slopes = torch.autograd.grad(mean, [tensors[name] for name in names], allow_unused=True)
        pairs = zip(names, slopes, strict=True)
        zeros = {name: torch.zeros_like(own[name]) if slope is None else own[name] * slope for name, slope in pairs}
        yield symmetry.stacked(symmetry.reading.of({name: tensor.double() for name, tensor in zeros.items()}))


def read_scores(file: str | Path) -> dict[str, Tensor]:
    """Scores by the name of a space, from a safetensors file or one of JSON: {"hidden.0": [0.3, 1.2, ...]}.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    path = Path(file)
    if not path.is_file():
        remedy = f"name {', '.join(KINDS)}, or a file of scores for every space, safetensors or JSON"
        what, cause = f"{file}: no scores can be read", "there is no such importance, and no such file"
        raise UsageError(what, cause=cause, remedy=near(str(file), KINDS, remedy))
    try:
        if path.suffix == ".json":
            plain = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(plain, dict):
                raise ValueError("it holds no object")
            return {str(name): torch.tensor(values, dtype=torch.float64) for name, values in plain.items()}
        return {name: score.double() for name, score in load_file(path).items()}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        remedy = (
            'write scores as {"SPACE": [0.3, 1.2, ...], ...}, a number for every unit, or as tensors of safetensors'
        )
        raise UsageError(f"{file}: no scores can be read", cause=one_line(error), remedy=remedy) from error


def checked(scores: Scores, symmetry: SymmetryGraph, spaces: Iterable[Space]) -> dict[str, Tensor]:
    """Scores as (F, m), one for every unit of every space.

    Raises:
        UsageError: scores are missing, fit no space, or are negative or not finite.
    """
    chosen = {space.name: space for space in spaces}
    unknown = sorted(scores.keys() - chosen.keys())
    missing = [name for name in chosen if name not in scores]
    if unknown or missing:
        said = {"no scores for ": missing, "scores for what is not pruned: ": unknown}
        cause = "; ".join(what + shorten(names) for what, names in said.items() if names)
        raise UsageError("the scores do not fit the spaces", cause=cause, remedy="give scores for every pruned space")
    for name, given in scores.items():
        _check(name, given, (*symmetry.fibre_sizes(chosen[name]), chosen[name].size))
    return {name: score.double().reshape(-1, score.shape[-1]) for name, score in scores.items()}


def by_given(scores: Scores, space: Space, rows: Sides, *, inside: bool) -> Tensor:
    """Scores that are there already: (F, m)."""
    return scores[space.name]


def _check(name: str, given: Tensor, wanted: tuple[int, ...]) -> None:
    """Raise unless there is a score for every unit, none of them negative or not finite."""
    if tuple(given.shape) != wanted:
        cause = f"they have the shape {tuple(given.shape)}, the space {wanted}"
        raise UsageError(f"the scores of {name} do not fit", cause=cause, remedy="give one number for every unit")
    if not bool(((given >= 0) & given.isfinite()).all()):
        cause = "some are negative or not finite"
        raise UsageError(f"the scores of {name} cannot be used", cause=cause, remedy="give numbers from 0 on")
