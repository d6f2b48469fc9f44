"""How models are matched and trained, how they are read, and where all of it is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symgraph.errors import UsageError, called
from symgraph.io.options import check, option
from symgraph.orbit.descent_options import DescentOptions

if TYPE_CHECKING:
    import torch

    from symgraph.inference.sources import RuleSources
    from symgraph.io.example import Size
    from symgraph.measure.losses import Named
    from symgraph.symmetry.graph import SymmetryGraph
    from symgraph.tracing.progress import Progress

# What belongs to a value of a model, and can be carried to another.
VECTOR_KINDS = (DIRECTIONS, PROBE, AUTOENCODER) = ("directions", "probe", "autoencoder")
# What a program calls its models, where it is one for two.
PAIR = ("A", "B")
METHODS = ("weights", "activations", "learned")
MATCHINGS, LEARNED = METHODS[:2], METHODS[2]
WEIGHTINGS = ("inputs-halved", "uniform", "per-entry", "normalised", "inputs")
# An order that is found on validation data.
BY_LOSS = "loss"
PRECISIONS = ("float32", "float64")
OUTER = ("joint", "gate", "gram", "fixed", BY_LOSS)
SAMPLERS = ("uniform", "normal", "dirichlet")
ESTIMATES = ("even", "worst")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchOptions:
    """How to match.

    `weighting`: "inputs-halved" (w_T = 1, but 1/2 for what only writes: embedding tables and first layers, whose rows
    are each used by few inputs), "uniform" (w_T = 1), "normalised" (w_T = 1 / (|T_A| |T_B|)), "per-entry" (that times
    the number of entries, and halved as by default: for models whose tensors are of very different sizes), or a weight
    for each parameter. The first is the default because it was measured best (docs/benchmarks.md). "inputs" matches
    every parameter at the second moment of its inputs, and needs data.
    `spaces`: patterns of the space names to align; all others keep their identity.
    `alpha`: share of the activations' cost where activations are matched, the rest being that of the weights; "auto":
    the share, and the kinds of spaces where it counts, that give the smallest loss barrier at the even mixture of the
    models on validation data.
    `batches`, `rows`: read so many batches, and so many positions of each value in one; 0: all, `rows` 0 also in the
    precision of the run instead of float32.
    `observed`: patterns of the outermost spaces of units whose activations count; the others are matched by weights.
    `observed_at`: modules, whose results are meant, or values of the graph: activations count there alone. With `alpha`
    1 and the result of one block a stream is turned as a Procrustes fit of its values there would, within its class.
    `precision`: of the tensors and of their products while they are matched; small matrices, sums and elements are
    float64, and so is everything where float32 does not resolve what is left between the models.
    `outer`: how a space with others fibred over it (experts, heads) is ordered: "joint" with all that is inside, of
    many those pairs that are near; "gate" by the parameters without an inside, "gram" by the inner products that the
    inside leaves as they are, "fixed": as it is. These three go by weights, and solve the inside of the matched pairs
    alone. "loss": joint, and then by exchanges that lower the loss barrier of the even mixture on validation data; of
    two models, and needs data with labels.
    """

    sweeps: int = option(15, "at most so many sweeps", least=0)
    tolerance: float = option(1e-7, "stop where a sweep gains less, relative to |A|^2")
    weighting: str | Mapping[str, float] = option(
        "inputs-halved",
        "weight of each parameter in the distance (inputs-halved: embeddings and first layers count half; inputs: at "
        "the second moment of what it reads)",
        choices=WEIGHTINGS,
    )
    seed: int = option(0, "of the order of the spaces, and of what is drawn")
    restarts: int = option(0, "further starts from random elements", least=0)
    spaces: tuple[str, ...] = option(("*",), "align these spaces only; * stands for any text", metavar="PATTERN")
    alpha: float | str = option(
        "auto",
        "share of activations where they are matched, the rest being weights: a number from 0 to 1, or auto: the best "
        "of several on validation data",
    )
    batches: int = option(30, "batches of activations that are read; 0: all", least=0, flag="--match-batches")
    rows: int = option(128, "positions of each value that are read in a batch; 0: all", least=0)
    observed: tuple[str, ...] = option(
        ("*",), "spaces whose activations count; the others go by weights", metavar="PATTERN"
    )
    observed_at: tuple[str, ...] = option(
        (), "modules, at whose results alone activations count (default: everywhere)", metavar="MODULE"
    )
    precision: str = option(
        "float32",
        "of tensors and their products in the match; small matrices, sums and elements are float64",
        choices=PRECISIONS,
    )
    outer: str = option(
        "joint",
        "order of experts or heads: joint with their inside, by the gate alone, by Gram matrices, as it is, or joint "
        "and then by exchanges that lower the loss between the models (loss; needs data)",
        choices=OUTER,
    )

    @property
    def wants_data(self) -> str:
        """The option that cannot do without data, in words; "" where none is set."""
        return "weighting 'inputs'" if self.weighting == "inputs" else "order by loss" if self.outer == BY_LOSS else ""

    def __post_init__(self) -> None:
        check(self)
        number = isinstance(self.alpha, int | float)
        if not (0 <= float(self.alpha) <= 1 if number else self.alpha == "auto"):
            remedy = "give a share from 0 (weights) to 1 (activations), or auto"
            raise UsageError(f"{called('alpha')} is {self.alpha}", remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions(DescentOptions):
    """How to learn.

    What moves and how it descends is that of `DescentOptions`. `dual`: the first model moves as well. `sampler`,
    `lambdas`: "uniform" between the two, or "normal" with this mean and standard deviation, clipped to [0, 1]; both for
    two models. "dirichlet", for any number: weights from the symmetric Dirichlet distribution with this
    `concentration`. `estimate`: what stopping goes by, "even", the barrier of the even mixture, or "worst", the largest
    of those of the even mixture and of each pair's midpoint. `autocast`: while it is trained the network computes in
    bfloat16 where torch's autocast does; elements, their action, losses and estimates are as without.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    sampler: str = option(
        "uniform", "uniform between --lambdas, or normal with this mean and deviation", choices=SAMPLERS
    )
    lambdas: tuple[float, float] = option((0.4, 0.6), "train between these points of the segment", metavar="X")
    concentration: float = option(0.1, "of the Dirichlet distribution; below 1 few models weigh much", above=0)
    dual: bool = option(False, "move A as well; it is written to FOLDER-reference")
    estimate: str = option(
        "even",
        "what training stops by: the barrier of the even mixture, or the worst of it and all midpoints",
        choices=ESTIMATES,
    )
    autocast: bool = option(False, "train with the network in bfloat16 (autocast); elements stay as they are")

    def __post_init__(self) -> None:
        DescentOptions.__post_init__(self)
        if not _is_range(self.sampler, self.lambdas):
            raise UsageError(f"{called('lambdas')} is {self.lambdas!r}", remedy=_RANGES)


