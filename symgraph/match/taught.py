"""An alignment trained for what is carried through it: down the loss of the model that it is added to.

    min over h of the group of  E over batches  L( B + s (h . D) )

D is what was learned on A, in the basis of B by some alignment. Only the element moves: h . D is what A learned in yet
another basis of the same models, so that what is added has its size, its rank and its functions on A as it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symgraph.io.models import Model
from symgraph.match.added import Added
from symgraph.match.feed import Feed, divided
from symgraph.measure.batches import repeatable
from symgraph.measure.losses import Named
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descend import Descent
from symgraph.orbit.descent_options import DescentOptions
from symgraph.orbit.steps import State, Transform
from symgraph.tracing import state_of
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import Progress
from symgraph.tracing.sampling import float64
from symgraph.tracing.wrap import evaluating

# What is gained is gained early, at a moderate rate; rotations alone keep what is added as large as it was.
TEACHING = DescentOptions(steps=200, lr=0.02, full=False, permutations=False)
_ESTIMATED = "validation loss "


def taught(
    to: Model,
    delta: Mapping[str, Tensor],
    found: Alignment,
    data: Any,
    *,
    scale: float,
    loss: Named,
    validation: Any = None,
    options: DescentOptions = TEACHING,
    progress: Progress | None = None,
) -> tuple[Alignment, str]:
    """An alignment of `to` that carries better what `found` carries as `delta`, and what is to be said of it.

    Args:
        delta: parameters of `to`, what is added to them at scale one.
        data: batches of what was learned; without `validation` every tenth of them is set apart.
        scale: how much of it is added while it is trained.
        options: how to descend.

    Raises:
        DataError: there are fewer than two batches, or they do not fit the model.
        UsageError: nothing has anything to train.
        CheckpointError: a gain of `to` has a zero where its bias has not.
    """
    own = float64(state_of(to.module))
    canonical = canonicalise(found.symmetry, own)
    changed = canonical.transform.apply({**own, **{name: own[name] + made(tensor) for name, tensor in delta.items()}})
    moving = {name: tensor - canonical.state[name] for name, tensor in changed.items() if name in delta}
    lesson = Added(to.module, canonical.state, loss)
    first = made(moving[next(iter(moving))])
    moving = {name: tensor.detach().to(lesson.dtype) for name, tensor in moving.items()}
    training, held = (data, validation) if validation is not None else divided(data, other="validation")
    descent = Descent(found.symmetry, [moving], (0,), options, first, _ESTIMATED)
    feed, held = Feed(training, torch.Generator().manual_seed(options.seed)), repeatable(held, "validation data")

    def added(*, exact: bool) -> State:
        return {name: scale * tensor for name, tensor in descent.state(0, exact=exact).items()}

    @torch.no_grad()
    def estimate() -> float:
        return lesson.over(added(exact=True), held, "validation data")

    def at_a_batch() -> Tensor:
        return lesson.loss(added(exact=False), feed.next(), f"step {descent.step + 1}")

    with evaluating(to.module):
        descent.measure(estimate, progress)
        ended = descent.run(at_a_batch, estimate, progress)
    (turn,) = descent.transforms(Transform())
    values = dict(descent.history)
    said = f"{values[0]:.4f} -> {values[descent.best[0]]:.4f} (kept: step {descent.best[0]})"
    back = canonical.transform.then(turn.inverse()).then(canonical.transform.inverse())
    better = replace(found, transform=back.then(found.transform), objective=())
    return better, f"learned over {descent.step} steps ({ended}) at scale {scale:g}: validation loss {said}"
