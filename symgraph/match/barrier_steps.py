"""Steps that measure: mixtures of models, statistics of norms anew, losses and metrics there, and what is said of them.

interpolate   A, B -> between (11 points of the segment)
evaluate      between on test -> loss barrier (cross-entropy, accuracy; on cpu)
plane         A, B, C on test -> loss plane (21 by 21 points)
report        loss barrier -> barrier.json, barrier.png, barrier.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from symgraph.errors import UsageError
from symgraph.io.files import write_text
from symgraph.io.models import Model
from symgraph.io.options import values_of
from symgraph.match.program_run import Between, Measurement, Run, held
from symgraph.match.program_step import PlainStep, ProgramStep
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.barrier_options import EvaluationOptions, MixtureOptions
from symgraph.measure.barrier_page import to_html
from symgraph.measure.endpoints import Endpoint
from symgraph.measure.plane import LossPlane
from symgraph.measure.plots import barrier_plot, require_picture
from symgraph.measure.result import LossBarrier

IN_PRODUCT_FORM = "in product form, which is no model of the architecture"


@dataclass(frozen=True, slots=True)
class Interpolate(MixtureOptions, ProgramStep):
    """Say which mixtures of models are looked at; with `product` products inside of heads are mixed, not factors."""

    models: tuple[str, ...]
    into: str
    product: bool = field(default=False, kw_only=True)
    op: ClassVar[str] = "interpolate"

    @property
    def reads_symmetry(self) -> bool:
        """Product form needs to know the heads."""
        return self.product

    def apply(self, run: Run) -> None:
        """The mixtures, of which none is made before it is evaluated."""
        for name in self.models:
            run.origin(name, self.op)
        options = MixtureOptions(**values_of(self, MixtureOptions))
        run.mixtures[self.into] = Between(self.models, options, self.product)

    def __str__(self) -> str:
        how = " in product form" if self.product else ""
        return f"{self.op:<13} {', '.join(self.models)} -> {self.into} ({self._places()}{how})"

    def _places(self) -> str:
        if self.mixtures is not None:
            return f"{len(self.mixtures)} mixtures"
        if len(self.models) > 2:
            lattice = f", all multiples of 1/{self.resolution}" if self.resolution else ""
            return f"mixtures of all{lattice}{f', {self.samples} drawn, seed {self.seed}' if self.samples else ''}"
        count = self.points if isinstance(self.points, int) else len(self.points)
        return f"{count} points of the segment{', 3 more at the maximum' if self.refine else ''}"


@dataclass(frozen=True, slots=True)
class Recalibrate(PlainStep):
    """Compute the stored statistics of norms anew at every mixture, on training data."""

    mixtures: str
    data: str
    into: str
    op: ClassVar[str] = "recalibrate"

    def apply(self, run: Run) -> None:
        """The same mixtures, with statistics of their own."""
        held(run.batches, self.data, self.op)
        run.mixtures[self.into] = replace(held(run.mixtures, self.mixtures, self.op), training=self.data)

    def __str__(self) -> str:
        return f"{self.op:<13} {self.mixtures} on {self.data} -> {self.into}"


@dataclass(frozen=True, slots=True)
class Evaluate(EvaluationOptions, PlainStep):
    """Measure the loss, and metrics, at mixtures of models, and how far each lies above the mean of the models' own."""

    mixtures: str
    data: str
    into: str
    op: ClassVar[str] = "evaluate"

    def apply(self, run: Run) -> None:
        """The loss barrier."""
        between = held(run.mixtures, self.mixtures, self.op)
        data = held(run.batches, self.data, self.op)
        ends, how = [endpoint(run, name, self.op) for name in between.models], between.options
        origins = [run.models[run.origin(name, self.op)] for name in between.models]
        found = loss_barrier(
            ends,
            batches=data,
            **values_of(how, MixtureOptions),
            module=module_of(run, ends),
            names=None if len(ends) == 2 else [Path(model.spec).name for model in origins],
            loss=self.loss,
            metrics=self.metrics,
            device=self.device,
            dtype=None if self.dtype is None else getattr(torch, self.dtype),
            progress=run.progress,
            recalibrate=run.batches[between.training] if between.training else None,
            product=run.symmetry if between.product else None,
            book=run.book,
        )
        specs = tuple(Path(model.spec).name or model.spec for model in origins)
        run.measured[self.into] = Measurement(found, specs, between.product)

    def __str__(self) -> str:
        what = ", ".join((self.loss, *self.metrics))
        where = f"{self.dtype or 'the precision of the checkpoint'} on {self.device}"
        return f"{self.op:<13} {self.mixtures} on {self.data} -> {self.into} ({what}; {where})"


