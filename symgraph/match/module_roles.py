"""Which part the modules of a model play around its stream: what quantisers call query, key, value, output, in, out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from symgraph.match.module_places import Places
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf, leaves

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Roles:
    """`query` and `key` meet in a space that nothing else reads, `value` and `out` in another."""

    query: Names
    key: Names
    value: Names
    out: Names
    mlp_in: Names
    mlp_out: Names
    head: Names


def roles(symmetry: SymmetryGraph, module: nn.Module, stream: Places, insides: Sequence[Places]) -> Roles:
    """The part of every module that writes or reads the stream.

    Args:
        insides: where the spaces inside of heads are.
    """
    output = getattr(module, "get_output_embeddings", lambda: None)()
    head = tuple(name for name in stream.readers if output is not None and module.get_submodule(name) is output)
    carried = [
        inside for inside in insides if {*inside.writers} & {*stream.readers} and {*inside.readers} & {*stream.writers}
    ]
    value = _in_order(stream.readers, {name for p in carried for name in p.writers})
    out = _in_order(stream.writers, {name for p in carried for name in p.readers})
    met = _met(symmetry, stream, {*value, *head})
    taken = {*head, *value, *met}
    return Roles(
        query=tuple(name for name, dual in met.items() if not dual),
        key=tuple(name for name, dual in met.items() if dual),
        value=value,
        out=out,
        mlp_in=tuple(name for name in stream.readers if name not in taken),
        mlp_out=tuple(name for name in stream.writers if name not in out),
        head=head,
    )


def _in_order(names: Names, wanted: Collection[str]) -> Names:
    return tuple(name for name in names if name in wanted)


def _met(symmetry: SymmetryGraph, stream: Places, others: Collection[str]) -> dict[str, bool]:
    """Readers whose results meet, spaces inside of heads that readers alone write: each with the side it stands on."""
    found = {}
    for name in (name for name in stream.readers if name not in others):
        for leaf in leaves(symmetry.terms[f"{name}.weight"][0]):
            if symmetry.spaces[leaf.space].fibre and _all_read(symmetry, leaf, stream):
                found[name] = leaf.dual
    return found


def _all_read(symmetry: SymmetryGraph, leaf: Leaf, stream: Places) -> bool:
    matrices = (name for name in symmetry.parameters_of[leaf.space] if len(symmetry.terms[name]) > 1)
    return {name.rpartition(".")[0] for name in matrices} <= {*stream.readers}
