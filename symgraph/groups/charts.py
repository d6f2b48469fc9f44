"""Charts: what an optimiser trains in the place of a group element, about the element that is current.

An element is  step(latent) . current  with  step(0) = 1, so the latent starts at zero, and every so often the step is
taken into the current element and the latent set back (`retract`). Current elements are kept in float64; latents
and whatever is differentiated are in the dtype of the training.

    rotations     K = (X - X^T) / 2, the step is Cayley (1 - K/2)^-1 (1 + K/2) or exp(K); ones stay fixed if K 1 = 0
    rotary        an angle for each frequency pair, and where it is full the logarithm of its radius
    invertible    the current matrix + X, with its condition number held below a limit
    scales        exp(X)
    assignment    the permutation nearest to the scores LEAD + X, with their gradient (straight-through)

No chart uses a polar factor from an SVD: its gradient is not finite at an orthogonal matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from symgraph.groups.assignment import assignment
from symgraph.groups.elements import Element, IndexSet
from symgraph.groups.frequency_pairs import rotary_matrix


class ChartOptions(Protocol):
    """What of a class is trained, and how (`symgraph.orbit.motion.MotionOptions`)."""

    @property
    def chart(self) -> str: ...
    @property
    def full(self) -> bool: ...
    @property
    def permutations(self) -> bool: ...
    @property
    def condition(self) -> float: ...


class Chart(Protocol):
    """Latents of one space, and the element that they stand for."""

    latents: dict[str, Tensor]

    def moved(self) -> Element:
        """The element at the latents, differentiable."""

    def retract(self) -> None:
        """Makes the element current, latents zero; the element stays, unless it has to be conditioned."""

    def element(self) -> Element:
        """The element at the latents, in float64."""

    def held(self) -> dict[str, Tensor]:
        """The current element by part, for a checkpoint."""

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        """Takes up what `held` gave."""


@dataclass(frozen=True, slots=True)
class ChartPlan:
    """The chart that a class has under some options: what a plan calls it, and how it is made.

    `relaxable` says that it may start in a larger class (`symgraph.orbit.relaxed`).
    """

    name: str
    make: Callable[[torch.dtype, torch.device], Chart]
    relaxable: bool = False


def skew(matrix: Tensor, *, fix_ones: bool = False) -> Tensor:
    """The skew part of (..., n, n); with `fix_ones` that of mean zero along rows and columns, so that K 1 = 0."""
    antisymmetric = (matrix - matrix.mT) / 2
    if not fix_ones:
        return antisymmetric
    mean = antisymmetric.mean(-1, keepdim=True)
    return antisymmetric - mean + mean.mT


def cayley(k: Tensor) -> Tensor:
    """The rotation (1 - K/2)^-1 (1 + K/2) of a skew K: (..., n, n). Source: Cayley 1846."""
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    # One minus a skew matrix is never singular, and to ask whether it was would wait for the device.
    solved: Tensor = torch.linalg.solve_ex(eye - k / 2, eye + k / 2).result
    return solved


def orthogonalised(q: Tensor) -> Tensor:
    """A matrix within rounding of orthogonal, made so to the last digit: one step of Newton and Schulz."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    return q @ (1.5 * eye - 0.5 * q.mT @ q)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device, requires_grad=True)


