"""Plots, drawn without a display and written atomically."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from symgraph.errors import UsageError
from symgraph.io.files import atomic_path, refuse_existing
from symgraph.measure.measured import Measured

FORMATS = (".png", ".svg", ".pdf")
# Inches of a panel: one is a column of a paper, two are its page.
_PANEL = (3.4, 2.7)
_ACROSS = 2
# Characters of small print in the width of a panel.
_REMARK_WIDTH = 62
# As papers set figures: small letters, thin lines, fonts embedded. Names of files and metrics may hold dollar signs,
# between which a formula would be looked for.
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 9,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}

# Okabe and Ito's colours, told apart by every kind of colour vision; markers and dashes tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")


# What draws onto axes of its own, one for each panel of a figure.
Panels = Sequence[Callable[[Any], None]]


class Quantities(Protocol):
    """The loss at mixtures of models, and any metrics."""

    @property
    def loss(self) -> Measured: ...

    @property
    def metrics(self) -> tuple[Measured, ...]: ...

    @property
    def models(self) -> tuple[str, ...]: ...


class Result(Quantities, Protocol):
    """What is drawn of a loss barrier."""

    @property
    def remarks(self) -> tuple[str, ...]: ...


class Plane(Quantities, Protocol):
    """What is drawn of the plane through three models."""

    @property
    def corners(self) -> tuple[tuple[float, float], ...]: ...

    @property
    def axes(self) -> tuple[tuple[float, ...], tuple[float, ...]]: ...

    def grid(self, measured: Measured) -> list[list[float]]: ...

    def path(self, measured: Measured) -> list[tuple[float, float, float]]: ...

    def levels(self, measured: Measured) -> list[float]: ...


def barrier_plot(
    results: Mapping[str, Result],
    path: str | Path,
    *,
    title: str = "",
    plane: Plane | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw labelled loss barriers, one panel for the loss and one for each metric that all of them have.

    Two models give curves, of several results in one picture, with bands of one standard error over the examples.
    Three models, of one result, are the corners of a triangle; of more the ways from each to the even mixture are
    drawn. The `plane` through three gets two panels more for each quantity: its levels, and the path.

    Raises:
        UsageError: there is nothing to draw, several results are not all of two models, or the suffix is no known
            format.
        OutputError: the file exists or cannot be written.
    """
    if not results and plane is None:
        raise UsageError(f"{path}: there is nothing to draw", remedy="give at least one labelled loss barrier")
    many = [result for result in results.values() if result.loss.models > 2]
    if many and len(results) > 1:
        raise UsageError(f"{path}: only barriers of two models go into one picture", remedy="draw each by itself")
    remarks = tuple(dict.fromkeys(text for result in results.values() for text in result.remarks))
    panels = [*(_surfaces(many[0]) if many else _lines(results) if results else ())]
    panels += [] if plane is None else _planes(plane)
    return _written(panels, title, remarks, Path(path), overwrite)


def _written(panels: Panels, title: str, remarks: Sequence[str], path: Path, overwrite: bool) -> Path:
    require_picture(path)
    refuse_existing(path, overwrite, folder=False)
    figure = _figure(panels, title, remarks)
    with _style(), atomic_path(path, overwrite) as temporary:
        figure.savefig(temporary)
    return path


def require_picture(path: str | Path) -> None:
    """Raise before any work where a path is that of no picture.

    Raises:
        UsageError: naming the suffixes that are known.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        cause = f"its suffix is {suffix!r}" if suffix else "it has no suffix"
        raise UsageError(f"{path} is no picture", cause=cause, remedy=f"give a path that ends in {', '.join(FORMATS)}")


def _style() -> AbstractContextManager[None]:
    """Within it figures are set, and written, as papers set them."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _figure(panels: Panels, title: str, remarks: Sequence[str] = ()) -> Any:
    with _style():
        return _drawn(panels, title, remarks)


