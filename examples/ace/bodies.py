"""Charged bodies in a plane, and a network that predicts where they go: turning the plane turns the answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

BODIES, STEPS, STEP, SOFT = 5, 1000, 0.001, 0.1
TURNS = {
    "inputs": {"motion": "examples bodies channels plane"},
    "output": "examples bodies channels plane",
    "group": {"turn": {"plane": {"circle": [1]}}},
}


def simulated(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Systems of five bodies with charges of either sign, after Kipf et al. (2018) in a plane without walls.

    Returns:
        Inputs: `motion` (count, 5, 2, 2), positions from the centre and velocities, and `charges` (count, 5); and how
        far each body has gone after one unit of time (count, 5, 1, 2).
    """
    random = np.random.default_rng(seed)
    charges = random.choice([-1.0, 1.0], (count, BODIES))
    start = random.normal(0, 0.7, (count, BODIES, 2))
    start -= start.mean(1, keepdims=True)
    velocity = random.normal(0, 0.5, start.shape)
    position, speed = start.copy(), velocity + STEP / 2 * _force(start, charges)
    for _ in range(STEPS):
        position += STEP * speed
        speed += STEP * _force(position, charges)
    motion = torch.from_numpy(np.stack([start, velocity], axis=2)).float()
    inputs = {"motion": motion, "charges": torch.from_numpy(charges).float()}
    return inputs, torch.from_numpy(position - start).float()[:, :, None]


def _force(position: np.ndarray, charges: np.ndarray) -> np.ndarray:
    apart = position[:, :, None] - position[:, None]
    distance = np.sqrt((apart**2).sum(-1) + SOFT**2)
    strength = charges[:, :, None] * charges[:, None] / distance**3
    return np.einsum("nij,nijk->nik", strength, apart)


class Messages(nn.Module):
    """One round: vectors between bodies, weighed by their lengths and charges, are added up at each body."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.between = nn.Linear(2 * width, 2 * width, bias=False)
        self.weigh = nn.Sequential(nn.Linear(width + 1, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.own = nn.Linear(2 * width, 2 * width, bias=False)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, vectors: Tensor, products: Tensor) -> Tensor:
        """vectors (examples, bodies, width, plane), products of charges (examples, bodies, bodies, 1) -> vectors."""
        apart = _linear(self.between, vectors[:, :, None] - vectors[:, None])
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        sent = apart * self.weigh(torch.cat([lengths, products], -1))[..., None]
        vectors = vectors + sent.mean(2)
        mixed = _linear(self.own, vectors)
        return vectors + mixed * self.gate(torch.linalg.vector_norm(mixed, dim=-1))[..., None]


class Predictor(nn.Module):
    """Where bodies go. Every linear map is of all coordinates of all vectors: nothing in it knows of turns."""

    def __init__(self, width: int = 16, rounds: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * 2, 2 * width, bias=False)
        self.rounds = nn.ModuleList(Messages(width) for _ in range(rounds))
        self.leave = nn.Linear(2 * width, 2, bias=False)

    def forward(self, motion: Tensor, charges: Tensor) -> Tensor:
        """Inputs as of `simulated` -> how far each body goes (examples, bodies, 1, 2)."""
        products = (charges[:, :, None] * charges[:, None])[..., None]
        vectors = _linear(self.enter, motion)
        for round in self.rounds:
            vectors = round(vectors, products)
        return motion[:, :, 1:] + _linear(self.leave, vectors)


def _linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    return layer(vectors.flatten(-2)).unflatten(-1, (-1, 2))
