"""An optimiser that drives a symmetry in: descent on weights and gamma, ascent on the multipliers that pull gamma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from symgraph.errors import UsageError, argument
from symgraph.match.relax import Relaxed


class DualAscent:
    """Steps of any optimiser on the Lagrangian of min loss subject to |gamma| <= u, one multiplier a layer.

    Each step lets the optimiser step in the weights, takes gamma down the gradient of loss + lambda |gamma|, and the
    multipliers along the slack:

        gamma  <- gamma - descent (dloss/dgamma + lambda sign gamma)
        lambda <- max(0, lambda + rate (|gamma| - u)),   u = 0 or lambda / resilience

    The second u is the best bound where it costs resilience / 2 u^2. Manolache et al. (NeurIPS 2025), algorithm 1 and
    its resilient form. They state the first as gamma = 0 with a multiplier of either sign; where the loss no longer
    depends on gamma, that pair swings like a pendulum (a planted linear map ended at gamma = -2.1), so zero is stated
    from both sides here, and a step that would pass it ends there. Gamma goes from one to zero in about
    1.6 / sqrt(rate descent) steps where the loss does not care.

    Args:
        optimiser: of the weights, `relaxed.module.parameters()`; schedulers take it as it is.
        rate: the step of the ascent, in units of the loss for each unit of gamma.
        descent: the step of gamma.
        resilience: the price of a bound that is not zero; None pulls gamma to zero.

    Raises:
        UsageError: the optimiser trains gamma by itself, or a number is not positive.

    >>> plane = {"plane": {"circle": [1]}}
    >>> rule = {"inputs": {"input": "rows plane"}, "output": "rows plane", "group": {"turn": plane}}
    >>> x = torch.randn(64, 2)
    >>> relaxed = symgraph.relax(torch.nn.Linear(2, 2), x, representation=rule)
    >>> steps = symgraph.DualAscent(torch.optim.Adam(relaxed.module.parameters(), lr=0.02), relaxed, rate=0.01)
    >>> for _ in range(300):
    ...     steps.zero_grad()
    ...     (relaxed(x) - x.flip(1) * torch.tensor([-1.0, 1.0])).square().mean().backward()
    ...     steps.step()
    >>> bool(relaxed.gamma.abs() < 0.05)
    True
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        relaxed: Relaxed,
        *,
        rate: float = 1e-3,
        descent: float = 0.05,
        resilience: float | None = None,
    ) -> None:
        given = {"rate": rate, "descent": descent, "resilience": 1.0 if resilience is None else resilience}
        for name, number in given.items():
            if not number > 0:
                raise UsageError(f"{argument(name, number)} is not positive", remedy="give a positive number")
        if any(parameter is relaxed.gamma for group in optimiser.param_groups for parameter in group["params"]):
            remedy = "give it relaxed.module.parameters(), the weights alone"
            raise UsageError("the optimiser trains gamma by itself", remedy=remedy)
        self.optimiser, self.relaxed = optimiser, relaxed
        self.rate, self.descent, self.resilience = rate, descent, resilience

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients."""
        self.optimiser.zero_grad(set_to_none)
        self.relaxed.gamma.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step down in the weights and in gamma, and one up in the multipliers."""
        self.optimiser.step(closure)
        gamma, multipliers = self.relaxed.gamma, self.relaxed.multipliers
        before = gamma.sign()
        pull = multipliers * before
        gamma.sub_(self.descent * (pull if gamma.grad is None else pull + gamma.grad))
        gamma[gamma.sign() * before < 0] = 0.0
        bound = 0.0 if self.resilience is None else multipliers / self.resilience
        multipliers.copy_((multipliers + self.rate * (gamma.abs() - bound)).clamp_min(0.0))

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from, beside the state of the relaxed model, which has gamma and the multipliers."""
        return self.optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.optimiser.load_state_dict(state)
