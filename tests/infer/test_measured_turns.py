"""Turned pairs beside other parts of a head, in an order of their own, and by tables that are learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from largest import largest
from torch import Tensor, nn
from torch.nn import functional as F

from symgraph import audit, infer
from symgraph.inference.pipeline import run
from symgraph.tracing import trace

POSITIONS, HEADS, PLAIN, TURNED = 5, 2, 3, 4
ANGLES = torch.outer(torch.arange(POSITIONS).float(), torch.tensor([1.0, 0.3]))


def to_halves(x: Tensor, c: Tensor, n: Tensor) -> Tensor:
    """Neighbours are turned and written as halves (the queries and keys of DeepSeek-V3)."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.cat([a * c - b * n, b * c + a * n], -1)


def latent(s: Any, x: Tensor) -> Tensor:
    """Keys are made of a latent for each head, with a part beside it that is turned, and that all heads have."""
    b, t, _ = x.shape
    q, latent, shared = s.q(x).view(b, t, HEADS, -1).transpose(1, 2), s.l(x), s.r(x).view(b, 1, t, TURNED)
    plain, turned = q.split([PLAIN, TURNED], -1)
    k, v = s.kv(latent).view(b, t, HEADS, -1).transpose(1, 2).split([PLAIN, PLAIN], -1)
    q = torch.cat([plain, to_halves(turned, s.c, s.n)], -1)
    k = torch.cat([k, to_halves(shared, s.c, s.n).expand(-1, HEADS, -1, -1)], -1)
    out: Tensor = s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out


def test_a_turned_part_in_another_order_beside_a_plain_one() -> None:
    torch.manual_seed(0)
    maps = {"q": nn.Linear(6, HEADS * (PLAIN + TURNED), bias=False), "l": nn.Linear(6, 5, bias=False)}
    maps |= {"r": nn.Linear(6, TURNED, bias=False), "kv": nn.Linear(5, HEADS * 2 * PLAIN, bias=False)}
    tables = {"c": (ANGLES.cos(), False), "n": (ANGLES.sin(), False)}
    model = spread(Net(latent, **maps, **tables, o=nn.Linear(HEADS * PLAIN, 7)))
    inputs = (torch.randn(3, POSITIONS, 6),)
    found = infer(trace(model, inputs))
    assert {str(s.group) for s in found.active if "r.weight" in found.parameters_of[s.id]} == {"rotary"}
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)
    assert error(model, inputs, found) < 1e-9


def many_heads(s: Any, x: Tensor) -> Tensor:
    """Queries and keys of many heads, all turned by the same angles."""
    b, t, _ = x.shape
    q, k = (m(x).view(b, t, 32, 64).transpose(1, 2) for m in (s.q, s.k))
    q, k = (y * s.c + torch.cat([-y[..., 32:], y[..., :32]], -1) * s.n for y in (q, k))
    out: Tensor = F.scaled_dot_product_attention(q, k, s.v(x).unsqueeze(1)).mean(1)
    return out


def test_turns_of_many_heads_are_measured_without_all_unit_vectors_at_once() -> None:
    angles = torch.outer(torch.arange(4.0), torch.logspace(0, -2, 32)).repeat(1, 2)
    maps = {name: nn.Linear(6, size, bias=False) for name, size in (("q", 2048), ("k", 2048), ("v", 5))}
    graph = trace(Net(many_heads, **maps, c=(angles.cos(), False), n=(angles.sin(), False)), (torch.randn(1, 4, 6),))
    found = infer(graph)
    assert "rotary" in {str(s.group) for s in found.active if "q.weight" in found.parameters_of[s.id]}
    assert largest(lambda: infer(graph)) < 64 * 4 * 2048


def by_table(s: Any, x: Tensor) -> Tensor:
    """The table of sines and cosines is a parameter (RoFormer)."""
    n, c = (half.repeat_interleave(2, -1) for half in s.table.chunk(2, -1))
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    out: Tensor = x * c + turned * n
    return out


def by_gains(s: Any, x: Tensor) -> Tensor:
    """A number for each position and coordinate turns nothing."""
    out: Tensor = x * s.table
    return out


def attentive(turn: Any, table: Tensor, **parts: Any) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], HEADS, TURNED).transpose(1, 2) for f in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(turn(s, q), turn(s, k), v)
        out: Tensor = s.o(y.transpose(1, 2).flatten(2))
        return out

    maps = {name: nn.Linear(6, HEADS * TURNED, bias=False) for name in "qkv"}
    return spread(Net(forward, **maps, o=nn.Linear(HEADS * TURNED, 7), table=table, **parts))


def test_a_learned_table_that_turns_pairs() -> None:
    """The maps of each head are found; turning the table itself, which all of its readers see alike, is not."""
    torch.manual_seed(0)
    model, inputs = attentive(by_table, torch.randn(POSITIONS, TURNED)), (torch.randn(3, POSITIONS, 6),)
    found = infer(trace(model, inputs))
    assert {str(s.group) for s in found.active if "q.weight" in found.parameters_of[s.id]} == {"permutation", "rotary"}
    assert not any(s for s in found.active if "table" in found.parameters_of[s.id])
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.measured - counted.inferred == 4, str(counted)


