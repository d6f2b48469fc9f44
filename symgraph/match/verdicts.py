"""What a model is to another, from what is left between them: figures, limits, and the verdict.

The limits were set on pairs of which it is known what they are, by `tests/benchmarks/same_limits.py`.

Source: docs/design.md, Same or different.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SAME, NOISE, DERIVED, INDEPENDENT = "same", "noise", "derived", "independent"
# From what tells most of B by A to what tells least.
ORDER = (SAME, NOISE, DERIVED, INDEPENDENT)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured where A is laid over B in one gauge.

    `share` is what is left, over so many `directions`, and `rounding` what rounding explains of it; `left` is what the
    fit leaves, in sizes of B's tensors; `explained` the share of the squares that unrelated models leave which A does
    not leave, and `deviations` by how many standard deviations A is nearer than they are. `uneven` and `peak` are how
    much more uneven what is left is than drawn noise, and how much further its singular values stand out; `evidence`
    how sure the first is. `zeros` is the share of entries that are zero in one model alone.
    """

    share: float
    rounding: float
    left: float
    explained: float
    deviations: float
    uneven: float
    evidence: float
    peak: float
    zeros: float
    directions: float

    @property
    def spread(self) -> float:
        """The standard deviation of the root mean square of so many numbers of size one."""
        return 1 / math.sqrt(2 * self.directions) if self.directions else math.inf

    @property
    def apart(self) -> float:
        """How far what is left is from noise that was drawn, by both at once: training shows a little in each."""
        return math.hypot(max(self.uneven, 0.0), max(self.peak, 0.0))


@dataclass(frozen=True, slots=True)
class Limits:
    """Where one verdict ends and another begins.

    Nearer than `rounded` times what rounding explains, or `least`, which no file says more than, is the same. What
    leaves no more than `far` of another model, also over the directions that the fit did not take up, and so many
    `deviations` less than chance would there, explains `related` of what unrelated models leave, and is `deviations`
    nearer than they are, may be related to it. That what is left is noise is evidence by itself; where it is none, A
    has to explain `derived`, for in some gauges models that are not related explain as much as a half. Noise is apart
    from noise that was drawn by no more than `even`, or no singular value stands out by more and `evidence` does not
    show that it is uneven; and `pruned` zeros are no chance.
    """

    rounded: float = 4.0
    least: float = 1e-6
    far: float = 0.7
    related: float = 0.12
    deviations: float = 4.0
    derived: float = 0.65
    even: float = 0.1
    evidence: float = 4.0
    pruned: float = 0.01


LIMITS = Limits()


def related(figures: Figures, limits: Limits = LIMITS) -> bool:
    """Whether B may be related to A, as far as this gauge tells."""
    near = figures.left <= limits.far and figures.deviations >= limits.deviations
    # Few numbers may be small by chance, and a fit takes up most of those of a small model.
    few = figures.share <= min(limits.far, 1 - limits.deviations * figures.spread)
    return near and few and figures.explained >= limits.related


def verdict(figures: Figures, limits: Limits = LIMITS) -> str:
    """What B is to A in this gauge."""
    f = figures
    if f.share <= max(limits.rounded * f.rounding, limits.least):
        return SAME
    if not related(f, limits):
        return INDEPENDENT
    even = (f.peak if f.evidence <= limits.evidence else f.apart) <= limits.even
    if even and f.zeros <= limits.pruned:
        return NOISE
    return DERIVED if f.explained >= limits.derived else INDEPENDENT


def settled(figures: Figures, limits: Limits = LIMITS) -> bool:
    """Whether the other gauge need not be looked at: it may show noise where this one does not."""
    return verdict(figures, limits) in (SAME, NOISE) or not related(figures, limits)
