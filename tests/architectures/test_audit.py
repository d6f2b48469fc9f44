"""The audit: complete where nothing is missing, and clear about what is missing or wrong where something is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sweep.audits import CONFIGS, measured
from sweep.builder import entries
from sweep.stages import audited
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import symgraph
from symgraph.errors import AuditError, UsageError
from symgraph.groups.lattice import SymmetryClass
from symgraph.inference.pipeline import infer
from symgraph.prove.audit import audit
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import trace


@pytest.mark.parametrize(("name", "number", "numbers"), [("gpt2", 398, 1264)])
def test_a_model_counted_by_hand(name: str, number: int, numbers: int) -> None:
    found = measured(name)
    assert found.complete and not found.missing
    assert (found.measured, found.inferred, found.numbers, found.unread) == (number, number, numbers, 0)
    assert found.gap.clear


@pytest.mark.slow
def test_what_only_an_epsilon_breaks_is_listed_apart() -> None:
    found = measured("llama")
    assert (found.measured, found.inferred) == (168, 168)
    (scale,) = found.approximate
    assert (scale.kind, scale.number) == ("scale", 1)
    assert "model.embed_tokens.weight" in scale.places


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_architectures(name: str) -> None:
    found = measured(name)
    assert found.complete, str(found)


# Constants through several matrices, tables that are looked up several times, planes of biases, rotations of pairs.
CONSTANTS = [
    ("masked-lm", "nomic_bert", 190),
    ("masked-lm", "gte", 270),
    ("masked-lm", "layoutlm", 379),
    ("causal-lm", "marian", 450),
    ("causal-lm", "stablelm", 302),
    ("causal-lm", "nanochat", 120),
]


@pytest.mark.slow
@pytest.mark.parametrize(("mapping", "kind", "number"), CONSTANTS, ids=[kind for _, kind, _ in CONSTANTS])
def test_one_system_finds_all_constants(mapping: str, kind: str, number: int) -> None:
    assert audited(mapping, kind, dict(entries(mapping))[kind])["audit"] == f"{number} of {number}"


# -- by hand ---------------------------------------------------------------------------------------------------------


class TwoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x))
        return found


@cache
def linear() -> SymmetryGraph:
    return infer(trace(TwoLinear(), (torch.randn(2, 4),)))


def test_linear_maps_have_an_invertible_space_between_them() -> None:
    found = audit(linear())
    # GL(3) between them, and the first bias moves into the second: a map of rank 3 with a constant has 4 + 24 - 9 more.
    assert found.complete and found.measured == 9 + 3


def test_a_bias_goes_through_a_map_without_one() -> None:
    chain = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 7, bias=False), nn.Linear(7, 7))
    found = symgraph.audit(chain, torch.randn(3, 5))
    # GL(5), GL(7), and the first bias goes into the last.
    assert found.complete and found.measured == 25 + 49 + 5


def test_an_axis_of_one_entry_has_no_space_and_misses_its_scale() -> None:
    one = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))
    found = symgraph.audit(one, torch.randn(3, 4))
    assert not found.unsound and (found.inferred, found.measured) == (0, 1)


def test_logits_up_to_a_shift_have_one_more_direction_in_each_place() -> None:
    # The column means of the last weight, and the mean of its bias.
    shifted = symgraph.audit(linear(), logits=True)
    assert shifted.complete and shifted.measured == 12 + 3 + 1


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_seen_by_softmax(tied: bool) -> None:
    sizes: dict[str, Any] = dict(
        vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_inner=8, n_positions=5, bos_token_id=0, eos_token_id=0
    )
    symmetry = symgraph.infer(GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=tied)))
    plain, shifted = symgraph.audit(symmetry), symgraph.audit(symmetry, logits=True)
    assert plain.complete, str(plain)
    assert shifted.complete, str(shifted)
    assert shifted.measured == plain.measured + 8


@pytest.mark.parametrize(
    ("left_out", "kind", "place"),
    [
        ("moves", "translation", "first.bias"),
        ("spaces", "scale", "first.weight"),
    ],
)
def test_a_shortfall_says_where_it_lives_and_what_it_looks_like(left_out: str, kind: str, place: str) -> None:
    whole = linear()
    if left_out == "moves":
        cut = replace(whole, constants=())
    else:
        group = SymmetryClass.PERMUTATION
        cut = replace(whole, spaces=tuple(s if s.rigid else replace(s, group=group) for s in whole.spaces))
    found = audit(cut)
    assert not found.complete and found.measured == 12
    kinds = {s.kind: s for s in found.missing}
    assert sum(s.number for s in found.missing) == 12 - found.inferred
    assert kind in kinds and place in kinds[kind].places
    with pytest.raises(AuditError, match=f"{found.inferred} directions are inferred, 12 were measured"):
        found.raise_if_incomplete()


def test_an_unsound_family_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    right = infer(trace(model, (torch.randn(2, 4),)))
    group = SymmetryClass.ORTHOGONAL
    wrong = replace(
        right, spaces=tuple(s if s.rigid else replace(s, group=group, scales=0, signs=0) for s in right.spaces)
    )
    found = audit(wrong)
    assert [f.kind for f in found.unsound] == ["space"]
    assert str(found).startswith("UNSOUND") and not found.complete
    with pytest.raises(AuditError, match="moves the outputs"):
        found.raise_if_incomplete()
    assert audit(right).complete


class Unread(nn.Module):
    """A table of which an input of this shape reads three rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table, self.last = nn.Linear(4, 3), nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.relu(self.first(x) + self.table[:3]))
        return found


def test_numbers_that_nothing_reads_are_left_out() -> None:
    found = audit(infer(trace(Unread(), (torch.randn(2, 3, 4),))))
    assert found.unread == 6
    assert found.complete, str(found)


def test_a_large_model_is_refused() -> None:
    symmetry = infer(trace(nn.Linear(100, 100), (torch.zeros(1, 100),)))
    with pytest.raises(UsageError) as error:
        audit(symmetry)
    assert "10,100 parameters" in str(error.value) and "tiny instance" in str(error.value)


def test_the_same_seed_gives_the_same_audit() -> None:
    assert audit(linear(), seed=3) == audit(linear(), seed=3)


class CutOff(nn.Module):
    """A relu of which nothing comes through, whatever goes in: norm, then a large negative constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last((torch.tanh(self.first(x)) - 2).relu())
        return found


def test_outputs_that_depend_on_nothing() -> None:
    graph = trace(CutOff(), (torch.randn(5, 3),))
    with pytest.raises(AuditError, match="depend on no parameter"):
        audit(infer(graph))


class FewWords(nn.Module):
    """Units that see few different inputs, so that large biases leave some of them always on, where they are linear."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(30, 4), persistent=False)
        self.inside, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, words: Tensor) -> Tensor:
        found: Tensor = self.last(self.inside(F.embedding(words, self.get_buffer("table"))).relu())
        return found


def test_units_that_are_always_on_are_no_symmetry(monkeypatch: pytest.MonkeyPatch) -> None:
    symmetry = infer(trace(FewWords(), (torch.arange(30).reshape(1, 30),)))
    assert audit(symmetry).complete
    monkeypatch.setattr("symgraph.prove.audit.POINTS", 1)
    assert audit(symmetry).measured > audit(symmetry).inferred
