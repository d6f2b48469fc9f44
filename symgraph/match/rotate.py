"""Rotations fused into a checkpoint: the same function at weights that quantisers can round with less error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from symgraph.errors import UsageError, argument, either, near, shorten
from symgraph.inference.sources import RuleSources, Source, infer, stored, with_inputs
from symgraph.io.checkpoint import module_hash
from symgraph.io.data import NoData
from symgraph.io.example import Size
from symgraph.io.models import Model
from symgraph.io.options import given, require, several
from symgraph.io.tied import untie
from symgraph.match.calibrated import Divergence
from symgraph.match.match_options import Settings
from symgraph.match.program_run import narrowed
from symgraph.match.restated import Reformed
from symgraph.match.unchanged import Endpoint
from symgraph.measure.synthetic import synthetic
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descend import Descended, Objective, descend
from symgraph.orbit.descent_options import DescentOptions
from symgraph.orbit.incoherent import DRAWS, incoherent, turnable
from symgraph.orbit.rounding_error import Rounding, rounded_matrices, rounding_error
from symgraph.orbit.steps import Act, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.tracing import state_of
from symgraph.tracing.progress import Progress
from symgraph.tracing.sampling import float64

State = dict[str, Tensor]
LEARNED = "learned"
CHOICES = (*DRAWS, LEARNED)
_NOTHING = "no matrix lies between two spaces that something acts on, and only these are rounded"
# Few steps of a moderate rate: what is gained is gained early.
DESCENT = DescentOptions(steps=200, lr=0.02, full=False, permutations=False)


@dataclass(frozen=True, repr=False)
class Rotated(Reformed):
    """A model with a rotation fused into its weights.

    `turned` are the spaces that rotate, `state` holds the weights, `before` and `after` are the relative squared errors
    of rounding its matrices as `rounding` says (0 where it has none that is rounded); `kept` says of the other spaces
    why they do not rotate. `alignment` leads from the model to it.
    """

    what: ClassVar[str] = "rotated"
    about: ClassVar[str] = (
        "The same function as the model it was made from, at weights that lose less when they are rounded."
    )

    model: Model
    by: str
    state: State
    alignment: Alignment
    turned: tuple[Space, ...]
    kept: tuple[str, ...]
    rounding: Rounding
    before: float
    after: float
    notes: tuple[str, ...] = ()
    descended: Descended | None = None

    def made(self) -> tuple[str, tuple[str, ...]]:
        """By which rotation of which spaces, and what it does to the error of rounding."""
        method, *notes = str(self).splitlines()
        return method, tuple(notes)

    def to_plain(self) -> dict[str, Any]:
        """Names and figures as plain data."""
        turned = [{"space": s.name, "size": s.size, "class": s.group} for s in self.turned]
        rounding = {"bits": self.rounding.bits, "group": self.rounding.group}
        error = {"before": self.before, "after": self.after, **rounding}
        return {"by": self.by, "turned": turned, "kept": list(self.kept), "error": error, "notes": list(self.notes)}

    def __str__(self) -> str:
        names = shorten(f"{s.name} ({s.size}, {s.group})" for s in self.turned)
        grid = f"{self.rounding.bits} bits" + (f" in groups of {self.rounding.group}" if self.rounding.group else "")
        lines = [f"rotated by {self.by}: {names}"]
        if not self.before:
            lines.append(f"  no error of rounding is stated: {_NOTHING}")
        else:
            lines.append(f"  relative squared error of rounding to {grid}: {self.before:.6f} -> {self.after:.6f}")
        return "\n".join([*lines, *(f"  {why}" for why in self.kept), *self.notes])


def rotate(
    source: Source,
    example: Any = None,
    *,
    by: str = "hadamard",
    spaces: str | Sequence[str] = ("*",),
    bits: int = 4,
    group: int = 0,
    data: Any = None,
    inputs: int = 0,
    seed: int = 0,
    tied: str = "keep",
    input_size: Size | None = None,
    rules: RuleSources = None,
    options: DescentOptions | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Rotated:
    """Fuses rotations of a model's group into its weights: residual streams, insides of heads.

    Gains of norms go into the matrices beside them first, as the rotation needs it. The function stays as it was, in
    the model's own module, or nothing results.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        by: "hadamard" (with random signs), "random" (uniform), or "learned": from a Hadamard rotation down the error
            of rounding the matrices to so many `bits`, with a step for `group` inputs (0: for each output).
        data: batches, or `NoData()` for inputs that the model makes up. A learned rotation then goes on, down what
            rounding changes of what is predicted; without data it sees weights alone.
        inputs: what matrices read is rounded there too, to so many bits at each position (0: as it is).
        spaces: patterns of the names of spaces that rotate; * stands for any text.
        tied: "untie" shared embeddings first: more parameters, and often a larger group.
        options: how to descend.

    Raises:
        UsageError: nothing of these names can be rotated, with the class that each has instead.
        DataError: the model cannot be evaluated on the data.
        VerifyError: the result does not compute what the model computes.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
    >>> x = torch.randn(5, 6)
    >>> torch.allclose(symgraph.rotate(net, x).module(x), net(x), atol=1e-5)
    True

    Source: QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406 (there for one architecture, by hand).
    """
    _check(by, bits, group)
    _check_inputs(by, data, inputs)
    require(Settings, "tied", tied)
    spaces = several(spaces)
    found, notes = _given(source, example, input_size, tied)
    symmetry = infer(found, rules=rules)
    turned, kept = _chosen(symmetry, spaces, found.spec)
    own, rounding = float64(state_of(found.module)), Rounding(bits, group)
    canonical = canonicalise(symmetry, own)
    act = Act(incoherent(symmetry, "hadamard" if by == LEARNED else by, spaces, seed))
    state, transform = act.apply(canonical.state), canonical.transform.then(Transform((act,)))
    matrices = rounded_matrices(symmetry)
    error = partial(rounding_error, matrices=matrices, rounding=rounding)
    descended = None
    stages: list[tuple[str, Objective]] = []
    if by == LEARNED:
        if not matrices:
            what = f"{found.spec} has no rotation to learn"
            raise UsageError(what, cause=_NOTHING, remedy=f"leave {argument('by', by)} out")
        stages = [("descent", error), *_on_data(found, symmetry, matrices, rounding, inputs, data)]
    chosen = _descent(options, spaces)
    for what, objective in stages:
        descended = descend(symmetry, state, objective, chosen, progress=progress)
        state, transform = descended.states[0], transform.then(descended.transforms[0])
        notes = (*notes, f"{what}: {descended}")
    alignment = Alignment(symmetry, transform, module_hash(found.module), "")
    Endpoint(found, state, alignment).check()
    before, after = (float(error(state)) if matrices else 0.0 for state in (own, state))
    done = stored(found.module, narrowed(state, state_of(found.module)))
    return Rotated(found, by, done, alignment, turned, kept, rounding, before, after, notes, descended)


def _on_data(
    found: Model, symmetry: SymmetryGraph, matrices: Mapping[str, int], rounding: Rounding, inputs: int, data: Any
) -> Iterator[tuple[str, Objective]]:
    """What a learned rotation goes down next where there is data: what rounding changes of what is predicted."""
    if data is not None:
        batches = synthetic([found.module], symmetry.graph, data) if isinstance(data, NoData) else data
        yield "descent on data", Divergence(found.module, matrices, rounding, inputs, batches)


def _chosen(symmetry: SymmetryGraph, spaces: Sequence[str], spec: str) -> tuple[tuple[Space, ...], tuple[str, ...]]:
    """The spaces that are rotated, and why others that were asked for, or streams, are not."""
    asked = [space for pattern in spaces if pattern != "*" for space in symmetry.matching(pattern)]
    turned = turnable(symmetry, spaces)
    fixed = [space for space in asked or _streams(symmetry) if space not in turned]
    kept = tuple(_reason(symmetry, space) for space in fixed)
    if not turned:
        cause = "; ".join(kept) or "nothing acts on any of its axes"
        remedy = _how_larger(spec, fixed[0].name if fixed else "SPACE")
        raise UsageError(f"{spec} has nothing to rotate", cause=cause, remedy=remedy)
    return turned, kept


def _check(by: str, bits: int, group: int) -> None:
    if by not in CHOICES:
        raise UsageError(f"no rotation is called {by!r}", remedy=near(by, CHOICES, f"one of {', '.join(CHOICES)}"))
    if not (2 <= bits <= 16 and group >= 0):
        raise UsageError(f"{bits} bits in groups of {group} are no rounding", remedy="give 2 to 16 bits, groups from 0")


def _check_inputs(by: str, data: Any, inputs: int) -> None:
    if data is None and not inputs:
        return
    given_name = "data" if data is not None else "inputs"
    if by != LEARNED:
        what = f"{argument(given_name)} with a rotation that is drawn"
        raise UsageError(what, remedy=f"leave it out, or give {argument('by', LEARNED)}")
    if data is None:
        what = f"{inputs} bits of inputs, and no data that they are seen on"
        raise UsageError(what, remedy=f"name some, {argument('data')}")
    if inputs and not 2 <= inputs <= 16:
        raise UsageError(f"inputs of {inputs} bits are no rounding", remedy="give 2 to 16 bits, or 0")


def _descent(options: DescentOptions | Mapping[str, Any] | None, spaces: Sequence[str]) -> DescentOptions:
    chosen = options if isinstance(options, DescentOptions) else given(DescentOptions, DESCENT, options or {})
    return replace(chosen, spaces=tuple(spaces))


def _given(source: Source, example: Any, input_size: Size | None, tied: str) -> tuple[Model, tuple[str, ...]]:
    found = with_inputs(source, example, input_size)
    if tied != "untie":
        return found, ()
    cut = untie(found)
    return cut.model, (str(cut),) if cut.cut else ()


def _streams(symmetry: SymmetryGraph) -> Iterator[Space]:
    """The space that most parameters lie on: the one whose rotation is worth most."""
    yield from sorted(symmetry.active, key=lambda s: len(symmetry.parameters_of[s.id]))[-1:]


def _how_larger(model: str, space: str) -> str:
    """Where it is said what would make a group larger."""
    said = either(f"symgraph.infer(model).explain({space!r})", f"symgraph explain {model} {space}")
    return f"`{said}` says what would make it larger"


def _reason(symmetry: SymmetryGraph, space: Space) -> str:
    words = space.maps.meaning(symmetry.index_set(space))
    return f"{space.name} ({space.size}) stays as it is: its group is {space.group} ({words})"
