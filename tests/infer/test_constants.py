"""Constants on their way: scaled before a sum, through several matrices, used twice, in another order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from symgraph.inference.pipeline import infer
from symgraph.orbit.constant_steps import Shift
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.prove.audit import audit
from symgraph.prove.verify import random_transform, verify
from symgraph.symmetry.dimension import Family, dimension, family_of
from symgraph.tracing import state_of, trace


class Scaled(nn.Module):
    """Word embeddings are scaled before positions are added; keys and queries have no bias, the norm has one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(17, 6), nn.Parameter(torch.randn(5, 6))
        self.norm = nn.LayerNorm(6)
        self.query, self.key = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
        self.value, self.head = nn.Linear(6, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) * 1.7 + self.places / 3)
        q, k, v = self.query(x), self.key(x), self.value(x)
        found: Tensor = self.head(torch.tanh(torch.softmax(q @ k.transpose(-2, -1), -1) @ v))
        return found


def test_scaled_summands_and_keys_without_a_bias() -> None:
    model = Scaled()
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    (translation,) = [c for c in symmetry.constants if family_of(c) is Family.TRANSLATION]
    (share,) = translation.shares
    # 1.7 words + places / 3 stays what it is; what is read of the places is a third of them.
    assert symmetry.offsets["places"].rate == pytest.approx(1 / 3)
    assert (translation.source.piece.parameter, share.port.piece.parameter) == ("words.weight", "places")
    assert share.factor == pytest.approx(-1.7)
    keys = [x for x in symmetry.leans if x.rows is not None]
    assert [(x.plane.reader.parameter, x.plane.bias, x.sink) for x in keys] == [("key.weight", "norm.bias", "")]
    state = {n: torch.randn_like(t) for n, t in state_of(model).items()}
    assert verify(symmetry, state).passed
    found = audit(symmetry)
    assert found.complete, str(found)


class Unbiased(nn.Module):
    """A norm with a bias, values without one, and an output projection with one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(17, 6), nn.LayerNorm(6)
        self.query, self.key = nn.Linear(6, 3), nn.Linear(6, 3)
        self.value, self.out = nn.Linear(6, 4, bias=False), nn.Linear(4, 6)
        self.last, self.head = nn.LayerNorm(6), nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        x = self.norm(h)
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(-2, -1), -1)
        found: Tensor = self.head(self.last(h + self.out(weights @ self.value(x))))
        return found


def test_values_without_a_bias_lean_into_the_bias_behind_them() -> None:
    model = Unbiased()
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    (values,) = [c for c in symmetry.constants if c.source.plane is not None]
    assert (values.source.piece.parameter, values.settled) == ("value.weight", False)
    assert [s.port.piece.parameter for s in values.shares] == ["out.bias"]
    assert verify(symmetry, {n: torch.randn_like(t) for n, t in state_of(model).items()}).passed
    found = audit(symmetry)
    assert found.complete, str(found)


def test_a_constant_goes_through_a_matrix_without_a_bias() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5, bias=False), nn.Linear(5, 4))
    symmetry = infer(trace(model, (torch.randn(3, 5),)))
    (constant,) = symmetry.constants
    (share,) = constant.shares
    assert (constant.source.piece.parameter, share.port.piece.parameter) == ("0.bias", "2.bias")
    assert [hop.reader.parameter for hop in share.path] == ["1.weight", "2.weight"]
    assert not constant.settled
    assert verify(symmetry).passed
    found = audit(symmetry)
    assert found.complete and found.families[-1].number == 6, str(found)


class Uses(nn.Module):
    """One vector, used in several places at once."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.last, self.vector = nn.Linear(6, 6), nn.Linear(6, 3), nn.Parameter(torch.randn(6))
        self.square = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        h, p = self.first(x), self.square
        heads = h.reshape(4, 2, 3).transpose(-1, -2).reshape(4, 6)
        used: dict[str, Callable[[], Tensor]] = {
            "p + p": lambda: F.relu(h + (self.vector + self.vector)),
            "gain and bias": lambda: F.layer_norm(h, (6,), self.vector, self.vector),
            "attention": lambda: F.relu(h[:, None] + F.scaled_dot_product_attention(p, p, p)),
            "shuffled": lambda: heads + h,
            "subtracted": lambda: F.relu(h - self.vector + self.vector),
        }
        found: Tensor = self.last(used[self.kind]())
        return found


