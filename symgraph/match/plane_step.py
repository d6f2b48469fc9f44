"""The step that measures the loss on the plane through three models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from symgraph.errors import UsageError
from symgraph.match.barrier_steps import endpoint, module_of
from symgraph.match.program_run import Run, held
from symgraph.match.program_step import PlainStep
from symgraph.measure.barrier_options import EvaluationOptions
from symgraph.measure.plane import loss_plane


@dataclass(frozen=True, slots=True)
class PlaneStep(EvaluationOptions, PlainStep):
    """Measure the loss, and metrics, on the plane through three models and on the path through them.

    `training`: the data on which stored statistics of norms are computed anew at every point.
    """

    models: tuple[str, ...]
    data: str
    into: str
    plane: int = field(default=21, kw_only=True)
    margin: float = field(default=0.25, kw_only=True)
    training: str = field(default="", kw_only=True)
    op: ClassVar[str] = "plane"

    def __post_init__(self) -> None:
        EvaluationOptions.__post_init__(self)
        if len(self.models) != 3:
            raise UsageError(f"a plane goes through three models, not {len(self.models)}", remedy="name three models")

    def apply(self, run: Run) -> None:
        """The loss plane."""
        ends = [endpoint(run, name, self.op) for name in self.models]
        origins = [run.models[run.origin(name, self.op)] for name in self.models]
        run.planes[self.into] = loss_plane(
            ends,
            held(run.batches, self.data, self.op),
            plane=self.plane,
            margin=self.margin,
            module=module_of(run, ends),
            names=[Path(model.spec).name or model.spec for model in origins],
            loss=self.loss,
            metrics=self.metrics,
            device=self.device,
            dtype=None if self.dtype is None else getattr(torch, self.dtype),
            progress=run.progress,
            recalibrate=held(run.batches, self.training, self.op) if self.training else None,
        )

    def __str__(self) -> str:
        points = f"{self.plane} by {self.plane} points, margin {self.margin:g}"
        anew = f", statistics of norms on {self.training}" if self.training else ""
        return f"{self.op:<13} {', '.join(self.models)} on {self.data} -> {self.into} ({points}{anew})"
