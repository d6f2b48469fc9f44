"""The endpoints: ViT and GPT-2 as transformers has them, trained by AdamW with a cosine schedule."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from corpora import EVALUATED, Batch, Corpus
from settings import Setting
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification


def endpoint(setting: Setting, corpus: Corpus, seed: int, folder: Path, device: torch.device) -> nn.Module:
    """A trained model, from `folder` where an earlier run has left it."""
    if (folder / "config.json").exists():
        return _kind(corpus).from_pretrained(folder).to(device).eval()
    model = fresh(setting, corpus, seed).to(device)
    start = time.perf_counter()
    train(model, setting, corpus, seed)
    keep(model, corpus, folder, time.perf_counter() - start)
    return model


def fresh(setting: Setting, corpus: Corpus, seed: int) -> Any:
    torch.manual_seed(seed)
    return _kind(corpus)(config(setting, corpus))


def keep(model: nn.Module, corpus: Corpus, folder: Path, taken: float) -> None:
    """Writes a trained model, and says how good it is."""
    print(f"  {folder.name}: trained in {taken:.0f} s, {described(model, corpus)}", flush=True)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    partial.rename(folder)


def _kind(corpus: Corpus) -> Any:
    return GPT2LMHeadModel if corpus.text else ViTForImageClassification


def config(s: Setting, corpus: Corpus) -> ViTConfig | GPT2Config:
    if corpus.text:
        return GPT2Config(
            vocab_size=corpus.classes,
            n_positions=s.context,
            n_embd=s.width,
            n_layer=s.layers,
            n_head=s.heads,
            n_inner=s.hidden,
            activation_function="gelu_new",
            tie_word_embeddings=False,
            resid_pdrop=s.dropout,
            embd_pdrop=s.dropout,
            attn_pdrop=s.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    return ViTConfig(
        hidden_size=s.width,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        intermediate_size=s.hidden,
        image_size=s.image,
        patch_size=s.patch,
        num_labels=corpus.classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def train(model: nn.Module, s: Setting, corpus: Corpus, seed: int) -> None:
    """Trains in place; with `stop_early` the state with the best validation loss is kept."""
    device = next(model.parameters()).device
    total = max(1, round(s.epochs * math.ceil(len(corpus.train[0]) / s.batch)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=s.rate, weight_decay=s.decay)
    factors = rates(s, total)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factors[step])
    generator = torch.Generator().manual_seed(seed)
    best, kept, step = math.inf, None, 0
    while step < total:
        model.train()
        for batch in corpus.epoch(s.batch, generator):
            if step == total:
                break
            optimiser.zero_grad()
            model(**placed(batch, device)).loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
        if s.stop_early:
            found, _ = measured(model, corpus, "validation")
            if found < best:
                best, kept = found, copy.deepcopy(model.state_dict())
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()


def rates(s: Setting, total: int) -> list[float]:
    """The factor on the learning rate at each of so many steps, and after the last."""
    warm = max(1, round(s.warmup * total))
    return [min(1.0, (i + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * i / total)) for i in range(total + 1)]


@torch.no_grad()
def measured(model: nn.Module, corpus: Corpus, split: str, size: int | None = None) -> tuple[float, float]:
    """Mean loss and accuracy of a split (the accuracy of next tokens is not counted: NaN)."""
    model.eval()
    device = next(model.parameters()).device
    loss = right = count = 0.0
    for raw in corpus.batches(split, size or (EVALUATED if not corpus.text else 16)):
        batch = placed(raw, device)
        found = model(**batch)
        n = len(batch["labels"])
        loss, count = loss + float(found.loss) * n, count + n
        if not corpus.text:
            right += float((found.logits.argmax(-1) == batch["labels"]).sum())
    return loss / count, right / count if not corpus.text else math.nan


def placed(batch: Batch, device: torch.device) -> Batch:
    return {k: t.to(device) for k, t in batch.items()}


def described(model: nn.Module, corpus: Corpus) -> str:
    loss, accuracy = measured(model, corpus, "test")
    return f"test loss {loss:.3f}" + ("" if math.isnan(accuracy) else f", accuracy {accuracy:.2%}")
