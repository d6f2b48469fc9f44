"""Another objective over the orbit: the error of rounding a checkpoint's matrices to 4 bits.

    python examples/rounding.py [CHECKPOINT] --out FOLDER

All weights on a model's orbit compute the same, but some can be rounded with less error than others. The checkpoint
that is written computes what the one given computes; rounded to 4 bits it stays nearer to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import transformers
from torch import Tensor

import symgraph
from symgraph.io import checkpoint


def rounding_error(state: dict[str, Tensor]) -> Tensor:
    """The squared error of rounding each row of the matrices to the nearest of 15 levels, over their squares."""
    error = total = torch.zeros(())
    for t in (t for t in state.values() if t.dim() == 2):
        level = t.abs().amax(1, keepdim=True).clamp_min(1e-12) / 7
        error = error + (((t / level).round() * level).detach() - t).square().sum()
        total = total + t.square().sum()
    return error / total


def small_model() -> torch.nn.Module:
    """A random Llama with a few coordinates of the residual stream that are much larger than the others."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, **sizes)).eval()
    model.model.embed_tokens.weight.data[:, :3] *= 8
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a folder; without one a small random Llama")
    parser.add_argument("--out", required=True, help="the folder to write to")
    parser.add_argument("--fast", action="store_true", help="fewer steps")
    args = parser.parse_args(arguments)

    model = symgraph.model(args.checkpoint or small_model())
    symmetry = symgraph.infer(model)
    options = symgraph.DescentOptions(steps=100 if args.fast else 400, lr=0.02, full=False)
    found = symgraph.descend(model, rounding_error, options, symmetry=symmetry)
    print(f"rounding error as given {rounding_error(dict(model.module.state_dict())):.4f}, descent {found}")
    state = {n: t for n, t in found.states[0].items() if n in model.module.state_dict()}
    written = symgraph.model(checkpoint.write(model, state, f"{args.out}/rounding"))
    tokens = torch.arange(40).reshape(2, 20)
    one, other = (m.module(tokens).logits.detach() for m in (model, written))
    print(f"outputs change by {float((one - other).abs().max() / one.abs().max()):.0e}, wrote {written.spec}")


if __name__ == "__main__":
    main()
