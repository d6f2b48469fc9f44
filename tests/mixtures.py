"""Small mixtures of experts in the forms in which people write them; none of them is a model of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, EXPERTS, VOCABULARY = 6, 5, 4, 11


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.act(self.up(x)))
        return found


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return found


class Mixture(nn.Module):
    """Experts as a list (`form` says how they are summed) or as stacked tensors; `top` 0 is a dense gate."""

    def __init__(self, form: str, top: int = 0, shared: int = 0, expert: type[nn.Module] = Expert) -> None:
        super().__init__()
        self.form, self.top = form, top
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.shared = nn.ModuleList(expert() for _ in range(shared))
        if form != "tensors":
            self.experts = nn.ModuleList(expert() for _ in range(EXPERTS))
            return
        self.w_in = nn.Parameter(0.3 * torch.randn(EXPERTS, WIDTH, HIDDEN))
        self.w_out = nn.Parameter(0.3 * torch.randn(EXPERTS, HIDDEN, WIDTH))
        self.b_in, self.b_out = (nn.Parameter(0.1 * torch.randn(EXPERTS, n)) for n in (HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        values, chosen = weights.topk(self.top or weights.shape[-1], -1)
        dense = torch.zeros_like(weights).scatter(-1, chosen, values) if self.top else weights
        y = self._routed(x, dense, values, chosen)
        for expert in self.shared:
            y = y + expert(x)
        return y

    def _routed(self, x: Tensor, dense: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
        if self.form == "tensors":
            hidden = nn.functional.gelu(torch.einsum("...d,edh->...eh", x, self.w_in) + self.b_in)
            each = torch.einsum("...eh,ehd->...ed", hidden, self.w_out) + self.b_out
            return (each * dense.unsqueeze(-1)).sum(-2)
        if self.form == "stack":
            each = torch.stack([e(x) for e in self.experts], -2)
            return (each * dense.unsqueeze(-1)).sum(-2)
        parts = dense.unbind(-1) if self.form == "unbind" else ()
        found: Any = 0
        for i, expert in enumerate(self.experts):
            if self.form == "mask":
                weight = (values * (chosen == i)).sum(-1, keepdim=True)
            else:
                weight = parts[i].unsqueeze(-1) if parts else dense[..., i : i + 1]
            found = found + weight * expert(x)
        routed: Tensor = found
        return routed


class Network(nn.Module):
    """An embedding, two residual mixtures behind norms, a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mixtures = nn.ModuleList(Mixture(**options) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.example_inputs = torch.arange(14).reshape(2, 7) % VOCABULARY

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x)
        for norm, mixture in zip(self.norms, self.mixtures, strict=True):
            y = y + mixture(norm(y))
        found: Tensor = self.head(y)
        return found


FORMS: dict[str, dict[str, Any]] = {
    "tensors": dict(form="tensors", top=2),
    "tensors-dense": dict(form="tensors"),
    "list": dict(form="slice"),
    "list-top1": dict(form="slice", top=1),
    "list-unbind": dict(form="unbind"),
    "list-mask": dict(form="mask", top=2),
    "list-stack": dict(form="stack", top=2),
    "list-gated": dict(form="slice", top=2, expert=Gated),
    "list-shared": dict(form="slice", top=2, shared=2),
}


def network(name: str, seed: int = 0) -> Network:
    """A network in float64 with no initial value left as it was."""
    torch.manual_seed(seed)
    found = Network(**FORMS[name]).double().eval()
    for p in found.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return found