@pytest.mark.parametrize("kind", ["p + p", "gain and bias", "attention", "shuffled", "subtracted"])
def test_a_use_is_an_operand_and_positions_have_an_order(kind: str) -> None:
    """Checked in the eager module, in float64."""
    model = Uses(kind).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    symmetry = infer(trace(model, (x,)))
    found = [(c.source.piece.parameter, s.factor, s.port.piece.parameter) for c in symmetry.constants for s in c.shares]
    # A value and its shuffle have the same mean.
    known = {"p + p": ("vector", -2.0, "first.bias"), "shuffled": ("first.bias", -2.0, "last.bias")}
    assert found in ([], [known.get(kind)])
    state = {n: t.detach() for n, t in model.state_dict().items()}
    for seed in range(3):
        moved = random_transform(symmetry, state, torch.Generator().manual_seed(seed)).apply(state)
        before: Tensor = torch.func.functional_call(model, state, (x,))
        after: Tensor = torch.func.functional_call(model, moved, (x,))
        assert (before - after).abs().max() <= 1e-9 * before.abs().max(), kind


class PostNorm(nn.Module):
    """A block whose norm reads the sum of a norm's output and of what values without biases make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.last = nn.Embedding(17, 6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.query, self.key, self.value = (nn.Linear(6, 4, bias=False) for _ in range(3))
        self.out, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(-2, -1), -1)
        found: Tensor = self.head(self.last(x + self.out(weights @ self.value(x))))
        return found


def test_biases_by_a_plane_and_means_that_readers_take() -> None:
    model = PostNorm()
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    (values,) = [c for c in symmetry.constants if c.source.plane is not None]
    assert values.source.piece.parameter == "value.weight"
    assert ("norm.bias", 1) in [(s.port.piece.parameter, len(s.path)) for s in values.shares]
    (mean,) = [c for c in symmetry.constants if c.even]
    assert mean.source.piece.parameter == "norm.bias"
    assert verify(symmetry, {n: torch.randn_like(t) for n, t in state_of(model).items()}).passed
    assert not audit(symmetry).unsound


class Values(nn.Module):
    """Values without a bias behind a norm with one, which groups of heads share; a map writes into a centred stream."""

    def __init__(self, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        self.embed, self.norm, self.last = nn.Embedding(17, 4), nn.LayerNorm(4), nn.LayerNorm(4)
        self.value, self.out = nn.Linear(4, groups * inner, bias=False), nn.Linear(heads * inner, 4, bias=False)
        self.query, self.head = nn.Linear(4, heads), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        read = self.norm(h)
        length = ids.shape[-1]
        queries = torch.tanh(self.query(read)).reshape(-1, length, self.heads, 1).transpose(1, 2)
        values = (
            self.value(read).reshape(-1, length, self.groups, self.value.out_features // self.groups).transpose(1, 2)
        )
        values = values.repeat_interleave(self.heads // self.groups, dim=1)
        mixed = F.scaled_dot_product_attention(queries, queries, values)
        found: Tensor = self.head(self.last(h + self.out(mixed.transpose(1, 2).flatten(2))))
        return found


@pytest.mark.parametrize(
    ("sizes", "number"),
    [((2, 2, 2), 1), ((4, 2, 2), 1), ((4, 2, 3), 3), ((2, 1, 2), 0), ((1, 1, 4), 0)],
    ids=["square", "shared", "wide and shared", "narrow", "in a space"],
)
def test_what_a_map_of_values_makes_a_mean_of(sizes: tuple[int, int, int], number: int) -> None:
    model = Values(*sizes)
    symmetry = infer(trace(model, (torch.randint(0, 17, (2, 5)),)))
    found, counted = audit(symmetry), dimension(symmetry)
    assert sum(prod(c.shape) for c in symmetry.constants if c.through is not None) == number
    assert found.complete, str(found)
    assert counted.number == found.inferred
    assert verify(symmetry, {n: torch.randn_like(t) for n, t in state_of(model).items()}).passed


def test_what_a_map_of_values_makes_a_mean_of_is_not_seen_by_the_module() -> None:
    model, ids = Values(4, 2, 3).double(), torch.randint(0, 17, (2, 5))
    symmetry = infer(trace(model, (ids,)))
    state = {n: torch.randn_like(t) for n, t in state_of(model).items()}
    (values,) = [c for c in symmetry.constants if c.through is not None]
    out, clean = to_clean_gauge(symmetry, state)
    moved = out.inverse().apply(Shift(symmetry, values, torch.randn(values.shape, dtype=torch.float64)).apply(clean))
    assert (moved["value.weight"] - state["value.weight"]).abs().max() > 0.01
    torch.testing.assert_close(functional_call(model, moved, (ids,)), functional_call(model, state, (ids,)))


class Chosen(nn.Module):
    """Masked positions get a vector of their own; positions are added behind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.mask = nn.Parameter(torch.randn(1, 1, 6))
        self.places = nn.Parameter(torch.randn(1, 4, 6))

    def forward(self, x: Tensor, masked: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.where(masked.unsqueeze(-1), self.mask, self.embed(x)) + self.places))


