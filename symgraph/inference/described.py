"""What is said of spaces once they are known: by what their elements vary, their names, the symmetries beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from symgraph.inference.spaces import Spaces
from symgraph.symmetry.families import nested
from symgraph.symmetry.found_families import Families


@dataclass(frozen=True)
class Described:
    """Spaces with their `fibres`, the `names` of those that are kept, in order, and the families without a space."""

    spaces: Spaces
    fibres: dict[int, tuple[int, ...]]
    names: tuple[str, ...] = ()
    families: Families = field(default_factory=Families)

    def kept_fibre(self, place: int) -> tuple[int, ...]:
        """The fibre of a space in the numbers of the spaces that are kept."""
        return tuple(self.spaces.kept[outer] for outer in self.fibres[place] if outer in self.spaces.kept)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        names = dict(zip(self.spaces.kept, self.names, strict=False))
        for place, line in self.spaces.lines().items():
            over = "".join(f", over {outer}" for outer in self.fibres.get(place, ()))
            yield f"{line}{over}{f', called {names[place]}' if place in names else ''}"
        for family in fields(self.families):
            for member in getattr(self.families, family.name):
                tensors = dict.fromkeys(name for name in nested(member, str) if name in self.spaces.terms)
                yield f"{family.name}: {', '.join(tensors)}"
