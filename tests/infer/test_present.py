"""Tables and explanations as text, against what they should say word by word."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, case
from torch import nn

from symgraph.errors import UsageError
from symgraph.groups.lattice import SymmetryClass, down
from symgraph.inference.pipeline import infer
from symgraph.symmetry.account import decisive_rules
from symgraph.symmetry.fold import fold
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.present import table
from symgraph.symmetry.structure import Reason, Uncovered
from symgraph.tracing import trace

RELU_TABLE = """\
Net: 83 parameters, 96.4% on a non-rigid axis; 4 spaces, 2 active; continuous dimension 11

space     size  group              dim  tensors  also
hidden.0     6  positive monomial    6        3  splits/merges
hidden.1     5  positive monomial    5        3  splits/merges"""

UNCOVERED = """

no rule covers aten.foo.default; the axes it touches are rigid at
    layers.{0..1}.act (aten.foo, net.py:3), operands float32[2, 6]
  to do: `symgraph rules new aten.foo.default --model MODEL` measures a rule, to be given with --rules

note: rule gelu is replaced by the user's"""

LLAMA_TABLE = """\
LlamaForCausalLM: 1,432 parameters, 97.2% on a non-rigid axis; 19 spaces, 11 active; continuous dimension 168

space                                   size  group        fibred over  dim  tensors  also           count
residual                                   8  orthogonal                 28       16
layers.{0..1}.self_attn.head-groups        2  permutation                 0        4  splits/merges  x2
layers.{0..1}.self_attn.heads-in-group     2  permutation  head-groups    0        2  splits/merges  x2
layers.{0..1}.self_attn.query-key          4  rotary       head-groups    8        2                 x2
layers.{0..1}.self_attn.value-output       4  invertible   head-groups   32        2  splits/merges  x2
layers.{0..1}.mlp.hidden                  10  monomial                   10        3  splits/merges  x2

5 gains can be absorbed by the weights that read from them: dimension 40
    model.layers.{0..1}.input_layernorm.weight, model.layers.{0..1}.post_attention_layernorm.weight, model.norm.weight
"""

RELU_EXPLAINED = """\
hidden.0: a space of size 6, class positive monomial
  its 6 positions may be put into another order, with a positive scale for each
  free positive scales of each position: s
  positions may also be split and merged (semi-permutation), which changes its size
  dimension 6 = hidden_1

parameters
  0.weight  [6, 4]  axis 0  covariant, times s
  0.bias  [6]  axis 0  covariant, times s
  2.weight  [5, 6]  axis 1  contravariant, times s^-1

evidence
  1. rule positively-homogeneous admits semi-permutation + positive monomial
     at 1 (aten.relu)
     because: A function that positive scales pass through, as ReLU.

what would make it larger
  without rule positively-homogeneous the other evidence would admit invertible"""

HIDDEN_EXPLAINED = """\
layers.0.mlp.hidden: a space of size 10, class monomial
  its 10 positions may be put into another order, with a scale and a change of sign for each
  free positive scales of each position: s
  free signs of each position: e
  positions may also be split and merged (semi-permutation), which changes its size
  dimension 10 = hidden

parameters
  model.layers.0.mlp.gate_proj.weight  [10, 8]  axis 0  covariant
  model.layers.0.mlp.up_proj.weight  [10, 8]  axis 0  covariant, times s*e
  model.layers.0.mlp.down_proj.weight  [8, 10]  axis 1  contravariant, times s^-1*e

evidence
  1. rule activation admits semi-permutation on the axes it touches
     at model.layers.0.mlp.act_fn (aten.silu, activations.py:N)
     because: A nonlinear function of each entry; entries may be permuted and copied, nothing more.
  2. rule multiply admits semi-permutation + monomial
     at model.layers.0.mlp (aten.mul, modeling_llama.py:N)
     because: multiplied entry by entry

what would make it larger
  without rule activation the other evidence would admit semi-permutation + monomial"""

