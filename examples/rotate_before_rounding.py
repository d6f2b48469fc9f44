"""A small language model with outliers, rounded to 3 bits: as it is, and rotated first.

    python examples/rotate_before_rounding.py

A Llama over letters begins with two coordinates of its stream that are larger than the others, as large models have,
and is trained on this project's licence. `rotate` fuses a rotation into its weights: it computes what it computed, and
rounding its matrices to 3 bits changes what it predicts less than before where the rotation was learned.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import symgraph

BITS, LENGTH, LARGE = 3, 32, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz ."
TEXT = Path(__file__).resolve().parents[1] / "LICENSE"


def windows(file: Path) -> Tensor:
    letters = [LETTERS.find(c) for c in file.read_text(encoding="utf-8").lower() if c in LETTERS]
    return torch.tensor(letters[: len(letters) // LENGTH * LENGTH]).view(-1, LENGTH)


def language_model() -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    none: dict[str, Any] = dict(bos_token_id=None, eos_token_id=None)
    found: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(LETTERS), **sizes, **none))
    with torch.no_grad():
        table = found.model.embed_tokens.weight
        table[:, :LARGE] += 8 * table.std()
    model: nn.Module = found
    return model


def train(model: nn.Module, text: Tensor, steps: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x = text[torch.randint(len(text), (16,))]
        optimiser.zero_grad()
        model(input_ids=x, labels=x).loss.backward()
        optimiser.step()
    model.eval()


def rounded(model: nn.Module) -> nn.Module:
    """A copy with the matrices of every layer rounded to the nearest, with a step for each output."""
    found = copy.deepcopy(model)
    for module in found.get_submodule("model.layers").modules():
        if isinstance(module, nn.Linear):
            step = module.weight.detach().abs().amax(1, keepdim=True) / (2 ** (BITS - 1) - 1)
            module.weight.data = (module.weight.data / step).round() * step
    return found


@torch.no_grad()
def changed(model: nn.Module, other: nn.Module, text: Tensor) -> float:
    """How far what one predicts is from what the other does: the divergence of Kullback and Leibler."""
    one, two = (m(input_ids=text).logits.log_softmax(-1) for m in (model, other))
    return float((one.exp() * (one - two)).sum(-1).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "rotate_before_rounding")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    text, model = windows(TEXT), language_model()
    train(model, text, 100 if options.fast else 600)

    learned = symgraph.rotate(model, by="learned", bits=BITS)
    print(learned)
    models = {"as it is": model, "rotated": symgraph.rotate(model).module, "learned": learned.module}
    for name, module in models.items():
        alone, then = (changed(model, m, text) for m in (module, rounded(module)))
        print(f"{name:<10} predicts {abs(alone):.1e} apart, and {then:.4f} when rounded")
    learned.save_pretrained(options.out, overwrite=True)


if __name__ == "__main__":
    main()
