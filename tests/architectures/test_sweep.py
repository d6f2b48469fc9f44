"""The sweep over every architecture of transformers: a fast subset, and all of them as a slow test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep.builder import ATTEMPTS, MAPPINGS, default_config, entries
from sweep.rotations import EXACT, outcome, rotated, rotations
from sweep.runner import sweep
from sweep.stages import audited, cause, run
from sweep.summary import covered, moves, ok, summary
from sweep.table import page, renewed

from symgraph.tracing.tiny_config import shrunk
from symgraph.tracing.tiny_fields import Context, Sizes, shrink_list, shrink_number

FAST = {
    "causal-lm": (
        [
            "gpt2",
            "llama",
            "gemma2",
            "gpt_neox",
            "gptj",
            "falcon",
            "opt",
            "bloom",
            "qwen3",
            "phi3",
            "mixtral",
            "deepseek_v3",
            "mamba",
            "recurrent_gemma",
        ]
    ),
    "masked-lm": ["bert", "albert", "roformer"],
    "seq2seq-lm": ["t5", "bart"],
    "image-classification": ["vit", "dinov2", "resnet", "convnext"],
    "audio-classification": ["wav2vec2"],
    "multimodal": ["clip"],
}
CASES = [(m, k, dict(entries(m))[k]) for m, kinds in FAST.items() for k in kinds]


@pytest.mark.parametrize(("mapping", "kind", "name"), CASES, ids=[f"{m}-{k}" for m, k, _ in CASES])
def test_a_diverse_architecture_goes_through_every_stage(mapping: str, kind: str, name: str) -> None:
    record = run(mapping, kind, name, each=False)
    assert [s for s, outcome in record["stages"].items() if outcome["ok"]] == ["build", "export", "infer", "verify"], {
        s: outcome["cause"] for s, outcome in record["stages"].items()
    }
    assert record["error"] <= 1e-9


@pytest.mark.slow
def test_every_architecture(tmp_path: Path) -> None:
    wanted = [(m, *e) for m in MAPPINGS for e in entries(m)]
    records = list(sweep(wanted, tmp_path / "results.jsonl", jobs=2, timeout=240))
    text = summary(records)
    assert not [r["kind"] for r in records if r.get("unsound")], text
    for mapping in MAPPINGS:
        found = [r for r in records if r["mapping"] == mapping]
        least = 160 / 189 if mapping == "causal-lm" else 0.8
        assert sum(ok(r, "export") for r in found) >= least * len(found), text
    exported = [r for r in records if ok(r, "export")]
    assert sum(ok(r, "verify") and moves(r) for r in exported) >= 0.9 * len(exported), text
    assert sum(map(covered, exported)) >= 0.75 * len(exported), text


def test_entries_are_those_of_the_library() -> None:
    assert len(entries("causal-lm")) > 100
    assert ("clip", "CLIPModel") in entries("multimodal")
    # A language model that sees has a part for text and one for images as well, but no features of its own for text.
    assert "llava" not in dict(entries("multimodal"))
    assert len({e for m in MAPPINGS for e in entries(m)}) > 400


def test_a_failure_costs_one_entry_and_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    bad = ("causal-lm", "no-such-kind", "NoSuchModel")
    (record,) = sweep([bad], out, jobs=1, timeout=60)
    assert not record["stages"]["build"]["ok"]
    assert record["stages"]["build"]["cause"].startswith(
        "AttributeError: module transformers has no attribute NoSuchModel"
    )
    (late,) = sweep([bad], out, jobs=1, timeout=0)
    assert late["stages"]["build"]["cause"] == "more than 0 s"
    assert len(out.read_text(encoding="utf-8").splitlines()) == 2


def test_rotations_are_counted_by_what_came_of_them() -> None:
    kinds = {"llama": "LlamaForCausalLM", "bloom": "BloomForCausalLM", "gone": "NoSuchModel"}
    records = [rotated("causal-lm", *entry) for entry in kinds.items()]
    assert [outcome(r) for r in records] == ["stream", "insides", "not built"]
    assert all(r["change"] < EXACT for r in records[:2])
    text = rotations(records)
    assert "1  exact, the residual stream turned" in text and "its group is permutation" in text


def context(**defaults: Any) -> Context:
    return Context(Sizes(), defaults, depth=6, kept=(0, 3))


@pytest.mark.parametrize(
    ("name", "value", "small"),
    [
        ("hidden_size", 768, 32),
        ("embedding_size", 384, 16),
        ("intermediate_size", 3072, 48),
        ("num_attention_heads", 12, 4),
        ("num_key_value_heads", 12, 4),
        ("num_key_value_heads", 3, 2),
        ("num_key_value_heads", 1, 1),
        ("head_dim", 64, 8),
        ("head_dim", 128, 16),
        ("num_hidden_layers", 6, 2),
        ("vocab_size", 50257, 99),
        ("type_vocab_size", 2, 2),
        ("image_token_id", 50000, 98),
        ("eos_token_id", 2, 2),
        ("num_experts", 64, 4),
        ("num_experts_per_tok", 8, 2),
        ("hidden_dropout_prob", 0.1, 0.0),
        ("layer_norm_eps", 1e-5, 1e-5),
        ("conv_kernel_size", 31, 31),
    ],
)
def test_a_number_is_made_small_by_what_its_name_says(name: str, value: float, small: float) -> None:
    assert shrink_number(name, value, context(hidden_size=768, num_attention_heads=12)) == small


@pytest.mark.parametrize(
    ("name", "value", "small"),
    [
        ("layer_types", ["a", "a", "a", "b", "b", "b"], ["a", "b"]),
        ("full_attention_layers", (0, 2, 3), (0, 1)),
        ("hidden_sizes", (96, 192, 384), (16, 32, 64)),
        ("num_heads", [3, 6, 12], [2, 4, 8]),
        ("depths", [3, 3, 27, 3], [2, 2, 2, 2]),
        ("mrope_section", [16, 24, 24], [2, 1, 1]),
        ("image_size", (224, 224), (32, 32)),
    ],
)
def test_a_list_is_made_short_by_its_layers_or_its_name(name: str, value: Any, small: Any) -> None:
    assert shrink_list(name, value, context()) == small


def test_a_kept_layer_for_every_kind() -> None:
    found = shrunk(default_config("gemma2"), Sizes())
    assert found["layer_types"] == ["sliding_attention", "full_attention"]
    assert found["num_hidden_layers"] == 2


def record(mapping: str, kind: str, **more: Any) -> dict[str, Any]:
    done = {"ok": True, "seconds": 1.0, "cause": ""}
    stages = {s: done for s in ("build", "export", "infer", "verify")}
    return {"mapping": mapping, "kind": kind, "model": f"{kind}Model", "stages": stages, "audit": None} | more


RECORDS = [
    record("causal-lm", "sound", residual=["residual", 32, "orthogonal"], spaces={"orthogonal": 1}, moving=0.9),
    record("causal-lm", "open", residual=["x", 32, "identity"], uncovered={"aten.unfold.default": 2}, moving=0.1),
    record(
        "causal-lm", "lost", stages={"build": {"ok": False, "seconds": 1.0, "cause": "ValueError: 3 | 4 at a.py:7"}}
    ),
    record("causal-lm", "wrong", unsound={"residual": ["orthogonal", 0.5]}),
]


def test_the_summary_has_rates_operators_failures_and_unsound_families() -> None:
    text = summary(RECORDS)
    assert "     3   75%" in text
    assert "    1  aten.unfold.default" in text
    assert "build: ValueError: N | N at a.py:N" in text
    assert "causal-lm wrong: residual (orthogonal) 5.0e-01" in text


def test_the_page_has_a_row_for_every_architecture() -> None:
    text = page(RECORDS, "# Models")
    assert "| sound | `soundModel` | sound | orthogonal | 1 orthogonal | 90% |  |  | — |" in text
    assert "`aten.unfold` x2" in text
    assert "build: ValueError: 3 / 4 at a.py:7" in text


def test_audits_are_counted_and_what_they_lack_is_listed() -> None:
    found = [record("causal-lm", "whole", audit="7 of 7"), record("causal-lm", "part", audit="6 of 7", missing=["1 x"])]
    text = summary([*RECORDS, *found])
    assert "audits: 1 complete of 2" in text
    assert "causal-lm part: 6 of 7\n      1 x" in text
    text = page(found, "# Models")
    assert "| 7 of 7 |" in text and "- causal-lm part, 6 of 7: 1 x" in text


def test_one_entry_is_audited_at_the_smallest_sizes() -> None:
    found = audited("causal-lm", "arcee", "ArceeForCausalLM")
    inferred, _, measured = found["audit"].partition(" of ")
    assert inferred == measured and found["missing"] == []


def test_a_cause_is_one_line_with_its_place() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        assert cause(error) == "ValueError: first"


def test_attempts_begin_with_the_smallest() -> None:
    assert ATTEMPTS[0] == Sizes()


def test_audits_of_some_entries_renew_their_cells_alone() -> None:
    part = [record("causal-lm", k, audit="6 of 7", missing=["1 x scale in w, v"]) for k in ("first", "second", "third")]
    before = page([*part, record("causal-lm", "large"), record("masked-lm", "first", audit="3 of 3")], "# Models\n")
    assert "Of 4 audits 1 are complete" in before
    again = [
        record("causal-lm", "first", audit="7 of 7"),
        record("causal-lm", "third", audit="5 of 9", missing=["4 x"]),
    ]
    after = renewed(before, again)
    wanted = [record("causal-lm", "first", audit="7 of 7"), part[1], again[1], record("causal-lm", "large")]
    masked = record("masked-lm", "first", audit="3 of 3")
    assert after == page([*wanted, masked], "# Models\n")
    assert renewed(before, []) == before
    grown = renewed(after, [{**record("causal-lm", "third"), "audit": None}])
    assert grown == page([wanted[0], part[1], record("causal-lm", "third"), *wanted[3:], masked], "# Models\n")
