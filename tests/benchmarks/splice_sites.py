"""Made-up pre-mRNA: random bases with exons, whose ends look as spliceosomes know them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BASES = "ACGT"
FREQUENCIES = (0.28, 0.22, 0.22, 0.28)
BRANCH, ACCEPTOR, DONOR = "TACTAAC", "ACAG", "CAGGTAAGT"


def sequences(count: int, length: int, seed: int) -> Tensor:
    """Shapes: (count, length, 4), one of four."""
    random = np.random.default_rng(seed)
    found = torch.tensor(np.stack([_sequence(length, random) for _ in range(count)]))
    return torch.nn.functional.one_hot(found, len(BASES)).float()


def _sequence(length: int, random: np.random.Generator) -> np.ndarray:
    bases = random.choice(len(BASES), size=length, p=FREQUENCIES)

    def write(text: str, at: int) -> None:
        bases[at : at + len(text)] = [BASES.index(b) for b in text]

    start = int(random.integers(100, 600))
    while start < length - 400:
        tract = "".join(random.choice(list("TTTCT"), 18))
        write(BRANCH, start - 45)
        write(tract + ACCEPTOR + "G", start - len(tract + ACCEPTOR))
        end = start + int(random.integers(90, 200))
        write(DONOR, end - 3)
        start = end + int(random.integers(400, 1500))
    return bases
