"""Matches that are killed go on from their file to the same bits; files of other runs are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import case, network

import symgraph
from symgraph.errors import CheckpointError, UsageError
from symgraph.match.match_options import MatchOptions
from symgraph.orbit.action import packed, random_element, unpacked

OPTIONS = MatchOptions(sweeps=4, tolerance=-1.0, seed=3, restarts=1)


class Killed(Exception):
    pass


class Teller:
    """Notes the lines that begin so, and ends the run when there are so many of them."""

    def __init__(self, what: str, last: int = 0) -> None:
        self.what, self.last, self.count = what, last, 0

    def __call__(self, line: str) -> None:
        self.count += line.startswith(self.what)
        if self.count == self.last:
            raise Killed


def aligned(options: MatchOptions = OPTIONS, **settings: Any) -> Any:
    return symgraph.align(network("llama", 1), network("llama", 2), options=options, **settings)


def together(**settings: Any) -> Any:
    nets = [network("llama", seed) for seed in range(3)]
    return symgraph.universe(nets, options=MatchOptions(sweeps=2, tolerance=-1.0), rounds=2, **settings)


@pytest.mark.parametrize(("after", "left"), [(2, 6), (6, 2)], ids=["first run", "second run"])
def test_a_killed_match_goes_on_to_the_same_bits(after: int, left: int, tmp_path: Path) -> None:
    whole, file, rest = aligned(), tmp_path / "run.pt", Teller("sweep", -1)
    with pytest.raises(Killed):
        aligned(checkpoint=file, progress=Teller("sweep", after))
    again = aligned(checkpoint=file, resume=True, progress=rest)
    assert rest.count == left
    assert again.alignment.objective == whole.alignment.objective
    assert all(torch.equal(t, whole.state[n]) for n, t in again.state.items())


def test_a_killed_universe_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, file, rest = together(), tmp_path / "run.pt", Teller("round", -1)
    with pytest.raises(Killed):
        together(checkpoint=file, progress=Teller("round 2", 1))
    again = together(checkpoint=file, resume=True, progress=rest)
    assert rest.count == 0 and again.objective == whole.objective
    assert all(torch.equal(t, s[n]) for s, m in zip(whole.states, again.states, strict=True) for n, t in m.items())


def test_files_of_other_runs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    short = MatchOptions(sweeps=1)
    aligned(short, checkpoint=file)
    with pytest.raises(UsageError, match=r"belongs to another run\n  cause: it differs in options"):
        aligned(MatchOptions(sweeps=2), checkpoint=file, resume=True)
    with pytest.raises(UsageError, match="differs in models"):
        symgraph.align(network("llama", 2), network("llama", 1), options=short, checkpoint=file, resume=True)
    for bad in (b"nothing", b""):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match="holds no run"):
            aligned(checkpoint=file, resume=True)
    torch.save({"format": "another"}, file)
    with pytest.raises(CheckpointError, match="it does not say"):
        aligned(checkpoint=file, resume=True)


def test_an_element_comes_back_as_it_was() -> None:
    symmetry = case("llama").symmetry
    element = random_element(symmetry, generator=torch.Generator().manual_seed(0))
    again = unpacked(symmetry, packed(element))
    for space, e in element.elements.items():
        other = again.elements[space]
        assert other.is_rotation == e.is_rotation and other.tensors().keys() == e.tensors().keys()
        assert all(torch.equal(t, other.tensors()[k]) for k, t in e.tensors().items())
