"""What was inferred, kept on disk beside the traces: found by all that it depends on.

That is the graph with the numbers that its buffers hold, the rules, the code of inference and of what proves its
claims, and the versions of what runs them. Nothing is kept while there are classes beside those that are built in.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from symgraph.groups.lattice import BUILT_IN, classes
from symgraph.ir import Graph
from symgraph.rules.book import RuleBook
from symgraph.symmetry.compact import dump, load
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import graph_text, kept
from symgraph.tracing.fingerprint import outline, sources, versions
from symgraph.tracing.uncollected import uncollected

_KIND = "symmetries"
_CODE = ("inference", "symmetry", "rules", "groups", "tracing")
# Whatever is wrong with a file, the symmetries can be inferred.
_DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


def key_of(graph: Graph, book: RuleBook) -> str | None:
    """A hash of all that inference depends on; None where nothing is kept, or something has no text."""
    if kept.folder(_KIND) is None or classes() != tuple(c.name for c in BUILT_IN):
        return None
    try:
        text = graph_text.dump(graph)
    except TypeError:
        return None
    found = hashlib.sha256(text)
    numbers = (f"{name} {outline(tensor, held=True)}" for name, tensor in graph.known.items())
    for part in (*versions(), *sources(_CODE), book.hash, *book.notes, *sorted(book.own), *numbers):
        found.update(f"{len(part)}:{part}".encode())
    return found.hexdigest()


def kept_symmetry(key: str, graph: Graph) -> SymmetryGraph | None:
    """What was inferred of a graph, if it is there."""
    text = kept.read(_KIND, key)
    if text is not None:
        with suppress(*_DAMAGED), uncollected():
            return load(text, graph, SymmetryGraph)
    return None


def keep_symmetry(key: str, symmetry: SymmetryGraph) -> None:
    """Puts what was inferred under a key, if there is room for it."""
    with suppress(TypeError):
        kept.write(_KIND, key, dump(symmetry))
