"""Charged bodies in a plane, and a network that predicts where they go: turning the plane turns the answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

BODIES, STEPS, STEP = 5, 1000, 0.001
# Within this distance forces fall off. In a plane bodies meet often: without it a start that is moved by 1e-3 moves the
# answers by 6e-3 (mean square), beyond the errors that are to be told apart; with it by 2e-5.
SOFT = 0.2
SPEED = 0.5
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
    start = random.normal(0, 1, (count, BODIES, 2))
    start -= start.mean(1, keepdims=True)
    velocity = random.normal(0, 1, start.shape)
    velocity *= SPEED / np.linalg.norm(velocity, axis=-1, keepdims=True)
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


class Round(nn.Module):
    """Bodies hear of each other and change: vectors, and numbers beside them, which say how much of each vector."""

    def __init__(self, vectors: int, numbers: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.own, self.other, self.mix = (
            nn.Linear(2 * count * vectors, 2 * vectors, bias=False) for count in (1, 1, 2)
        )
        self.message = _network(vectors + 2 * numbers + 1, 2 * numbers, vectors + numbers)
        self.change = _network(vectors + 2 * numbers, 2 * numbers, vectors + numbers)

    def forward(self, vectors: Tensor, numbers: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        """vectors (examples, bodies, V, plane), numbers (examples, bodies, N), products of charges -> the two."""
        apart = _linear(self.own, vectors)[:, :, None] - _linear(self.other, vectors)[:, None]
        said = self.message(torch.cat([_lengths(apart), products, _pairs(numbers)], -1))
        heard = (apart * said[..., : self.vectors, None]).mean(2)
        mixed = _linear(self.mix, torch.cat([vectors, heard], -2))
        told = said[..., self.vectors :].mean(2)
        change = self.change(torch.cat([numbers, told, _lengths(mixed)], -1))
        return vectors + mixed * change[..., : self.vectors, None], numbers + change[..., self.vectors :]


class Predictor(nn.Module):
    """Where bodies go. Every linear map is of all coordinates of all vectors: nothing in it knows of turns."""

    def __init__(self, vectors: int = 16, numbers: int = 16, rounds: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * 2, 2 * vectors, bias=False)
        self.charge = nn.Linear(1, numbers)
        self.rounds = nn.ModuleList(Round(vectors, numbers) for _ in range(rounds))
        self.leave = nn.Linear(2 * vectors, 2, bias=False)

    def forward(self, motion: Tensor, charges: Tensor) -> Tensor:
        """Inputs as of `simulated` -> how far each body goes (examples, bodies, 1, 2)."""
        products = (charges[:, :, None] * charges[:, None])[..., None]
        vectors, numbers = _linear(self.enter, motion), self.charge(charges[..., None])
        for each in self.rounds:
            vectors, numbers = each(vectors, numbers, products)
        return motion[:, :, 1:] + _linear(self.leave, vectors)


def _network(enter: int, hidden: int, leave: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(enter, hidden), nn.SiLU(), nn.Linear(hidden, leave))


def _linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    return layer(vectors.flatten(-2)).unflatten(-1, (-1, 2))


def _lengths(vectors: Tensor) -> Tensor:
    # The length itself has no gradient at zero, where a body is apart from itself.
    return (vectors.square().sum(-1) + 1e-6).sqrt()


def _pairs(numbers: Tensor) -> Tensor:
    """Those of each body beside those of every other one: (examples, bodies, bodies, 2 N)."""
    count = numbers.shape[1]
    return torch.cat([numbers[:, :, None].expand(-1, -1, count, -1), numbers[:, None].expand(-1, count, -1, -1)], -1)
