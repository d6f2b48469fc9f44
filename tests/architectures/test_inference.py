"""What is inferred for whole models: spaces, groups, and the families without a space, against literal tables."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from models_zoo import ARCHITECTURES, VARIANTS, case

from symgraph.inference.pipeline import infer
from symgraph.symmetry.dimension import Family, constant_name, family_of
from symgraph.symmetry.families import Constant
from symgraph.symmetry.graph import SymmetryGraph

PERM, SIGNED, POSITIVE, MONOMIAL = "permutation", "signed permutation", "positive monomial", "monomial"
ONES, ORTHOGONAL, ROTARY, FREE = "orthogonal fixing ones", "orthogonal", "rotary", "invertible"

# name, size, group, fibre, scales, signs
Row = tuple[str, int, str, tuple[str, ...], int, int]


def attention(place: str, heads: int, width: int) -> list[Row]:
    """A permutation of the heads, and for each head an invertible map between queries and keys, values and output."""
    over = (f"{place}.heads",)
    return [
        (f"{place}.heads", heads, PERM, (), 0, 0),
        (f"{place}.query-key", width, FREE, over, 0, 0),
        (f"{place}.value-output", width, FREE, over, 0, 0),
    ]


def grouped_attention(place: str) -> list[Row]:
    """Queries of one group share its key, hence its rotary and value-output map."""
    over = (f"{place}.head-groups",)
    return [
        (f"{place}.head-groups", 2, PERM, (), 0, 0),
        (f"{place}.heads-in-group", 2, PERM, over, 0, 0),
        (f"{place}.query-key", 4, ROTARY, over, 0, 0),
        (f"{place}.value-output", 4, FREE, over, 0, 0),
    ]


def hidden(place: str, size: int) -> Row:
    return (f"{place}.hidden", size, PERM, (), 0, 0)


def gpt2(residual: str) -> list[Row]:
    rows: list[Row] = [("residual", 8, residual, (), 0, 0)]
    for i in range(2):
        rows += [*attention(f"h.{i}.attn", 2, 4), hidden(f"h.{i}.mlp", 12)]
    return rows


def mlp(group: str, scales: int, signs: int) -> list[Row]:
    return [(f"hidden.{i}", n, group, (), scales, signs) for i, n in enumerate((7, 6))]


def layers(rows: Iterable[list[Row]], first: Row) -> list[Row]:
    return [first, *(row for block in rows for row in block)]


SPACES: dict[str, list[Row]] = {
    "mlp-relu": mlp(POSITIVE, 1, 0),
    "mlp-tanh": mlp(SIGNED, 0, 1),
    "mlp-gelu": mlp(PERM, 0, 0),
    "vit": layers(
        ([*attention(f"layers.{i}.attention", 3, 4), hidden(f"layers.{i}.mlp", 10)] for i in range(2)),
        ("residual", 12, ONES, (), 0, 0),
    ),
    "gpt2-tied": gpt2(PERM),
    "gpt2-untied": gpt2(ONES),
    # `up` is multiplied into the gate: a scale and a sign of each unit, undone in `down`.
    "llama": layers(
        (
            [*grouped_attention(f"layers.{i}.self_attn"), (f"layers.{i}.mlp.hidden", 10, MONOMIAL, (), 1, 1)]
            for i in range(2)
        ),
        ("residual", 16, ORTHOGONAL, (), 0, 0),
    ),
    "bert": layers(
        ([*attention(f"encoder.layer.{i}.attention", 4, 2), hidden(f"encoder.layer.{i}", 10)] for i in range(2)),
        ("residual", 8, PERM, (), 0, 0),
    ),
    # Each batch norm takes a scale and a sign of its channel from the convolution to its gain; each ReLU passes one
    # positive scale on. residual.0 has 2 norms and a stream, residual.1 has 3 (one on the shortcut).
    "resnet": [
        ("residual.0", 6, MONOMIAL, (), 3, 2),
        ("encoder.stages.0.layers.0.layer.hidden", 6, MONOMIAL, (), 2, 1),
        ("residual.1", 8, MONOMIAL, (), 4, 3),
        ("encoder.stages.1.layers.0.layer.hidden", 8, MONOMIAL, (), 2, 1),
        ("encoder.stages.1.layers.1.layer.hidden", 8, MONOMIAL, (), 2, 1),
    ],
}

GAINS = {
    "vit": [f"vit.layers.{i}.layernorm_{w}" for i in range(2) for w in ("before", "after")] + ["vit.layernorm"],
    # The head of a tied model is the embedding, which cannot carry the last gain.
    "gpt2-tied": [f"transformer.h.{i}.ln_{k}" for i in range(2) for k in (1, 2)],
    "gpt2-untied": [*(f"transformer.h.{i}.ln_{k}" for i in range(2) for k in (1, 2)), "transformer.ln_f"],
    "llama": [
        *(f"model.layers.{i}.{n}" for i in range(2) for n in ("input_layernorm", "post_attention_layernorm")),
        "model.norm",
    ],
    # Post-norm: only the last norm of the encoder is read by linear maps alone.
    "bert": ["bert.encoder.layer.1.output.LayerNorm"],
}


def gpt2_moves() -> list[str]:
    return [
        line
        for h in ("transformer.h.0", "transformer.h.1")
        for line in (
            f"{h}.ln_1.bias -> {h}.attn.c_attn.bias",
            f"{h}.attn.c_attn.bias[8:16] -> nothing",
            f"{h}.attn.c_attn.bias[16:24] -> {h}.attn.c_proj.bias",
            f"{h}.ln_2.bias -> {h}.mlp.c_fc.bias",
        )
    ]


MOVES = {
    "vit": [
        *(
            line
            for v in ("vit.layers.0", "vit.layers.1")
            for a in (f"{v}.attention",)
            for line in (
                f"{v}.layernorm_before.bias -> {a}.q_proj.bias, {a}.k_proj.bias, {a}.v_proj.bias",
                f"{a}.k_proj.bias -> nothing",
                f"{a}.v_proj.bias -> {a}.o_proj.bias",
                f"{v}.layernorm_after.bias -> {v}.mlp.fc1.bias",
            )
        ),
        "vit.layernorm.bias -> classifier.bias",
    ],
    "gpt2-tied": gpt2_moves(),
    "gpt2-untied": gpt2_moves(),
    "bert": [
        *(
            line
            for i, before in enumerate(("bert.embeddings", "bert.encoder.layer.0.output"))
            for v in (f"bert.encoder.layer.{i}",)
            for line in (
                # The residual adds the norm's output, so that what it adds must be taken out of the other summand.
                f"{before}.LayerNorm.bias -> "
                + ", ".join(
                    f"{v}.attention.{n}.bias" for n in ("self.query", "self.key", "self.value", "output.dense")
                ),
                f"{v}.attention.self.key.bias -> nothing",
                f"{v}.attention.self.value.bias -> {v}.attention.output.dense.bias",
                f"{v}.attention.output.LayerNorm.bias -> {v}.intermediate.dense.bias, {v}.output.dense.bias",
            )
        ),
        "bert.encoder.layer.1.output.LayerNorm.bias -> cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.bias -> cls.predictions.bias",
    ],
}

BERT = "bert.embeddings."
QKV = ("query", "key", "value")
BLOCK = "resnet.encoder.stages.1.layers.0."
TRANSLATIONS = {
    "vit": [
        "vit.embeddings.cls_token <-> vit.embeddings.position_embeddings[:, 0:1]",
        "vit.embeddings.patch_embeddings.projection.bias <-> vit.embeddings.position_embeddings[:, 1:5]",
    ],
    "gpt2-untied": ["transformer.wpe.weight <-> transformer.wte.weight"],
    "bert": [f"{BERT}position_embeddings.weight <-> {BERT}token_type_embeddings.weight"],
    "resnet": [f"{BLOCK}layer.1.normalization.bias <-> {BLOCK}shortcut.normalization.bias"],
}


def both(*places: str) -> list[str]:
    return [f"{p}.{k}" for p in places for k in ("weight", "bias")]


GPT2_WRITERS = both(*(f"transformer.h.{i}.{m}.c_proj" for i in range(2) for m in ("attn", "mlp")))
GPT2_READERS = [[f"transformer.h.{i}.{m}.weight"] for i in range(2) for m in ("attn.c_attn", "mlp.c_fc")]
WRITTEN = {
    "vit": [
        [
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            *both("vit.embeddings.patch_embeddings.projection"),
            *both(*(f"vit.layers.{i}.{m}" for i in range(2) for m in ("attention.o_proj", "mlp.fc2"))),
        ]
    ],
    "gpt2-tied": [["transformer.wpe.weight", *GPT2_WRITERS]],
    "gpt2-untied": [["transformer.wte.weight", "transformer.wpe.weight", *GPT2_WRITERS]],
    "bert": [
        [f"{BERT}position_embeddings.weight", f"{BERT}token_type_embeddings.weight"],
        *(both(f"bert.encoder.layer.{i}.{m}.dense") for i in range(2) for m in ("attention.output", "output")),
    ],
}
READ = {
    "vit": [
        *(
            readers
            for v in ("vit.layers.0", "vit.layers.1")
            for readers in ([f"{v}.attention.{k}_proj.weight" for k in "qkv"], [f"{v}.mlp.fc1.weight"])
        ),
        ["classifier.weight"],
    ],
    "gpt2-tied": GPT2_READERS,
    "gpt2-untied": GPT2_READERS,
    "bert": [["cls.predictions.transform.dense.weight"]],
}


def rows(s: SymmetryGraph) -> list[Row]:
    return [
        (x.name, x.size, str(x.group), tuple(s.spaces[f].name for f in x.fibre), x.scales, x.signs) for x in s.active
    ]


def moves(s: SymmetryGraph) -> list[str]:
    """Settled constants that go through readers or nowhere, with the biases that take them."""
    found = [c for c in s.constants if c.settled and family_of(c) is not Family.TRANSLATION]
    return [f"{constant_name(s, c)} -> {', '.join(taking(c)) or 'nothing'}" for c in found]


def taking(constant: Constant) -> list[str]:
    return [x.port.piece.parameter for x in constant.shares]


def translations(s: SymmetryGraph) -> list[str]:
    return [constant_name(s, c) for c in s.constants if family_of(c) is Family.TRANSLATION]


def centred(s: SymmetryGraph, written: bool) -> list[list[str]]:
    return [[p.parameter for p in c.pieces] for c in s.centred if c.written is written]


@pytest.mark.parametrize(("name", "implementation"), VARIANTS)
def test_every_family_is_the_expected_one(name: str, implementation: str) -> None:
    s = case(name, implementation).symmetry
    assert s.uncovered == ()
    assert rows(s) == SPACES[name]
    assert [(g.parameter, g.forward) for g in s.gains] == [(f"{p}.weight", True) for p in GAINS.get(name, [])]
    assert moves(s) == MOVES.get(name, [])
    assert translations(s) == TRANSLATIONS.get(name, [])
    assert centred(s, written=True) == WRITTEN.get(name, [])
    assert centred(s, written=False) == READ.get(name, [])


@pytest.mark.parametrize("name", [n for n, i in VARIANTS if i == "eager"])
def test_both_attention_implementations_exchange_alignments(name: str) -> None:
    assert case(name, "eager").symmetry.fingerprint == case(name, "sdpa").symmetry.fingerprint


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_equations_does_not_matter(name: str, seed: int) -> None:
    c = case(name)
    generator = torch.Generator().manual_seed(seed)
    shuffled = infer(c.graph, order=lambda count: torch.randperm(count, generator=generator).tolist())
    assert sorted(map(str, rows(shuffled))) == sorted(map(str, rows(c.symmetry)))
    assert sorted(moves(shuffled)) == sorted(moves(c.symmetry))
    assert translations(shuffled) == translations(c.symmetry)
    assert sorted(centred(shuffled, True)) == sorted(centred(c.symmetry, True))


def test_every_bound_has_evidence_at_a_place_in_the_model() -> None:
    s = case("llama").symmetry
    for space in s.active:
        assert all(r.where and r.rule for r in space.evidence), space.name
    rules = {r.rule for r in s.space("layers.0.self_attn.query-key").evidence}
    assert any("rotation" in r for r in rules), rules


def test_widths_of_terms_are_those_of_the_parameters() -> None:
    for name in ARCHITECTURES:
        s = case(name).symmetry
        for parameter, axes in s.terms.items():
            assert tuple(t.size for t in axes) == s.graph.state[parameter].shape, (name, parameter)


def test_families_that_depend_on_the_parameters() -> None:
    bert, gpt2, resnet = (case(n).symmetry for n in ("bert", "gpt2-untied", "resnet"))
    layers = [f"bert.encoder.layer.{i}" for i in range(2)]
    inner = [f"{v}.{n}.weight" for v in layers for n in (*(f"attention.self.{k}" for k in QKV), "intermediate.dense")]
    assert [x.plane.reader.parameter for x in bert.leans] == inner
    assert {(x.plane.bias, x.sink) for x in bert.leans} == {("", "")}
    (tied,) = [c for c in bert.constants if c.tied is not None]
    assert tied.source.piece.parameter == "bert.embeddings.word_embeddings.weight"
    assert taking(tied) == ["bert.embeddings.position_embeddings.weight"]
    tilts = [c for c in gpt2.constants if family_of(c) is Family.TILT]
    assert [(c.source.piece.parameter, taking(c)) for c in tilts] == [("transformer.ln_f.bias", ["lm_head.weight"])]
    norms = [n.removesuffix(".running_mean") for n in resnet.graph.state if n.endswith("running_mean")]
    wanted = {(f"{n}.weight", (f"{n}.running_mean", f"{n}.running_var")) for n in norms}
    assert {(s.gain, s.tensors) for s in resnet.statistics} == wanted
