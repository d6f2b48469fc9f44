"""Merging: in which precision, in which order, and which configs are one architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from symgraph.io.models import Model
from symgraph.io.same_architecture import architecture_differences
from symgraph.match.align import align
from symgraph.match.merge import merge
from symgraph.match.write import apply


def _net(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).to(dtype)
    net.example_inputs = (torch.randn(3, 6, dtype=dtype),)  # type: ignore[assignment]
    return net.eval()


def _llama(**changes: int | float) -> Model:
    sizes: dict[str, object] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**{**sizes, **heads, **changes})  # type: ignore[arg-type]
    module = transformers.LlamaForCausalLM(config)
    return Model(module, config, None, "llama", "factory")


@pytest.mark.parametrize("aligned", [False, True], ids=["as they are", "aligned"])
def test_the_widest_dtype_is_written_whatever_comes_first(aligned: bool) -> None:
    half, single = _net(0, torch.bfloat16), _net(1)
    one = merge([half, single], [0.3, 0.7], align=aligned).state
    other = merge([single, half], [0.7, 0.3], align=aligned).state
    assert all(t.dtype is torch.float32 and torch.equal(t, other[n]) for n, t in one.items())
    if not aligned:
        wanted = {n: 0.3 * t.double() + 0.7 * single.state_dict()[n].double() for n, t in half.state_dict().items()}
        assert all(((one[n].double() - t).abs() <= 2.0**-24 * t.abs()).all() for n, t in wanted.items())


def test_halves_are_merged_with_room_and_written_as_asked() -> None:
    a, b = _net(0, torch.bfloat16), _net(1, torch.bfloat16)
    assert {t.dtype for t in merge([a, b], [0.5, 0.5]).state.values()} == {torch.bfloat16}
    wide = merge([a, b], [0.3, 0.7], align=False, written=torch.float32).state
    assert any(not torch.equal(t, t.bfloat16().float()) for t in wide.values())


def test_configs_are_compared_by_what_they_compute() -> None:
    assert architecture_differences(_llama(), _llama(max_position_embeddings=128)) == []
    (found,) = architecture_differences(_llama(), _llama(rms_norm_eps=1e-3))
    assert "rms_norm_eps" in found


def test_an_alignment_for_another_model_says_so(tmp_path: Path) -> None:
    a, b, c = (_net(seed) for seed in range(3))
    file = align(a, b).alignment.save(tmp_path / "ab.safetensors")
    assert apply(file, b).notes == () and apply(file, a, inverse=True).notes == ()
    (note,) = apply(file, c).notes
    assert "is not the model that the alignment was made for" in note


def test_a_mask_that_a_model_stores_may_be_infinite() -> None:
    class Masked(nn.Module):
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(5, 6), nn.Linear(6, 5)
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.read(((x @ x.mT + self.mask).softmax(-1) @ self.write(x)).relu())
            return found

    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    a, b = Masked(), Masked()
    found = align(a, b, x)
    assert found.reference is not None and not [note for note in found.notes if "nan" in note]
    assert torch.allclose(found.module(x), b(x), atol=1e-5)
    merged = merge([a, b], example=x)
    assert torch.equal(merged.state["mask"], a.mask)
    assert torch.isfinite(merged.module(x)).all()