KEYS_EXPLAINED = """\
layers.1.self_attn.query-key: a space of size 4, class rotary
  each of its 2 frequency pairs may be rotated and scaled (coordinate i is paired with i + 2)
  fibred over layers.1.self_attn.head-groups (2): another element for each position there
  dimension 8 = head_groups*query_key

parameters
  model.layers.1.self_attn.q_proj.weight  [16, 8]  axis 0, head-groups x heads-in-group x query-key  covariant
  model.layers.1.self_attn.k_proj.weight  [8, 8]  axis 0, head-groups x query-key  contravariant

evidence
  1. rule measured-rotation admits rotary
     at model.layers.1.self_attn (pattern:measured-rotation, modeling_llama.py:N)
     because: Measured: pairs of coordinates turn by an angle of each position; scaled rotations of a pair pass.

what would make it larger
  without rule measured-rotation the other evidence would admit invertible"""

RESIDUAL_EXPLAINED = """\
residual: a space of size 8, class orthogonal
  any rotation or reflection
  dimension 28 = residual*(residual - 1)/2

parameters
  model.embed_tokens.weight  [9, 8]  axis 1  covariant
  model.layers.{0..1}.self_attn.q_proj.weight  [16, 8]  axis 1  contravariant
  model.layers.{0..1}.self_attn.k_proj.weight  [8, 8]  axis 1  contravariant
  model.layers.{0..1}.self_attn.v_proj.weight  [8, 8]  axis 1  contravariant
  model.layers.{0..1}.self_attn.o_proj.weight  [8, 16]  axis 0  covariant
  model.layers.{0..1}.mlp.gate_proj.weight  [10, 8]  axis 1  contravariant
  model.layers.{0..1}.mlp.up_proj.weight  [10, 8]  axis 1  contravariant
  model.layers.{0..1}.mlp.down_proj.weight  [8, 10]  axis 0  covariant
  lm_head.weight  [9, 8]  axis 1  contravariant

gains absorbed into the weights that read from it (one in the canonical gauge)
  model.layers.{0..1}.input_layernorm.weight, model.layers.{0..1}.post_attention_layernorm.weight, model.norm.weight

evidence
  1. rule measured-norm admits orthogonal
     at model.layers.0.input_layernorm (pattern:measured-norm, modeling_llama.py:N)
     because: Measured along one axis: it commutes with orthogonal maps at every scale and at zeros and ties.

what would make it larger
  without rule measured-norm the other evidence would admit invertible"""


@cache
def relu() -> SymmetryGraph:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return infer(trace(model, (torch.zeros(2, 4),), name="Net"))


@cache
def llama() -> SymmetryGraph:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = dict(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=10,
    )
    model = LlamaForCausalLM(LlamaConfig(**settings))
    return infer(trace(model, kwargs={"input_ids": torch.zeros(2, 5, dtype=torch.long)}))


def steady(text: str) -> str:
    """The text without line numbers of other people's files."""
    return re.sub(r"\.py:\d+", ".py:N", text)


# -- tables --------------------------------------------------------------------------------------------------------


def test_the_table_of_a_relu_network() -> None:
    assert str(relu()) == RELU_TABLE


def test_the_table_of_a_rotary_language_model() -> None:
    assert f"{llama()}\n" == LLAMA_TABLE


def test_every_layer_and_every_rigid_space_on_demand() -> None:
    unfolded = table(llama(), fold=False)
    assert "{" not in unfolded
    assert all(f"\n{s.name} " in unfolded for s in llama().active)
    shown = table(llama(), rigid=True).splitlines()
    assert all(any(line.startswith(f.pattern) for line in shown) for f in fold(s.name for s in llama().spaces))
    assert "model.norm.weight[0]" not in unfolded


def test_a_model_without_symmetries() -> None:
    symmetry = infer(trace(nn.Linear(3, 2), (torch.zeros(1, 3),), name="Line"))
    assert str(symmetry) == (
        "Line: 8 parameters, 0.0% on a non-rigid axis; 2 spaces, 0 active; continuous dimension 0\n\n"
        "no space admits more than the identity"
    )


