"""Dimensions: two models counted by hand, and for every architecture the rank of the directions themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, case
from torch import Tensor, nn

from symgraph.errors import UsageError
from symgraph.inference.pipeline import infer
from symgraph.orbit.tangents import tangents
from symgraph.symmetry.dimension import Dimension, Family, dimension
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace
from symgraph.tracing.sampling import random_state

State = dict[str, Tensor]


@cache
def language_model(name: str, **changed: int) -> SymmetryGraph:
    import transformers

    settings: dict[str, dict[str, Any]] = {
        "GPT2": dict(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=5),
        "Llama": dict(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            intermediate_size=10,
        ),
    }
    config = getattr(transformers, f"{name}Config")(**settings[name] | changed, tie_word_embeddings=False)
    model = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    return infer(trace(model.eval(), kwargs={"input_ids": torch.zeros(2, 5, dtype=torch.long)}))


def numbers(found: Dimension, word: str) -> int:
    return sum(p.number for p in found.parts if p.family is Family.SPACE and word in p.name)


def test_layer_norm_language_model_counted_by_hand() -> None:
    symmetry = language_model("GPT2")
    found = dimension(symmetry)
    assert sum(prod(n.shape) for n in symmetry.graph.parameters.values()) == 1264
    assert numbers(found, "query-key") == 64
    assert numbers(found, "value-output") == 64
    assert numbers(found, "residual") == 21
    assert found.family(Family.NULL) == 16
    assert found.family(Family.GAIN) == 40
    biases = {p.name: p.number for p in found.parts if p.family is Family.MOVE}
    assert sum(n for name, n in biases.items() if "ln_" in name) == 32
    assert sum(n for name, n in biases.items() if "c_attn" in name) == 16
    assert found.family(Family.WRITTEN) == 58
    assert found.family(Family.READ) == 72
    assert found.family(Family.TRANSLATION) == 7
    assert found.family(Family.TILT) == 8
    assert found.number == 398


def test_rotary_language_model_counted_by_hand() -> None:
    found = dimension(language_model("Llama"))
    assert numbers(found, "query-key") == 16
    assert numbers(found, "value-output") == 64
    assert numbers(found, "mlp.hidden") == 20
    assert found.family(Family.GAIN) == 40
    assert numbers(found, "residual") == 28
    assert found.number == 168


def test_formulas_over_named_sizes() -> None:
    from sympy import symbols

    found = dimension(language_model("GPT2"))
    residual, heads, key, value = symbols("residual heads query_key value_output")
    assert (found.of("residual").expression - (residual - 1) * (residual - 2) / 2).expand() == 0
    assert found.of("h.0.attn.query-key").expression == heads * key**2
    assert found.of("transformer.h.0.attn.c_attn.weight").expression == 2 * heads * key + heads * value
    assert found.of("transformer.wpe.weight <-> transformer.wte.weight").expression == residual - 1
    assert found.of("h.1.mlp.hidden").expression == 0
    assert dict(found.sizes)["wte_weight_0"] == 9


def test_a_formula_holds_at_other_sizes() -> None:
    formula = dimension(language_model("GPT2")).expression
    larger = dimension(language_model("GPT2", n_embd=16, n_head=4))
    assert formula.subs(dict(larger.sizes)) == larger.number > 398


def test_rotary_and_scale_formulas() -> None:
    from sympy import symbols

    found = dimension(language_model("Llama"))
    residual, groups, key, hidden = symbols("residual head_groups query_key hidden")
    assert found.of("layers.0.self_attn.query-key").expression == groups * key
    assert found.of("layers.0.mlp.hidden").expression == hidden
    assert (found.of("residual").expression - residual * (residual - 1) / 2).expand() == 0


def test_a_name_without_a_part() -> None:
    with pytest.raises(UsageError, match="no part of the dimension is called 'residul'"):
        dimension(language_model("Llama")).of("residul")


def test_equal_roles_of_unequal_sizes_have_symbols_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    found = dimension(infer(trace(model, (torch.zeros(2, 4),))))
    assert str(found.expression) == "hidden_1 + hidden_2"
    assert found.sizes == (("hidden_1", 6), ("hidden_2", 5))


# -- each direction once -------------------------------------------------------------------------------------------


class Summed(nn.Module):
    """Two biases that are added up and can both be moved into the next one; one map is an update of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.left(x) + self.right(x))
        return found