def _drawn(panels: Panels, title: str, remarks: Sequence[str]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _PANEL
    columns = min(len(panels), _ACROSS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        panel(axes)
    for axes in places[len(panels) :]:
        axes.remove()
    if title:
        figure.suptitle(title)
    if remarks:
        lines = [line for text in remarks for line in textwrap.wrap(text, _REMARK_WIDTH * columns)]
        figure.supxlabel("\n".join(lines), fontsize="x-small")
    return figure


def _lines(results: Mapping[str, Result]) -> Panels:
    metrics = {label: {metric.name: metric for metric in result.metrics} for label, result in results.items()}
    first, *others = metrics.values()
    shared = [name for name in first if all(name in other for other in others)]
    panels = {"loss": {label: result.loss for label, result in results.items()}}
    panels |= {name: {label: curves[name] for label, curves in metrics.items()} for name in shared}
    names = next(iter(results.values())).models
    return [partial(_panel, name=name, curves=curves, models=names) for name, curves in panels.items()]


def _surfaces(result: Result) -> Panels:
    panel = _triangle if result.loss.models == 3 else _profiles
    return [partial(panel, surface=surface, names=result.models) for surface in (result.loss, *result.metrics)]


def _panel(axes: Any, name: str, curves: Mapping[str, Measured], models: Sequence[str]) -> None:
    styles = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False)
    lines: dict[str, Any] = {}
    for (label, curve), (colour, marker, dash) in zip(curves.items(), styles, strict=False):
        text = f"{label}: {name} barrier {curve.barrier:.3g} \u00b1 {curve.standard_error:.1g}"
        (lines[text],) = axes.plot(curve.lambdas, curve.values, dash, color=colour, marker=marker, markersize=3)
        _band(axes, curve.lambdas, curve.values, curve.value_errors, colour)
        _annotate(axes, curve, colour)
    axes.set_xlabel(f"\u03bb  (0 is {models[0]}, 1 is {models[1]})")
    axes.set_ylabel(name)
    axes.set_xlim(-0.03, 1.03)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    legend = axes.legend(lines.values(), map(str, range(len(lines))), frameon=False, **place)
    # Set afterwards, since labels that begin with an underscore are taken as internal and left out.
    for entry, text in zip(legend.get_texts(), lines, strict=True):
        entry.set_text(text)


def _band(axes: Any, places: Sequence[float], values: Sequence[float], errors: Sequence[float], colour: str) -> None:
    """One standard error on both sides, where it is known."""
    if errors:
        both = list(zip(values, errors, strict=True))
        low = [value - error for value, error in both]
        high = [value + error for value, error in both]
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)


def _annotate(axes: Any, curve: Measured, colour: str) -> None:
    """The chord between the endpoints, and the barrier as the distance from it."""
    ends = curve.ends
    axes.plot((0, 1), ends, ":", color=colour, linewidth=0.8, alpha=0.6)
    axes.plot((0, 1), ends, "o", color=colour, markersize=6, fillstyle="none")
    place = curve.argmax
    if place in (0.0, 1.0):
        return
    value = curve.values[curve.lambdas.index(place)]
    chord = (1 - place) * ends[0] + place * ends[1]
    axes.annotate("", (place, value), (place, chord), arrowprops={"arrowstyle": "<->", "color": colour, "alpha": 0.7})
    near = {"textcoords": "offset points", "color": colour, "fontsize": 7}
    axes.annotate(f"{curve.barrier:.3g}", (place, (value + chord) / 2), (4, 0), **near)


