"""Models of unequal widths: exact embeddings, planted pairs, what is refused, and what is written."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import GPT2, RESNET, TEXT, VIT, _perturbed
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.groups.ways import Way
from symgraph.match.merge import merge
from symgraph.match.prepare_steps import Embed
from symgraph.match.program import Program
from symgraph.prove.verify import TOLERANCE, difference, random_transform, settled_names
from symgraph.resize.embed import embed
from symgraph.resize.maps import Widening, blocks_of, narrowed, widen
from symgraph.resize.shapes import model_like
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import random_inputs

UNTIED = GPT2 | dict(tie_word_embeddings=False)
LLAMA = TEXT | dict(hidden_size=16, num_key_value_heads=2, head_dim=4)
BERT = TEXT | dict(hidden_size=8, max_position_embeddings=9)
LABELS = dict(num_labels=5)
T5 = dict(vocab_size=23, d_model=8, d_kv=4, d_ff=10, num_layers=1, num_heads=2, decoder_start_token_id=0)

# name -> config and model class, settings of the narrow model, changes of the wide one, ways that must occur
Spec = tuple[str, dict[str, Any], dict[str, Any], set[Way]]
CASES: dict[str, Spec] = {
    "gpt2": ("GPT2LMHeadModel", UNTIED, dict(n_embd=15, n_head=3, n_inner=13), {Way.PADDED, Way.CENTRED}),
    "gpt2-tied": ("GPT2LMHeadModel", GPT2, dict(n_embd=16), {Way.PADDED, Way.REPEATED}),
    "gpt2-eager": ("GPT2LMHeadModel", UNTIED | dict(attn_implementation="eager"), dict(n_embd=12), {Way.CENTRED}),
    "vit": ("ViTForImageClassification", VIT | LABELS, dict(hidden_size=20, num_attention_heads=4), {Way.CENTRED}),
    "llama": ("LlamaForCausalLM", LLAMA, dict(hidden_size=24, intermediate_size=14), {Way.ISOMETRIC, Way.PADDED}),
    "llama-groups": ("LlamaForCausalLM", LLAMA, dict(num_attention_heads=8, num_key_value_heads=4), {Way.PADDED}),
    "gpt2-single": ("GPT2LMHeadModel", UNTIED | dict(n_head=1), dict(n_embd=16, n_head=2), {Way.PADDED, Way.CENTRED}),
    "llama-single": (
        "LlamaForCausalLM",
        LLAMA | dict(num_attention_heads=2, num_key_value_heads=1),
        dict(num_attention_heads=4, num_key_value_heads=2),
        {Way.PADDED},
    ),
    "llama-copied": (
        "LlamaForCausalLM",
        LLAMA | dict(num_attention_heads=4, num_key_value_heads=1),
        dict(num_attention_heads=4, num_key_value_heads=2),
        set(),
    ),
    "gemma": ("GemmaForCausalLM", LLAMA, dict(hidden_size=32), {Way.REPEATED}),
    "bert": ("BertForMaskedLM", BERT, dict(hidden_size=16, intermediate_size=12), {Way.REPEATED, Way.PADDED}),
    "resnet": (
        "ResNetForImageClassification",
        RESNET | LABELS,
        dict(embedding_size=7, hidden_sizes=[7, 11]),
        {Way.PADDED},
    ),
    "t5": ("T5ForConditionalGeneration", T5, dict(d_model=16, d_ff=12, d_kv=6, num_heads=3), {Way.REPEATED}),
}
ACTIVATIONS = {"mlp-relu": nn.ReLU, "mlp-gelu": nn.GELU, "mlp-tanh": nn.Tanh}
# Not a single head after a layer norm: its keys have one direction less than its queries with their bias, so that no
# element balances the two.
RESIZED = (
    "gpt2",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama-single", "llama-copied", "gpt2-tied", "llama")),
    "vit",
    "llama-groups",
    "bert",
    "resnet",
    "mlp-relu",
    "mlp-gelu",
    "mlp-tanh",
)


def mlp(act: type[nn.Module], width: int, seed: int = 0, depth: int = 1, inputs: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [m for _ in range(depth) for m in (nn.Linear(width, width), act())]
    net = nn.Sequential(nn.Linear(inputs, width), act(), *hidden, nn.Linear(width, 3))
    net.example_inputs = (torch.randn(4, inputs),)  # type: ignore[assignment]
    return net


def made(kind: str, settings: dict[str, Any], seed: int) -> Any:
    import transformers

    torch.manual_seed(seed)
    cls = getattr(transformers, kind)
    return _perturbed(cls(cls.config_class(**settings, architectures=[kind])).eval(), seed)


@cache
def pair(name: str) -> tuple[symgraph.Model, symgraph.Model]:
    """The wide and the narrow model, in float64."""
    if name in ACTIVATIONS:
        nets = mlp(ACTIVATIONS[name], 9, 0), mlp(ACTIVATIONS[name], 6, 1)
    else:
        kind, settings, changes, _ = CASES[name]
        nets = made(kind, settings | changes, 0), made(kind, settings, 1)
    wide, narrow = (symgraph.model(m.double()) for m in nets)
    return wide, narrow


@cache
def graphs(name: str) -> tuple[SymmetryGraph, SymmetryGraph]:
    wide, narrow = (symgraph.infer(m) for m in pair(name))
    return wide, narrow


def outputs(symmetry: SymmetryGraph, state: Any, seed: int) -> tuple[Tensor, ...]:
    given = random_inputs(symmetry.graph, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return Interpreter(symmetry.graph).run(state, given)


@pytest.mark.parametrize("name", [*CASES, *ACTIVATIONS])
def test_an_embedded_model_computes_what_it_computed(name: str) -> None:
    (wide, narrow), (outer, inner) = pair(name), graphs(name)
    before = {n: t.clone() for n, t in state_of(narrow.module).items()}
    found = embed(outer, inner, state_of(narrow.module), state_of(wide.module))
    assert all(torch.equal(t, before[n]) for n, t in state_of(narrow.module).items()), "the model was changed"
    assert {n: t.shape for n, t in found.state.items()} == {n: t.shape for n, t in state_of(wide.module).items()}
    if name in CASES:
        assert CASES[name][3] <= {w.way for w in found.spaces}
    for seed in (5, 6):
        one, other = outputs(inner, before, seed), outputs(outer, found.state, seed)
        assert difference(one, other) <= TOLERANCE


@pytest.mark.parametrize("name", RESIZED)
def test_a_planted_pair_across_widths_is_recovered(name: str) -> None:
    (wide, narrow), (outer, _) = pair(name), graphs(name)
    found = symgraph.embed(narrow, like=wide)
    moved = random_transform(
        outer, found.embedding.state, torch.Generator().manual_seed(3), settled_names(outer)
    ).apply(found.embedding.state)
    planted = model_like(wide, narrow, moved)
    aligned = symgraph.align(planted, narrow)
    assert aligned.embedded == "B"
    assert aligned.before > 0.1
    assert aligned.after < 1e-6
    for n, t in aligned.reference.items():
        assert torch.allclose(aligned.state[n], t, atol=1e-7), n


def test_the_narrower_model_is_embedded_on_either_side() -> None:
    wide, narrow = pair("llama")
    for a, b, embedded in ((wide, narrow, "B"), (narrow, wide, "A")):
        found = symgraph.align(a, b)
        assert found.embedded == embedded
        assert any(n.startswith(f"{embedded} embedded into a larger shape") for n in found.notes)
        assert found.a.config.hidden_size == found.b.config.hidden_size == 24
        assert {n: t.shape for n, t in found.state.items()} == {n: t.shape for n, t in found.reference.items()}
        _, inner = graphs("llama")
        outer, _ = graphs("llama")
        for state, module in ((found.reference, a), (found.state, b)):
            own = inner if module is narrow else outer
            whole = {**state_of(found.a.module), **state}
            assert difference(outputs(own, state_of(module.module), 7), outputs(outer, whole, 7)) <= TOLERANCE


def test_a_program_embeds_and_is_read_back() -> None:
    wide, narrow = pair("mlp-gelu")
    program = symgraph.plan([wide, narrow])
    first = program.steps[0]
    assert isinstance(first, Embed)
    assert (first.model, first.like, first.into) == ("B", "A", "B.embedded")
    assert "6 -> 9  padded with zeros" in str(program)
    again = Program.loads(program.dumps())
    assert again == program
    one, other = symgraph.align(wide, narrow), symgraph.align(wide, narrow, program=again)
    assert all(torch.equal(t, other.state[n]) for n, t in one.state.items())
    with pytest.raises(UsageError, match="the program embeds B, and no model has to be"):
        symgraph.align(wide, wide, program=again)


def test_models_of_three_widths_merge_into_the_widest() -> None:
    nets = [symgraph.model(mlp(nn.GELU, n, seed)) for seed, n in enumerate((5, 8, 6))]
    merged = merge(nets, [0.5, 0.3, 0.2])
    assert merged.state["0.weight"].shape == (8, 5)
    assert merged.state["0.weight"].dtype == torch.float32
    assert sum("embedded into a larger shape" in n for n in merged.notes) == 2


def test_a_merge_is_a_stock_checkpoint_of_the_larger_config(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from symgraph.match.merge import write_merged

    folders = []
    for name, changes in (("narrow", {}), ("wide", dict(n_embd=12, n_inner=16))):
        made("GPT2LMHeadModel", UNTIED | changes, 0).save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    out = write_merged(merge(folders, [1.0, 0.0]), tmp_path / "merged")
    ids = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        narrow, merged = (AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (folders[0], out))
    assert AutoModelForCausalLM.from_pretrained(out).config.n_embd == 12
    assert float((narrow - merged).abs().max()) < 1e-4


def test_a_single_precision_run_embeds_as_well() -> None:
    wide, narrow = pair("gpt2")
    found = symgraph.align(wide, narrow, dtype=torch.float32)
    outer, inner = graphs("gpt2")
    assert difference(outputs(inner, state_of(narrow.module), 7), outputs(outer, found.state, 7)) < 1e-3


def test_groups_that_hold_too_much_are_copied() -> None:
    wide, narrow = pair("llama-copied")
    found = symgraph.embed(narrow, like=wide)
    lines = [str(c) for c in found.embedding.copies]
    assert lines[0].startswith("layers.0.self_attn.") and "1 -> 2" in lines[0] and "4 -> 2" in lines[0]
    keys = found.embedding.state["model.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(keys[:4], keys[4:])


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "depth": ("GPT2LMHeadModel", GPT2, dict(n_layer=3), "only A has transformer.h.2"),
    "vocabulary": ("GPT2LMHeadModel", GPT2, dict(vocab_size=13), r"axis 0 of transformer.wte.weight is 13 in A and 11"),
    "positions": ("GPT2LMHeadModel", GPT2, dict(n_positions=12), r"axis 0 of transformer.wpe.weight is 12 in A and 9"),
    "tied": ("GPT2LMHeadModel", GPT2, dict(n_embd=12), r"residual is 8 in one and 12 in the other, no multiple.*untie"),
    "rotary": ("LlamaForCausalLM", LLAMA, dict(head_dim=8), "rotary frequencies depend on the size"),
    "frequencies": (
        "LlamaForCausalLM",
        LLAMA,
        dict(rope_parameters=dict(rope_type="default", rope_theta=50.0), intermediate_size=12),
        "outputs would change by",
    ),
    "crossed": ("GPT2LMHeadModel", UNTIED, dict(n_head=4), "heads is 4 in A and 2 in B; .*is 2 in A and 4 in B"),
    "alibi": (
        "BloomForCausalLM",
        dict(vocab_size=11, hidden_size=8, n_layer=1, n_head=2),
        dict(hidden_size=16, n_head=4),
        r"dense.weight is 4 in A and 2 in B, rigid because of computed-by-position at transformer \(aten.arange",
    ),
    "output": (
        "CLIPTextModelWithProjection",
        TEXT | dict(hidden_size=8, projection_dim=6, max_position_embeddings=9, eos_token_id=2),
        dict(hidden_size=16),
        "is 16 in A and 8 in B, rigid because of output at text_model.final_layer_norm",
    ),
    "activation": (
        "ViTForImageClassification",
        VIT | LABELS,
        dict(hidden_act="relu", intermediate_size=12),
        "aten.relu",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_embedded_is_refused_with_the_reason(name: str) -> None:
    kind, settings, changes, message = REFUSED[name]
    wide, narrow = (made(kind, s, i) for i, s in enumerate((settings | changes, settings)))
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        symgraph.embed(narrow, like=wide)


class Root(nn.Module):
    """Divides by the root of the number of units after they were mixed: no embedding keeps that."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 3)
        self.example_inputs = (torch.randn(2, 4),)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        out: Tensor = self.down(h / (1.0 + h.square().mean(-1, keepdim=True)))
        return out