class Between(nn.Module):
    """A weight that reads from a centred stream and writes into one, so that constants belong to both means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.before, self.inner = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5)
        self.after, self.out = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.after(self.inner(self.before(self.first(x)))))
        return found


@cache
def made(kind: type[nn.Module]) -> SymmetryGraph:
    return infer(trace(kind(), (torch.zeros(2, 4),)))


def test_constants_between_movable_biases_count_once() -> None:
    found = dimension(made(Summed))
    # Of the twelve numbers of an update four have no effect, since two dimensions are read of three.
    assert found.family(Family.MOVE) == 6 and found.family(Family.UPDATE) == 12 - 4
    assert not [p for p in found.parts if p.family is Family.TRANSLATION]


def test_what_is_constant_along_both_axes_counts_once() -> None:
    found = dimension(made(Between))
    inner = {p.family: p.number for p in found.parts if p.name == "inner.weight"}
    assert inner == {Family.WRITTEN: 6, Family.READ: 4}


@pytest.mark.parametrize("name", [*ARCHITECTURES, "summed", "between"])
def test_the_number_is_the_rank_of_the_directions(name: str) -> None:
    symmetry = {"summed": Summed, "between": Between}.get(name)
    found = case(name).symmetry if symmetry is None else made(symmetry)
    state = case(name).state() if symmetry is None else random_state(found.graph, torch.Generator().manual_seed(0))
    assert dimension(found).number == rank(found, state)


def maps(*sizes: int, bias: bool) -> nn.Module:
    return nn.Sequential(*(nn.Linear(n, m, bias) for n, m in pairwise(sizes)))


class Attention(nn.Module):
    """Heads that are wider than the stream which they read, or a stream that is wider than all that it reads."""

    def __init__(self, width: int, heads: int, inside: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.heads, self.first, self.last = heads, nn.Linear(5, width), nn.Linear(width, 5)
        self.before, self.behind = norm(width), norm(width)
        self.inner, self.out = nn.Linear(width, 3 * heads * inside), nn.Linear(heads * inside, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.inner(self.before(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.last(self.behind(x + self.out(mixed)))
        return found


class Experts(nn.Module):
    """Experts whose hidden values are wider than what they read and what they write."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate = nn.ModuleList(maps(4, 9, 3, bias=True) for _ in range(3)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1).unbind(-1)
        found: Tensor = sum(e(x) * w[..., None] for e, w in zip(self.experts, weights, strict=True))
        return found


def same(width: int) -> nn.Module:
    return nn.Identity()


NARROW: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "narrow on both sides": (lambda: maps(3, 8, 2, bias=False), (4, 3)),
    "with biases": (lambda: maps(3, 8, 2, bias=True), (4, 3)),
    "narrow where it is read": (lambda: maps(9, 8, 3, bias=False), (4, 9)),
    "behind a narrow one": (lambda: maps(6, 3, 7, 6, bias=True), (4, 6)),
    "heads": (lambda: Attention(4, 2, 6, same), (2, 6, 5)),
    "heads of what is centred": (lambda: Attention(3, 1, 5, nn.LayerNorm), (2, 6, 5)),
    "heads of what is normalised": (lambda: Attention(3, 1, 5, nn.RMSNorm), (2, 6, 5)),
    "a stream, narrow": (lambda: Attention(20, 1, 2, same), (2, 6, 5)),
    "a stream, one of whose writers is narrow": (lambda: Attention(8, 2, 3, same), (2, 6, 5)),
    "experts": (Experts, (5, 4)),
}


@pytest.mark.parametrize("name", NARROW)
def test_elements_that_change_nothing_do_not_count(name: str) -> None:
    make, shape = NARROW[name]
    torch.manual_seed(0)
    found = infer(trace(make().eval(), (torch.randn(shape),)))
    counted, state = dimension(found), random_state(found.graph, torch.Generator().manual_seed(0))
    assert counted.exact and counted.number == rank(found, state)
    assert counted.expression.subs(dict(counted.sizes)) == counted.number


@pytest.mark.parametrize("sizes", [(2, 8, 9, 2), (3, 4, 5, 6, 2), (2, 6, 3, 7, 2)])
def test_where_narrow_spaces_follow_each_other_the_number_is_a_bound(sizes: tuple[int, ...]) -> None:
    found = infer(trace(maps(*sizes, bias=True), (torch.randn(4, sizes[0]),)))
    counted, state = dimension(found), random_state(found.graph, torch.Generator().manual_seed(0))
    assert not counted.exact and counted.number > rank(found, state)
    assert "total at most" in str(counted) and "continuous dimension at most" in str(found)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_formula_gives_its_number(name: str) -> None:
    found = dimension(case(name).symmetry)
    sizes = dict(found.sizes)
    for p in found.parts:
        assert p.expression.subs(sizes) == p.number, p.name
    assert found.expression.subs(sizes) == found.number == sum(p.number for p in found.parts)


def rank(symmetry: SymmetryGraph, state: State) -> int:
    """Rank of the tangent vectors of all families."""
    names = [n for n, t in state.items() if n in symmetry.terms and t.is_floating_point()]
    found = [t.vectors for t in tangents(symmetry, state, names)]
    rows = torch.cat(found) if found else torch.zeros(0, 1)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return int((torch.linalg.svdvals(unit) > 1e-7).sum())
