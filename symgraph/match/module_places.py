"""Where a space meets the modules of a model: tables, linear maps that write or read it, norms in front of readers.

Tools that rotate models for quantisation change whole modules by name. What of a space lies elsewhere, or on a part of
a module, no list of modules can say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import AbsorbedGain, Space
from symgraph.symmetry.terms import Concat, Leaf, Term, leaves, multiplied

# What an axis of a module's weight or bias is: its type, the name of the tensor, the axis.
_KINDS: dict[tuple[type[nn.Module], str, int], str] = {
    (nn.Embedding, "weight", 1): "tables",
    (nn.Linear, "weight", 0): "writers",
    (nn.Linear, "bias", 0): "writers",
    (nn.Linear, "weight", 1): "readers",
}


@dataclass(frozen=True, slots=True)
class NormPlace:
    """A norm whose gain goes into the linear maps that read what it multiplies."""

    norm: str
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """The modules that one space lies on.

    It is along all entries of `tables`, all outputs of `writers` and all inputs of `readers`, several times where these
    are heads. `others` are parameters of no such module, `parts` modules of which it takes only a part; `stuck` says of
    gains why they cannot go into readers.
    """

    space: Space
    tables: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[NormPlace, ...]
    others: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    @property
    def block(self) -> int:
        """The largest power of two that divides its size: that of a Hadamard matrix that turns it block by block."""
        return self.space.size & -self.space.size

    def turned(self, state: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
        """What a tool makes of a state: gains into readers, then the matrix on every block of what is written and read.

        Shifts of layer norms, which are among the others, are kept in their places and turn as well.

        Shapes: matrix (k, k), orthogonal, k a divisor of the size of the space.
        """
        found = dict(state)
        for place in self.norms:
            gain, shift = (f"{place.norm}.{leaf}" for leaf in ("weight", "bias"))
            for reader in place.readers:
                found[f"{reader}.weight"] = found[f"{reader}.weight"] * found[gain]
            if shift in self.others:
                found[shift] = found[shift] / found[gain]
            found[gain] = torch.ones_like(found[gain])
        by_rows = [f"{module}.weight" for module in (*self.tables, *self.readers)]
        biases = [f"{writer}.bias" for writer in self.writers if f"{writer}.bias" in found]
        for name in (*by_rows, *biases, *self.others):
            found[name] = _by_blocks(found[name], matrix)
        for name in (f"{writer}.weight" for writer in self.writers):
            found[name] = _by_blocks(found[name].T, matrix).T
        return found


def _by_blocks(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows times an orthogonal matrix, block by block."""
    groups = rows.reshape(*rows.shape[:-1], -1, len(matrix))
    return (groups @ matrix.to(rows)).reshape(rows.shape)


def places(symmetry: SymmetryGraph, module: nn.Module, space: Space) -> Places:
    """The modules that a space lies on.

    Args:
        module: the model that was traced.
    """
    found: dict[str, dict[str, None]] = {kind: {} for kind in (*_KINDS.values(), "others", "parts")}
    for name, term, axis in _axes(symmetry, space):
        owner, _, leaf = name.rpartition(".")
        kind = _kind(module.get_submodule(owner), leaf, axis)
        found[kind][owner if kind != "others" else name] = None
        if kind != "others" and not _is_all(term, space):
            found["parts"][owner] = None
    gains = symmetry.absorbed_on(space)
    norms = {gain.parameter: _norm(symmetry, gain) for gain in gains}
    reasons = dict.fromkeys(_why_stuck(symmetry, module, gain, space) for gain in gains)
    lists = {kind: tuple(names) for kind, names in found.items()}
    return Places(space, norms=tuple(norms.values()), stuck=tuple(filter(None, reasons)), **lists)


def _axes(symmetry: SymmetryGraph, space: Space) -> Iterator[tuple[str, Term, int]]:
    for name in symmetry.parameters_of[space.id]:
        for axis, term in enumerate(symmetry.terms[name]):
            if any(leaf.space == space.id for leaf in leaves(term)):
                yield name, term, axis


def _kind(owner: nn.Module, leaf: str, axis: int) -> str:
    kinds = (kind for (t, name, at), kind in _KINDS.items() if isinstance(owner, t) and (name, at) == (leaf, axis))
    return next(kinds, "others")


def _is_all(term: Term, space: Space) -> bool:
    """Whether an axis is the space again and again, each time in one piece."""
    if isinstance(term, Concat):
        return not term.order and all(_is_all(part, space) for part in term.parts)
    *outer, last = multiplied(term)
    inside = isinstance(last, Leaf) and last.space == space.id
    return inside and not any(leaf.space == space.id for factor in outer for leaf in leaves(factor))


def _norm(symmetry: SymmetryGraph, gain: AbsorbedGain) -> NormPlace:
    """The norm of a gain, with all that reads behind it, wherever that is."""
    frames = {site.frame for site in symmetry.gain_sites[gain.parameter]}

    def reads(name: str) -> bool:
        found = (leaf for term in symmetry.terms[name] for leaf in leaves(term) if leaf.frame in frames)
        return any(leaf.dual != gain.flip for leaf in found)

    readers = dict.fromkeys(_owner(name) for name in symmetry.parameters_of_frames(frames) if reads(name))
    return NormPlace(_owner(gain.parameter), tuple(readers))


def _owner(parameter: str) -> str:
    """The module that a parameter is of."""
    return parameter.rpartition(".")[0]


def _why_stuck(symmetry: SymmetryGraph, module: nn.Module, gain: AbsorbedGain, space: Space) -> str:
    name, offset = gain.parameter, symmetry.offsets.get(gain.parameter)
    if not gain.forward:
        return f"{name} goes into what writes in front of it, not into what reads"
    if offset is not None and offset.chart:
        return f"{offset.read(name)} is what multiplies"
    if offset is not None:
        return f"{offset} is added to {name} before it multiplies"
    if not name.endswith(".weight") or module.get_parameter(name).shape != (space.size,):
        return f"{name} is not the weight of a norm over the whole of it"
    return ""
