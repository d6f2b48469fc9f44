"""Two tiny language models, trained on the same text from different seeds, brought into one basis.

    python examples/gpt2_on_text.py --text my-book.txt

Without `--text`, the text is the reference manual that comes with Python. Tokens are characters, so there is nothing to
download. The head is not tied to the embedding, which leaves the residual stream free to rotate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import symgraph
from symgraph.measure.plots import barrier_plot

CONTEXT, BATCH = 64, 16


def read(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics))


def tokenised(text: str) -> tuple[Tensor, Tensor, int]:
    """Windows of character numbers for training, windows held out (the last tenth), and the number of characters."""
    characters = sorted(set(text))
    number = {c: i for i, c in enumerate(characters)}
    tokens = torch.tensor([number[c] for c in text])
    windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    split = len(windows) * 9 // 10
    return windows[:split], windows[split:], len(characters)


def trained(seed: int, windows: Tensor, characters: int, steps: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=characters,
        n_positions=CONTEXT,
        n_embd=48,
        n_layer=2,
        n_head=4,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (BATCH,))]
        optimiser.zero_grad()
        logits = model(input_ids=batch).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file in UTF-8")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "gpt2_on_text")
    parser.add_argument("--fast", action="store_true", help="shorter training")
    options = parser.parse_args(arguments)
    windows, held_out, characters = tokenised(read(options.text))
    if not len(held_out):
        parser.error(f"{options.text} is too short: give a text of some ten thousand characters")
    held_out = held_out[:256]
    print(f"{windows.numel():,} characters to learn from, {characters} different ones")
    a, b = (trained(seed, windows, characters, 60 if options.fast else 400) for seed in (0, 1))

    graph = symgraph.infer(a)
    print(f"\n{graph}\n")
    proof = symgraph.verify(a, symmetry=graph)
    proof.raise_if_failed()
    print(f"verified: random elements change the outputs by {proof.together:.0e} (relative, float64)")
    aligned = symgraph.align(a, b, symmetry=graph)
    print(aligned)

    test = [{"input_ids": w, "labels": w} for w in held_out.split(64)]
    before = symgraph.loss_barrier(a, b, test)
    after = symgraph.loss_barrier(aligned.reference, aligned.state, test, module=a)
    for name, result in (("as trained", before), ("aligned", after)):
        first, middle, last = (result.losses[i] for i in (0, 5, -1))
        print(
            f"{name:<10}  loss barrier {result.barrier:.3f} \u00b1 {result.standard_error:.3f}, "
            f"loss of A {first:.3f}, of B {last:.3f}, of their mean {middle:.3f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = barrier_plot({"as trained": before, "aligned": after}, options.out / "barrier.png", overwrite=True)
    print(f"drawn to {path}")


if __name__ == "__main__":
    main()
