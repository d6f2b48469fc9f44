"""Symmetries without a space of their own, each derived from what rules declare (`adds`, `shift`, `centred`, ...)."""

from __future__ import annotations

from symgraph.inference.centred import Centring
from symgraph.inference.draft import Draft
from symgraph.inference.flow import Flow
from symgraph.inference.moves import find_moves
from symgraph.inference.radial import find_radial
from symgraph.inference.row_tables import find_blind
from symgraph.inference.statistics import find_statistics
from symgraph.inference.translations import find_translations
from symgraph.ir import Graph
from symgraph.symmetry.families import Families


def find_families(d: Draft, traced: Graph) -> Families:
    """Every family, in program order."""
    flow = Flow(d)
    moves = find_moves(flow)
    centring = Centring(flow, moves)
    read, leans, tilts = centring.read()
    return Families(
        tuple(moves),
        tuple(find_translations(flow, centring.tables())),
        (*centring.written(), *read, *find_blind(flow)),
        tuple(leans),
        tuple(tilts),
        tuple(centring.spectral()),
        tuple(find_statistics(flow, traced)),
        tuple(find_radial(flow)),
    )
