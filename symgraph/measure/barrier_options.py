"""What a loss barrier is measured at and by: options of the command line and of programs, each stated once."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.io.options import check, option


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOptions:
    """Which mixtures of models; see `symgraph.measure.barrier.loss_barrier`.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    points: int | tuple[float, ...] = option(11, "points of lambda between two models, ends included", least=3)
    refine: bool = option(False, "of two models: place three more points at the maximum")
    resolution: int | None = option(None, "all multiples of 1/N (default 4 up to four models, then 2)", least=1)
    samples: int = option(0, "further mixtures, drawn evenly from all", least=0)
    concentration: float = option(1.0, "of the Dirichlet distribution that they are drawn from", above=0)
    seed: int = option(0, "of the mixtures that are drawn")
    mixtures: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneOptions:
    """Which points of the plane are looked at.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    plane: int | None = option(
        None, "of three models: also the loss on the plane through them, at N by N points", least=3
    )
    margin: float = option(0.25, "how far the plane goes beyond the models, as a share of their distance", least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What is measured there, where, and in which precision: None is that of the checkpoint, at least float32.

    Raises:
        UsageError: an option has a value that makes no sense; which one, and what does.
    """

    loss: str = option("cross-entropy", "what is measured", choices=("cross-entropy", "model"))
    metrics: tuple[str, ...] = option((), "accuracy, perplexity", metavar="NAME")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    dtype: str | None = option(
        None,
        "precision of the computation (default: that of the checkpoint, at least float32)",
        choices=("float64", "float32"),
    )

    def __post_init__(self) -> None:
        check(self)
