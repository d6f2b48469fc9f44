"""What a rotary space becomes where norms stand before or behind the rotation, on a small attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.pipeline import infer
from symgraph.match.match_models import nearest
from symgraph.orbit.canonical import canonicalise
from symgraph.orbit.descent_options import MotionOptions
from symgraph.orbit.motion import Motion
from symgraph.prove.audit import audit
from symgraph.prove.verify import random_transform, settled_names, verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_state

C = SymmetryClass
WIDTH, HEADS, INSIDE, PLACES = 6, 2, 4, 7


class Attention(nn.Module):
    """Attention under rotary products; norms of queries and keys: none, before them with a gain, or behind."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * INSIDE, bias=False) for _ in range(3))
        self.o = nn.Linear(HEADS * INSIDE, 5, bias=False)
        if norm in ("gains", "gains behind"):
            self.q_gain, self.k_gain = (nn.Parameter(torch.rand(INSIDE) + 0.5) for _ in range(2))

    def turned(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[-2]).double().unsqueeze(-1)
        angle = (place * torch.tensor([1.0, 0.1], dtype=torch.float64)).unsqueeze(0)
        angle = torch.cat([angle, angle], -1)
        half = torch.cat([-x[..., INSIDE // 2 :], x[..., : INSIDE // 2]], -1)
        return x * angle.cos().unsqueeze(1).to(x.dtype) + half * angle.sin().unsqueeze(1).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, INSIDE)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.norm == "gains":
            q, k = (nn.functional.rms_norm(y, (INSIDE,), g, 1e-6) for y, g in ((q, self.q_gain), (k, self.k_gain)))
        q, k = self.turned(q), self.turned(k)
        if self.norm == "gains behind":
            q, k = (nn.functional.rms_norm(y, (INSIDE,), g, 1e-6) for y, g in ((q, self.q_gain), (k, self.k_gain)))
        if self.norm == "bare":
            q, k = (nn.functional.rms_norm(y, (INSIDE,), None, 1e-6) for y in (q, k))
        done = nn.functional.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.o(done.transpose(1, 2).flatten(-2))
        return found


def attention(norm: str) -> SymmetryGraph:
    torch.manual_seed(0)
    return infer(trace(Attention(norm), (torch.randn(2, PLACES, WIDTH),)))


KINDS = {
    "none": (C.ROTARY, HEADS * INSIDE),
    "gains": (C.PAIRWISE_SIGNED_SCALES, INSIDE // 2),
    "gains behind": (C.DIAGONAL, INSIDE),
    "bare": (C.PAIRWISE_ROTATIONS, HEADS * INSIDE // 2),
}
every = pytest.mark.parametrize("norm", KINDS)


@every
def test_the_meet_is_inferred_and_nothing_is_missing(norm: str) -> None:
    found = attention(norm)
    group, dimension = KINDS[norm]
    (space,) = (s for s in found.active if s.maps.paired)
    assert space.group is group and found.dimension().of(space.name).number == dimension
    assert verify(found).together < 1e-9
    counted = audit(found)
    assert counted.complete, str(counted)


@every
def test_a_planted_element_of_all_families_is_undone(norm: str) -> None:
    found = attention(norm)
    a = random_state(found.graph, torch.Generator().manual_seed(1))
    g = random_transform(found, a, torch.Generator().manual_seed(2), settled_names(found))
    one, other = (canonicalise(found, s).state for s in (a, g.apply(a)))
    result = nearest(found, one, other)
    assert result.initial > 1e-2 * result.scale and result.objective[-1] < 1e-18 * result.scale


@every
def test_what_is_trained_keeps_the_function(norm: str) -> None:
    found = attention(norm)
    state = canonicalise(found, random_state(found.graph, torch.Generator().manual_seed(1))).state
    motion = Motion(found, MotionOptions(), torch.float64, torch.device("cpu"))
    noise = torch.Generator().manual_seed(3)
    for latent in motion.latents().values():
        latent.data += 0.3 * torch.randn(latent.shape, generator=noise, dtype=torch.float64)
    run = Interpreter(found.graph, dtype=torch.float64)
    inputs = [torch.randn(2, PLACES, WIDTH, dtype=torch.float64)]
    with torch.no_grad():
        before, after = (run.run(s, inputs)[0] for s in (state, motion.on(state)))
    assert torch.allclose(before, after, rtol=0, atol=1e-10)


def test_two_layouts_on_one_axis_leave_nothing() -> None:
    """Pairs of halves and pairs of neighbours have no map in common but the identity."""

    class Both(Attention):
        def turned(self, x: Tensor) -> Tensor:
            x = super().turned(x)
            angle = torch.arange(x.shape[-2]).to(x.dtype).unsqueeze(-1) * torch.tensor([1.0, 0.1], dtype=x.dtype)
            cos, sin = (f(angle).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))
            half = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
            return x * cos + half * sin

    torch.manual_seed(0)
    found = infer(trace(Both("none"), (torch.randn(2, PLACES, WIDTH),)))
    assert not [s for s in found.active if s.maps.paired]
    assert verify(found).together < 1e-9


def test_pairs_that_are_cut_apart_leave_nothing() -> None:
    class Cut(Attention):
        def turned(self, x: Tensor) -> Tensor:
            first, second = x[..., : INSIDE // 2], x[..., INSIDE // 2 :]
            return torch.cat([super().turned(x)[..., : INSIDE // 2], first * second], -1)

    torch.manual_seed(0)
    found = infer(trace(Cut("none"), (torch.randn(2, PLACES, WIDTH),)))
    assert verify(found).together < 1e-9


def test_two_gains_of_one_input_trade_scales() -> None:
    """The positions of an input stay where they are; what multiplies them may still be scaled."""

    class Gains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.rand(WIDTH) + 0.5) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.first * self.second

    found = infer(trace(Gains(), (torch.randn(2, WIDTH),)))
    (space,) = found.active
    assert space.group is C.POSITIVE_DIAGONAL
    assert audit(found).complete and verify(found).together < 1e-9
