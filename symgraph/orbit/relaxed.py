"""A relaxed start: a chart with a part of a larger class beside it, which a dual variable drives out.

    rotations       Q + slack N           N free: orthogonal within invertible
    assignment      P + slack (S - P)     S = Sinkhorn(scores): permutation within doubly stochastic

The element between is no symmetry while the slack is positive, so what is estimated and kept is the exact part alone.
The slack is trained with everything else on the loss + price * slack, and after each step the price rises in
proportion to what slack is left, until there is none.

Source: ACE, Manolache, Chamon and Niepert, arXiv 2505.13631 (equality-constrained homotopy; here for classes).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.groups.charts import Assigned, Rotation
from symgraph.groups.elements import Element

SHARPNESS = 100.0
ROUNDS = 20
_OWN = ("slack", "free")


class Relaxed:
    """`exact` with slack, which starts at one."""

    def __init__(self, exact: Rotation | Assigned) -> None:
        self.exact = exact
        like = next(iter(exact.latents.values()))
        self.slack = torch.ones((), dtype=like.dtype, device=like.device, requires_grad=True)
        self.latents = {**exact.latents, "slack": self.slack}
        if isinstance(exact, Rotation):
            self.latents["free"] = torch.zeros_like(like, requires_grad=True)
        self.price = torch.zeros((), dtype=torch.float64, device=like.device)

    def moved(self) -> Element:
        """The relaxed element; of a doubly stochastic matrix the transpose stands for the inverse."""
        matrix = self.exact.matrix()
        if isinstance(self.exact, Rotation):
            whole = matrix + self.slack * self.latents["free"]
            return Element(matrix=whole)
        soft = sinkhorn(SHARPNESS * self.exact.scores())
        whole = matrix + self.slack * (soft - matrix)
        return Element.rotation(whole)

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        return self.price.to(self.slack) * self.slack

    @torch.no_grad()
    def tighten(self, rate: float) -> None:
        """After a step: the slack is not negative, and what is left of it raises the price."""
        self.slack.clamp_(min=0.0)
        self.price = self.price + rate * self.slack.double()

    def retract(self) -> None:
        """Recentres the exact part."""
        self.exact.retract()

    def element(self) -> Element:
        """The exact part."""
        return self.exact.element()

    def held(self) -> dict[str, Tensor]:
        """The exact part's, the slack with its price, and what is free."""
        latents: dict[str, Tensor] = {name: self.latents[name].detach() for name in _OWN if name in self.latents}
        return latents | self.exact.held() | {"price": self.price}

    @torch.no_grad()
    def hold(self, parts: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave."""
        self.exact.hold(parts)
        for name in _OWN:
            if name in self.latents:
                self.latents[name].copy_(parts[name])
        self.price = parts["price"].to(self.price)


def sinkhorn(scores: Tensor, rounds: int = ROUNDS) -> Tensor:
    """The doubly stochastic matrix diag(r) exp(scores) diag(c): (..., n, n), up to what is left after `rounds`.

    Source: Sinkhorn 1964; soft permutations as in Theus et al., arXiv 2506.22712.
    """
    for _ in range(rounds):
        scores = scores - scores.logsumexp(-1, keepdim=True)
        scores = scores - scores.logsumexp(-2, keepdim=True)
    return scores.exp()
