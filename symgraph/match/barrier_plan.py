"""The program that measures the loss barrier among models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from symgraph.io.options import values_of
from symgraph.io.pinned import DataInput, ModelInput
from symgraph.match.barrier_steps import Evaluate, Interpolate, Recalibrate, Report
from symgraph.match.plane_step import PlaneStep
from symgraph.match.program import Program
from symgraph.match.program_step import ProgramStep
from symgraph.measure.barrier_options import EvaluationOptions, MixtureOptions, PlaneOptions

DATA, TRAINING, PLANE = "data", "training", "loss plane"
# What results are called: in programs, and where there are two of them also in JSON.
OWN, PRODUCT = "loss barrier", "product form"
MIXTURES, RECALIBRATED = {OWN: "mixtures", PRODUCT: "products"}, "recalibrated"


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierPlan:
    """What is to be measured, and where it is to be written.

    `inputs`: where each model comes from, by name. `recalibrate`: the data that statistics of norms are computed on.
    `product`: in product form as well; `plane`: also on the plane through three models.
    """

    model: str
    inputs: Mapping[str, str]
    data: DataInput
    recalibrate: DataInput | None = None
    mixtures: MixtureOptions = field(default_factory=MixtureOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    product: bool = False
    plane: PlaneOptions = field(default_factory=PlaneOptions)
    out: str = ""
    plots: tuple[str, ...] = ()
    html: str = ""


def barrier_program(plan: BarrierPlan) -> Program:
    """The program of a plan."""
    steps = _measuring(plan, OWN, False)
    if plan.product:
        steps += _measuring(plan, PRODUCT, True)
    if plan.plane.plane is not None:
        steps.append(_plane(plan, plan.plane.plane))
    first, *others = plan.plots or ("",)
    plane = "" if plan.plane.plane is None else PLANE
    measured = (OWN, PRODUCT) if plan.product else (OWN,)
    report = Report(measured, plane=plane, out=plan.out, plot=first, html=plan.html)
    steps += [report, *map(report.drawn_as, others)]
    data = {DATA: plan.data} | ({TRAINING: plan.recalibrate} if plan.recalibrate else {})
    inputs = {name: ModelInput(model=spec) for name, spec in plan.inputs.items()}
    return Program(plan.model, "", "", tuple(steps), inputs, data)


def _measuring(plan: BarrierPlan, into: str, product: bool) -> list[ProgramStep]:
    """The steps of one measurement."""
    found: list[ProgramStep] = [
        Interpolate(tuple(plan.inputs), MIXTURES[into], product=product, **values_of(plan.mixtures))
    ]
    place = MIXTURES[into]
    if plan.recalibrate is not None and not product:
        found.append(Recalibrate(place, TRAINING, RECALIBRATED))
        place = RECALIBRATED
    found.append(Evaluate(place, DATA, into, **values_of(plan.evaluation)))
    return found


def _plane(plan: BarrierPlan, points: int) -> PlaneStep:
    training = TRAINING if plan.recalibrate else ""
    where: dict[str, Any] = {"plane": points, "margin": plan.plane.margin, "training": training}
    return PlaneStep(tuple(plan.inputs), DATA, PLANE, **where, **values_of(plan.evaluation))
