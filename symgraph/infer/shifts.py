"""Symmetries without a space of their own, each derived from what rules declare (`adds`, `shift`, `centred`, ...)."""

from __future__ import annotations

from symgraph.infer.centred import Centring
from symgraph.infer.families import Families
from symgraph.infer.flow import Flow
from symgraph.infer.moves import find_moves
from symgraph.infer.radial import find_radial
from symgraph.infer.resolve import Draft
from symgraph.infer.statistics import find_statistics
from symgraph.infer.tables import find_blind
from symgraph.infer.translations import find_translations
from symgraph.ir import Graph


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
