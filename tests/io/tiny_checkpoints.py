"""Tiny checkpoints on disk, and what every error must say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from symgraph.errors import SymgraphError
from symgraph.io.models import quiet

State = dict[str, Tensor]

TEXT: dict[str, Any] = dict(
    vocab_size=11, n_positions=9, n_embd=8, n_layer=1, n_head=2, n_inner=12, bos_token_id=0, eos_token_id=0
)
IMAGE: dict[str, Any] = dict(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    image_size=8,
    patch_size=4,
    num_channels=1,
    num_labels=3,
)
WEIGHTS = "model.safetensors"
TABLE, HEAD = "transformer.wte.weight", "lm_head.weight"


def text_model(seed: int = 0, **changes: Any) -> Any:
    """A language model; its head is tied to its table unless `tie_word_embeddings` is false."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return perturbed(GPT2LMHeadModel(GPT2Config(**TEXT | changes)), seed)


def image_model(seed: int = 0, **changes: Any) -> Any:
    """An image classifier."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    return perturbed(ViTForImageClassification(ViTConfig(**IMAGE | changes)), seed)


def perturbed(model: Any, seed: int) -> Any:
    """The model, in evaluation mode, with no parameter at a special value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def save(model: Any, folder: Path, **options: Any) -> Path:
    """The model as a checkpoint."""
    with quiet():
        model.save_pretrained(folder, **options)
    return folder


def copy_with(
    source: Path, out: Path, config: dict[str, Any] | None = None, edit: Callable[[State], Any] = len
) -> Path:
    """The checkpoint with some keys of its config changed and its tensors edited."""
    out.mkdir()
    state = load_file(source / WEIGHTS)
    edit(state)
    save_file(state, out / WEIGHTS, {"format": "pt"})
    read = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(read | (config or {})))
    return out


def equal(a: State, b: State) -> bool:
    """Whether the states agree to the bit, in their dtypes too."""
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


class Net(nn.Module):
    """A network that transformers knows nothing of."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 3)
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())  # type: ignore[no-any-return]


@contextmanager
def refused(kind: type[SymgraphError], place: object, *texts: str, remedy: str = "") -> Iterator[None]:
    """Expects an error of exactly this kind that leads with the place, says these texts, and what to do."""
    with pytest.raises(SymgraphError) as caught:
        yield
    error = caught.value
    assert type(error) is kind, repr(error)
    assert str(place) in error.what, error.what
    for text in texts:
        assert text in f"{error.what}\n{error.cause}", str(error)
    assert error.remedy and remedy in error.remedy, str(error)
