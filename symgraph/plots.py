"""Plots, drawn without a display and written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from symgraph.curve import Curve
from symgraph.errors import UsageError
from symgraph.files import atomic_path, refuse_existing

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, told apart by every kind of colour vision; markers and dashes tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")


class Curves(Protocol):
    """What is drawn: the loss along a segment, and any metrics."""

    @property
    def loss(self) -> Curve: ...

    @property
    def metrics(self) -> tuple[Curve, ...]: ...


def barrier_plot(results: Mapping[str, Curves], path: str | Path, *, title: str = "", overwrite: bool = False) -> Path:
    """Draw labelled loss barriers, one panel for the loss and one for each metric that all of them have.

    Raises:
        UsageError: there is nothing to draw, or the suffix is no known format.
        OutputError: the file exists or cannot be written.
    """
    path = Path(path)
    if not results:
        raise UsageError(f"{path}: there is nothing to draw", remedy="give at least one labelled loss barrier")
    if path.suffix.lower() not in FORMATS:
        cause = f"its suffix is {path.suffix!r}" if path.suffix else "it has no suffix"
        raise UsageError(f"{path} is no picture", cause=cause, remedy=f"give a path that ends in {', '.join(FORMATS)}")
    refuse_existing(path, overwrite, folder=False)
    figure = _figure(results, title or "Loss along the line between A and B")
    with atomic_path(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def _figure(results: Mapping[str, Curves], title: str) -> Any:
    from matplotlib import rc_context

    # Names of files and metrics may hold dollar signs, between which a formula would be looked for.
    with rc_context({"text.parse_math": False}):
        return _drawn(_panels(results), title)


def _drawn(panels: Mapping[str, Mapping[str, Curve]], title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, name, curves)
    figure.suptitle(title)
    return figure


def _panels(results: Mapping[str, Curves]) -> dict[str, dict[str, Curve]]:
    metrics = {label: {c.name: c for c in r.metrics} for label, r in results.items()}
    first, *others = metrics.values()
    shared = [name for name in first if all(name in other for other in others)]
    panels = {"loss": {label: r.loss for label, r in results.items()}}
    return panels | {name: {label: found[name] for label, found in metrics.items()} for name in shared}


def _panel(axes: Any, name: str, curves: Mapping[str, Curve]) -> None:
    styles = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False)
    lines: dict[str, Any] = {}
    for (label, curve), (colour, marker, dash) in zip(curves.items(), styles, strict=False):
        text = f"{label}: {name} barrier {curve.barrier:.3g} \u00b1 {curve.standard_error:.1g}"
        (lines[text],) = axes.plot(curve.lambdas, curve.values, dash, color=colour, marker=marker, markersize=4)
        _annotate(axes, curve, colour)
    axes.set_xlabel("\u03bb  (0 is A, 1 is B)")
    axes.set_ylabel(name)
    axes.set_xlim(-0.03, 1.03)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    legend = axes.legend(lines.values(), map(str, range(len(lines))), fontsize="small", ncols=2, frameon=False, **place)
    # Set afterwards, since labels that begin with an underscore are taken as internal and left out.
    for entry, text in zip(legend.get_texts(), lines, strict=True):
        entry.set_text(text)


def _annotate(axes: Any, curve: Curve, colour: str) -> None:
    """The chord between the endpoints, and the barrier as the distance from it."""
    ends = (curve.values[0], curve.values[-1])
    axes.plot((0, 1), ends, ":", color=colour, linewidth=1, alpha=0.6)
    axes.plot((0, 1), ends, "o", color=colour, markersize=8, fillstyle="none")
    if curve.argmax in (0.0, 1.0):
        return
    x, value = curve.argmax, curve.values[curve.lambdas.index(curve.argmax)]
    chord = (1 - x) * ends[0] + x * ends[1]
    axes.annotate("", (x, value), (x, chord), arrowprops={"arrowstyle": "<->", "color": colour, "alpha": 0.7})
    axes.annotate(f"{curve.barrier:.3g}", (x, (value + chord) / 2), (5, 0), textcoords="offset points", color=colour)
