"""Same or different: what `same` says of pairs of which it is known, over twelve architectures at small sizes.

    python tests/benchmarks/bench_same.py [--only llama bert] [--draws 2] [--json FILE]

Every model is trained for a little on made-up data, so that no weight is where it began. B is A moved by a random
element of its whole group and stored in float32 or bfloat16; moved, with noise of a share of each tensor's size; with
permutations alone; trained further on other data, as it is and moved; or trained from another seed on the same data.
For each it says the verdict, the estimate of the noise over the truth, and the cosine of all weights as stored.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import one_thread, seconds
from torch import Tensor, nn

import symgraph
from symgraph.inference.sources import with_state
from symgraph.tracing import state_of

WIDTH, TOKENS, LABELS, LENGTH, BATCH = 16, 24, 6, 12, 32
TEXT = dict(vocab_size=TOKENS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
GROUPED = TEXT | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=TOKENS, n_positions=LENGTH, n_embd=WIDTH, n_layer=2, n_head=4, n_inner=24)
PICTURE = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_labels=LABELS)
VIT = PICTURE | dict(intermediate_size=24, image_size=8, patch_size=4)
NONE = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
MIXTRAL = GROUPED | dict(num_local_experts=4, num_experts_per_tok=2)
RESNET = dict(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic", num_labels=LABELS)
CONVNEXT = dict(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=2, num_labels=LABELS, image_size=16)

# name -> config and settings of a class of transformers, and the side of its pictures (0: text).
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "mlp": ("", "", {}, 0),
    "resnet": ("ResNetConfig", "ResNetForImageClassification", RESNET, 16),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", CONVNEXT, 16),
    "vit": ("ViTConfig", "ViTForImageClassification", VIT, 8),
    "gpt2-tied": ("GPT2Config", "GPT2LMHeadModel", GPT2 | NONE, 0),
    "gpt2-untied": ("GPT2Config", "GPT2LMHeadModel", GPT2 | NONE | dict(tie_word_embeddings=False), 0),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", TEXT | NONE, 0),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED | NONE, 0),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", GROUPED | NONE | dict(head_dim=4), 0),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GROUPED | NONE | dict(head_dim=4, query_pre_attn_scalar=4), 0),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", MIXTRAL | NONE, 0),
    "bert": ("BertConfig", "BertForMaskedLM", TEXT | dict(max_position_embeddings=LENGTH, pad_token_id=0), 0),
}
NOISES = (0.01, 0.05, 0.2)
Data = list[dict[str, Tensor]]


def network(name: str, seed: int) -> nn.Module:
    """A model at its initial values, every parameter moved a little: zeros and ones would be alike in all models."""
    torch.manual_seed(seed)
    config, kind, settings, _ = ARCHITECTURES[name]
    if not config:
        found: nn.Module = nn.Sequential(
            nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, LABELS)
        )
    else:
        found = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return found.eval()


def data_of(name: str, seed: int, count: int = 12) -> Data:
    """Batches of a task that the seed makes up: the next token of a chain, or the nearest of some pictures."""
    generator, side = torch.Generator().manual_seed(seed), ARCHITECTURES[name][3]
    if side or name == "mlp":
        shape = (3, side, side) if side else (12,)
        centres = torch.randn(LABELS, *shape, generator=generator)
        labels = torch.randint(0, LABELS, (count, BATCH), generator=generator)
        key = "pixel_values" if side else "input"
        return [{key: centres[y] + torch.randn(BATCH, *shape, generator=generator), "labels": y} for y in labels]
    follows = torch.randint(0, TOKENS, (TOKENS, 2), generator=generator)
    batches = []
    for _ in range(count):
        rows = [torch.randint(0, TOKENS, (BATCH,), generator=generator)]
        for _ in range(LENGTH - 1):
            rows.append(follows[rows[-1], torch.randint(0, 2, (BATCH,), generator=generator)])
        tokens = torch.stack(rows, 1)
        batches.append({"input_ids": tokens, "labels": tokens})
    return batches


def trained(module: nn.Module, data: Data, steps: int, rate: float) -> nn.Module:
    """A copy of the model trained on the batches, in turn."""
    found = copy.deepcopy(module)
    optimiser = torch.optim.AdamW(found.parameters(), lr=rate)
    for step in range(steps):
        batch = data[step % len(data)]
        if "input" in batch:
            loss = nn.functional.cross_entropy(found(batch["input"]), batch["labels"])
        else:
            loss = found(**batch).loss
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return found.eval()


@dataclass(frozen=True)
class Case:
    """A pair, and what is known of it: the verdict, and the share of the noise where there is some."""

    kind: str
    a: nn.Module
    b: nn.Module
    verdict: str
    noise: float = 0.0


def noised(module: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy with noise of this share of the size of each parameter."""
    found, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(share * p.square().mean().sqrt() * torch.randn(p.shape, generator=generator))
    return found


