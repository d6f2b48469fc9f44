"""A small Llama that is trained with outliers: a few coordinates of its stream are large from the start, and stay so.

Large language models have such coordinates; small ones, trained for a little, have none. Here a few columns of the
table of tokens begin at many times the size of the others, with the same number for every token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from bench_zoo import windows
from torch import nn

WIDTH, LAYERS, LARGE, SIZE = 64, 3, 3, 8.0
LENGTH = 64


def outlying_model(folder: Path, seed: int, steps: int = 400) -> nn.Module:
    """Trained on windows of the training text."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=_tokens(folder),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, :LARGE] += SIZE * model.model.embed_tokens.weight.std()
    data = torch.cat([b["input_ids"] for b in windows(folder, "train")]).view(-1, LENGTH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        x = data[order[(16 * step) % (len(data) - 16) :][:16]]
        loss = model(input_ids=x, labels=x).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    trained: nn.Module = model.eval()
    return trained


def _tokens(folder: Path) -> int:
    return 1 + max(int(b["input_ids"].max()) for b in windows(folder, "train"))
