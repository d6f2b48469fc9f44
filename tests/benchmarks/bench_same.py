"""Same or different: what `same` says of pairs of which it is known, over eighteen architectures at small sizes.

    python tests/benchmarks/bench_same.py [--only llama bert] [--draws 2] [--lines FILE]

Every model is trained for a little, on letters of the project's own documents or on scikit-learn's handwritten digits,
so that no weight is where it began; tuned means on Python source, or on inverted digits. B is A moved by a random
element of its whole group and stored in float32 or bfloat16; moved, with noise of a share of each tensor's size; with
permutations alone; tuned, or pruned by magnitude, as it is and moved; with hidden units more that are dead, copies of
others, or others split; or trained from another seed on the same data. For each it says the verdict, the estimate of
the noise over the truth, what is explained beside unrelated models, and the fingerprint AWM where it is defined.

With `--lines` every pair is appended to a file, and what stands there already is not measured again.

Source: AWM, Zeng et al., arXiv 2510.06738 (ICLR 2026).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from fingerprints import awm
from measure import one_thread, seconds
from sklearn.datasets import load_digits
from torch import Tensor, nn

import symgraph
from symgraph.inference.sources import with_state
from symgraph.tracing import state_of

WIDTH, LABELS, LENGTH, BATCH = 16, 10, 12, 32
LETTERS = "abcdefghijklmnopqrstuvwxyz ."
TOKENS = len(LETTERS)
TEXT = dict(vocab_size=TOKENS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
GROUPED = TEXT | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=TOKENS, n_positions=LENGTH, n_embd=WIDTH, n_layer=2, n_head=4, n_inner=24)
PICTURE = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_labels=LABELS)
VIT = PICTURE | dict(intermediate_size=24, image_size=8, patch_size=4)
NONE = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
MIXTRAL = GROUPED | dict(num_local_experts=4, num_experts_per_tok=2)
RESNET = dict(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic", num_labels=LABELS)
T5 = dict(vocab_size=TOKENS, d_model=WIDTH, d_kv=4, d_ff=24, num_layers=2, num_heads=4) | dict(
    decoder_start_token_id=0, pad_token_id=0, tie_word_embeddings=False
)
BART = dict(vocab_size=TOKENS, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4) | dict(
    decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=LENGTH
)
MAMBA = dict(vocab_size=TOKENS, hidden_size=WIDTH, num_hidden_layers=2, state_size=4, conv_kernel=3, time_step_rank=4)
ZEROS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=0, forced_eos_token_id=None)
CONVNEXT = dict(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=2, num_labels=LABELS, image_size=16)

# name -> config, class and settings of a model of transformers, and the side of its pictures (0: text).
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "mlp": ("", "", {}, 0),
    "vgg": ("", "", {}, 0),
    "lstm": ("", "", {}, 0),
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
    "t5": ("T5Config", "T5ForConditionalGeneration", T5, 0),
    "bart": ("BartConfig", "BartForConditionalGeneration", BART | ZEROS, 0),
    "mamba": ("MambaConfig", "MambaForCausalLM", MAMBA | NONE, 0),
    "deit": ("DeiTConfig", "DeiTForImageClassification", VIT, 8),
}
# Models of plain torch, and the shape that they see a digit of eight by eight pixels in.
PLAIN: dict[str, tuple[int, ...]] = {"mlp": (64,), "vgg": (1, 8, 8), "lstm": (8, 8)}
NOISES = (0.01, 0.05, 0.2)
Data = list[dict[str, Tensor]]


def network(name: str, seed: int) -> nn.Module:
    """A model at its initial values, every parameter moved a little: zeros and ones would be alike in all models."""
    torch.manual_seed(seed)
    config, kind, settings, _ = ARCHITECTURES[name]
    plain = {"mlp": lambda: perceptron(32), "vgg": convolutions, "lstm": RowByRow}
    found = plain[name]() if name in PLAIN else _built(config, kind, settings)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return found.eval()


def perceptron(hidden: int) -> nn.Module:
    """Of digits of eight by eight pixels."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 24), nn.Tanh(), nn.Linear(24, LABELS))


