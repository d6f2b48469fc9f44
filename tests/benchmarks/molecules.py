"""Small molecules of hydrogen, carbon, nitrogen and oxygen, made up: chains and branches with all valences filled.

Positions are those where bonded atoms are as far apart as their covalent radii say, neighbours of one atom stand at the
angle of a tetrahedron, and all others keep away; then every atom is moved a little.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

ELEMENTS = "HCNO"
VALENCE = {"C": 4, "N": 3, "O": 2}
RADIUS = {"H": 0.31, "C": 0.76, "N": 0.71, "O": 0.66}
APART, STEPS = 2.4, 400

Bonds = list[tuple[int, int]]


def molecules(count: int, seed: int, shakes: int = 4, shake: float = 0.05) -> tuple[Tensor, Tensor]:
    """Elements by their number in `ELEMENTS`, -1 for no atom, and positions in Angstrom; each molecule several times.

    Shapes:
        (count * shakes, atoms), (count * shakes, atoms, 3).
    """
    random = np.random.default_rng(seed)
    grown = [skeleton(random) for _ in range(count)]
    species = padded([torch.tensor([ELEMENTS.index(a) for a in atoms]) for atoms, _ in grown])
    start = torch.tensor(random.normal(size=(*species.shape, 3)), dtype=torch.float32) * 2
    positions = settled(start, *distances(grown, species))
    moved = positions.repeat_interleave(shakes, 0)
    return species.repeat_interleave(shakes, 0), moved + shake * torch.tensor(random.normal(size=moved.shape)).float()


def skeleton(random: np.random.Generator) -> tuple[list[str], Bonds]:
    """Two to six heavy atoms in a tree, hydrogen wherever a valence is free."""
    atoms, free, bonds = ["C"], [VALENCE["C"]], Bonds()
    for _ in range(random.integers(1, 6)):
        if not any(free):
            break
        new = str(random.choice(["C", "N", "O"], p=[0.6, 0.2, 0.2]))
        to = int(random.choice(np.flatnonzero(free)))
        bonds.append((to, len(atoms)))
        free[to] -= 1
        atoms.append(new)
        free.append(VALENCE[new] - 1)
    for atom, count in enumerate(free):
        for _ in range(count):
            bonds.append((atom, len(atoms)))
            atoms.append("H")
    return atoms, bonds


def padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def distances(grown: list[tuple[list[str], Bonds]], species: Tensor) -> tuple[Tensor, Tensor]:
    """How far apart pairs of atoms should be (zero where nothing says it), and which pairs there are."""
    found = torch.zeros(len(grown), species.shape[1], species.shape[1])
    for target, (atoms, bonds) in zip(found, grown, strict=True):
        length = {b: RADIUS[atoms[b[0]]] + RADIUS[atoms[b[1]]] for b in bonds}
        length |= {(j, i): x for (i, j), x in length.items()}
        for (i, j), x in length.items():
            target[i, j] = x
        for i in range(len(atoms)):
            for j, k in combinations([k for h, k in length if h == i], 2):
                x, y = length[i, j], length[i, k]
                target[j, k] = target[k, j] = (x * x + y * y + 2 * x * y / 3) ** 0.5
    there = species >= 0
    return found, (there[:, :, None] & there[:, None]).triu(1)


def settled(positions: Tensor, wanted: Tensor, pairs: Tensor) -> Tensor:
    """Positions at which these distances are kept as well as can be."""
    moved = positions.requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.1)
    bonded, apart = pairs & (wanted > 0), pairs & (wanted == 0)
    for _ in range(STEPS):
        optimiser.zero_grad()
        length = ((moved[:, :, None] - moved[:, None]).square().sum(-1) + 1e-9).sqrt()
        strain = 4 * (length - wanted)[bonded].square().sum() + (APART - length)[apart].clamp_min(0).square().sum()
        strain.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return moved.detach()
