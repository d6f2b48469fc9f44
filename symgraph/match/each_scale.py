"""How much of each tensor is added: a scale for each of them, down the loss of the model that they are added to.

    min over s of  E over batches  L( B + sum over tensors t of  s_t D_t )

One scale for all adds as much of what helps as of what does not. There are no more scales than tensors, so that little
data fixes them; what is added keeps the rank of each tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from symgraph.io.models import Model
from symgraph.match.added import Added
from symgraph.match.feed import Feed, divided
from symgraph.measure.batches import repeatable
from symgraph.measure.losses import Named
from symgraph.tracing import state_of
from symgraph.tracing.deferred import made
from symgraph.tracing.wrap import evaluating

# Scales are of the size of one; a rate that falls to zero settles them in as many steps.
STEPS, RATE, CHECK = 100, 0.05, 10


def each_scale(
    to: Model, delta: Mapping[str, Tensor], data: Any, *, scale: float, loss: Named
) -> tuple[dict[str, float], str]:
    """A scale for each tensor that is added to the parameters of `to`, and what is to be said of them.

    Args:
        scale: what all of them begin at.
        data: batches of what was learned, of which every tenth is set apart: the best scales there are kept, and these
            may be those that they began at.

    Raises:
        DataError: there are fewer than two batches, or they do not fit the model.
    """
    sum_of, names = Added(to.module, state_of(to.module), loss), list(delta)
    parts = {name: made(delta[name]).detach().to(sum_of.dtype) for name in names}
    training, apart = divided(data)
    feed, apart = Feed(training, torch.Generator().manual_seed(0)), repeatable(apart, "what is set apart")
    scales = torch.full((len(names),), scale, dtype=sum_of.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([scales], lr=RATE)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)

    def added() -> dict[str, Tensor]:
        return {name: s * parts[name] for name, s in zip(names, scales, strict=True)}

    with evaluating(to.module):
        before = least = sum_of.over(added(), apart, "what is set apart")
        best = scales.detach().clone()
        for step in range(1, STEPS + 1):
            optimiser.zero_grad()
            sum_of.loss(added(), feed.next(), f"step {step}").backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
            if step % CHECK == 0 and (here := sum_of.over(added(), apart, "what is set apart")) < least:
                least, best = here, scales.detach().clone()
    found = dict(zip(names, best.tolist(), strict=True))
    spread = f"from {min(found.values()):.3g} to {max(found.values()):.3g}"
    return found, f"a scale for each tensor, {spread}: loss on data set apart {before:.4f} -> {least:.4f}"