def convolutions() -> nn.Module:
    """Convolutions with batch norms, pooling, and two layers at the end, as VGG has them."""
    widths = [(1, 8), (8, 8), (8, 12)]
    convolved = [
        nn.Sequential(nn.Conv2d(n, m, 3, padding=1), nn.BatchNorm2d(m), nn.ReLU(), nn.MaxPool2d(2)) for n, m in widths
    ]
    return nn.Sequential(*convolved, nn.Flatten(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, LABELS))


class RowByRow(nn.Module):
    """Reads a picture row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 24, batch_first=True)
        self.head = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        """The label, from the last state."""
        found: Tensor = self.head(self.rows(x)[0][:, -1])
        return found


def data_of(name: str, tuning: bool = False, count: int = 40) -> Data:
    """Batches of what models are trained on, or of what they are tuned on."""
    side = ARCHITECTURES[name][3]
    if side or name in PLAIN:
        return _digits(name, side, tuning, count)
    folder, pattern = (Path(sysconfig.get_paths()["stdlib"]), "*.py") if tuning else (DOCUMENTS, "*.md")
    text = "".join(f.read_text(encoding="utf-8", errors="ignore")[:9000] for f in sorted(folder.glob(pattern))[:12])
    tokens = torch.tensor([LETTERS.find(c) for c in text.lower() if c in LETTERS])[: count * BATCH * LENGTH]
    return [{"input_ids": t, "labels": t} for t in tokens.view(-1, BATCH, LENGTH)]


DOCUMENTS = Path(__file__).parents[2] / "docs"


def _digits(name: str, side: int, tuning: bool, count: int) -> Data:
    images, labels = load_digits(return_X_y=True)
    pixels, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels)
    pixels = -pixels if tuning else pixels
    if side:
        pixels = nn.functional.interpolate(pixels, size=(side, side)).expand(-1, 3, -1, -1)
    key, x = ("pixel_values", pixels) if side else ("input", pixels.reshape(-1, *PLAIN[name]))
    pairs = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
    return [{key: a, "labels": b} for a, b in pairs][:count]


def trained(module: nn.Module, data: Data, steps: int, rate: float) -> nn.Module:
    """A copy of the model trained on the batches, in turn, with dropout and the statistics of norms."""
    torch.manual_seed(steps)
    found = copy.deepcopy(module).train()
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
    """A pair that is made when it is needed, and what is known of it: the verdict, and the share of the noise."""

    kind: str
    a: nn.Module
    make: Callable[[], nn.Module]
    verdict: str
    noise: float = 0.0


# What a hidden unit has: the width in the config, what writes it, and what reads it.
HIDDEN: dict[str, tuple[str, tuple[str, ...], str]] = {
    "mlp": ("", ("0.weight", "0.bias"), "2.weight"),
    "vit": ("intermediate_size", ("mlp.fc1.weight", "mlp.fc1.bias"), "mlp.fc2.weight"),
    "llama": ("intermediate_size", ("gate_proj.weight", "up_proj.weight"), "down_proj.weight"),
    "t5": ("d_ff", ("DenseReluDense.wi.weight",), "DenseReluDense.wo.weight"),
    "bert": (
        "intermediate_size",
        ("intermediate.dense.weight", "intermediate.dense.bias"),
        "output.dense.weight",
    ),
}
INSERTED = ("dead units", "copied units", "split units")


def inserted(name: str, module: nn.Module, kind: str) -> nn.Module:
    """A wider model of the same function: three hidden units more in every layer."""
    field, writers, reader = HIDDEN[name]
    config, class_name, settings, _ = ARCHITECTURES[name]
    state = dict(module.state_dict())
    # Positive factors pass through a ReLU, and through what multiplies a gate; other units share what leaves them.
    scaled = {"mlp": writers, "t5": writers, "llama": ("up_proj.weight",)}.get(name, ())
    factor = torch.tensor([0.5, 2.0, 3.0]) if kind == "split units" else torch.ones(3)
    part = torch.tensor([0.3, 0.2, 0.4]) if kind != "dead units" else torch.zeros(3)
    for key, tensor in module.state_dict().items():
        if key.endswith(writers):
            size = factor if key.endswith(scaled) and scaled else torch.ones(3)
            more = (
                tensor[:3] * size.view(3, *[1] * (tensor.dim() - 1))
                if kind != "dead units"
                else torch.randn_like(tensor[:3])
            )
            state[key] = torch.cat([tensor, more])
        elif key.endswith(reader) and "attention" not in key:
            size = factor if scaled else torch.ones(3)
            rest = torch.cat([tensor[:, :3] * (1 - part), tensor[:, 3:]], 1)
            state[key] = torch.cat([rest, tensor[:, :3] * part / size], 1)
    wide = perceptron(35) if not field else _built(config, class_name, settings | {field: settings[field] + 3})
    wide.load_state_dict(state)
    return wide.eval()


def _built(config: str, kind: str, settings: dict[str, Any]) -> nn.Module:
    found: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    return found


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


def pruned(module: nn.Module, share: float = 0.3) -> nn.Module:
    """A copy without the smallest entries of each matrix."""
    found = copy.deepcopy(module)
    with torch.no_grad():
        for p in found.parameters():
            if p.dim() > 1:
                p[p.abs() < p.abs().flatten().quantile(share)] = 0
    return found


def permutations(graph: symgraph.SymmetryGraph) -> list[str]:
    """The spaces whose positions change places."""
    return [s.name for s in graph.active if not s.is_matrix]


def cases(name: str, seed: int, example: Any, draws: int) -> Iterator[Case]:
    """All pairs of one architecture; those that are drawn, so often."""
    data, other_data = data_of(name), data_of(name, tuning=True)
    a = trained(network(name, seed), data, 150, 3e-3)
    graph = symgraph.infer(a, example)

    def moved(module: nn.Module, draw: int, **how: Any) -> nn.Module:
        found = symgraph.sample(graph, module.state_dict(), state=state_of(module), seed=draw, symmetry=graph, **how)
        return with_state(module, found)

    def other() -> nn.Module:
        return trained(network(name, seed + 1000), data, 150, 3e-3)

    def tuned(steps: int = 60, rate: float = 2e-3) -> nn.Module:
        return trained(a, other_data, steps, rate)

    for number in range(draws):
        draw = seed + 11 + number
        yield Case(f"float32, {number}", a, partial(moved, a, draw), "same")
        yield Case(f"bfloat16, {number}", a, partial(lambda d: rounded(moved(a, d)), draw), "same")
        for noise in NOISES:
            make = partial(lambda d, share: noised(moved(a, d), share, d), draw, noise)
            yield Case(f"noise {noise:.0%}, {number}", a, make, "noise", noise)
    if units := permutations(graph):
        yield Case("permuted", a, partial(moved, a, seed + 3, families=units, spread=0.0), "same")
    yield Case("tuned", a, tuned, "derived")
    yield Case("tuned, moved", a, lambda: moved(tuned(), seed + 4), "derived")
    yield Case("tuned little, moved", a, lambda: moved(tuned(10, 1e-3), seed + 5), "derived")
    yield Case("pruned", a, lambda: pruned(a), "derived")
    yield Case("pruned, moved", a, lambda: moved(pruned(a), seed + 7), "derived")
    yield Case("independent", a, other, "independent")
    yield Case("independent, moved", a, lambda: moved(other(), seed + 6), "independent")
    for kind in INSERTED if name in HIDDEN else ():
        yield Case(kind, a, partial(inserted, name, moved(a, seed + 8, spread=0.0), kind), "same")


def cosine(a: nn.Module, b: nn.Module) -> float:
    """Of all parameters as they are stored."""
    x, y = (torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (a, b))
    return float(x @ y / (x.norm() * y.norm())) if len(x) == len(y) else math.nan


def measured(name: str, case: Case, example: Any) -> dict[str, Any]:
    """What is said of a pair, and whether it is so."""
    b = case.make()
    took, found = seconds(lambda: symgraph.same(case.a, b, example))
    ratio = found.share / case.noise if case.noise else None
    right = found.verdict == case.verdict and (ratio is None or abs(ratio - 1) <= 0.1)
    figures = {"kind": case.kind, "truth": case.verdict, "right": right, "ratio": ratio, "seconds": took}
    fingerprint = awm(name, case.a.state_dict(), b.state_dict())
    return figures | {"cosine": cosine(case.a, b), "awm": fingerprint, **found.to_plain()}


def example_of(name: str) -> Any:
    """What a model is traced with, where it does not say so itself."""
    return torch.randn(4, *PLAIN[name]) if name in PLAIN else None


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    ratio = "" if found["ratio"] is None else f"{found['ratio']:.3f} of the truth"
    mark = "" if found["right"] else "  WRONG"
    shape = f"uneven {found['unevenness']:.3f}  peak {found['peak']:.2f}  explained {found['explained']:6.3f}"
    other = f"cosine {found['cosine']:5.2f}  " + ("" if found["awm"] is None else f"awm {found['awm']:5.2f}  ")
    head = f"{found['architecture']:<12} {found['kind']:<20} {found['verdict']:<12} {found['share']:.3g}"
    return f"{head:<56} {ratio:<20} {shape}  {other}{found['seconds']:.1f} s{mark}"


def _kind(row: dict[str, Any]) -> str:
    """Without the number of the draw."""
    return str(row["kind"]).rstrip("0123456789").removesuffix(", ")


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """By kind: pairs, errors, noise over the truth, what is explained, and AWM."""
    kinds = dict.fromkeys(map(_kind, rows))
    yield f"{'kind':<20} pairs wrong  noise/truth    explained      share                  AWM"
    for kind in kinds:
        some = [r for r in rows if _kind(r) == kind]

        def span(key: str, form: str, some: list[dict[str, Any]] = some) -> str:
            values = [r[key] for r in some if r[key] is not None]
            return f"{min(values):{form}} .. {max(values):{form}}" if values else ""

        wrong = sum(not r["right"] for r in some)
        figures = f"{span('ratio', '.3f'):<14} {span('explained', '.3f'):<14} {span('share', '.2g'):<22}"
        yield f"{kind:<20} {len(some):5} {wrong:5}  {figures} {span('awm', '.2f')}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--kinds", nargs="+", help="these kinds of pairs alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2, help="random elements and noises of each kind (default 2)")
    parser.add_argument("--lines", type=Path, help="append every pair to this file, and skip those that it has")
    args = parser.parse_args()
    rows = [json.loads(t) for t in args.lines.read_text().splitlines()] if args.lines and args.lines.exists() else []
    known = {(r["architecture"], r["kind"]) for r in rows}
    with one_thread():
        for name in args.only:
            example = example_of(name)
            for case in cases(name, args.seed, example, args.draws):
                wanted = args.kinds is None or any(case.kind.startswith(k) for k in args.kinds)
                if not wanted or (name, case.kind) in known:
                    continue
                rows.append({"architecture": name, **measured(name, case, example)})
                print(line(rows[-1]), flush=True)
                if args.lines:
                    with args.lines.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(summary(rows)))
    wrong = sum(not r["right"] for r in rows)
    print(f"{len(rows)} pairs, {wrong} wrong, {sum(r['seconds'] for r in rows):.0f} s of processor time")


if __name__ == "__main__":
    main()
