"""Whether an alignment lowered the loss barrier, in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from symgraph.errors import argument, either
from symgraph.measure.result import LossBarrier

# Standard errors of the difference that may be chance.
CHANCE = 2.0


@dataclass(frozen=True, slots=True)
class Helped:
    """The loss barrier before and after; `better` is None where the difference may be chance."""

    before: float
    after: float
    better: bool | None
    text: str

    def to_plain(self) -> dict[str, Any]:
        """The answer as plain data."""
        return {"before": self.before, "after": self.after, "better": self.better, "said": self.text}

    def __str__(self) -> str:
        return self.text


def helped(before: LossBarrier, after: LossBarrier, method: str = "weights") -> Helped:
    """Whether an alignment helped.

    The two are measured on the same examples but not compared example by example, so that the standard error of their
    difference is taken as if they were independent, which is too large.

    Args:
        method: how the models were matched, for what to try next.
    """
    low, high = after.barrier, before.barrier
    error = math.hypot(before.standard_error, after.standard_error)
    if max(low, high) <= 0.0:
        return Helped(high, low, None, "there is no loss barrier to lower: no mixture lies above the chord")
    figures = f"the loss barrier is {low:.4f}, and was {high:.4f}"
    # Rounding of figures is no difference, either.
    if abs(low - high) <= max(CHANCE * error, 1e-6 * max(abs(low), abs(high))):
        remedy = "; more examples would tell" if error else ""
        return Helped(high, low, None, f"no difference beyond {CHANCE:g} standard errors: {figures}{remedy}")
    if low < high:
        return Helped(high, low, True, f"the alignment helped: {figures}")
    return Helped(high, low, False, f"the alignment DID NOT HELP: {figures}; {_next(method, after)}")


def _next(method: str, after: LossBarrier) -> str:
    """What to try."""
    others = {"weights": "activations", "activations": "learned"}
    tried = argument("method", others[method]) if method in others else "longer training, or other data"
    anew = either("recalibrate=batches", "--recalibrate DATA")
    return f"try {tried}" + ("" if after.recalibrated else f", and {anew} where there are batch norms")
