"""Spaces that are fibred over positions which stay as they are: at each of these they have an element of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models_zoo import worst
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel

import symgraph
from symgraph.prove.verify import random_transform, settled_names
from symgraph.tracing import state_of

HEADS, INSIDE, WIDTH = 3, 4, 12


class Linear(nn.Module):
    """Attention of which every head looks another way back (ALiBi), so that heads are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.norm = nn.Linear(15, WIDTH), nn.LayerNorm(WIDTH)
        self.fused, self.join = nn.Linear(WIDTH, 3 * HEADS * INSIDE), nn.Linear(HEADS * INSIDE, WIDTH)
        self.last, self.read = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 15)

    def forward(self, x: Tensor) -> Tensor:
        h = self.write(x)
        parts = self.fused(self.norm(h)).unflatten(-1, (3, HEADS, INSIDE)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        slopes = 2.0 ** -torch.arange(1, HEADS + 1).view(HEADS, 1, 1)
        weights = (query @ key.mT - slopes * back.abs()).softmax(-1)
        h = h + self.join((weights @ value).transpose(1, 2).flatten(2))
        found: Tensor = self.read(self.last(h))
        return found


def bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=WIDTH, n_layer=2, n_head=4))


def linear() -> nn.Module:
    net = Linear()
    net.example_inputs = torch.randn(2, 5, 15)
    return net


@pytest.mark.parametrize("make", [linear, bloom])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_pair_is_recovered_at_every_position(make: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    a, b = make().double().eval(), make().double().eval()
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    symmetry, state = symgraph.infer(a), state_of(a)
    active = {space.id for space in symmetry.active}
    assert any(not active.issuperset(space.fibre) for space in symmetry.active)
    planted = random_transform(symmetry, state, torch.Generator().manual_seed(seed), settled_names(symmetry))
    b.load_state_dict(planted.apply(state), strict=False)
    assert worst(symgraph.align(a, b).state, state, [name for name, _ in a.named_parameters()]) < 1e-8
