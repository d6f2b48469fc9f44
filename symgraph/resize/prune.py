"""Pruning: a model in a smaller shape of its own making, its units fused into those that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.errors import UsageError
from symgraph.inference.sources import RuleSources, Source, infer, ready, rule_book, trace
from symgraph.io.checkpoint import module_hash
from symgraph.io.data import NoData
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.measure.recalibrate import recalibrated
from symgraph.measure.synthetic import synthetic
from symgraph.prove.same_function import check_unchanged
from symgraph.resize.fewer_parts import fewer_parts
from symgraph.resize.keeping import Importance, called, keeping
from symgraph.resize.narrow import Flows, Reduction, reduce
from symgraph.resize.narrow_fold import Keep
from symgraph.resize.reshaped import Reshaped
from symgraph.resize.shapes import model_like
from symgraph.resize.smaller import Smaller, smaller
from symgraph.resize.smaller_model import check_lengths, read_of, smaller_model
from symgraph.resize.stream_moments import moments_of_flow
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.graph_module import GraphModule


@dataclass(frozen=True, repr=False)
class Pruned(Reshaped):
    """A model with fewer units, and what that lost.

    `source` names the model it was made from, `hash` is that of its weights; `how` says which units stayed;
    `recalibrated` names the data that stored statistics were computed on, if they were.
    """

    reduction: Reduction
    symmetry: SymmetryGraph
    source: str
    hash: str
    ratio: float
    how: str
    parameters: tuple[int, int]
    notes: tuple[str, ...] = ()
    recalibrated: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Sizes, losses and figures as plain data."""
        spaces = [
            {"space": fold.name, "before": fold.before, "after": fold.after, "lost": fold.lost}
            for fold in self.reduction.spaces
        ]
        plain = {"source": self.source, "ratio": self.ratio, "how": self.how, "spaces": spaces}
        plain |= {"parameters": list(self.parameters), "error": self.reduction.error, "exact": self.reduction.exact}
        return plain | {"recalibrated": self.recalibrated, "notes": list(self.notes)}

    def __str__(self) -> str:
        before, after = self.parameters
        exact = "the same function" if self.reduction.exact else "APPROXIMATE"
        head = f"{self.source}: {before:,} -> {after:,} parameters ({exact}), {self.how}"
        error = f"outputs change by {self.reduction.error:.2g} on random inputs"
        more = [f"statistics of {self.recalibrated}"] if self.recalibrated else []
        return "\n  ".join([head, error, *map(str, self.reduction.spaces), *more, *self.notes])


def prune(
    source: Source,
    example: Any = None,
    *,
    ratio: float,
    spaces: str | Sequence[str] | None = None,
    importance: Importance = None,
    drop: bool = False,
    data: Iterable[Any] | NoData | None = None,
    loss: Any = "cross-entropy",
    recalibrate: Iterable[Any] | None = None,
    input_size: Size | None = None,
    rules: RuleSources = None,
    tied: str = "keep",
) -> Pruned:
    """A model with a part of its units fused into the others: a stock model of a smaller config where there is one.

    Equal and dead units go without a loss; what everything else loses is stated, for each space and for the outputs.

    Args:
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        ratio: the part of every space that goes.
        spaces: patterns of the names of spaces; by default all spaces of units, such as hidden units and channels.
        importance: which units stay: "l1", "l2" or "lamp" by the norms of their weights, "taylor" by what the loss on
            `data` says, scores by the name of a space or a file of them, or a function: it is given the name of a
            space, what enters its units (F, m, p) and what leaves them (F, m, q), F being the positions of its fibre,
            and gives scores (F, m), or (m,) where F is one. Without it units are merged where they are nearest to one
            another.
        drop: let the units that do not stay go, instead of fusing each into the nearest that stays.
        data, loss: batches for "taylor", and a loss as for `loss_barrier`. A stream keeps the leading directions of
            what flows on it in these batches, or in inputs that the model invents (`NoData()`); without data those of
            its weights.
        recalibrate: batches of the training split, on which the stored statistics of norms are computed anew.

    Raises:
        UsageError: a space cannot shrink so far, scores do not fit, or the module's code has its sizes written in.
        CheckpointError: a space cannot be had in that size.
        DataError: the batches do not fit the model.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symgraph.prune(net, torch.randn(5, 6), ratio=0.25).module
    Sequential(
      (0): Linear(in_features=6, out_features=6, bias=True)
      (1): ReLU()
      (2): Linear(in_features=6, out_features=3, bias=True)
    )

    Source: Theus et al., Intra-Fusion, arXiv 2402.07839; docs/design.md, Pruning.
    """
    (model,), said = ready((source,), tied, ("the model",), example, input_size)
    if isinstance(model.module, GraphModule):
        remedy = "give the nn.Module, or a checkpoint, that it was traced from"
        raise UsageError(f"{model.spec} is a program, whose sizes are written in", remedy=remedy)
    symmetry = infer(model, rules=rules)
    wanted = smaller(symmetry, ratio, spaces)
    keep = keeping(model, symmetry, wanted, importance, drop, data, loss)
    like, noted = smaller_model(model, wanted)
    flows = None if data is None else _flows(model, symmetry, wanted, data, rules)
    reduction = _reduced(model, like, symmetry, wanted, rules, keep, flows)
    made = model_like(like, model, reduction.state)
    if reduction.exact:
        check_unchanged(made, reduction.state, f"{model.spec}, pruned", source=model)
    where = ""
    if recalibrate is not None:
        made, where = _recalibrated(made, recalibrate)
    counts = _size(model), _size(made)
    how = "merged where nearest" if keep is None else f"{called(importance)}: {keep}"
    return Pruned(
        made, reduction, symmetry, model.spec, module_hash(model.module), ratio, how, counts, (*said, *noted), where
    )


def _reduced(
    model: Model,
    like: Model,
    symmetry: SymmetryGraph,
    wanted: Smaller,
    rules: RuleSources,
    keep: Keep | None,
    flows: Flows | None,
) -> Reduction:
    """The weights of the model in the wanted shape, which `like` has."""
    state = state_of(model.module)
    if wanted.parts:
        return fewer_parts(symmetry, read_of(like, lambda: trace(like)), wanted, state, keep)
    fewer = read_of(like, lambda: infer(like, rules=rules))
    check_lengths(like, symmetry, fewer, wanted)
    return reduce(symmetry, fewer, state, state_of(like.module), keep, flows)


def _flows(
    model: Model, symmetry: SymmetryGraph, wanted: Smaller, data: Iterable[Any] | NoData, rules: RuleSources
) -> Flows | None:
    """What tells the second moments of what flows on the streams that shrink."""
    streams = wanted.streams
    if not streams:
        return None
    given = synthetic([model.module], symmetry.graph, data) if isinstance(data, NoData) else data
    return lambda state: moments_of_flow(model.module, rule_book(rules), state, given, streams)


def _size(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def _recalibrated(made: Model, batches: Iterable[Any]) -> tuple[Model, str]:
    state = recalibrated(made.module, made.module.state_dict(), batches)
    made.module.load_state_dict(state)
    return made, str(getattr(batches, "source", "") or "the training data")