class Count(nn.Module):
    """Its output depends on the number of hidden units in another way than through any factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 3)
        self.example_inputs = (torch.randn(2, 4),)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x))) + self.width
        return out


def test_an_operator_that_counts_units_is_solved_or_refused_with_its_place() -> None:
    torch.manual_seed(0)
    found = symgraph.embed(Root(5).double(), like=Root(10).double())
    assert found.embedding.error <= TOLERANCE
    with pytest.raises(
        CheckpointError, match=r"(?s)outputs would change by .*aten.add.* depends on a size that differs"
    ):
        symgraph.embed(Count(5).double(), like=Count(8).double())


def test_embed_wants_the_wider_model_second() -> None:
    wide, narrow = pair("mlp-relu")
    with pytest.raises(UsageError, match="is wider than"):
        symgraph.embed(wide, like=narrow)
    with pytest.raises(UsageError, match="is as wide as"):
        symgraph.embed(wide, like=copy.copy(wide))


@pytest.mark.parametrize("name", ["gpt2", "gpt2-tied", "llama", "t5"])
def test_reading_back_undoes_widening(name: str) -> None:
    wide, narrow = graphs(name)
    found = embed(wide, narrow, state_of(pair(name)[1].module), state_of(pair(name)[0].module))
    maps: dict[int, Widening] = {w.narrow.id: w for w in found.spaces}
    for n, axes in narrow.terms.items():
        if n in narrow.graph.parameters:
            x = torch.randn(narrow.graph.state[n].shape, dtype=torch.float64)
            y = widen(x, axes, maps)
            assert torch.allclose(narrowed(y, axes, maps), x, atol=1e-12)
            blocks = blocks_of(axes, maps)
            assert (blocks.narrow + torch.zeros_like(x)).shape == x.shape
            assert (blocks.wide + torch.zeros_like(y)).shape == y.shape
            assert int(blocks.wide.max()) == blocks.count - 1


class Modulated(nn.Module):
    """Gains and biases of a condition from one map, whose parts stand behind each other or take turns."""

    def __init__(self, width: int, *, turns: bool) -> None:
        super().__init__()
        self.i, self.m, self.o = nn.Linear(6, width), nn.Linear(3, 2 * width), nn.Linear(width, 4)
        self.width, self.turns = width, turns

    def forward(self, x: Tensor, c: Tensor) -> Any:
        made = self.m(c)
        scale, shift = made.unflatten(-1, (-1, 2)).unbind(-1) if self.turns else made.chunk(2, -1)
        return self.o(nn.functional.rms_norm(self.i(x), (self.width,)) * (1 + scale) + shift)


def test_numbers_of_parts_of_a_bias_are_widened_with_the_parts() -> None:
    example = (torch.randn(5, 6), torch.randn(5, 3))
    narrow, wide = (Modulated(width, turns=False).double() for width in (4, 8))
    assert symgraph.embed(narrow, example, like=wide).embedding.error <= TOLERANCE
    with pytest.raises(UsageError, match="added to entries that stand in one part of its axis"):
        symgraph.embed(Modulated(4, turns=True), example, like=Modulated(8, turns=True))
