"""Two models by every way of matching: one table of loss barriers, and what each took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from symgraph.errors import UsageError, near
from symgraph.inference.sources import RuleSources, Source, infer, with_inputs
from symgraph.io.example import Size
from symgraph.io.files import refuse_existing, write_text
from symgraph.io.options import several
from symgraph.io.shown import Shown, in_columns
from symgraph.match.align import align
from symgraph.match.match_options import LearnOptions, MatchOptions
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.barrier_page import to_html
from symgraph.measure.batches import counted
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import Progress, tell

VANILLA, PERMUTATIONS = "vanilla", "permutations"
# By how they are called: as the models are, permutations alone, and the methods of `align`.
WAYS = (VANILLA, PERMUTATIONS, "weights", "activations", "learned")
NEED_DATA = ("activations", "learned")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """One way: the loss barrier after it, its distance in canonical form over |A|, and the seconds of the match."""

    name: str
    barrier: LossBarrier
    distance: float | None
    seconds: float


@dataclass(frozen=True, repr=False)
class Compared(Shown):
    """Two models by several ways of matching, in their order."""

    models: tuple[str, str]
    ways: tuple[Way, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Way:
        """The way with the least barrier; of equal ones that with the least loss between the models."""
        return min(self.ways, key=lambda w: (w.barrier.barrier, min(w.barrier.losses)))

    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draws all curves into one picture: PNG, SVG or PDF.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        return barrier_plot(self.curves, path, overwrite=overwrite)

    @property
    def curves(self) -> dict[str, LossBarrier]:
        """The loss barrier of every way, between models by the names of their files."""
        names = tuple(Path(spec).name or spec for spec in self.models)
        return {way.name: replace(way.barrier, models=names) for way in self.ways}

    def save_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a page that opens from disk: all curves in one picture, with error bands, and their figures.

        Raises:
            OutputError: something is there and `overwrite` is not set, or it cannot be written.
        """
        refuse_existing(path, overwrite, folder=False)
        return write_text(path, to_html(self.curves), overwrite)

    def to_plain(self) -> dict[str, Any]:
        """Names and figures as plain data."""
        ways = {
            way.name: {"distance": way.distance, "seconds": way.seconds, "loss_barrier": way.barrier.to_plain()}
            for way in self.ways
        }
        return {"models": list(self.models), "ways": ways, "best": self.best.name, "notes": list(self.notes)}

    def __str__(self) -> str:
        rows = in_columns([_HEAD, *map(_row, self.ways)], left=1)
        measured = self.ways[0].barrier
        where = f"over {measured.examples} examples" + (f" of {measured.source}" if measured.source else "")
        return "\n".join([rows, "", f"{where}; the least barrier by {self.best.name}", *self.notes])


_HEAD = ("way", "distance", "barrier", "std.err.", "midpoint", "seconds")


def _row(way: Way) -> tuple[str, ...]:
    distance = "-" if way.distance is None else f"{way.distance:.4f}"
    found = way.barrier
    midpoint = "-" if found.midpoint is None else f"{found.midpoint:.4f}"
    return way.name, distance, f"{found.barrier:.4f}", f"{found.standard_error:.4f}", midpoint, f"{way.seconds:.1f}"


def compare(
    a: Source,
    b: Source,
    batches: Iterable[Any],
    example: Any = None,
    *,
    training: Any = None,
    validation: Any = None,
    ways: str | Sequence[str] | None = None,
    options: MatchOptions | Mapping[str, Any] | None = None,
    learning: LearnOptions | Mapping[str, Any] | None = None,
    points: int = 11,
    loss: Any = "cross-entropy",
    metrics: Any = (),
    input_size: Size | None = None,
    rules: RuleSources = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Compared:
    """The loss barrier between two models as they are, and after each way of matching them.

    Args:
        batches: what the barrier is measured on: data that nothing is chosen on.
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        training: batches of the training split, or "none": what activations are compared and elements are trained on;
            without it these ways are left out.
        validation: batches that learning stops on; by default every tenth of the training batches.
        ways: some of "vanilla" (as they are), "permutations" (alone, by weights), "weights", "activations", "learned".
        options, learning: of every match, and of learning.

    Raises:
        UsageError: there is no such way, or one needs training data.
        CheckpointError, DataError, VerifyError: as for `align` and `loss_barrier`.

    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> batches = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))]
    >>> found = symgraph.compare(make(), make(), batches, torch.randn(5, 6), points=3)
    >>> [way.name for way in found.ways]
    ['vanilla', 'permutations', 'weights']

    Source: the columns of Table 2 of Theus et al., arXiv 2506.22712.
    """
    wanted = _wanted(ways, training)
    held = counted(batches, "to compare on")
    models = [with_inputs(s, example, input_size) for s in (a, b)]
    symmetry = infer(models[0], rules=rules)
    measure = {"points": points, "loss": loss, "metrics": metrics, "device": device}
    found, notes = [], []
    for number, name in enumerate(wanted):
        tell(_log, progress, f"{name}: matching and measuring", number, len(wanted))
        if name == VANILLA:
            found.append(Way(name, loss_barrier(*models, held, **measure), None, 0.0))
            continue
        start = time.perf_counter()
        how: dict[str, Any] = {"options": options, "rules": rules, "device": device, **_how(name, symmetry)}
        how |= {"data": training, "validation": validation, "loss": loss} if name in NEED_DATA else {}
        how |= {"learning": learning} if name == "learned" else {}
        aligned = align(*models, **how)
        seconds = time.perf_counter() - start
        found.append(Way(name, aligned.barrier(held, **measure), aligned.after, seconds))
        notes += [f"{name}: {note}" for note in aligned.notes]
    return Compared((models[0].spec, models[1].spec), tuple(found), tuple(notes))


def _wanted(ways: str | Sequence[str] | None, training: Any) -> tuple[str, ...]:
    if ways is None:
        return tuple(way for way in WAYS if training is not None or way not in NEED_DATA)
    for name in several(ways):
        if name not in WAYS:
            remedy = near(name, WAYS, f"some of {', '.join(WAYS)}")
            raise UsageError(f"there is no way {name!r} to match", remedy=remedy)
        if name in NEED_DATA and training is None:
            remedy = "name training data, or 'none' for inputs that the models make up"
            raise UsageError(f"{name} needs training data", remedy=remedy)
    return several(ways)


def _how(name: str, symmetry: SymmetryGraph) -> dict[str, Any]:
    """The arguments of `align` for a way."""
    if name == PERMUTATIONS:
        return {"method": "weights", "symmetry": symmetry.within("permutation")}
    return {"method": name, "symmetry": symmetry}
