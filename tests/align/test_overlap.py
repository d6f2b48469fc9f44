"""Models that differ in tokens, labels or positions: what both have is matched and merged, the rest kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models_zoo import reorder
from torch import Tensor, nn

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.resize.overlap import Rows
from symgraph.tracing import state_of

TEXT: dict[str, Any] = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
IMAGE: dict[str, Any] = TEXT | dict(image_size=8, patch_size=4, num_channels=1)


def noisy(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    model.eval()
    return model


def llama(tokens: int, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=1, vocab_size=tokens, **more)
    return noisy(transformers.LlamaForCausalLM(config), seed)


def vit(labels: int | dict[int, str], seed: int = 0) -> Any:
    torch.manual_seed(0)
    named = {"num_labels": labels} if isinstance(labels, int) else {"id2label": labels}
    return noisy(transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGE, **named)), seed)


def with_body_of(model: Any, other: Any, seed: int) -> Any:
    """A model with the tensors that another has in that shape, its hidden units in another order."""
    state = {n: t for n, t in other.state_dict().items() if t.shape == model.state_dict()[n].shape}
    model.load_state_dict(state, strict=False)
    reorder(model, 12, seed)
    return model


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(x).logits
    return found


def images() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


# -- align ---------------------------------------------------------------------------------------------------------


def test_heads_of_other_labels_stay_with_their_models() -> None:
    a = vit(7)
    b = with_body_of(vit(3, seed=1), a, 1)
    found = symgraph.align(a, b)
    torch.testing.assert_close(logits(found.module, images()), logits(b, images()), rtol=1e-4, atol=1e-5)
    body = {n: t for n, t in state_of(a).items() if "classifier" not in n}
    for name, tensor in body.items():
        torch.testing.assert_close(found.state[name], tensor.detach(), rtol=1e-4, atol=1e-5)
    assert found.b.config.num_labels == 3
    assert "classifier.weight has 7, 3 rows: 0 that all have are matched" in str(found)


def test_labels_are_told_by_their_names() -> None:
    a, b = vit({0: "cat", 1: "dog", 2: "cow"}), vit({0: "dog", 1: "pig", 2: "cat", 3: "hen"}, seed=1)
    assert "3, 4 rows: 2 that all have" in str(symgraph.align(a, b))


def test_as_many_labels_in_another_order_are_the_same_labels() -> None:
    """A merge of a model and itself with its labels listed in another order is that model."""
    names, order = ["cat", "dog", "cow"], torch.tensor([2, 0, 1])
    a = vit(dict(enumerate(names)))
    b = with_body_of(vit({i: names[j] for i, j in enumerate(order.tolist())}, seed=1), a, 1)
    for name in ("classifier.weight", "classifier.bias"):
        b.get_parameter(name).data = a.get_parameter(name).data[order]
    found = symgraph.align(a, b)
    torch.testing.assert_close(logits(found.module, images()), logits(b, images()), rtol=1e-4, atol=1e-5)
    assert found.b.config.id2label[0] == "cow" and "3, 3 rows: 3 that all have" in str(found)
    merged = symgraph.merge([a, b])
    config: Any = merged.module.config
    own = a if config.id2label[0] == "cat" else b
    torch.testing.assert_close(logits(merged.module, images()), logits(own, images()), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="has no place for 1 of the 3 rows"):
        symgraph.merge([a, vit({0: "cat", 1: "dog", 2: "hen"}, seed=1)])


def test_labels_that_nobody_has_named_are_one_clear_error() -> None:
    few, many = (vit({i: f"LABEL_{i}" for i in range(count)}) for count in (5, 7))
    with pytest.raises(CheckpointError, match="nothing says which labels") as caught:
        symgraph.merge([few, many])
    assert "5 and 7 labels" in caught.value.cause and "`id2label`" in caught.value.remedy


def test_a_larger_vocabulary_is_aligned_on_the_shared_tokens() -> None:
    a = llama(20)
    b = with_body_of(llama(26, seed=1), a, 1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        b.get_parameter(name).data[:20] = a.get_parameter(name).data
    found = symgraph.align(a, b)
    x = torch.arange(10).reshape(2, 5)
    torch.testing.assert_close(logits(found.module, x), logits(b, x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.state["lm_head.weight"][:20], a.lm_head.weight.detach(), rtol=1e-4, atol=1e-5)
    assert found.state["lm_head.weight"].shape[0] == 26 and "tokens of one number" in str(found)


def test_a_difference_is_refused_where_that_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match="differ in rows, which is refused"):
        symgraph.align(vit(7), vit(3), on_difference="refuse")
    with pytest.raises(UsageError, match="on_difference"):
        symgraph.align(vit(7), vit(3), on_difference="drop")


def test_longer_tables_of_positions_are_matched_on_what_both_have() -> None:
    sizes: dict[str, Any] = dict(
        vocab_size=12, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2
    )
    configs = [transformers.BertConfig(**sizes, max_position_embeddings=n) for n in (9, 12)]
    a, b = (noisy(transformers.BertForMaskedLM(c), i) for i, c in enumerate(configs))
    found = symgraph.align(a, b)
    x = torch.arange(12).reshape(1, 12)
    torch.testing.assert_close(logits(found.module, x), logits(b, x), rtol=1e-4, atol=1e-4)
    assert "12 rows: 9 that all have" in str(found)


# -- merge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [True, False])
def test_shared_tokens_are_averaged_and_others_kept(align: bool) -> None:
    a = llama(20)
    b = copy.deepcopy(llama(26, seed=1))
    b.load_state_dict({n: t for n, t in a.state_dict().items() if t.shape == b.state_dict()[n].shape}, strict=False)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        b.get_parameter(name).data[:20] = a.get_parameter(name).data
    merged = symgraph.merge([a, b], align=align)
    x = torch.arange(10).reshape(2, 5)
    torch.testing.assert_close(logits(merged.module, x), logits(b, x), rtol=1e-4, atol=1e-4)
    assert any("20 that all have" in n for n in merged.notes)


def test_tokens_are_told_by_their_texts(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = [f"w{i}" for i in range(9)]
    order = [3, 0, 8, 1, 2, 5, 4, 7, 6]
    small, large = words[:6], [words[i] for i in order]
    a = llama(6)
    b = llama(9)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for i, word in enumerate(small):
            b.get_parameter(name).data[large.index(word)] = a.get_parameter(name).data[i]
    b.load_state_dict({n: t for n, t in a.state_dict().items() if t.shape == b.state_dict()[n].shape}, strict=False)
    for model, listed, folder in ((a, small, "a"), (b, large, "b")):
        model.save_pretrained(tmp_path / folder)
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(listed)}, unk_token="w0"))
        made.save(str(tmp_path / folder / "tokenizer.json"))
    merged = symgraph.merge([tmp_path / "a", tmp_path / "b"])
    x = torch.arange(8).reshape(2, 4)
    torch.testing.assert_close(logits(merged.module, x), logits(b, x), rtol=1e-4, atol=1e-4)
    assert not any("tokens of one number" in n for n in merged.notes)
    (tmp_path / "a" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        symgraph.merge([tmp_path / "a", tmp_path / "b"])


def test_rows_that_the_largest_lacks_are_not_lost() -> None:
    a, b = vit({0: "cat", 1: "dog"}), vit({0: "dog", 1: "pig", 2: "hen"}, seed=1)
    with pytest.raises(CheckpointError, match="no place for 1 of the 2 rows"):
        symgraph.merge([a, b])


def test_rows_are_placed_and_the_rest_is_their_mean() -> None:
    rows = Rows(0, torch.tensor([0, 2]), torch.tensor([3, 1]))
    tensor = torch.arange(6.0).reshape(3, 2)
    placed = rows.placed(tensor, 4)
    torch.testing.assert_close(placed, torch.tensor([[2.0, 3.0], [4.0, 5.0], [2.0, 3.0], [0.0, 1.0]]))
    assert rows.mask(4, 2).flatten().tolist() == [0, 1, 0, 1]
    none = Rows(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert not none.placed(tensor, 2).any()


def test_a_width_is_no_such_difference() -> None:
    wide = transformers.LlamaConfig(**TEXT | {"intermediate_size": 20}, num_key_value_heads=1, vocab_size=20)
    found = symgraph.align(llama(20), noisy(transformers.LlamaForCausalLM(wide), 1))
    assert found.embedded == "A"