class Rotation:
    """Orthogonal matrices, or those that fix the ones vector: latent (F, n, n)."""

    def __init__(self, on: IndexSet, kind: str, dtype: torch.dtype, device: torch.device, *, fix_ones: bool = False):
        size = on.size
        self.fix_ones, self.kind = fix_ones, kind
        self.latents = {"skew": _zeros((*on.fibre, size, size), dtype, device)}
        self.current = torch.eye(size, dtype=torch.float64, device=device).expand(*on.fibre, size, size).clone()
        self.near = self.current.to(dtype)

    def _step(self, latent: Tensor) -> Tensor:
        direction = skew(latent, fix_ones=self.fix_ones)
        return torch.linalg.matrix_exp(direction) if self.kind == "exponential" else cayley(direction)

    def matrix(self) -> Tensor:
        """The element as a matrix, differentiable."""
        return self._step(self.latents["skew"]) @ self.near

    def moved(self) -> Element:
        return Element.rotation(self.matrix())

    @torch.no_grad()
    def _matrix(self) -> Tensor:
        return orthogonalised(self._step(self.latents["skew"].double()) @ self.current)

    @torch.no_grad()
    def retract(self) -> None:
        self.hold({"matrix": self._matrix()})
        self.latents["skew"].zero_()

    def element(self) -> Element:
        return Element.rotation(self._matrix())

    def held(self) -> dict[str, Tensor]:
        return {"matrix": self.current}

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        self.current = parts["matrix"].to(self.current)
        self.near = self.current.to(self.latents["skew"].dtype)


class Angles:
    """A rotation for each frequency pair, with `radii` scaled: latents (F, n / 2)."""

    def __init__(self, on: IndexSet, radii: bool, dtype: torch.dtype, device: torch.device):
        self.on, shape = on, (*on.fibre, on.size // 2)
        self.latents = {"angle": _zeros(shape, dtype, device)}
        if radii:
            self.latents["radius"] = _zeros(shape, dtype, device)
        self.current = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name in ("angle", "radius")}

    def _at(self, name: str, dtype: torch.dtype) -> Tensor:
        now = self.current[name].to(dtype)
        return now + self.latents[name].to(dtype) if name in self.latents else now

    def _pairs(self, dtype: torch.dtype, sign: float) -> Tensor:
        angle, radius = self._at("angle", dtype), torch.exp(sign * self._at("radius", dtype))
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return rotary_matrix(pairs, self.on.size, self.on.layout)

    def moved(self) -> Element:
        return self._element(self.latents["angle"].dtype)

    def _element(self, dtype: torch.dtype) -> Element:
        matrix = self._pairs(dtype, 1.0)
        if "radius" not in self.latents:
            return Element.rotation(matrix)
        return Element(matrix=matrix, inverse_transpose=self._pairs(dtype, -1.0))

    @torch.no_grad()
    def retract(self) -> None:
        self.hold({name: self._at(name, torch.float64) for name in self.current})
        for latent in self.latents.values():
            latent.zero_()

    @torch.no_grad()
    def element(self) -> Element:
        return self._element(torch.float64)

    def held(self) -> dict[str, Tensor]:
        return dict(self.current)

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        self.current = {name: parts[name].to(self.current[name]) for name in self.current}


class Linear:
    """Invertible matrices: latent (F, n, n). Singular values are kept within a factor `condition` of one another."""

    def __init__(self, on: IndexSet, condition: float, dtype: torch.dtype, device: torch.device):
        size = on.size
        self.condition = condition
        self.latents = {"matrix": _zeros((*on.fibre, size, size), dtype, device)}
        self.current = torch.eye(size, dtype=torch.float64, device=device).expand(*on.fibre, size, size).clone()
        self.near = self.current.to(dtype)

    def moved(self) -> Element:
        return Element(matrix=self.near + self.latents["matrix"])

    @torch.no_grad()
    def _matrix(self) -> Tensor:
        return self.current + self.latents["matrix"].double()

    @torch.no_grad()
    def retract(self) -> None:
        self.hold({"matrix": _conditioned(self._matrix(), self.condition)})
        self.latents["matrix"].zero_()

    def element(self) -> Element:
        return Element(matrix=self._matrix())

    def held(self) -> dict[str, Tensor]:
        return {"matrix": self.current}

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        self.current = parts["matrix"].to(self.current)
        self.near = self.current.to(self.latents["matrix"].dtype)


