"""Weight matching: coordinate descent over units of spaces in canonical form (design section 11).

Minimises sum_T w_T |T_A - (g.B)_T|^2 over the compact part of the group. One unit (a space with everything fibred over
it) is solved exactly given the others, so the objective never rises; a step that would raise it by rounding is not
taken. The start follows the anchors: a unit is first solved from those blocks alone whose other axes are rigid or
already solved, in the order of how much of it is anchored (residual streams by embeddings and head, first layers by
their inputs), before sweeps over everything.

Tensors and their products are float32, unless float64 is asked for; small matrices, sums and elements are float64.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from symgraph.errors import UsageError, argument
from symgraph.match.activations import Activations
from symgraph.match.descent import Descent, Nearest
from symgraph.match.input_moments import weighted
from symgraph.match.match_options import MatchOptions
from symgraph.match.paired_blocks import Keep
from symgraph.match.run_file import Parts
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import made
from symgraph.tracing.progress import Progress

DEFAULT = MatchOptions()
# Where so little of |A|^2 is left between the models, products do not resolve it: it is done again by differences.
RESOLVED = 1e-4


def nearest(
    symmetry: SymmetryGraph,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    options: MatchOptions = DEFAULT,
    progress: Progress | None = None,
    seen: Activations | None = None,
    warm: bool = False,
    keep: Keep = made,
    opened: Parts | None = None,
) -> Nearest:
    """The element g of the compact group that brings B nearest to A.

    Args:
        a, b: states in canonical form, floating and of equal shapes.
        seen: activations of both, which then count with the share `alpha` (and their moments, for "inputs").
        warm: B has been matched before: sweep from where it is, without a start of its own and without restarts.
        keep: called with every tensor that the match works with; what it returns is held, and made when it is needed.
        opened: given the name of a descent its place in a file, which is written after every sweep, and taken up where
            something is there.

    Raises:
        UsageError: an unknown weighting or parameter, a pattern that matches no space, or no number for `alpha`.

    Source: coordinate descent of Ainsworth et al., arXiv 2209.04836; classes of Theus et al., arXiv 2506.22712.
    """
    if seen is not None and seen.correlations and options.alpha == "auto":
        raise UsageError(
            "a single match has one share of activations",
            remedy=f"give a number, {argument('alpha', 0.5, within='options')}",
        )
    if seen is not None and options.weighting == "inputs":
        a, b = weighted(a, seen.moments, 0), weighted(b, seen.moments, 1)
    restarts = 0 if warm else options.restarts

    def descent(number: int, close: bool = False) -> Nearest:
        section = None if opened is None else opened(f"{'close' if close else 'descent'} {number}")
        run = Descent(symmetry, a, b, options, number, seen, close=close, keep=keep, section=section)
        return run.run(progress, warm)

    runs = [descent(r) for r in range(restarts + 1)]
    best_run = min(range(restarts + 1), key=lambda r: runs[r].objective[-1])
    found = runs[best_run]
    if found.objective[-1] > RESOLVED * found.scale:
        return found
    close = descent(best_run, close=True)
    return close if close.objective[-1] <= RESOLVED * close.scale else found
