"""Dimensions: two models counted by hand, and for every architecture the rank of the directions themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, case
from torch import Tensor, nn

from symgraph.action import GroupElement, neutral
from symgraph.errors import UsageError
from symgraph.gauge import Act, Lift, Offset, Push, Rescale, Step, Transform, rescale
from symgraph.groups.classes import SymmetryClass
from symgraph.groups.elements import Element, ones_complement, rotary_matrix
from symgraph.infer.dimension import Dimension, Family, dimension
from symgraph.infer.engine import infer
from symgraph.infer.symmetry import AbsorbedGain, Space, SymmetryGraph
from symgraph.trace import trace
from symgraph.verify import random_state

State = dict[str, Tensor]
Curve = Callable[[float], tuple[Step, ...]]
Members = tuple[tuple[str, int], ...]
STEP = 1e-4


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
    # The kernel of this model's Jacobian has dimension 398: these 390, and 8 for the mean of the head's rows, which
    # moves only together with the final norm's bias.
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
    assert found.number == 390


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
    assert formula.subs(dict(larger.sizes)) == larger.number > 390


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
    """Two biases that are added up and can both be moved into the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

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
    assert found.family(Family.MOVE) == 10
    assert [p.number for p in found.parts if p.family is Family.TRANSLATION] == [0]


def test_what_is_constant_along_both_axes_counts_once() -> None:
    found = dimension(made(Between))
    inner = {p.family: p.number for p in found.parts if p.name == "inner.weight"}
    assert inner == {Family.WRITTEN: 6, Family.READ: 4}


@pytest.mark.parametrize("name", [*ARCHITECTURES, "summed", "between"])
def test_the_number_is_the_rank_of_the_directions(name: str) -> None:
    symmetry = {"summed": Summed, "between": Between}.get(name)
    found = case(name).symmetry if symmetry is None else made(symmetry)
    state = case(name).state() if symmetry is None else random_state(found, torch.Generator().manual_seed(0))
    assert dimension(found).number == rank(found, state)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_formula_gives_its_number(name: str) -> None:
    found = dimension(case(name).symmetry)
    sizes = dict(found.sizes)
    for p in found.parts:
        assert p.expression.subs(sizes) == p.number, p.name
    assert found.expression.subs(sizes) == found.number == sum(p.number for p in found.parts)


def rank(symmetry: SymmetryGraph, state: State) -> int:
    """Rank of the tangent vectors of all families, each at its generators, by central differences."""
    clean = {k: v for k, v in state.items() if v.is_floating_point()}
    back: list[Step] = []
    for step in _to_clean_gauge(symmetry, clean):
        clean = step.apply(clean)
        back.insert(0, step.inverse())

    def at(curve: Curve, t: float) -> Tensor:
        moved = Transform((*curve(t), *back)).apply(clean)
        return torch.cat([moved[n].reshape(-1) for n in clean if n in symmetry.terms])

    rows = [(at(c, STEP) - at(c, -STEP)) / (2 * STEP) for c in curves(symmetry, clean)]
    if not rows:
        return 0
    unit = torch.stack([r / r.norm() for r in rows])
    return int((torch.linalg.svdvals(unit) > 1e-6).sum())


def _to_clean_gauge(symmetry: SymmetryGraph, state: State) -> Iterator[Push | Rescale]:
    for m in symmetry.moves:
        if m.sinks:
            yield Push(m.source, m.sinks, state[m.source.parameter][m.source.start : m.source.stop].clone())
    for name, sites in symmetry.gain_sites.items():
        yield rescale(symmetry, sites, state[name].reshape(-1))


def curves(symmetry: SymmetryGraph, state: State) -> Iterator[Curve]:
    """One curve through the identity for every generator of every space and family."""
    for space in symmetry.active:
        yield from _space_curves(symmetry, space)
    for name, sites in symmetry.gain_sites.items():
        yield from _along(partial(_rescaled, symmetry, sites), [state[name].numel()])
    for m in symmetry.moves:
        yield from _along(partial(Push, m.source, m.sinks), [m.source.stop - m.source.start])
    for family in symmetry.translations:
        (name, axis), *_ = first = family.sets[0]
        for members in family.sets[1:]:
            yield from map(partial(_between, first, members), units(state[name].shape[axis]))
    for piece in (p for c in symmetry.centred for p in c.pieces):
        shape = [n for i, n in enumerate(state[piece.parameter].shape) if i != piece.axis]
        yield from _along(partial(Lift, piece), shape)


def _along(make: Callable[[Tensor], Step], shape: list[int]) -> Iterator[Curve]:
    for e in units(prod(shape)):
        yield partial(_scaled, make, e.reshape(shape))


def _scaled(make: Callable[[Tensor], Step], e: Tensor, t: float) -> tuple[Step, ...]:
    return (make(t * e),)


def _rescaled(symmetry: SymmetryGraph, sites: tuple[AbsorbedGain, ...], log: Tensor) -> Step:
    return rescale(symmetry, sites, log.exp())


def _between(first: Members, others: Members, e: Tensor) -> Curve:
    def curve(t: float) -> tuple[Step, ...]:
        back = [Offset(name, axis, -t * e) for name, axis in others]
        return (*(Offset(name, axis, t * e) for name, axis in first), *back)

    return curve


def _space_curves(symmetry: SymmetryGraph, space: Space) -> Iterator[Curve]:
    for position in product(*map(range, symmetry.fibre_sizes(space))):
        for a in algebra(space) if space.is_matrix else ():
            yield partial(_scaled, partial(_matrix, symmetry, space, position), a)
        for k in range(space.scales):
            yield from _along(partial(_scale, symmetry, space, (k, *position)), [space.size])


def _matrix(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Step:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(matrix=_with(base.matrix, at, torch.matrix_exp(log))))


def _scale(symmetry: SymmetryGraph, space: Space, at: tuple[int, ...], log: Tensor) -> Step:
    base = neutral(symmetry, space)
    return _act(symmetry, space, Element(base.index, _with(base.scale, at, log.exp()), base.sign))


def _act(symmetry: SymmetryGraph, space: Space, element: Element) -> Act:
    return Act(GroupElement(symmetry, {space.id: element}))


def _with(whole: Tensor | None, at: tuple[int, ...], part: Tensor) -> Tensor:
    assert whole is not None
    changed = whole.clone()
    changed[at] = part
    return changed


def algebra(space: Space) -> list[Tensor]:
    """Generators of a matrix group."""
    e = units(space.size)
    if space.group is SymmetryClass.INVERTIBLE:
        return [torch.outer(a, b) for a in e for b in e]
    if space.group is SymmetryClass.ROTARY:
        return [rotary_matrix(p.reshape(-1, 2), space.layout) for p in e]
    columns = list(ones_complement(space.size).T) if space.group is SymmetryClass.ORTHOGONAL_ONES else e
    return [torch.outer(a, b) - torch.outer(b, a) for i, a in enumerate(columns) for b in columns[:i]]


def units(n: int) -> list[Tensor]:
    return list(torch.eye(n, dtype=torch.float64))