def _conditioned(matrix: Tensor, limit: float) -> Tensor:
    """The matrix with its singular values raised to at least the largest over `limit`; as it is where they are."""
    if matrix.device.type != "cpu" and _surely_conditioned(matrix, limit):
        return matrix
    left, singular, vt = torch.linalg.svd(matrix)
    least = singular.amax(-1, keepdim=True) / limit
    return matrix if bool((singular >= least).all()) else (left * singular.clamp(min=least).unsqueeze(-2)) @ vt


def _surely_conditioned(matrix: Tensor, limit: float) -> bool:
    """Whether bounds on all condition numbers are below the limit, which cost less than SVDs where those are slow."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    bound = _largest_singular(matrix) * _largest_singular(inverse)
    return bool(((bound <= limit) & (failed == 0)).all())


def _largest_singular(matrix: Tensor) -> Tensor:
    """A bound on the largest singular value, at most n^(1/64) above it: from the norm of the 32nd power of the Gram."""
    power, log = matrix.mT @ matrix, torch.zeros((), dtype=matrix.dtype, device=matrix.device)
    for doubled in range(6):
        norm = torch.linalg.matrix_norm(power, keepdim=True)
        log = log + norm.log() / 2 ** (doubled + 1)
        power = (power / norm) @ (power / norm)
    return log.exp()[..., 0, 0]


class Scales:
    """Positive scales of an index space: latent (p, F, units), the logarithms; `over` spreads units on positions."""

    def __init__(
        self, on: IndexSet, units: int, over: Callable[[Tensor], Tensor], dtype: torch.dtype, device: torch.device
    ):
        self.over = over
        self.index = torch.arange(on.size, device=device).expand(*on.fibre, on.size)
        shape = (on.scales, *on.fibre, units)
        self.latents = {"log": _zeros(shape, dtype, device)}
        self.current = torch.zeros(shape, dtype=torch.float64, device=device)

    def moved(self) -> Element:
        log = self.latents["log"]
        return Element(scale=self.over(torch.exp(log + self.current.to(log.dtype))))

    @torch.no_grad()
    def retract(self) -> None:
        self.current = self.current + self.latents["log"].double()
        self.latents["log"].zero_()

    @torch.no_grad()
    def element(self) -> Element:
        return Element(self.index.clone(), self.over(torch.exp(self.current + self.latents["log"].double())))

    def held(self) -> dict[str, Tensor]:
        return {"log": self.current}

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        self.current = parts["log"].to(self.current)


# Of a unit's own place over all others at the start: some ten steps of the usual rate, or hardly anything would move.
LEAD = 0.1


class Assigned:
    """Permutations by assignment on scores LEAD + X, with the gradient of the scores: latent (F, n, n).

    Source: straight-through estimation as in Theus et al., arXiv 2506.22712, section 4.
    """

    def __init__(self, on: IndexSet, dtype: torch.dtype, device: torch.device):
        size = on.size
        self.latents = {"scores": _zeros((*on.fibre, size, size), dtype, device)}
        self.eye = torch.eye(size, dtype=dtype, device=device)

    def scores(self) -> Tensor:
        """What is assigned by, differentiable; at the start for every unit its own place, by `LEAD`."""
        return LEAD * self.eye + self.latents["scores"]

    def _index(self) -> Tensor:
        scores = self.scores().detach()
        return assignment(scores.reshape(-1, *scores.shape[-2:])).reshape(scores.shape[:-1])

    def matrix(self) -> Tensor:
        """The permutation as a matrix, with the gradient of the scores."""
        scores = self.latents["scores"]
        return self.eye[self._index()] + scores - scores.detach()

    def moved(self) -> Element:
        return Element.rotation(self.matrix())

    def retract(self) -> None:
        """Scores are no chart: they stay."""

    def element(self) -> Element:
        return Element(self._index())

    def held(self) -> dict[str, Tensor]:
        return {"scores": self.latents["scores"].detach()}

    def hold(self, parts: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.latents["scores"].copy_(parts["scores"])
