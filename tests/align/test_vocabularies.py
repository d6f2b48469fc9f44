"""Models with other tokens: joined by their texts, rows of one alone kept, and a tokenizer whose ids are the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from models_zoo import reorder
from tokenizers import AddedToken, Tokenizer, models
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.io.models import Model
from symgraph.io.vocabulary import joined, vocabulary

SIZES: dict[str, Any] = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
SHARED = ["a", "b", "c", "d", "e"]


def llama(words: Sequence[str], seed: int, tied: bool = False) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **SIZES, num_key_value_heads=1, vocab_size=len(words), tie_word_embeddings=tied, eos_token_id=1
    )
    found = transformers.LlamaForCausalLM(config)
    for p in found.parameters():
        p.data += 0.2 * torch.randn_like(p)
    found.train(False)
    return found


def relative(a: Any, words: Sequence[str], others: Sequence[str], seed: int, tied: bool) -> Any:
    """A model with other tokens that computes what A does on those that both have: hidden units in another order."""
    found = llama(others, seed, tied)
    state = {n: t for n, t in a.state_dict().items() if n not in TABLES}
    found.load_state_dict(state, strict=False)
    reorder(found, 12, seed)
    for name in TABLES:
        for word in set(words) & set(others):
            found.get_parameter(name).data[others.index(word)] = a.get_parameter(name).data[words.index(word)]
    return found


def word_level(words: Sequence[str], special: Sequence[str] = ()) -> Tokenizer:
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    made.add_special_tokens([AddedToken(s, special=True) for s in special])
    return made


def saved(folder: Path, model: Any, tokenizer: Tokenizer, **config: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "b"}))
    return folder


def pair(folder: Path, own: Sequence[str], other: Sequence[str], tied: bool = False) -> tuple[Path, Path]:
    a = llama(own, 0, tied)
    b = relative(a, own, other, 1, tied)
    return saved(folder / "a", a, word_level(own)), saved(folder / "b", b, word_level(other))


def ids(folder: Path) -> dict[str, int]:
    found: dict[str, int] = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    return found


def logits(folder: Path, words: Sequence[str], outputs: Sequence[str]) -> Tensor:
    """What a checkpoint says of these tokens after these, by their texts."""
    numbers, module = ids(folder), symgraph.model(folder).module
    with torch.no_grad():
        found: Tensor = module(torch.tensor([[numbers[w] for w in words]])).logits
    return found[..., [numbers[w] for w in outputs]]


def assert_same(one: Path, other: Path, words: Sequence[str], outputs: Sequence[str]) -> None:
    torch.testing.assert_close(logits(one, words, outputs), logits(other, words, outputs), rtol=1e-4, atol=1e-4)


# -- merging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("align", "tied"), [(True, False), (True, True), (False, True)])
def test_all_tokens_are_in_the_union(tmp_path: Path, align: bool, tied: bool) -> None:
    own, other = [*SHARED, "x"], ["p", *reversed(SHARED), "q", "r"]
    a, b = pair(tmp_path, own, other, tied)
    if not align:
        b = saved(tmp_path / "b", relative_in_order(a, own, other, tied), word_level(other))
    merged = symgraph.merge([a, b], [0.6, 0.4], align=align)
    out = merged.save_pretrained(tmp_path / "out")
    found = ids(out)
    assert found == {**{w: i for i, w in enumerate(own)}, "p": 6, "q": 7, "r": 8}
    assert symgraph.model(out).config.vocab_size == 9
    # Each model is there, with its own tokens.
    assert_same(out, a, "abxc", own)
    assert_same(out, b, "apqbr", other)
    assert {t.dtype for t in merged.state.values()} == {torch.float32}


def relative_in_order(a: Path, own: Sequence[str], other: Sequence[str], tied: bool) -> Any:
    """The other model with its hidden units where those of the first are."""
    first = symgraph.model(a).module
    found = llama(other, 1, tied)
    found.load_state_dict({n: t for n, t in first.state_dict().items() if n not in TABLES}, strict=False)
    for name in TABLES:
        for word in set(own) & set(other):
            found.get_parameter(name).data[other.index(word)] = first.get_parameter(name).data[own.index(word)]
    return found


def test_the_tokens_of_the_base_alone(tmp_path: Path) -> None:
    own, other = [*SHARED, "x"], ["p", *reversed(SHARED), "q", "r"]
    a, b = pair(tmp_path, own, other)
    merged = symgraph.merge([a, b], [0.6, 0.4], vocabulary="base")
    assert any("3 tokens of" in n and "left out" in n for n in merged.notes)
    out = merged.save_pretrained(tmp_path / "out")
    assert ids(out) == {w: i for i, w in enumerate(own)}
    assert_same(out, a, "abxc", own)
    assert_same(out, b, "abc", SHARED)


def test_tokens_of_one_number_are_not_taken_to_be_the_same(tmp_path: Path) -> None:
    a, b = pair(tmp_path, SHARED, SHARED[::-1])
    out = symgraph.merge([a, b], [0.6, 0.4]).save_pretrained(tmp_path / "out")
    assert ids(out) == {w: i for i, w in enumerate(SHARED)}
    assert_same(out, a, "abcde", SHARED)
    aligned = symgraph.align(a, b)
    aligned.save_pretrained(tmp_path / "aligned")
    assert_same(tmp_path / "aligned", b, "abcde", SHARED)
    table = symgraph.model(a).module.get_parameter(TABLES[0])
    torch.testing.assert_close(aligned.state[TABLES[0]], table.detach().flip(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="differ in tokens"):
        symgraph.merge([a, b], on_difference="refuse")


def test_added_tokens_keep_what_they_are(tmp_path: Path) -> None:
    a = llama([*SHARED, "<s>"], 0)
    repeated = {"5": {"content": "<s>", "special": True}}
    saved(tmp_path / "a", a, word_level(SHARED, ["<s>"]), added_tokens_decoder=repeated)
    b = relative(a, [*SHARED, "<s>"], [*SHARED, "z", "<u>"], 1, False)
    saved(tmp_path / "b", b, word_level([*SHARED, "z"], ["<u>"]))
    out = symgraph.merge([tmp_path / "a", tmp_path / "b"], [0.6, 0.4]).save_pretrained(tmp_path / "out")
    read = transformers.AutoTokenizer.from_pretrained(out)
    assert read.get_vocab() == {**{w: i for i, w in enumerate(SHARED)}, "<s>": 5, "z": 6, "<u>": 7}
    assert read("<u><s>z").input_ids == [7, 5, 6] and read.decode([7, 5, 0], skip_special_tokens=True) == "a"
    assert_same(out, tmp_path / "b", ["a", "<u>", "z"], [*SHARED, "z", "<u>"])
    assert (out / "special_tokens_map.json").exists()


def test_vocabularies_that_cannot_be_joined_are_refused(tmp_path: Path) -> None:
    a, b = pair(tmp_path, SHARED, ["v", "w", "x", "y", "z"])
    with pytest.raises(UsageError, match="have no token in common"):
        symgraph.merge([a, b])
    pieces = Tokenizer(models.Unigram([(w, -1.0) for w in (*SHARED, "q")], unk_id=0))
    pieces.save(str(b / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="cannot be joined") as caught:
        symgraph.merge([a, saved(tmp_path / "c", llama([*SHARED, "q"], 1), pieces)])
    assert "--vocabulary base" in caught.value.remedy
    with pytest.raises(UsageError, match="vocabulary="):
        symgraph.merge([a, b], vocabulary="all")
    (b / "tokenizer.json").unlink()
    (b / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match="brings no tokenizer"):
        symgraph.merge([a, b], vocabulary="union")


# -- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_recipe_says_whose_tokens_there_are(tmp_path: Path, method: str) -> None:
    own, other = [*SHARED, "x"], ["p", *reversed(SHARED), "q", "r"]
    a, b = pair(tmp_path, own, other)
    plain = {
        "merge_method": method,
        "base_model": str(a),
        "models": [{"model": str(m)} for m in (a, b)],
        "parameters": {"weight": 0.5},
        "tokenizer": {"source": "union", "pad_to_multiple_of": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    out = symgraph.merge_by_recipe(tmp_path / "recipe.yaml").save_pretrained(tmp_path / "out")
    assert symgraph.model(out).config.vocab_size == 16 and len(ids(out)) == 9
    assert_same(out, a, "abxc", own)
    assert_same(out, b, "apqbr", other)
    theirs = symgraph.merge_by_recipe({**plain, "tokenizer": {"source": str(b)}}).save_pretrained(tmp_path / "theirs")
    assert ids(theirs) == {w: i for i, w in enumerate(other)}
    assert_same(theirs, b, "apqbr", other)


# -- tokenizers ----------------------------------------------------------------------------------------------------


def model_of(folder: Path, tokenizer: Tokenizer) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return Model(nn.Linear(1, 1), None, None, folder.name, "checkpoint", (folder / "config.json",))


def bpe(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    letters = sorted({c for m in merges for part in m for c in part})
    listed = [*letters, *dict.fromkeys("".join(m) for m in merges)]
    return Tokenizer(models.BPE({w: i for i, w in enumerate(listed)}, list(merges)))


def test_merges_of_others_come_after_ones_own(tmp_path: Path) -> None:
    own, other = bpe([("t", "h"), ("th", "e")]), bpe([("h", "e"), ("a", "t"), ("at", "e")])
    models_ = [model_of(tmp_path / n, t) for n, t in (("own", own), ("other", other))]
    found = joined(models_[0], models_[1:])
    read = Tokenizer.from_str(found.files["tokenizer.json"].decode())
    assert read.get_vocab() == found.tokens and vocabulary(models_[0]) == own.get_vocab()
    assert read.encode("the").tokens == ["the"] and read.encode("ate").tokens == ["ate"]
    same = joined(models_[0], [models_[0]])
    assert same.tokens == own.get_vocab()
    assert same.files == {"tokenizer.json": (tmp_path / "own" / "tokenizer.json").read_bytes()}


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
ADDED = st.lists(st.sampled_from(["<1>", "<2>", "<3>", "a"]), unique=True)


@given(st.lists(st.tuples(WORDS, ADDED), min_size=2, max_size=3))
@settings(max_examples=40)
def test_ids_of_one_are_kept_and_all_tokens_have_one(
    tmp_path_factory: pytest.TempPathFactory, given_: list[tuple[list[str], list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("joined")
    made = []
    for words, added in given_:
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
        tokenizer.add_tokens(added)
        made.append(tokenizer)
    owner, *others = (model_of(folder / str(i), t) for i, t in enumerate(made))
    found = joined(owner, others).tokens
    theirs: list[Mapping[str, int]] = [t.get_vocab() for t in made]
    assert {t: i for t, i in found.items() if t in theirs[0]} == theirs[0]
    assert found.keys() == {t for held in theirs for t in held}
    assert sorted(found.values()) == list(range(len(found)))
