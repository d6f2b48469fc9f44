"""The blocks of a value: products flattened, concatenations enumerated, single positions left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from symgraph.inference.axis_nodes import Shape
from symgraph.inference.claims import Ref
from symgraph.inference.store import Store

Block = tuple[Ref, ...]


def ref_blocks(store: Store, axes: tuple[Ref, ...]) -> Iterator[Block]:
    """Leaf references of each block of a value (see `terms.blocks`), those of size one left out."""
    for parts in product(*(_ways(store, ref) for ref in axes)):
        yield tuple(store.find(leaf) for part in parts for leaf in part)


def _ways(store: Store, ref: Ref) -> list[Block]:
    """The leaves of an axis in each block; single positions leave none, and count once however many there are."""
    shape = store.children(ref)
    if shape is None:
        return [()] if store.size(ref) == 1 else [(ref,)]
    inner = [_ways(store, part) for part in shape[1]]
    if shape[0] is Shape.PRODUCT:
        return [sum(parts, ()) for parts in product(*inner)]
    ways = [way for ways in inner for way in ways]
    first = ways.index(()) if () in ways else -1
    return [way for i, way in enumerate(ways) if way or i == first]
