"""All symmetries without a space that were found in one graph."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.symmetry.families import Centred, Constant, Lean, Spectral, Statistics
from symgraph.symmetry.lengths import Radial
from symgraph.symmetry.overlooked import Overlooked
from symgraph.symmetry.shears import Shear
from symgraph.symmetry.thin import Thin
from symgraph.symmetry.updates import Update


@dataclass(frozen=True, kw_only=True)
class Families:
    """The families of one graph, each in the order of the program."""

    constants: tuple[Constant, ...] = ()
    centred: tuple[Centred, ...] = ()
    leans: tuple[Lean, ...] = ()
    thin: tuple[Thin, ...] = ()
    overlooked: tuple[Overlooked, ...] = ()
    shears: tuple[Shear, ...] = ()
    spectral: tuple[Spectral, ...] = ()
    statistics: tuple[Statistics, ...] = ()
    radial: tuple[Radial, ...] = ()
    updates: tuple[Update, ...] = ()