@pytest.mark.parametrize("when", ["before", "after"])
def test_gains_of_heads_do_not_hide_a_fixed_table(when: str) -> None:
    def turn(s: Any, x: Tensor) -> Tensor:
        if when == "before":
            return to_halves(x * s.table[:, None], s.c, s.n)
        a, b = x.chunk(2, -1)
        out: Tensor = torch.cat([a * s.c - b * s.n, b * s.c + a * s.n], -1) * s.table[:, None]
        return out

    torch.manual_seed(0)
    tables = {"c": (ANGLES.cos(), False), "n": (ANGLES.sin(), False)}
    model, inputs = attentive(turn, torch.randn(HEADS, TURNED), **tables), (torch.randn(3, POSITIONS, 6),)
    graph = trace(model, inputs)
    assert sum("measured-rotation" in node.target for node in run(graph, until="measure").graph.calls) == 2
    assert error(model, inputs, infer(graph)) < 1e-9


def test_gains_by_position_turn_nothing() -> None:
    torch.manual_seed(0)
    model, inputs = attentive(by_gains, torch.randn(POSITIONS, TURNED)), (torch.randn(3, POSITIONS, 6),)
    found = infer(trace(model, inputs))
    assert "rotary" not in {str(s.group) for s in found.active}
    assert error(model, inputs, found) < 1e-9


def first_pairs_of_halves(s: Any, x: Tensor) -> Tensor:
    """The first pairs of the halves turn, the others have frequency zero (LFM-3, Gemma-4)."""
    a, b = x.chunk(2, -1)
    out: Tensor = x * s.cosines + torch.cat([-b, a], -1) * s.sines
    return out


def by_halves(keys: Any, gains: bool) -> nn.Module:
    """Attention with turned queries and keys, behind a norm with a gain or not."""

    def forward(s: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], HEADS, 2 * TURNED).transpose(1, 2) for f in (s.q, s.k, s.v))
        if gains:
            q, k = (F.rms_norm(y, (2 * TURNED,), gain) for y, gain in ((q, s.g), (k, s.h)))
        scores = first_pairs_of_halves(s, q) @ keys(s, k).mT
        out: Tensor = s.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out

    angles = torch.cat([ANGLES, torch.zeros_like(ANGLES)], 1).repeat(1, 2)
    tables = {"cosines": (angles.cos(), False), "sines": (angles.sin(), False)}
    maps = {name: nn.Linear(10, HEADS * 2 * TURNED, bias=False) for name in "qkv"}
    norms = {"g": torch.rand(2 * TURNED), "h": torch.rand(2 * TURNED)} if gains else {}
    return spread(Net(forward, **maps, o=nn.Linear(HEADS * 2 * TURNED, 17), **norms, **tables))


@pytest.mark.parametrize(
    ("gains", "classes"),
    [(False, {"rotary", "invertible"}), (True, {"pairwise signed scales", "monomial"})],
    ids=["plain", "behind gains"],
)
def test_turned_pairs_on_both_sides_of_others(gains: bool, classes: set[str]) -> None:
    torch.manual_seed(0)
    model, inputs = by_halves(first_pairs_of_halves, gains), (torch.randn(3, POSITIONS, 10),)
    found = infer(trace(model, inputs))
    spaces = [s for s in found.active if "k.weight" in found.parameters_of[s.id] and s.size == TURNED]
    assert {str(s.group) for s in spaces} == classes
    assert error(model, inputs, found) < 1e-9
    counted = audit(model, inputs, symmetry=found)
    assert counted.complete, str(counted)


def in_other_places(s: Any, x: Tensor) -> Tensor:
    """Pairs that are not those of the queries."""
    return first_pairs_of_halves(s, x.roll(1, -1)).roll(-1, -1)


def halves_exchanged(s: Any, x: Tensor) -> Tensor:
    """The same pairs, put elsewhere."""
    return first_pairs_of_halves(s, x).roll(TURNED, -1)


def one_after_the_other(s: Any, x: Tensor) -> Tensor:
    """As many pairs of neighbours at the beginning."""
    pairs = torch.cat([to_halves(x[..., :TURNED], ANGLES.cos(), ANGLES.sin()), x[..., TURNED:]], -1)
    return pairs


@pytest.mark.parametrize("gains", [False, True], ids=["plain", "behind gains"])
@pytest.mark.parametrize("keys", [in_other_places, halves_exchanged, one_after_the_other, lambda s, x: x.tanh()])
def test_other_pairs_of_keys_are_told_from_those_of_queries(keys: Any, gains: bool) -> None:
    torch.manual_seed(0)
    model, inputs = by_halves(keys, gains), (torch.randn(3, POSITIONS, 10),)
    assert error(model, inputs, infer(trace(model, inputs))) < 1e-9