def test_what_is_chosen_from_two_values_holds_a_constant_that_both_have() -> None:
    torch.manual_seed(0)
    model = Chosen().double()
    symmetry = infer(trace(model, (torch.randn(2, 4, 3), torch.rand(2, 4) > 0.5)))
    verify(symmetry).raise_if_failed()
    ports = [[c.source, *(share.port for share in c.shares)] for c in symmetry.constants]
    assert {"embed.bias", "mask"} in [{p.piece.parameter for p in family} & {"embed.bias", "mask"} for family in ports]
    # The head takes what all positions have, and what the mask and the embedding share the positions give back.
    assert symmetry.dimension().number == 36 + 6 + 6


class Repeated(nn.Module):
    """One map for each of two groups, and behind it a vector over all that they write, or its first half alone."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.first, self.each, self.last = nn.Linear(4, 6), nn.Linear(3, 3), nn.Linear(6, 2)
        self.vector, self.only_half = nn.Parameter(torch.randn(6)), half

    def forward(self, x: Tensor) -> Tensor:
        y = self.each(torch.unflatten(torch.tanh(self.first(x)), -1, (2, 3))).flatten(-2)
        first = torch.cat([y[..., :3] + self.vector[:3], y[..., 3:]], -1)
        found: Tensor = self.last(torch.tanh(first if self.only_half else y + self.vector))
        return found


@pytest.mark.parametrize("half", [False, True])
def test_a_bias_that_is_added_again_and_again_goes_into_a_vector_of_all_these_places(half: bool) -> None:
    """Checked in the eager module, in float64."""
    model = Repeated(half).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    symmetry = infer(trace(model, (x,)))
    state = {n: t.detach() for n, t in model.state_dict().items()}
    ports = [{c.source, *(share.port for share in c.shares)} for c in symmetry.constants]
    sizes = [{p.piece.parameter: p.piece.size for p in family} for family in ports]
    assert ({"each.bias": 3, "vector": 6} in sizes) == (not half)
    assert sum(c.source.piece.size for c in symmetry.constants) == 3
    assert audit(symmetry).complete
    for seed in range(3):
        moved = random_transform(symmetry, state, torch.Generator().manual_seed(seed)).apply(state)
        before: Tensor = torch.func.functional_call(model, state, (x,))
        after: Tensor = torch.func.functional_call(model, moved, (x,))
        assert (before - after).abs().max() <= 1e-9 * before.abs().max()


class OneTap(nn.Module):
    """A bias of which a convolution with one tap, which has none, takes some directions to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.map, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.tanh(self.embed(x))
        return torch.tanh(self.head((stream + self.map(stream)).permute(0, 3, 1, 2)))


def test_what_a_convolution_with_one_tap_makes_nothing_of_is_not_seen() -> None:
    model = OneTap()
    symmetry = infer(trace(model, (torch.randn(2, 4, 4, 5),)))
    assert [constant.lost for constant in symmetry.constants if constant.through is not None] == [True]
    assert verify(symmetry, state=state_of(model)).passed