def _triangle(axes: Any, surface: Measured, names: Sequence[str]) -> None:
    """The barrier over all mixtures of three models, in barycentric coordinates, the value at every point."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    corners = ((0.0, 0.0), (1.0, 0.0), (0.5, 0.75**0.5))
    across, heights = (
        [
            sum(weight * corner[axis] for weight, corner in zip(mixture, corners, strict=True))
            for mixture in surface.mixtures
        ]
        for axis in (0, 1)
    )
    largest = max(map(abs, surface.barriers)) or 1.0
    style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    drawn = axes.tripcolor(across, heights, surface.barriers, shading="gouraud", **style)
    axes.scatter(across, heights, c=surface.barriers, edgecolors="black", linewidths=0.4, s=12, **style)
    for px, py, value, weights in zip(across, heights, surface.barriers, surface.mixtures, strict=True):
        if max(weights) < 1:
            near = {"textcoords": "offset points", "ha": "center", "fontsize": 5.5, "path_effects": halo}
            axes.annotate(f"{value:.2g}", (px, py), (0, 4), **near)
    for (cx, cy), name, value in zip(corners, names, surface.ends, strict=True):
        up = cy > 0
        where = {"ha": "center", "va": "bottom" if up else "top", "fontsize": 7}
        axes.annotate(f"{name}\n{value:.4g}", (cx, cy), (0, 6 if up else -6), textcoords="offset points", **where)
    axes.figure.colorbar(drawn, ax=axes, label=f"{surface.name} barrier", shrink=0.8)
    axes.set_title(_peak(surface).replace(" at ", "\nat "), pad=14)
    axes.set_aspect("equal")
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.17, 1.02)
    axes.axis("off")


def _profiles(axes: Any, surface: Measured, names: Sequence[str]) -> None:
    """The quantity on the way from each model to the even mixture."""
    even = 1 / surface.models
    styles = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False)
    lines = []
    for model, (colour, marker, dash) in zip(range(surface.models), styles, strict=False):
        way = [
            ((1 - mixture[model]) / (1 - even), value)
            for mixture, value in zip(surface.mixtures, surface.values, strict=True)
            if _on(mixture, model)
        ]
        lines += axes.plot(*zip(*sorted(way), strict=True), dash, color=colour, marker=marker, markersize=3)
    axes.set_xlabel("from one model alone (0) to the even mixture (1)")
    axes.set_ylabel(surface.name)
    axes.grid(alpha=0.3)
    axes.set_title(_peak(surface))
    legend = axes.legend(lines, map(str, range(len(lines))), frameon=False)
    for entry, name in zip(legend.get_texts(), names, strict=True):
        entry.set_text(name)


def _on(mixture: Sequence[float], model: int) -> bool:
    """Whether a mixture lies between one model and the even mixture: all others have equal weights, none more."""
    others = [weight for place, weight in enumerate(mixture) if place != model]
    return max(others) - min(others) < 1e-9 and mixture[model] >= others[0] - 1e-9


def _peak(surface: Measured) -> str:
    at = ", ".join(f"{weight:.2g}" for weight in surface.mixtures[surface.barriers.index(surface.barrier)])
    return f"{surface.name} barrier {surface.barrier:.3g} \u00b1 {surface.standard_error:.1g} at ({at})"


def _planes(plane: Plane) -> Panels:
    quantities = (plane.loss, *plane.metrics)
    return [partial(panel, plane=plane, measured=quantity) for quantity in quantities for panel in (_levels, _path)]


def _levels(axes: Any, plane: Plane, measured: Measured) -> None:
    """A quantity on the plane through three models: its levels, and the path from one model to the next."""
    from matplotlib.colors import BoundaryNorm

    levels = sorted(plane.levels(measured))
    columns, rows = plane.axes
    colours = "viridis" if measured.higher_is_better else "viridis_r"
    how = {"cmap": colours, "extend": "both"} | (
        {"levels": levels, "norm": BoundaryNorm(levels, 256)} if levels else {}
    )
    drawn = axes.contourf(columns, rows, plane.grid(measured), **how)
    axes.contour(drawn, colors="white", linewidths=0.4)
    axes.plot(*zip(*plane.corners, strict=True), color="#D55E00", linewidth=1.5)
    halo = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    for place, name in zip(plane.corners, plane.models, strict=True):
        axes.plot(*place, "o", color="#D55E00", markeredgecolor="white", markersize=5)
        axes.annotate(name, place, (0, 6), textcoords="offset points", ha="center", fontsize=7, bbox=halo)
    axes.figure.colorbar(drawn, ax=axes, label=measured.name, shrink=0.85, format=f"%.{_digits(levels)}g")
    axes.set_aspect("equal")
    axes.set_xlabel("distance of parameters")


def _digits(levels: Sequence[float]) -> int:
    """How many digits tell neighbours apart."""
    return next(
        (digits for digits in range(3, 8) if len({f"{level:.{digits}g}" for level in levels}) == len(levels)), 8
    )


def _path(axes: Any, plane: Plane, measured: Measured) -> None:
    """The same along the path."""
    places, values, errors = zip(*plane.path(measured), strict=True)
    axes.plot(places, values, "-o", color="#D55E00", markersize=3)
    _band(axes, places, values, errors, "#D55E00")
    axes.set_xticks(range(len(plane.models)), plane.models)
    axes.set_xlabel("along the path")
    axes.set_ylabel(measured.name)
    axes.grid(alpha=0.3)
