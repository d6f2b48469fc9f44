"""Every kind of input that a model takes is traced, and what no trace reads is frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import symgraph
from symgraph.errors import VerifyError
from symgraph.tracing.kinds import further_kinds
from symgraph.tracing.wrap import example_inputs

_TEXT: dict[str, Any] = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
_VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}


def _llava(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    vision = transformers.CLIPVisionConfig(**_VISION, image_size=8, patch_size=4)
    text = transformers.LlamaConfig(**_TEXT, **_HEADS)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=50)
    model: Any = transformers.LlavaForConditionalGeneration(config)
    return model.eval()  # type: ignore[no-any-return]


def _fuyu(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    text = transformers.PersimmonConfig(**_TEXT, num_attention_heads=2)
    config = transformers.FuyuConfig(text_config=text, patch_size=2, num_channels=3, image_token_id=50)
    model: Any = transformers.FuyuForCausalLM(config)
    return model.eval()  # type: ignore[no-any-return]


def _qwen(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    text: dict[str, Any] = {**_TEXT, **_HEADS, "max_position_embeddings": 64, "rope_parameters": rope}
    vision: dict[str, Any] = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 24,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 4,
    }
    tokens: dict[str, Any] = {
        "image_token_id": 50,
        "video_token_id": 51,
        "vision_start_token_id": 52,
        "vision_end_token_id": 53,
    }
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    model: Any = transformers.Qwen2VLForConditionalGeneration(config)
    return model.eval()  # type: ignore[no-any-return]


def _sound(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    audio = transformers.Qwen2AudioEncoderConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=20,
        num_mel_bins=8,
        max_source_positions=10,
    )
    text = transformers.Qwen2Config(**_TEXT, **_HEADS)
    config = transformers.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=50)
    model: Any = transformers.Qwen2AudioForConditionalGeneration(config)
    return model.eval()  # type: ignore[no-any-return]


def _cross(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, add_cross_attention=True))
    return model.eval()  # type: ignore[no-any-return]


class Optional(nn.Module):
    """A network that reads some of its parameters only if it is given a second input."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.down, self.side = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(4, 8)
        self.wide = nn.Linear(8, 12)
        self.last = nn.Linear(12, 8)
        self.example_inputs = (torch.randn(4, 5),)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        hidden = torch.relu(self.up(x))
        hidden = hidden + self.last(torch.relu(self.wide(hidden)))
        found: Tensor = self.down(torch.relu(hidden if other is None else hidden + self.side(other)))
        return found


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_llava, "text with picture"),
        (_fuyu, "text with picture"),
        pytest.param(_qwen, "text with picture", marks=pytest.mark.slow),
        pytest.param(_sound, "text with sound", marks=pytest.mark.slow),
        (_cross, "encoder states"),
    ],
    ids=["llava", "fuyu", "qwen2-vl", "qwen2-audio", "cross"],
)
def test_the_symmetries_of_all_kinds_are_met(make: Callable[[int], Any], kind: str) -> None:
    a, b = make(0), make(1)
    graph = symgraph.trace(a)
    assert graph.kinds == (kind,) and not graph.unread and not graph.untraced
    symmetry = symgraph.infer(graph)
    assert symgraph.verify(a, symmetry=symmetry).passed
    assert f"traced on {kind} as well" in str(symmetry)
    aligned = symgraph.align(a, b).state
    inputs = dict(further_kinds(b, example_inputs(b)))[kind]()
    with torch.no_grad():
        before = b(**inputs).logits
        b.load_state_dict(aligned, strict=False)
        after = b(**inputs).logits
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_a_kind_that_could_not_be_traced_is_said_and_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symgraph.tracing.kinds.MAKERS", {})
    found = symgraph.infer(_llava(0))
    assert "residual" not in {s.name for s in found.active}
    assert "not traced on text with picture" in str(found) and "no trace reads model.vision_tower" in str(found)


def test_parameters_that_are_not_reached_freeze_the_spaces_that_they_may_be_on() -> None:
    a, b = Optional(0), Optional(1)
    found = symgraph.infer(a)
    assert [s.name for s in found.active] == ["wide.hidden"] or [s.size for s in found.active] == [12]
    assert "no trace reads side.weight, side.bias: frozen" in str(found)
    x, other = torch.randn(6, 5), torch.randn(6, 4)
    before, aligned = b(x, other), symgraph.align(a, b)
    assert any("no trace reads side.weight" in note for note in aligned.notes)
    b.load_state_dict(aligned.state)
    assert (before - b(x, other)).abs().max() < 1e-5


def test_what_is_read_for_nothing_is_not_unknown() -> None:
    class Idle(Optional):
        def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
            self.side(x[:, :4])
            return super().forward(x)

    graph = symgraph.trace(Idle(0))
    assert not graph.unread and graph.idle >= {"side.weight", "side.bias"}
    assert {s.size for s in symgraph.infer(graph).active} >= {8, 12}


def test_a_symmetry_of_texts_alone_is_refused_on_pictures() -> None:
    a, b = _llava(0), _llava(1)
    text = symgraph.infer(symgraph.trace(a, kwargs=example_inputs(a)))
    assert text.graph.unread
    loose = symgraph.infer(_without_stand_in(a))
    with pytest.raises(VerifyError, match="text with picture") as found:
        symgraph.align(a, b, symmetry=loose)
    assert "residual" in str(found.value)


def _without_stand_in(model: nn.Module) -> symgraph.Graph:
    """The trace on texts, as if all parameters had been read."""
    graph = symgraph.trace(model, kwargs=example_inputs(model))
    return replace(graph, idle=frozenset(graph.parameters))
