"""Proof by sampling: random elements of the inferred group must not change the outputs (design section 7).

The traced graph is evaluated in float64 with its dtype casts lifted, because many models compute norms and rotary
tables in float32 whatever their dtype, which would hide errors below 1e-6 and break agreement to 1e-9.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.action import random_element
from symgraph.errors import VerifyError
from symgraph.gauge import Act, Lift, Offset, Push, Step, Stretch, Trade, Transform, gain_of, rescale
from symgraph.infer.families import Centred, Lean, Move, Piece, Radial
from symgraph.infer.symmetry import SymmetryGraph
from symgraph.interpret import Interpreter
from symgraph.sampling import float64, perturbed, random_inputs, random_state
from symgraph.uneven import Restate, Slant, Turn

TOLERANCE = 1e-9
Wanted = Callable[[str], bool]
Noise = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Check:
    """Largest relative change of the outputs under random elements of one family."""

    name: str
    group: str
    error: float


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome: all families at once, then each by itself."""

    together: float
    checks: tuple[Check, ...]
    samples: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every change is below the tolerance."""
        return max([self.together, *(c.error for c in self.checks)]) <= self.tolerance

    @property
    def failures(self) -> tuple[Check, ...]:
        """Families that change the outputs."""
        return tuple(c for c in self.checks if not c.error <= self.tolerance)

    def __str__(self) -> str:
        width = max([len(c.name) for c in self.checks] + [8])
        lines = [
            f"{'all at once':<{width}}  {self.together:.1e}  {'ok' if self.together <= self.tolerance else 'FAILS'}"
        ]
        for c in self.checks:
            lines.append(
                f"{c.name:<{width}}  {c.error:.1e}  {'ok' if c.error <= self.tolerance else 'FAILS'}  {c.group}"
            )
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raises VerifyError naming the families that failed."""
        if self.passed:
            return
        names = ", ".join(c.name for c in self.failures) or "only the families together"
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
        inputs: the model's inputs in order; random ones of the traced shapes when left out.
        samples: random elements for each family.
        each: also every family by itself, so that a failure names its space.
        perturb: standard deviation of noise added to the parameters (initial values such as zero biases and unit
            gains would hide errors).

    Raises:
        VerifyError: the outputs are NaN to begin with.

    Shapes: outputs are compared as max |f(theta) - f(g theta)| / max |f(theta)|.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = symmetry.graph
    base = random_state(graph, generator) if state is None else perturbed(graph, state, generator, perturb)
    run = Interpreter(graph, dtype=torch.float64)
    given = list(inputs) if inputs is not None else random_inputs(graph, generator)
    reference = run.run(base, given)
    if any(bool(x.isnan().any()) for x in reference):
        raise VerifyError(
            "the model's outputs are NaN before anything is changed",
            cause="its parameters or the inputs are outside the domain of an operator",
            remedy="give the inputs of a real batch, or verify at random parameters (a config alone)",
        )

    def error(families: Collection[str] | None) -> float:
        worst = 0.0
        for _ in range(samples):
            moved = random_transform(symmetry, base, generator, families).apply(base)
            worst = max(worst, _difference(reference, run.run(moved, given)))
        return worst

    names = family_names(symmetry)
    checks = tuple(Check(n, g, error({n})) for n, g in names.items()) if each else ()
    return Verification(error(None), checks, samples, tolerance)


def settled_names(symmetry: SymmetryGraph) -> dict[str, str]:
    """The families that the canonical form settles, so that alignment undoes them.

    Left out are leans on a gain and tilts, which no step with fixed coefficients can undo in every model, and
    statistics, which describe data.
    """
    return {k: v for k, v in family_names(symmetry).items() if v not in ("lean on a gain", "tilt", "statistics")}


def family_names(symmetry: SymmetryGraph) -> dict[str, str]:
    """Every family that `random_transform` samples, with what it is."""
    names = {s.name: str(s.group) for s in symmetry.active}
    names |= {f"gain {p}": "scales between a gain and its neighbours" for p in symmetry.gain_sites}
    names |= {_move_name(m): "move" if m.sinks else "null" for m in symmetry.moves}
    names |= {f"translation {i}": "translation" for i in range(len(symmetry.translations))}
    names |= {_centre_name(c): "null" for c in symmetry.centred}
    names |= {_lean_name(x): "lean on a gain" if x.gain else "lean" for x in symmetry.leans}
    names |= {f"tilt of {t.bias}": "tilt" for t in symmetry.tilts}
    names |= {f"statistics of {s.node}": "statistics" for s in symmetry.statistics}
    names |= {_radial_name(r): "scale" for r in symmetry.radial}
    names |= {f"pairs of {p.gains[0][0]}": "scales of frequency pairs" for p in symmetry.paired}
    return names