def module_of(run: Run, ends: Sequence[Endpoint]) -> nn.Module | None:
    """What states are run in; nothing where each end is a model itself."""
    return None if all(isinstance(end, Model) for end in ends) else run.models[run.like].module


def endpoint(run: Run, name: str, op: str) -> Endpoint:
    """A model as it was given, or what steps have made of it."""
    if name in run.models and name not in run.states:
        return run.models[name]
    return run.finished(name, op)[1]


@dataclass(frozen=True, slots=True)
class Report(PlainStep):
    """Say what was measured: as a table, as JSON in a file, drawn, and as a page; `plane` names a loss plane."""

    measured: tuple[str, ...]
    plane: str = field(default="", kw_only=True)
    out: str = field(default="", kw_only=True)
    plot: str = field(default="", kw_only=True)
    html: str = field(default="", kw_only=True)
    op: ClassVar[str] = "report"

    def __post_init__(self) -> None:
        if not self.measured:
            raise UsageError("a report is of nothing", remedy="name what an evaluate step makes under `measured`")
        if self.plot:
            require_picture(self.plot)

    @property
    def outputs(self) -> Mapping[str, str]:
        """Files for figures, for a picture, and for a page."""
        return {"out": self.out, "plot": self.plot, "html": self.html}

    def apply(self, run: Run) -> None:
        """The files, and what a command prints."""
        found = {name: held(run.measured, name, self.op) for name in self.measured}
        plane = held(run.planes, self.plane, self.op) if self.plane else None
        shown = {**run.beside, **_labelled(found)} if run.beside else _labelled(found)
        if self.plot:
            barrier_plot(shown, self.plot, plane=plane, overwrite=run.overwrite)
        if self.html:
            write_text(self.html, to_html(shown, plane), overwrite=run.overwrite)
        if self.out:
            write_text(self.out, json.dumps(figures(found, plane), indent=2), overwrite=run.overwrite)
        run.reported |= found
        run.reported_plane = plane or run.reported_plane
        for name, path in self.outputs.items():
            role = f"{name} of {', '.join(self.measured)}"
            if path:
                run.written[role if role not in run.written else f"{role} ({path})"] = path

    def drawn_as(self, path: str) -> Report:
        """A further picture of the same, and nothing else."""
        return replace(self, out="", html="", plot=path)

    def __str__(self) -> str:
        files = ", ".join(filter(None, self.outputs.values()))
        return f"{self.op:<13} {', '.join(self.measured)}{f' -> {files}' if files else ''}"


def figures(found: Mapping[str, Measurement], plane: LossPlane | None = None) -> dict[str, Any]:
    """Loss barriers as plain data: one as it is, several by name; a plane beside them."""
    plain = {name.replace(" ", "_"): measured.found.to_plain() for name, measured in found.items()}
    if plane is not None:
        return plain | {"loss_plane": plane.to_plain()}
    return next(iter(plain.values())) if len(plain) == 1 else plain


def tables(found: Mapping[str, Measurement], plane: LossPlane | None = None) -> str:
    """Loss barriers as text: one as it is, several under their names; a plane below them."""
    below = [] if plane is None else [str(plane)]
    if len(found) == 1:
        return "\n\n".join([str(next(iter(found.values())).found), *below])
    first, *others = found
    # Mixtures need no name beside their product form.
    parts: list[object] = [found[first].found] if found[others[0]].product else [first, found[first].found]
    for name in others:
        parts += [IN_PRODUCT_FORM if found[name].product else name, found[name].found]
    return "\n\n".join([*map(str, parts), *below])


def _labelled(found: Mapping[str, Measurement]) -> dict[str, LossBarrier]:
    """Loss barriers by what a picture calls them, their models by the names of their files."""
    named = {name: replace(measured.found, models=measured.models) for name, measured in found.items()}
    if len(found) == 1 or any(measured.product for measured in found.values()):
        product = IN_PRODUCT_FORM.partition(",")[0]
        labels = {name: product if own.product else own.found.loss.name for name, own in found.items()}
        return {labels[name]: barrier for name, barrier in named.items()}
    return named
