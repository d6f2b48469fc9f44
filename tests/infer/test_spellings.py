"""Functions in other spellings have the symmetries that they have in plain ones, all that an audit counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symgraph

Function = Callable[[Tensor], Tensor]
Affine = Callable[[Tensor, Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A function of an input that reads its parts by name."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, part in parts.items():
            setattr(self, name, part() if callable(part) and not isinstance(part, nn.Module) else part)
        self.function = forward
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def complete(net: nn.Module, *shape: int) -> symgraph.SymmetryGraph:
    """The symmetry of a net: verified, also in the module itself, and with as many directions as the audit measures."""
    x = torch.randn(*shape, dtype=torch.float64)
    symmetry = symgraph.infer(net, x)
    symgraph.verify(net, x, symmetry=symmetry, perturb=0.1).raise_if_failed()
    moved = symgraph.sample(net, x, seed=0)
    before, after = net(x), moved(x)
    assert float((before - after).detach().abs().max() / before.detach().abs().max()) < 1e-9
    audit = symgraph.audit(net, x, symmetry=symmetry)
    assert audit.inferred == audit.measured, str(audit)
    return symmetry


def groups(symmetry: symgraph.SymmetryGraph, size: int) -> list[str]:
    """The groups of the spaces of this size."""
    return [str(space.group) for space in symmetry.active if space.size == size]


def hidden(function: Function) -> Net:
    """Units between two maps."""
    return Net(lambda net, x: net.read(function(net.write(x))), write=nn.Linear(5, 6), read=nn.Linear(6, 3))


# -- entry by entry ----------------------------------------------------------------------------------------------------

RECTIFIED: dict[str, Function] = {
    "clamp": lambda h: h.clamp(min=0),
    "maximum": lambda h: torch.maximum(h, torch.zeros(())),
    "maximum of zeros": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "where, a number first": lambda h: torch.where(h < 0, 0.0, h),
    "leaky, where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "leaky, the larger": lambda h: torch.max(h, 0.2 * h),
    "times a mask": lambda h: h * (h > 0),
    "filled": lambda h: h.masked_fill(h < 0, 0.0),
    "less the negative part": lambda h: h - h.clamp(max=0),
}
ODD: dict[str, Function] = {
    "tanh by sigmoid": lambda h: 2 * torch.sigmoid(2 * h) - 1,
    "tanh by exponentials": lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()),
    "hard tanh": lambda h: h.clamp(-1, 1),
    "softsign": lambda h: h / (1 + h.abs()),
}
NEITHER: dict[str, Function] = {
    "from a small number on": lambda h: h.clamp(min=-1e-9),
    "down to a large number": lambda h: h.clamp(min=-1e5),
    "shifted mask": lambda h: h * (h > 1e-5),
    "steep": lambda h: h * torch.sigmoid(1e8 * h),
    "saturated": lambda h: h.clamp(0, 6),
    "elu": lambda h: torch.where(h > 0, h, h.exp() - 1),
}


@pytest.mark.parametrize("name", RECTIFIED)
def test_positive_scales_pass_through_whatever_is_written(name: str) -> None:
    assert groups(complete(hidden(RECTIFIED[name]), 4, 5), 6) == ["positive monomial"]


@pytest.mark.parametrize("name", ODD)
def test_signs_pass_through_whatever_is_written(name: str) -> None:
    assert groups(complete(hidden(ODD[name]), 4, 5), 6) == ["signed permutation"]


@pytest.mark.parametrize("name", NEITHER)
def test_no_scale_passes_through_what_has_a_size(name: str) -> None:
    net, x = hidden(NEITHER[name]), torch.randn(4, 5, dtype=torch.float64)
    assert groups(symgraph.infer(net, x), 6) == ["permutation"]


# -- norms -------------------------------------------------------------------------------------------------------------


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


NORMS: dict[str, Affine] = {
    "times a number": lambda x, g, b: F.layer_norm(x, (6,), g, b) * 2,
    "less than nothing, divided": lambda x, g, b: -F.layer_norm(x, (6,), g, b) / 6**0.5,
    "a centred value over its length": lambda x, g, b: F.normalize(centred(x), dim=-1) * 6**0.5 * g + b,
    "a sum of squares by Einstein": lambda x, g, b: (
        centred(x) * torch.rsqrt(torch.einsum("...d,...d->...", centred(x), centred(x))[..., None] / 6 + 1e-5) * g + b
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_have_all_their_families(name: str) -> None:
    norm = NORMS[name]

    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.write(x)
        h = h + net.down(F.gelu(net.up(norm(h, net.gain, net.bias))))
        result: Tensor = net.read(norm(h, net.gain2, net.bias2))
        return result

    vectors = {name: nn.Parameter(torch.rand(6) + 0.5) for name in ("gain", "bias", "gain2", "bias2")}
    maps = {"write": nn.Linear(5, 6), "up": nn.Linear(6, 7), "down": nn.Linear(7, 6), "read": nn.Linear(6, 4)}
    assert groups(complete(Net(forward, **vectors, **maps), 4, 5), 6) == ["orthogonal fixing ones"]


def test_two_gains_on_one_norm_are_two_norms() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.write(x)
        one, other = F.layer_norm(h, (6,)) * net.gain + net.bias, F.layer_norm(h, (6,)) * net.gain2 + net.bias2
        result: Tensor = net.read(F.gelu(net.up(one))) + net.read2(torch.tanh(net.up2(other)))
        return result

    vectors = {name: nn.Parameter(torch.rand(6) + 0.5) for name in ("gain", "bias", "gain2", "bias2")}
    maps = {"write": nn.Linear(5, 6), "up": nn.Linear(6, 8), "up2": nn.Linear(6, 7)}
    net = Net(forward, **vectors, **maps, read=nn.Linear(8, 4), read2=nn.Linear(7, 4))
    assert groups(complete(net, 4, 5), 6) == ["orthogonal fixing ones"]


def test_an_epsilon_that_the_model_leaves_to_torch_is_one() -> None:
    net = Net(
        lambda net, x: net.read(net.norm(net.write(x))), write=nn.Linear(5, 6), norm=nn.RMSNorm(6), read=nn.Linear(6, 4)
    )
    complete(net, 4, 5)


def test_stored_means_take_biases_in_front_of_them() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = F.relu(net.norm(net.first(x)))
        result: Tensor = net.read(F.relu(net.norm2(torch.cat([net.second(h), net.third(h)], 1))).mean(2))
        return result

    convolutions = {"first": nn.Conv1d(2, 3, 2), "second": nn.Conv1d(3, 2, 2), "third": nn.Conv1d(3, 2, 2)}
    symmetry = complete(
        Net(forward, **convolutions, norm=nn.BatchNorm1d(3), norm2=nn.BatchNorm1d(4), read=nn.Linear(4, 3)), 4, 2, 7
    )
    shares = {c.source.piece.parameter: [s.port.piece.parameter for s in c.shares] for c in symmetry.constants}
    assert shares["first.bias"] == ["norm.running_mean"] and shares["third.bias"] == ["norm2.running_mean"]


def test_keys_that_torch_shares_among_queries_have_biases_that_nothing_sees() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = (net.fused(x)).split([8, 4, 4], -1)
        q, k, v = (y.reshape(2, 4, -1, 2).transpose(1, 2) for y in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        result: Tensor = net.read(mixed.transpose(1, 2).flatten(2))
        return result

    complete(Net(forward, fused=nn.Linear(5, 16), read=nn.Linear(8, 3)), 2, 4, 5)


# -- heads with axes of their own --------------------------------------------------------------------------------------


def _with_heads() -> Net:
    """A block whose matrices and biases have an axis for heads, flattened by views before they are read, or einsums."""

    def forward(net: Any, x: Tensor) -> Tensor:
        stream = net.write(x)
        h = net.norm(stream)
        query = torch.einsum("bnd,hdk->bnhk", h, net.wq) + net.bq
        key, value = (
            F.linear(h, w.permute(0, 2, 1).reshape(6, 6), b.reshape(6)).reshape(2, 4, 2, 3)
            for w, b in ((net.wk, net.bk), (net.wv, net.bv))
        )
        query, key, value = (y.transpose(1, 2) for y in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        stream = stream + F.linear(mixed.flatten(2), net.wo.permute(2, 0, 1).reshape(6, 6), net.bo)
        result: Tensor = net.read(net.last(stream))
        return result

    weights = {name: nn.Parameter(torch.randn(2, 6, 3)) for name in ("wq", "wk", "wv")}
    biases = {name: nn.Parameter(torch.randn(2, 3)) for name in ("bq", "bk", "bv")}
    rest = {"wo": nn.Parameter(torch.randn(2, 3, 6)), "bo": nn.Parameter(torch.randn(6)), "read": nn.Linear(6, 7)}
    return Net(forward, **weights, **biases, **rest, write=nn.Linear(5, 6), norm=nn.LayerNorm(6), last=nn.LayerNorm(6))


def test_constants_of_heads_with_axes_of_their_own_move() -> None:
    symmetry = complete(_with_heads(), 2, 4, 5)
    sources = {c.source.piece.parameter: c.source.piece.axes for c in symmetry.constants}
    assert sources["bk"] == (0, 1) and sources["bv"] == (0, 1)
    assert symgraph.SymmetryGraph.from_json(symmetry.to_json()).constants == symmetry.constants


def test_models_with_such_heads_are_aligned_and_canonicalised() -> None:
    a, b, x = _with_heads(), _with_heads(), torch.randn(2, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for state in (symgraph.align(a, b, x).state, symgraph.canonicalise(b, x).state):
        found, before = torch.func.functional_call(b, dict(state), (x,)).detach(), b(x).detach()
        assert float((found - before).abs().max() / before.abs().max()) < 1e-9


def test_queries_and_keys_of_one_map_have_lengths_of_their_own() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.fused(net.write(x)).reshape(2, 4, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * net.scale).softmax(-1)
        result: Tensor = net.read((weights @ v).transpose(1, 2).flatten(2))
        return result

    scale = nn.Parameter(torch.rand(2, 1, 1) + 0.5)
    net = Net(forward, write=nn.Linear(5, 4), fused=nn.Linear(4, 18), scale=scale, read=nn.Linear(6, 7))
    symmetry = complete(net, 2, 4, 5)
    assert [(radial.place, radial.parts) for radial in symmetry.radial] == [
        (("fused.weight", 0), 2),
        (("fused.weight", 6), 2),
    ]


def test_convolutions_with_one_tap_are_maps_of_their_channels() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.norm(F.gelu(net.patches(x)))
        h = net.map(h + net.norm2(F.gelu(net.depth(h))))
        result: Tensor = net.read(net.norm3(F.gelu(h)).mean((2, 3)))
        return result

    parts = {name: nn.BatchNorm2d(3) for name in ("norm", "norm2", "norm3")}
    convolutions = {"patches": nn.Conv2d(2, 3, 2, 2), "depth": nn.Conv2d(3, 3, 3, padding=1, groups=3)}
    complete(Net(forward, **parts, **convolutions, map=nn.Conv2d(3, 3, 1), read=nn.Linear(3, 4)), 2, 2, 8, 8)


def test_fused_maps_of_one_tap_read_all_that_a_norm_leaves() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.write(x)
        h = h + net.down(F.gelu(net.up(F.layer_norm(h.mT, (6,), net.gain, net.bias).mT)))
        result: Tensor = net.read(F.layer_norm(h.mT, (6,)).mT)
        return result

    vectors = {name: nn.Parameter(torch.rand(6) + 0.5) for name in ("gain", "bias")}
    maps = {"write": nn.Conv1d(5, 6, 1), "up": nn.Conv1d(6, 7, 1), "down": nn.Conv1d(7, 6, 1)}
    net = Net(forward, **vectors, **maps, read=nn.Conv1d(6, 8, 1))
    assert groups(complete(net, 2, 5, 4), 6) == ["orthogonal fixing ones"]


def test_readers_of_a_thin_stream_have_more_than_its_space() -> None:
    net = Net(
        lambda net, x: net.read(F.relu(net.second(net.first(x)))),
        first=nn.Linear(5, 7),
        second=nn.Linear(7, 8),
        read=nn.Linear(8, 3),
    )
    symmetry = complete(net, 9, 5)
    assert symmetry.dimension().number == symgraph.audit(net, torch.randn(9, 5).double(), symmetry=symmetry).inferred


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(4), nn.GroupNorm(1, 4), nn.GroupNorm(4, 4)])
def test_norms_over_positions_do_not_see_biases_in_front_of_them(norm: nn.Module) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        result: Tensor = net.read(F.relu(net.norm(net.convolution(x))).mean(2))
        return result

    complete(Net(forward, convolution=nn.Conv1d(2, 4, 2), norm=norm, read=nn.Linear(4, 3)), 4, 2, 7)


def test_rotary_parts_by_sections() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(4), torch.tensor([1.0, 0.1])).to(x)
        query, key = (y.reshape(2, 4, 2, 4).transpose(1, 2) for y in (net.query(x), net.key(x)))
        turned = []
        for y in (query, key):
            a, b = torch.tensor_split(y, 2, -1)
            turned.append(torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1))
        value = net.value(x).reshape(2, 4, 2, 3).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(turned[0], turned[1], value)
        result: Tensor = net.read(mixed.transpose(1, 2).flatten(2))
        return result

    maps = {"query": nn.Linear(9, 8, bias=False), "key": nn.Linear(9, 8, bias=False), "value": nn.Linear(9, 6)}
    assert groups(complete(Net(forward, **maps, read=nn.Linear(6, 7)), 2, 4, 9), 4) == ["rotary"]


@pytest.mark.parametrize("by", ["batch norm", "moments"])
def test_standardised_weights_have_means_that_nothing_sees(by: str) -> None:
    def standardised(weight: Tensor) -> Tensor:
        if by == "batch norm":
            rows = weight.reshape(1, len(weight), -1)
            return F.batch_norm(rows, None, None, training=True, eps=1e-6).reshape_as(weight)
        variance, mean = torch.var_mean(weight, dim=[1, 2], keepdim=True, unbiased=False)
        return (weight - mean) / torch.sqrt(variance + 1e-6)

    def forward(net: Any, x: Tensor) -> Tensor:
        h = F.relu(F.conv1d(x, standardised(net.first), net.bias))
        result: Tensor = net.read(F.relu(F.conv1d(h, standardised(net.second))).mean(2))
        return result

    weights = {"first": nn.Parameter(torch.randn(4, 2, 3)), "second": nn.Parameter(torch.randn(5, 4, 2))}
    symmetry = complete(Net(forward, **weights, bias=nn.Parameter(torch.randn(4)), read=nn.Linear(5, 3)), 4, 2, 9)
    assert {c.source.piece.parameter for c in symmetry.constants} >= {"first", "second"}


@pytest.mark.parametrize("padding", [0, 2])
def test_means_of_windows_pass_on_constants_unless_they_see_zeros_beside(padding: int) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = F.avg_pool1d(net.norm(F.gelu(net.convolution(x))), 4, padding=padding)
        result: Tensor = net.read(F.adaptive_avg_pool1d(h, 1).flatten(1))
        return result

    net = Net(forward, convolution=nn.Conv1d(2, 6, 2), norm=nn.BatchNorm1d(6), read=nn.Linear(6, 3))
    found = symgraph.infer(net, torch.randn(4, 2, 9, dtype=torch.float64)) if padding else complete(net, 4, 2, 9)
    moved = [c for c in found.constants if c.source.piece.parameter == "norm.bias"]
    assert len(moved) == (0 if padding else 1)


DOTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "summed": lambda a, b: (a * b).sum(-1),
    "averaged": lambda a, b: (a * b).mean(-1, keepdim=True).squeeze(-1),
    "spread": lambda a, b: (a.unsqueeze(2) * b.unsqueeze(1)).sum(-1),
}


@pytest.mark.parametrize("name", DOTS)
def test_products_that_are_summed_are_dot_products(name: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        result: Tensor = DOTS[name](net.a(x), net.b(F.gelu(x).roll(1, 1)))
        return result

    symmetry = complete(Net(forward, a=nn.Linear(5, 3, bias=False), b=nn.Linear(5, 3, bias=False)), 4, 6, 5)
    assert groups(symmetry, 3) == ["invertible"]


def test_products_that_are_summed_over_positions_keep_scales() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        pooled = (F.relu(net.a(x)) * F.relu(net.b(x))).sum((2, 3))
        result: Tensor = net.o(pooled)
        return result

    net = Net(forward, a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(2, 3, 1), o=nn.Linear(3, 4))
    assert complete(net, 2, 2, 4, 4).dimension().number == 6


EXTREMES: dict[str, Function] = {
    "and its place": lambda x: x.max(1)[0],
    "smallest": lambda x: x.min(1, keepdim=True).values.squeeze(1),
    "alone": lambda x: x.amax(1),
    "smooth": lambda x: x.logsumexp(1),
    "of windows": lambda x: F.max_pool1d(x.mT, 2).mT,
}


@pytest.mark.parametrize("name", EXTREMES)
def test_constants_go_through_the_largest_of_positions(name: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        result: Tensor = net.o(F.gelu(net.l(EXTREMES[name](net.w(F.gelu(x))))))
        return result

    net = Net(forward, w=nn.Linear(5, 4), l=nn.Linear(4, 6), o=nn.Linear(6, 3))
    assert [move.source.piece.parameter for move in complete(net, 4, 6, 5).constants] == ["w.bias"]