def random_transform(
    symmetry: SymmetryGraph,
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    families: Collection[str] | None = None,
    spread: float = 0.3,
) -> Transform:
    """A random element of all inferred families, or of those named (see `family_names`).

    The spaces act in the gauge where absorbed gains are one: gains are taken out, the element acts, other gains come
    back. Moves, translations and means get random constants.
    """

    def wanted(name: str) -> bool:
        return families is None or name in families

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    out, back = _clean_gauge(symmetry, state, wanted, noise, spread)
    spaces = {s.id for s in symmetry.active if wanted(s.name)}
    act = Act(random_element(symmetry, generator=generator, spaces=spaces, spread=spread))
    constants = _constants(symmetry, state, wanted, noise)
    return Transform((*out, act, *constants, *_uneven(symmetry, state, wanted, noise), *back))


def _clean_gauge(
    symmetry: SymmetryGraph, state: Mapping[str, Tensor], wanted: Wanted, noise: Noise, spread: float
) -> tuple[list[Step], list[Step]]:
    """Steps to the gauge of zero movable biases and unit gains, and back to a randomly chosen one."""
    current = float64(state)
    out: list[Step] = []
    back: list[Step] = []
    for m in symmetry.moves:
        if m.sinks:
            constant = m.source.of(current[m.source.parameter]).clone()
            out.append(Push(m.source, m.sinks, constant))
            current.update(out[-1].apply(current))
            back.append(Push(m.source, m.sinks, noise(*constant.shape) if wanted(_move_name(m)) else -constant))
    for p, sites in symmetry.gain_sites.items():
        factor = gain_of(symmetry, current, p)
        out.append(rescale(symmetry, sites, factor))
        stretch = torch.exp(spread * noise(*factor.shape)) if wanted(f"gain {p}") else 1.0 / factor
        back.append(rescale(symmetry, sites, stretch))
    return out, back[::-1]


def _move_name(m: Move) -> str:
    return f"constant {m.source.parameter}[{m.source.start}:{m.source.stop}]"


def _radial_name(radial: Radial) -> str:
    return f"length of {radial.tensors[0]}"


def _lean_name(lean: Lean) -> str:
    return f"lean of {lean.reader.parameter}[{lean.reader.start}:{lean.reader.stop}]"


def _centre_name(c: Centred) -> str:
    return f"mean of {'written' if c.written else 'read'} frame {c.frame}"


def _constants(symmetry: SymmetryGraph, state: Mapping[str, Tensor], wanted: Wanted, noise: Noise) -> list[Step]:
    steps: list[Step] = []
    for m in symmetry.moves:
        if not m.sinks and wanted(_move_name(m)):
            steps.append(Push(m.source, (), noise(m.source.size)))
    for i, family in enumerate(symmetry.translations):
        first, *others = family.sets
        for members in others if wanted(f"translation {i}") else ():
            c = noise(state[first[0].parameter].shape[first[0].axis])
            steps += [Offset(p, c) for p in first]
            steps += [Offset(p, -c) for p in members]
    for radial in symmetry.radial:
        if wanted(_radial_name(radial)):
            steps.append(Stretch(radial, float(noise(1).exp())))
    for paired in symmetry.paired:
        if wanted(f"pairs of {paired.gains[0][0]}"):
            steps.append(Trade(symmetry, paired, (0.3 * noise(state[paired.gains[0][0]].numel() // 2)).exp()))
    for centred in symmetry.centred:
        for piece in centred.pieces if wanted(_centre_name(centred)) else ():
            steps.append(Lift(piece, noise(*_others(piece, state))))
    return steps


def _others(piece: Piece, state: Mapping[str, Tensor]) -> list[int]:
    return [n for i, n in enumerate(state[piece.parameter].shape) if i != piece.axis]


def _uneven(symmetry: SymmetryGraph, state: Mapping[str, Tensor], wanted: Wanted, noise: Noise) -> list[Step]:
    """Families whose steps depend on the parameters around them."""
    steps: list[Step] = []
    for lean in symmetry.leans:
        if wanted(_lean_name(lean)):
            steps.append(Slant(lean, noise(*_others(lean.reader, state))))
    for tilt in symmetry.tilts:
        if wanted(f"tilt of {tilt.bias}"):
            v = noise(*state[tilt.bias].shape)
            steps.append(Turn(tilt, v - v.mean().clamp_max(0.0)))
    for s in symmetry.statistics:
        if wanted(f"statistics of {s.node}"):
            steps.append(Restate(symmetry.graph, s, 0.3 * noise(len(s.tensors), *state[s.gain].shape).abs()))
    return steps


def _difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(_relative(x, y) for x, y in zip(a, b, strict=True))


def _relative(x: Tensor, y: Tensor) -> float:
    """Largest change over the largest entry; infinite where NaN appears, which no comparison would catch."""
    change = torch.where(x == y, 0.0, (x - y).abs())
    scale = x.abs().nan_to_num(0.0, 0.0, 0.0).max().clamp_min(1e-300)
    return float((change / scale).nan_to_num(torch.inf).max())
