"""Ensembles that others trained and that packages ship, as torch modules, with inputs and the ensemble's own mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from keras_layers import read
from molecules import molecules
from splice_sites import sequences
from torch import Tensor, nn

Batch = tuple[Any, Tensor]

KILOCALORIES = 627.5094738898777
# Of what members are matched on, and of what they are measured on.
SEEDS = (0, 7)
# The field of view of SpliceAI, and the positions that each sequence is judged at.
CONTEXT, JUDGED = 10_000, 2_000


@dataclass(frozen=True)
class Ensemble:
    """The members, their loss against the mean of all, and batches of inputs with that mean by what they are for."""

    name: str
    members: tuple[nn.Module, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    training: tuple[Batch, ...]
    test: tuple[Batch, ...]


class Energy(nn.Module):
    """Energies of molecules in kcal/mol, the sums of those of their atoms, each by the network of its element."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, surroundings: Tensor, element: Tensor) -> Tensor:
        """Shapes: (N, atoms, 384), one of four (N, atoms, 4), zero where there is no atom -> (N,)."""
        energies = torch.cat([network(surroundings) for network in self.networks], -1)
        return KILOCALORIES * (energies * element).sum((1, 2))


def ani() -> Ensemble:
    """The eight networks of ANI-1x, from torchani; errors are those per atom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchani import AEVComputer, neurochem
    folder = Path(str(files("torchani"))) / "resources" / "ani-1x_8x"
    constants = neurochem.Constants(str(folder / "rHCNO-5.2R_16-3.5A_a4-8.params"))
    loaded = neurochem.load_model_ensemble(constants.species, str(folder / "train"), 8)
    members = tuple(Energy(list(network.values())).eval() for network in loaded)
    surroundings_of = AEVComputer(**constants)

    def inputs(count: int, seed: int) -> tuple[Tensor, Tensor]:
        species, positions = molecules(count, seed)
        _, surroundings = surroundings_of((species, positions))
        return surroundings, nn.functional.one_hot(species + 1, 5)[..., 1:].float()

    return _with_mean("ANI-1x", members, nn.functional.mse_loss, [inputs(60, seed) for seed in SEEDS], 16)


def spliceai() -> Ensemble:
    """The five networks of SpliceAI, which read ten thousand bases around each position."""
    folder = Path(str(files("spliceai"))) / "models"
    members = tuple(read(folder / f"spliceai{i}.h5") for i in range(1, 6))
    given = [(sequences(count, CONTEXT + JUDGED, seed),) for seed, count in zip(SEEDS, (8, 4), strict=True)]
    return _with_mean("SpliceAI", members, cross_entropy, given, 2)


def cross_entropy(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Of probabilities, for each sequence the sum over a thousand positions."""
    return -1000 * (wanted * predicted.clamp_min(1e-9).log()).sum(-1).mean(-1)


def _with_mean(
    name: str, members: Sequence[nn.Module], loss: Any, given: Sequence[tuple[Tensor, ...]], size: int
) -> Ensemble:
    training, test = (tuple(_batches(members, inputs, size)) for inputs in given)
    return Ensemble(name, tuple(members), loss, training, test)


@torch.no_grad()
def _batches(members: Sequence[nn.Module], inputs: tuple[Tensor, ...], size: int) -> list[Batch]:
    parts = zip(*(torch.split(t, size) for t in inputs), strict=True)
    return [(part if len(part) > 1 else part[0], torch.stack([m(*part) for m in members]).mean(0)) for part in parts]


ENSEMBLES = {"torchani": ani, "spliceai": spliceai}


def shipped() -> dict[str, Callable[[], Ensemble]]:
    """Those whose packages are there."""
    return {name: make for name, make in ENSEMBLES.items() if find_spec(name) is not None}
