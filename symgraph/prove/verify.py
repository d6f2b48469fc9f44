"""Proof by sampling: random elements of the inferred group must not change the outputs (design section 9).

The traced graph is evaluated in float64 with its dtype casts lifted, because many models compute norms and rotary
tables in float32 whatever their dtype, which would hide errors below 1e-6 and break agreement to 1e-9.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symgraph.errors import UsageError, VerifyError
from symgraph.io.shown import Shown
from symgraph.orbit.action import random_element
from symgraph.orbit.freedoms import Freedom, freedoms, to_clean_gauge
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.progress import counted
from symgraph.tracing.sampling import in_float64, input_worlds, perturbed, random_inputs, random_state

_log = logging.getLogger(__name__)

TOLERANCE = 1e-9
# A change of the outputs may be rounding up to so many times what one unit in the last place of each parameter does.
# The model is verified with noise then: untrained, a signal may fade to 1e-14 of its input, beside constants of size 1.
MARGIN, NOISE = 1e4, 0.05
# How often inputs are drawn until the outputs are numbers.
DRAWS = 8


@dataclass(frozen=True, slots=True)
class Check:
    """Largest relative change of the outputs under random elements of one family."""

    name: str
    group: str
    error: float


@dataclass(frozen=True, slots=True, repr=False)
class Verification(Shown):
    """The outcome: all families at once, then each by itself."""

    together: float
    checks: tuple[Check, ...]
    samples: int
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every change is below the tolerance."""
        return max([self.together, *(check.error for check in self.checks)]) <= self.tolerance

    @property
    def failures(self) -> tuple[Check, ...]:
        """Families that change the outputs."""
        return tuple(check for check in self.checks if not check.error <= self.tolerance)

    def __str__(self) -> str:
        width = max([len(check.name) for check in self.checks] + [8])
        lines = [
            f"{'all at once':<{width}}  {self.together:.1e}  {'ok' if self.together <= self.tolerance else 'FAILS'}"
        ]
        for check in self.checks:
            verdict = "ok" if check.error <= self.tolerance else "FAILS"
            lines.append(f"{check.name:<{width}}  {check.error:.1e}  {verdict}  {check.group}")
        lines += [f"note: {self.note}"] if self.note else []
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raises VerifyError naming the families that failed."""
        if self.passed:
            return
        names = ", ".join(failure.name for failure in self.failures) or "only the families together"
        raise VerifyError(
            f"the inferred symmetry does not hold: outputs change by {self.together:.1e}, allowed {self.tolerance:.0e}",
            cause=f"spaces whose elements change the function: {names}",
            remedy="`symgraph explain` shows the rules behind a bound, `symgraph rules test` which one claims too much",
        )


def verify(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor] | None = None,
    inputs: Sequence[Tensor] | None = None,
    *,
    samples: int = 2,
    each: bool = True,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    perturb: float = 0.0,
) -> Verification:
    """Compares outputs before and after random elements of every inferred family.

    Args:
        state: parameters and buffers; random ones of the traced shapes when left out (a config alone is enough).
        inputs: the model's inputs in order; of the traced shapes and of every world when left out.
        samples: random elements for each family; all at once is tried in every world at least once.
        each: also every family by itself, so that a failure names its space.
        perturb: standard deviation of noise added to the parameters (initial values such as zero biases and unit
            gains would hide errors). A note says so where it is needed: at the model's own parameters outputs may
            change by what rounding does.

    Raises:
        VerifyError: the outputs are NaN to begin with.

    Shapes: outputs are compared as max |f(theta) - f(g theta)| / max |f(theta)|.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = symmetry.graph
    base = random_state(graph, generator) if state is None else perturbed(graph, state, generator, perturb)
    run = Interpreter(graph, dtype=torch.float64)
    scenes = _given(run, base, [list(inputs)]) if inputs is not None else _drawn(run, base, generator)

    names, together = family_names(symmetry), max(samples, len(scenes))
    total = together + (samples * len(names) if each else 0)
    elements = counted(_log, range(total), total, "random element")
    moves = _RandomMoves(symmetry, base)

    def error(families: Collection[str] | None, count: int) -> float:
        worst = 0.0
        for number, _ in zip(range(count), elements, strict=False):
            scene = scenes[number % len(scenes)]
            moved = moves.behind(generator, families).apply(moves.clean)
            worst = max(worst, scene.error(run.run(moved, scene.inputs)))
        return worst

    checks = tuple(Check(name, group, error({name}, samples)) for name, group in names.items()) if each else ()
    found = Verification(error(None, together), checks, samples, tolerance)
    if found.passed or state is None or perturb:
        return found
    lost = _rounding(run, moves.behind(generator).apply(moves.clean), scenes[0].inputs, generator)
    if found.together > MARGIN * lost:
        return found
    note = f"at parameters with noise of {NOISE}: at the model's own, rounding alone changes outputs by {lost:.0e}"
    again = verify(symmetry, state, inputs, samples=samples, each=each, seed=seed, tolerance=tolerance, perturb=NOISE)
    return replace(again, note=note)


