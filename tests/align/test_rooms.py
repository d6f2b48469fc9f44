"""The way of a model that is to be aligned: which modules hand it on, each to one below, until it comes back."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import nn

import symgraph

# Where something happens to a model: its canonical form, the match, the way into the other's gauge, the gate.
PLACES = {
    "symgraph.orbit.canonical:canonicalise",
    "symgraph.match.descent:__init__",
    "symgraph.match.settle_step:apply",
    "symgraph.match.unchanged:check",
    "symgraph.match.aligned:__init__",
}
MOST = 12


def way_to(frame: FrameType | None) -> list[str]:
    """The modules of the package that lead to a call, those of calls within one module once."""
    found: list[str] = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("symgraph.") and found[-1:] != [module]:
            found.append(module)
        frame = frame.f_back
    return found[::-1]


def test_a_model_passes_few_rooms_and_climbs_back_to_none() -> None:
    first, second = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    x, ways = torch.randn(5, 6), dict[str, list[str]]()
    symmetry = symgraph.infer(first, x)

    def note(frame: FrameType, event: str, _: Any) -> None:
        place = f"{frame.f_globals.get('__name__', '')}:{frame.f_code.co_name}"
        if event == "call" and place in PLACES:
            ways[place] = way_to(frame)

    sys.setprofile(note)
    try:
        symgraph.align(first, second, x, symmetry=symmetry)
    finally:
        sys.setprofile(None)
    assert ways.keys() == PLACES
    for way in ways.values():
        assert len(way) == len(set(way)), way
    assert len({module for way in ways.values() for module in way}) <= MOST