def test_operators_without_a_rule_come_with_their_places_and_one_remedy_each() -> None:
    missing = tuple(
        Uncovered("aten.foo.default", f"layers.{i}.act (aten.foo, net.py:3)", ("float32[2, 6]",)) for i in (0, 1)
    )
    text = str(replace(relu(), uncovered=missing, notes=("rule gelu is replaced by the user's",)))
    assert text == RELU_TABLE + UNCOVERED
    assert text.count("symgraph rules new aten.foo.default") == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_everything_fits_a_terminal(name: str) -> None:
    symmetry = case(name).symmetry
    texts = [str(symmetry), table(symmetry, fold=False, rigid=True), str(symmetry.dimension())]
    texts += [symmetry.explain(s.name) for s in symmetry.spaces]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 120


def test_folding_takes_full_grids_only() -> None:
    names = ["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1", "c.0.b.0", "c.0.b.1", "c.1.b.0", "d.3.e[0]", "d.5.e[0]", "top"]
    found = fold(names)
    assert [f.pattern for f in found] == ["a.{0..1}.b.{0..1}", "c.0.b.{0..1}", "c.1.b.0", "d.{3,5}.e[0]", "top"]
    assert [f.count for f in found] == [4, 2, 1, 2, 1]
    assert sorted(m for f in found for m in f.members) == sorted(names)


def test_folding_keeps_what_belongs_to_words_and_brackets() -> None:
    assert [f.pattern for f in fold(["h.0.ln_1.bias[0:8]", "h.1.ln_1.bias[0:8]", "h.1.ln_2.bias[8:16]"])] == [
        "h.{0..1}.ln_1.bias[0:8]",
        "h.1.ln_2.bias[8:16]",
    ]
    assert [f.pattern for f in fold(["l.0.a <-> l.0.b", "l.1.a <-> l.1.b"])] == ["l.{0..1}.a <-> l.{0..1}.b"]


# -- explanations --------------------------------------------------------------------------------------------------


def test_a_space_with_scales() -> None:
    assert relu().explain("hidden.0") == RELU_EXPLAINED


def test_a_residual_space() -> None:
    assert steady(llama().explain("residual")) == RESIDUAL_EXPLAINED


def test_a_fibred_space() -> None:
    assert steady(llama().explain("layers.1.self_attn.query-key")) == KEYS_EXPLAINED


def test_a_space_with_scales_and_signs_on_one_branch() -> None:
    assert steady(llama().explain("layers.0.mlp.hidden")) == HIDDEN_EXPLAINED


def test_parts_of_a_concatenated_axis() -> None:
    symmetry = case("gpt2-untied").symmetry
    width = symmetry.space("residual").size
    found = symmetry.explain("h.0.attn.query-key")
    weight = f"transformer.h.0.attn.c_attn.weight  [{width}, {3 * width}]  axis 1"
    assert f"{weight}, [0:{width}] = heads x query-key  covariant" in found
    assert f"{weight}, [{width}:{2 * width}] = heads x query-key  contravariant" in found
    assert "no rule lowers its class" in found


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(UsageError, match="did you mean `residual`") as caught:
        llama().explain("residul")
    assert str(caught.value).startswith("no space, parameter, family, class or operator is called 'residul'")


def test_the_decisive_rules_are_the_fewest() -> None:
    c = SymmetryClass
    first = Reason(down(c.PERMUTATION), "first", "here", "")
    again = Reason(down(c.PERMUTATION), "second", "there", "")
    loose = Reason(down(c.ORTHOGONAL), "third", "there", "")
    assert decisive_rules([first, loose]) == [(("first",), down(c.ORTHOGONAL))]
    assert decisive_rules([first, again, loose]) == [(("first", "second"), down(c.ORTHOGONAL))]
    assert decisive_rules([]) == []
