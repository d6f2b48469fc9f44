"""Parameters that are put together before anything reads them have the symmetries of one tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_nets import Net, error, spread
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph
from symgraph import audit, infer
from symgraph.errors import UsageError
from symgraph.prove.verify import random_transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.notation import law
from symgraph.tracing import state_of, trace

Made = tuple[nn.Module, tuple[Tensor, ...]]


def attention(cut: Callable[[Tensor], Tensor], weight: Callable[[Any], Tensor], bias: Callable[[Any], Any]) -> Any:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.i(x)
        q, k, v = cut(F.linear(x, weight(s), bias(s))).unbind(0)
        out: Tensor = s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out

    return forward


def in_turns(x: Tensor) -> Tensor:
    """Cut into (heads, inside, 3)."""
    return x.reshape(2, 4, 2, 4, 3).permute(4, 0, 2, 1, 3)


def side_by_side(x: Tensor) -> Tensor:
    """Cut into (3, heads, inside)."""
    return x.reshape(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)


def pieces_in_turns() -> Made:
    f = attention(in_turns, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.b, s.c]))
    return _attentive(f, a=torch.randn(8), b=torch.randn(8), c=torch.randn(8), w=nn.Linear(8, 24, bias=False))


def pieces_end_inside_of_heads() -> Made:
    f = attention(side_by_side, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.b]))
    return _attentive(f, a=torch.randn(11), b=torch.randn(13), w=nn.Linear(8, 24, bias=False))


def weights_in_turns() -> Made:
    f = attention(in_turns, lambda s: torch.cat([s.a, s.b]), lambda s: None)
    return _attentive(f, a=torch.randn(11, 8), b=torch.randn(13, 8))


def weights_and_biases() -> Made:
    f = attention(in_turns, lambda s: torch.cat([s.a, s.b]), lambda s: torch.cat([s.c, s.d]))
    return _attentive(f, a=torch.randn(11, 8), b=torch.randn(13, 8), c=torch.randn(5), d=torch.randn(19))


def _attentive(f: Any, **parts: Any) -> Made:
    return Net(f, i=nn.Linear(9, 8), o=nn.Linear(8, 9), **parts), (torch.randn(2, 4, 9),)


def columns_of_a_table() -> Made:
    """Two tables side by side are one stream, which the norm behind them centres."""

    def forward(s: Any, i: Tensor) -> Tensor:
        x = F.embedding(i, torch.cat([s.a, s.b], 1))
        return s.o(F.layer_norm(x + s.d(F.gelu(s.u(x))), (6,), eps=1e-3))  # type: ignore[no-any-return]

    maps = {"u": nn.Linear(6, 8), "d": nn.Linear(8, 6), "o": nn.Linear(6, 7)}
    return Net(forward, a=torch.randn(9, 2), b=torch.randn(9, 4), **maps), (torch.randint(0, 9, (12,)),)


WHOLE = [pieces_in_turns, pieces_end_inside_of_heads, weights_in_turns, weights_and_biases]


def made(make: Callable[[], Made], seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...], SymmetryGraph]:
    torch.manual_seed(seed)
    model, inputs = make()
    return spread(model, seed), inputs, infer(trace(model, inputs))


@pytest.mark.parametrize("make", WHOLE)
def test_they_act_as_one(make: Callable[[], Made]) -> None:
    model, inputs, symmetry = made(make)
    assert sorted(str(s.group) for s in symmetry.active if s.size == 4) == ["invertible"] * 2
    counted = audit(model, inputs, symmetry=symmetry)
    assert counted.complete, str(counted)
    assert error(model, inputs, symmetry) < 1e-9


def read_elsewhere() -> Made:
    """A piece that something else reads has no other basis."""

    def forward(s: Any, x: Tensor) -> Tensor:
        f = attention(in_turns, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.b, s.c]))
        out: Tensor = f(s, x) + s.a.tanh().sum()
        return out

    return _attentive(forward, a=torch.randn(8), b=torch.randn(8), c=torch.randn(8), w=nn.Linear(8, 24, bias=False))


def same_piece_twice() -> Made:
    f = attention(in_turns, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.b, s.a]))
    return _attentive(f, a=torch.randn(8), b=torch.randn(8), w=nn.Linear(8, 24, bias=False))


def zeros_between() -> Made:
    f = attention(in_turns, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.z, s.c]))
    parts = {"a": torch.randn(8), "z": (torch.zeros(8), False), "c": torch.randn(8)}
    return _attentive(f, **parts, w=nn.Linear(8, 24, bias=False))


@pytest.mark.parametrize("make", [read_elsewhere, same_piece_twice, zeros_between])
def test_what_is_read_elsewhere_is_no_piece(make: Callable[[], Made]) -> None:
    model, inputs, symmetry = made(make)
    assert not symmetry.forms
    assert error(model, inputs, symmetry) < 1e-9


def test_pieces_that_are_whole_spaces_stay_what_they_are() -> None:
    """Where each piece has a basis of its own nothing is gained, and each has its terms."""

    def make() -> Made:
        f = attention(side_by_side, lambda s: s.w.weight, lambda s: torch.cat([s.a, s.b, s.c]))
        return _attentive(f, a=torch.randn(8), b=torch.randn(8), c=torch.randn(8), w=nn.Linear(8, 24, bias=False))

    model, inputs, symmetry = made(make)
    assert not symmetry.forms and audit(model, inputs, symmetry=symmetry).complete
    assert "8 x" not in law(symmetry, "a").formula


@pytest.mark.parametrize("make", [pieces_in_turns, weights_and_biases])
def test_what_is_planted_is_found_and_written(make: Callable[[], Made]) -> None:
    """A model moved by a random element comes back to itself, piece by piece, and computes the same meanwhile."""
    model, inputs, symmetry = made(make)
    moved = copy.deepcopy(model)
    transform = random_transform(symmetry, state_of(model), torch.Generator().manual_seed(3))
    moved.load_state_dict(transform.apply(state_of(model)))
    back = symgraph.align(model, moved, *inputs).state
    for name, tensor in state_of(model).items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=2e-3)


def test_pieces_cannot_be_pruned() -> None:
    model, inputs, _ = made(pieces_in_turns)
    with pytest.raises(UsageError, match="how long each piece would be"):
        symgraph.prune(model, *inputs, spaces="heads", ratio=0.5)


def test_it_is_said_and_kept() -> None:
    _, _, symmetry = made(pieces_in_turns)
    (space,) = (s for s in symmetry.active if s.name == "query-key")
    assert {"a", "b", "c"} <= set(symmetry.parameters_of[space.id])
    assert symgraph.SymmetryGraph.from_json(symmetry.to_json()).forms == symmetry.forms
    assert "a, b, c put together" in str(law(symmetry, "b"))
    assert "query-key" in symmetry.explain("b")


def test_tables_side_by_side_are_one_stream() -> None:
    model, inputs, symmetry = made(columns_of_a_table)
    assert [str(s.group) for s in symmetry.active if s.size == 6] == ["orthogonal fixing ones"]
    assert error(model, inputs, symmetry) < 1e-9


def test_branches_that_put_pieces_together_change_places() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        branches = (torch.cat([getattr(s, f"a{i}"), getattr(s, f"b{i}")]) for i in range(3))
        outs = [F.linear(F.linear(x, both), getattr(s, f"v{i}")).tanh() for i, both in enumerate(branches)]
        out: Tensor = s.o(outs[0] + outs[1] + outs[2])
        return out

    parts: dict[str, Any] = {"o": nn.Linear(5, 3)}
    for i in range(3):
        parts |= {f"a{i}": torch.randn(3, 6), f"b{i}": torch.randn(4, 6), f"v{i}": torch.randn(5, 7)}
    torch.manual_seed(0)
    model, inputs = spread(Net(forward, **parts)), (torch.randn(9, 6),)
    found = infer(trace(model, inputs))
    assert not symgraph.verify(model, *inputs).failures
    assert error(model, inputs, found) < 1e-9


def test_pieces_of_other_sizes_are_refused() -> None:
    _, _, found = made(pieces_end_inside_of_heads)
    text = found.to_json()
    assert '"sizes": [11, 13]' in text
    with pytest.raises(UsageError, match="the sizes of what is read"):
        SymmetryGraph.from_json(text.replace('"sizes": [11, 13]', '"sizes": [13, 11]'))