_RANGES = "give two numbers, uniform: 0 <= low <= high <= 1; normal: a mean in [0, 1] and a deviation of 0 or more"


def _is_range(sampler: str, lambdas: tuple[float, ...]) -> bool:
    if len(lambdas) != 2 or not all(isinstance(x, int | float) and math.isfinite(x) for x in lambdas):
        return False
    first, second = lambdas
    return 0 <= first <= 1 and (second >= 0 if sampler == "normal" else first <= second <= 1)


# Which argument takes options that are not among the settings.
ELSEWHERE = {"options": MatchOptions, "learning": LearnOptions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How models are read, where it is computed, and what else training takes.

    `example`, `input_size`: inputs of modules that bring none, or the shape of one, as for `trace`.
    `symmetry`: that of the models, if it is known already. `rules`: a user's, in front of the shipped ones. `tied`:
    "keep" shared embeddings (a smaller group), or "untie" them (more parameters; the models are copied).
    `on_difference`: "keep" rows that one model has alone (tokens, labels), or "refuse" them. `strict`: fail where an
    operator has no rule. `device`, `dtype`: where and in which precision to compute (default float64).
    `progress` is told what is done, as text with `.done` of `.total` where that is known.
    `examples`: batches on whose first one results are compared with what they were made from, too. `validation`:
    batches to stop on; without them every tenth of the data is set apart. `loss`: what is trained, a name or a function
    as for `loss_barrier`. `checkpoint`, `resume`: a file to write as matching and training go on, and whether to go on
    from it. `scratch`: a folder on whose disk results wait as they were computed until they are written, instead of in
    memory; nothing is left there.
    """

    example: Any = None
    input_size: Size | None = None
    symmetry: SymmetryGraph | None = None
    rules: RuleSources = None
    tied: str = option(
        "keep",
        "embeddings that share one tensor: keep (a smaller group) or untie (more parameters)",
        choices=("keep", "untie"),
    )
    on_difference: str = option(
        "keep",
        "rows that one model has alone (tokens, labels, positions): keep them, matching what all have, or refuse",
        choices=("keep", "refuse"),
    )
    strict: bool = option(False, "fail if an operator has no rule (exit code 5)")
    device: str | torch.device = "cpu"
    dtype: torch.dtype | None = None
    progress: Progress | None = None
    validation: Any = None
    examples: Any = None
    loss: Named = "cross-entropy"
    checkpoint: str | Path | None = option(  # noqa: RUF009 - a field
        None, "write the run to this file after every sweep, round or estimate", metavar="FILE"
    )
    resume: bool = option(False, "go on from --checkpoint, where it exists")
    scratch: str | Path | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def planning(self) -> dict[str, Any]:
        """What a program does by these settings, as fields of a `Plan`, and from what match learning starts."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings(Settings):
    """The same for two models.

    `start`: what learned matching starts from. `split`: copy units of B into idle ones (those that padding added) where
    that brings it nearer to A; exact. `soft`: temperature of soft permutations, which only approximate B's function;
    the notes say by how much. `narrow`: where B is wider, reduce it to A's shape instead of embedding A: approximate;
    the notes say by how much.
    """

    start: str = option("weights", "what learned matching starts from", choices=MATCHINGS)
    split: bool = option(
        False,
        "split units of a model into idle ones (where it was narrower) if that brings it nearer; exact",
        flag="--split-units",
    )
    soft: float = option(
        0.0,
        "soft permutations at this temperature: APPROXIMATE, the function changes and by how much is reported",
        least=0,
        metavar="T",
    )
    narrow: bool = option(
        False,
        "where B is wider, reduce it to A's shape: APPROXIMATE, what is lost is reported (default: A is embedded)",
    )

    @property
    def planning(self) -> dict[str, Any]:
        """A keeps its gauge."""
        return {"start": self.start, "reference": PAIR[0], "split": self.split, "soft": self.soft}


@dataclass(frozen=True, slots=True, kw_only=True)
class UniverseSettings(Settings):
    """The same for any number of models.

    `reference`: the number of the model whose gauge the result is in; by default the first, in the order of their
    hashes, whose gauge has an inverse. `rounds`: at most so many in which each model is matched to the mean of the
    others.
    """

    reference: int | None = option(
        None,
        "the model whose gauge all are brought into, counted from 0 (default: whichever hash comes first)",
        least=0,
    )
    rounds: int = option(10, "rounds in which each model is matched to the mean of the others", least=0)

    @property
    def planning(self) -> dict[str, Any]:
        """The models come in the order of their hashes."""
        reference = "" if self.reference is None else str(self.reference)
        return {"rounds": self.rounds, "order": "hash", "reference": reference}