def rounded(module: nn.Module) -> nn.Module:
    """A copy in bfloat16."""
    return copy.deepcopy(module).to(torch.bfloat16)


def permutations(graph: symgraph.SymmetryGraph) -> list[str]:
    """The spaces whose positions change places."""
    return [s.name for s in graph.active if not s.is_matrix]


def cases(name: str, seed: int, example: Any, draws: int) -> Iterator[Case]:
    """All pairs of one architecture; those that are drawn, so often."""
    data = data_of(name, 100)
    a, other = (trained(network(name, seed + i), data, 150, 3e-3) for i in (0, 1000))
    graph = symgraph.infer(a, example)

    def moved(module: nn.Module, draw: int, **how: Any) -> nn.Module:
        found = symgraph.sample(graph, module.state_dict(), state=state_of(module), seed=draw, symmetry=graph, **how)
        return with_state(module, found)

    for draw in range(seed + 11, seed + 11 + draws):
        yield Case("float32", a, moved(a, draw), "same")
        yield Case("bfloat16", a, rounded(moved(a, draw)), "same")
        for noise in NOISES:
            yield Case(f"noise {noise:.0%}", a, noised(moved(a, draw), noise, draw), "noise", noise)
    if units := permutations(graph):
        yield Case("permuted", a, moved(a, seed + 3, families=units, spread=0.0), "same")
    tuned = trained(a, data_of(name, 200), 60, 2e-3)
    yield Case("tuned", a, tuned, "derived")
    yield Case("tuned, moved", a, moved(tuned, seed + 4), "derived")
    yield Case("tuned little, moved", a, moved(trained(a, data_of(name, 300), 10, 1e-3), seed + 5), "derived")
    yield Case("independent", a, other, "independent")
    yield Case("independent, moved", a, moved(other, seed + 6), "independent")


def cosine(a: nn.Module, b: nn.Module) -> float:
    """Of all parameters as they are stored."""
    x, y = (torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (a, b))
    return float(x @ y / (x.norm() * y.norm()))


def measured(case: Case, example: Any) -> dict[str, Any]:
    """What is said of a pair, and whether it is so."""
    took, found = seconds(lambda: symgraph.same(case.a, case.b, example))
    ratio = found.share / case.noise if case.noise else None
    right = found.verdict == case.verdict and (ratio is None or abs(ratio - 1) <= 0.1)
    figures = {"kind": case.kind, "truth": case.verdict, "right": right, "ratio": ratio, "seconds": took}
    return figures | {"cosine": cosine(case.a, case.b), **found.to_plain()}


def example_of(name: str) -> Any:
    """What a model is traced with, where it does not say so itself."""
    return torch.randn(4, 12) if name == "mlp" else None


def line(name: str, found: dict[str, Any]) -> str:
    """One row of the table."""
    ratio = "" if found["ratio"] is None else f"{found['ratio']:.3f} of the truth"
    mark = "" if found["right"] else "  WRONG"
    shape = f"uneven {found['unevenness']:.3f}  peak {found['peak']:.2f}  {found['deviations']:6.1f} deviations"
    cos = f"cosine {found['cosine']:5.2f}"
    head = f"{name:<12} {found['kind']:<20} {found['verdict']:<12} {found['share']:.3g}"
    return f"{head:<56} {ratio:<20} {shape}  {cos}  {found['seconds']:.1f} s{mark}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--kinds", nargs="+", help="these kinds of pairs alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2, help="random elements and noises of each kind (default 2)")
    parser.add_argument("--json", type=Path, help="also write all figures into this file")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with one_thread():
        for name in args.only:
            example = example_of(name)
            for case in cases(name, args.seed, example, args.draws):
                if args.kinds is None or case.kind in args.kinds:
                    rows.append({"architecture": name, **measured(case, example)})
                    print(line(name, rows[-1]), flush=True)
    wrong = sum(not r["right"] for r in rows)
    print(f"{len(rows)} pairs, {wrong} wrong, {sum(r['seconds'] for r in rows):.0f} s of processor time")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