def _rounding(run: Interpreter, state: Mapping[str, Tensor], inputs: list[Tensor], generator: torch.Generator) -> float:
    """How much outputs change where each parameter does by one unit in its last place."""

    def rounded(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor * (1.0 + torch.finfo(torch.float64).eps * noise)

    noisy = {name: rounded(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return difference(run.run(state, inputs), run.run(noisy, inputs))


@dataclass(frozen=True, slots=True)
class _Scene:
    """Inputs with what the model makes of them; `slack` is what rounding reaches here over what it usually does."""

    inputs: list[Tensor]
    reference: Sequence[Tensor]
    slack: float = 1.0
    floors: tuple[float, ...] = ()

    def error(self, outputs: Sequence[Tensor]) -> float:
        """The largest change of the outputs."""
        floors = self.floors or (0.0,) * len(self.reference)
        changes = (
            _relative(wanted, output, floor)
            for wanted, output, floor in zip(self.reference, outputs, floors, strict=True)
        )
        return max(changes, default=0.0) / self.slack

    @property
    def undefined(self) -> bool:
        """Whether an output is NaN before anything is changed."""
        return any(bool(output.isnan().any()) for output in self.reference)


def _given(run: Interpreter, base: Mapping[str, Tensor], draws: Iterable[list[Tensor]]) -> list[_Scene]:
    """The first of some inputs of which the outputs are numbers."""
    refused: UsageError | None = None
    for inputs in draws:
        try:
            scene = _Scene(inputs, run.run(base, inputs))
        except UsageError as e:
            refused = e
            continue
        if not scene.undefined:
            return [scene]
    if refused is not None:
        raise refused
    raise VerifyError(
        "the model's outputs are NaN before anything is changed",
        cause="its parameters or the inputs are outside the domain of an operator",
        remedy="give the inputs of a real batch, or verify at random parameters (a config alone)",
    )


def _drawn(run: Interpreter, base: Mapping[str, Tensor], generator: torch.Generator) -> list[_Scene]:
    """Inputs of every world in which the model has outputs; what is flat is measured against the plain ones."""
    plain, *others = input_worlds(run.graph)
    # A mask at random may close a whole row, of which some models make no number.
    scenes = _given(run, base, (random_inputs(run.graph, generator, plain) for _ in range(DRAWS)))
    floors = tuple(
        float(in_float64(output).abs().nan_to_num(0.0, 0.0, 0.0).max()) if output.numel() else 0.0
        for output in scenes[0].reference
    )
    for world in others:
        inputs = random_inputs(run.graph, generator, world)
        try:
            reference = run.run(base, inputs)
        except UsageError:
            # Some operators have no result there: no matrix of zeros has an inverse.
            continue
        scenes.append(_Scene(inputs, reference, world.tolerance / plain.tolerance, () if world.plain else floors))
    return [scene for scene in scenes if not scene.undefined]


def settled_names(symmetry: SymmetryGraph) -> set[str]:
    """The families that the canonical form settles, so that alignment undoes them.

    Left out are leans on a gain and tilts, which no step with fixed coefficients can undo in every model, and
    statistics, which describe data.
    """
    return {space.name for space in symmetry.active} | {
        freedom.label for freedom in freedoms(symmetry) if freedom.settled
    }


def family_names(symmetry: SymmetryGraph) -> dict[str, str]:
    """Every family that `random_transform` samples, with what it is."""
    names = {space.name: str(space.group) for space in symmetry.active}
    return names | {freedom.label: freedom.family.value for freedom in freedoms(symmetry)}


def random_transform(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    families: Collection[str] | None = None,
    spread: float = 0.3,
) -> Transform:
    """A random element of all inferred families, or of those named (see `family_names`).

    The spaces act in the clean gauge: gains and movable constants are taken out, the element acts, random coordinates
    of the other families follow, and what was taken out comes back.
    """

    moves = _RandomMoves(symmetry, state)
    return Transform((*moves.out.steps, *moves.behind(generator, families, spread).steps))


class _RandomMoves:
    """Random elements at one state, which is taken to the clean gauge once for all of them."""

    def __init__(self, symmetry: SymmetryGraph, state: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        self.out, self.clean = to_clean_gauge(symmetry, state)
        self._home, self._freedoms = self.out.inverse(), tuple(freedoms(symmetry))

    def behind(
        self, generator: torch.Generator, families: Collection[str] | None = None, spread: float = 0.3
    ) -> Transform:
        """What follows in the clean gauge: an element, coordinates of the other families, and the way home."""

        def wanted(name: str) -> bool:
            return families is None or name in families

        spaces = {space.id for space in self.symmetry.active if wanted(space.name)}
        act = Act(random_element(self.symmetry, generator=generator, spaces=spaces, spread=spread))
        steps: list[Step] = []
        for freedom in self._freedoms:
            if wanted(freedom.label):
                steps += freedom.steps(_coordinates(freedom, generator))
        return Transform((act, *steps, *self._home.steps))


def _coordinates(freedom: Freedom, generator: torch.Generator) -> Tensor:
    drawn = freedom.size * torch.randn(freedom.shape, generator=generator, dtype=torch.float64)
    return drawn.abs() if freedom.positive else drawn


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest change of any output over its largest entry."""
    return max((_relative(one, other) for one, other in zip(a, b, strict=True)), default=0.0)


def _relative(before: Tensor, after: Tensor, floor: float = 0.0) -> float:
    """Largest change over the largest entry, at least `floor`; infinite where NaN appears, as no comparison sees."""
    if not before.numel():
        return 0.0
    before, after = in_float64(before), in_float64(after)
    change = torch.where(before == after, 0.0, (before - after).abs())
    scale = before.abs().nan_to_num(0.0, 0.0, 0.0).max().clamp_min(max(floor, 1e-300))
    return float((change / scale).nan_to_num(torch.inf).max())
