"""Gains of one spectrum: a centred norm that writes into a stream which only centring norms read.

Such a norm makes y = g . n + b of values n in the plane H of mean zero, and of y only the part in H is ever read. All
that counts is therefore the symmetric map K(g) = C diag(g) C on H, C the projection on H. Two gains with the same
eigenvalues have K(g') = R K(g) R^T for a rotation R of H, so that rotating the stream before the norm and the stream
after it, both by R, leads from one to the other. The eigenvalues of K(g) are the critical points of the polynomial

    P(x) = (x - g_1) ... (x - g_n),

since its compression to H has the secular equation sum_i 1 / (x - g_i) = P'(x) / P(x) = 0. So the gains of one spectrum
are the roots of P + t: one direction for each such norm, whatever its width.

Where linear maps read the stream beside the norms, they see its means too; these are kept by a shear along the ones.

Source: found by the audit of CLIP's vision tower; Golub 1973 for the secular equation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from symgraph.groups.rotations import ones_complement
from symgraph.orbit.step import Step
from symgraph.orbit.tensor_blocks import by_matrix, on_blocks
from symgraph.symmetry.families import Spectral
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf

State = dict[str, Tensor]
_HALVINGS = 80


@dataclass(frozen=True, slots=True)
class Isospectral(Step):
    """Moves a gain along those of its spectrum, and rotates the streams before and after it.

    Amounts add: the step by a and then that by b is the step by a + b.
    """

    symmetry: SymmetryGraph
    spectral: Spectral
    amount: float

    def act(self, state: State, *, linear: bool = False) -> State:
        """The transformed state; a difference of two models, which has no gain of its own, is left as it is."""
        spectral = self.spectral
        if linear or spectral.gain not in state:
            return state
        old = state[spectral.gain].double()
        if spectral.stream >= 0 and not bool(old.all()):
            return state
        new, rotation = along_spectrum(old, self.amount)
        frames = {*spectral.before, *spectral.after}
        of_stream = sheared(old, new, rotation)
        flip = spectral.stream >= 0 and self.symmetry.frame(spectral.stream).flip != spectral.flip

        def rotated(tensor: Tensor, block: tuple[Leaf, ...]) -> Tensor:
            for dim, leaf in enumerate(block):
                if leaf.frame in frames:
                    matrix = rotation if leaf.frame != spectral.stream else of_stream[leaf.dual != flip]
                    tensor = by_matrix(tensor, dim, [], matrix.to(tensor))
            return tensor

        changed = {**state, spectral.gain: new.to(state[spectral.gain])}
        for name in self.symmetry.parameters_of_frames(frames):
            if name in state:
                changed[name] = on_blocks(state[name], self.symmetry.read_terms[name], rotated)
        return changed

    @property
    def moves(self) -> Collection[str]:
        """The gain, and everything on the streams before and after it."""
        return (self.spectral.gain, *self.symmetry.parameters_of_frames({*self.spectral.before, *self.spectral.after}))

    def needs(self, name: str) -> Collection[str]:
        """The gain."""
        return (self.spectral.gain,)

    def inverse(self) -> Isospectral:
        """The step that undoes this one."""
        return Isospectral(self.symmetry, self.spectral, -self.amount)


def sheared(old: Tensor, new: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation beside a shear of a stream whose means are seen: what acts on it, and on what is dual to it.

    A = R + 1 v^T, with v such that means of what the norm writes stay (1^T A G = 1^T G' R on the plane of mean zero)
    and A 1 = 1, so that steps go on adding.

    Shapes: gains (n,), rotation (n, n) -> twice (n, n).
    """
    wanted = (rotation.T @ new - old) / len(old)
    wanted = wanted - wanted.mean()
    slope = (wanted - (wanted / old).sum() / (1.0 / old).sum()) / old
    ones = torch.ones_like(slope)
    return rotation + torch.outer(ones, slope), rotation - torch.outer(rotation @ slope, ones)


def along_spectrum(gain: Tensor, amount: float) -> tuple[Tensor, Tensor]:
    """Another gain with the same spectrum on the plane of mean zero, and the rotation that takes one map to the other.

    Where two entries are equal there is none: the gain itself, and the identity.

    Shapes: gain (n,), n at least 2 -> (n,), (n, n).
    """
    size, order = len(gain), gain.argsort()
    roots = gain[order]
    plane = ones_complement(size, gain.dtype, gain.device)
    critical, before = _eigen(plane, gain)
    critical = torch.minimum(torch.maximum(critical, roots[:-1]), roots[1:])
    heights = (critical[:, None] - roots).abs().log().sum(1)
    if not bool(heights.isfinite().all()):
        return gain, torch.eye(size, dtype=gain.dtype, device=gain.device)
    moved = torch.empty_like(gain)
    moved[order] = roots + _shifts(roots, critical, _level(heights, amount), heights.min())
    _, after = _eigen(plane, moved)
    sign = torch.where((before * after).sum(0) < 0, -1.0, 1.0).to(gain)
    ones = gain.new_full((size, size), 1.0 / size)
    return moved, ones + plane @ (after * sign) @ before.T @ plane.T


def _eigen(plane: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(plane.T @ (gain[:, None] * plane))
    return values, vectors


def _level(heights: Tensor, amount: float) -> Tensor:
    """What is added to P, in units of its lowest extremum. It keeps all roots real between -A and B, the lowest maximum
    and the shallowest minimum; log((A + t) / (B - t)) is the coordinate in which amounts add."""
    least = heights.min()
    # The last critical point lies in a minimum, and they take turns.
    end = (heights.flip(0)[::2].min() - least).exp()
    maxima = heights.flip(0)[1::2]
    start = (maxima.min() - least).exp() if len(maxima) else heights.new_full((), torch.inf)
    grown = torch.as_tensor(amount, dtype=heights.dtype).exp()
    return end * (grown - 1) / (end / start + grown)


def _shifts(roots: Tensor, critical: Tensor, level: Tensor, unit: Tensor) -> Tensor:
    """How far each root moves when `level` is added to P, by bisection between the critical points around it."""
    width = roots[-1:] - roots[:1]
    low = torch.cat([-width, critical - roots[1:]])
    high = torch.cat([critical - roots[:-1], width])
    apart = roots[:, None] - roots
    number = len(roots)
    # P rises through its last root, and falls and rises in turn through those before it.
    rising = torch.tensor([(number - 1 - place) % 2 == 0 for place in range(number)], device=roots.device)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        distances = apart + middle[:, None]
        size = (distances.abs().log().sum(1) - unit).clamp_max(700.0).exp()
        above = (distances < 0).sum(1) % 2 == 0
        positive = torch.where(above, size, -size) + level > 0
        left = positive == rising
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
    return (low + high) / 2
