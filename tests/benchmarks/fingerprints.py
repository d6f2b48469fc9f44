"""AWM, a published fingerprint of language models: how alike the query and key matrices of two models are.

Positions of the stream are matched by the columns of the word embeddings, up to signs; then the unbiased centred kernel
alignment of every query and key matrix, over the positions of the stream, is averaged. It is invariant to orthogonal
maps inside heads, and to permutations and signs of the stream.

Source: Zeng et al., arXiv 2510.06738 (ICLR 2026); for the unbiased estimate Song et al. 2012.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# Word embeddings (none: positions are compared as they are), and the names of queries and keys, or of both in one.
PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "gpt2-tied": ("transformer.wte.weight", ("attn.c_attn.weight",)),
    "gpt2-untied": ("transformer.wte.weight", ("attn.c_attn.weight",)),
    "llama": ("model.embed_tokens.weight", ("q_proj.weight", "k_proj.weight")),
    "qwen3": ("model.embed_tokens.weight", ("q_proj.weight", "k_proj.weight")),
    "gemma2": ("model.embed_tokens.weight", ("q_proj.weight", "k_proj.weight")),
    "mixtral": ("model.embed_tokens.weight", ("q_proj.weight", "k_proj.weight")),
    "bert": ("bert.embeddings.word_embeddings.weight", ("self.query.weight", "self.key.weight")),
}


def awm(name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float | None:
    """The similarity, 1 for the same model; None where it is not defined."""
    if name not in PLACES:
        return None
    embedding, ends = PLACES[name]
    one, other = (torch.nn.functional.normalize(s[embedding].double(), dim=0) for s in (a, b))
    cosines = one.T @ other
    rows, columns = linear_sum_assignment(-cosines.abs().numpy())
    order = torch.empty(len(rows), dtype=torch.long)
    order[torch.tensor(columns)] = torch.tensor(rows)
    signs = cosines[order, torch.arange(len(order))].sign()
    found = [
        alignment(x[order] * signs[:, None], y)
        for key in a
        if key.endswith(ends)
        for x, y in zip(_features(key, a[key]), _features(key, b[key]), strict=True)
    ]
    return sum(found) / len(found)


def _features(key: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Matrices with a row for every position of the stream: (d, features)."""
    if key.endswith("c_attn.weight"):
        return weight.double().chunk(3, dim=1)[:2]
    return (weight.double().T,)


def alignment(x: Tensor, y: Tensor) -> float:
    """The unbiased centred kernel alignment of two sets of features; shapes (n, d), (n, e)."""
    one, other = (_centred(f @ f.T) for f in (x, y))
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def _centred(gram: Tensor) -> Tensor:
    """A kernel matrix without its diagonal, so centred that the inner product of two has no bias."""
    n, left = len(gram), gram - gram.diag().diag()
    means = left.sum(0) / (n - 2)
    whole = left.sum() / ((n - 1) * (n - 2))
    centred = left - means[:, None] - means[None, :] + whole
    return centred - centred.diag().diag()
