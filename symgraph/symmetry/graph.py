"""The result of inference: a structure that prints itself, explains itself, counts its dimension, and is JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from symgraph.errors import UsageError
from symgraph.io.files import write_text
from symgraph.io.shown import Shown
from symgraph.symmetry.difference import Difference, difference
from symgraph.symmetry.dimension import Dimension, dimension
from symgraph.symmetry.edges import Edges, edges
from symgraph.symmetry.lookup import look_up
from symgraph.symmetry.page_data import short_html, to_html
from symgraph.symmetry.present import table
from symgraph.symmetry.serialise import read_json, to_json, to_networkx
from symgraph.symmetry.structure import Space, Structure

if TYPE_CHECKING:
    from networkx import MultiDiGraph


@dataclass(frozen=True, repr=False)
class SymmetryGraph(Shown, Structure):
    """What inference found about one model; `Structure` has the fields and the queries."""

    def __str__(self) -> str:
        return table(self)

    def __getitem__(self, name: str) -> Space:
        """The space of that name: `graph["residual"]`.

        Raises:
            UsageError: there is none; near names are suggested.
        """
        return self.space(name)

    def __iter__(self) -> Iterator[Space]:
        """The spaces on which more than the identity acts."""
        return iter(self.active)

    def __len__(self) -> int:
        """How many spaces more than the identity acts on."""
        return len(self.active)

    def __bool__(self) -> bool:
        """A graph is one, whatever acts on it."""
        return True

    def __contains__(self, space: object) -> bool:
        """Whether there is such a space, given by its name or itself."""
        return space in self.by_name or space in self.spaces

    def acting(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the group acts on of a state: what is read, offsets added, tensors of branches as one."""
        return self.stacked(self.shifted(state))

    def of_acting(self, acting: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of which this is what the group acts on."""
        return self.shifted(self.unstacked(acting), -1.0)

    def edges(self) -> Edges:
        """What acts on each axis of every value, as a table: its term, the spaces in it, their classes."""
        return edges(self)

    def explain(self, name: str) -> str:
        """What anything is that the table prints: a space with its evidence, a parameter, a family, a class.

        Raises:
            UsageError: nothing has that name; near names are suggested.
        """
        return look_up(self, name).text

    def diff(self, other: object) -> Difference:
        """What another symmetry graph has more, less, larger or smaller: spaces, families, dimensions.

        Raises:
            UsageError: it is something else.
        """
        if not isinstance(other, SymmetryGraph):
            remedy = "infer the other one first: graph.diff(symgraph.infer(other))"
            raise UsageError(f"{type(other).__name__} is no symmetry graph", remedy=remedy)
        return difference(self, other)

    def dimension(self) -> Dimension:
        """The continuous dimension of every group and family, as numbers and as formulas."""
        return dimension(self)

    def to_networkx(self) -> MultiDiGraph:
        """Spaces and tensors as a bipartite networkx graph, with edges for fibres."""
        return to_networkx(self)

    def to_html(self) -> str:
        """The graph as one page that opens from disk: a drawing, a table, and the evidence for everything in them."""
        return to_html(self)

    def save_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes that page, complete or not at all.

        Raises:
            OutputError: something is there and `overwrite` is not set, or it cannot be written.
        """
        return write_text(path, to_html(self), overwrite)

    def _repr_html_(self) -> str:
        return short_html(self)

    def to_json(self, indent: int | None = None) -> str:
        """The graph as JSON; of the traced graph only parameters and buffers are kept."""
        return to_json(self, indent)

    @staticmethod
    def from_json(text: str | Path) -> SymmetryGraph:
        """What `to_json` wrote, from its text or from the path of a file.

        Raises:
            UsageError: it is something else; the place of the problem is named.
        """
        return read_json(text, SymmetryGraph)
