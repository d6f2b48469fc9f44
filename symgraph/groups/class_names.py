"""The names of the symmetry classes; what each is and does stands in the file of its own."""

from __future__ import annotations

from typing import ClassVar


class SymmetryClass(str):
    """The name of a class of maps on an axis of size n. Equal names are one object."""

    __slots__ = ()

    IDENTITY: ClassVar[SymmetryClass]
    PERMUTATION: ClassVar[SymmetryClass]
    SEMI_PERMUTATION: ClassVar[SymmetryClass]
    SIGNED: ClassVar[SymmetryClass]
    POSITIVE_MONOMIAL: ClassVar[SymmetryClass]
    MONOMIAL: ClassVar[SymmetryClass]
    PAIRWISE_SIGNS: ClassVar[SymmetryClass]
    PAIRWISE_SCALES: ClassVar[SymmetryClass]
    PAIRWISE_SIGNED_SCALES: ClassVar[SymmetryClass]
    POSITIVE_DIAGONAL: ClassVar[SymmetryClass]
    DIAGONAL: ClassVar[SymmetryClass]
    PAIRWISE_ROTATIONS: ClassVar[SymmetryClass]
    ROTARY: ClassVar[SymmetryClass]
    ORTHOGONAL_ONES: ClassVar[SymmetryClass]
    ORTHOGONAL: ClassVar[SymmetryClass]
    INVERTIBLE: ClassVar[SymmetryClass]

    def __new__(cls, name: str) -> SymmetryClass:
        return _ONE_OBJECT.setdefault(name, super().__new__(cls, name))


_ONE_OBJECT: dict[str, SymmetryClass] = {}
SymmetryClass.IDENTITY = SymmetryClass("identity")
SymmetryClass.PERMUTATION = SymmetryClass("permutation")
SymmetryClass.SEMI_PERMUTATION = SymmetryClass("semi-permutation")
SymmetryClass.SIGNED = SymmetryClass("signed permutation")
SymmetryClass.POSITIVE_MONOMIAL = SymmetryClass("positive monomial")
SymmetryClass.MONOMIAL = SymmetryClass("monomial")
SymmetryClass.PAIRWISE_SIGNS = SymmetryClass("pairwise signs")
SymmetryClass.PAIRWISE_SCALES = SymmetryClass("pairwise scales")
SymmetryClass.PAIRWISE_SIGNED_SCALES = SymmetryClass("pairwise signed scales")
SymmetryClass.POSITIVE_DIAGONAL = SymmetryClass("positive diagonal")
SymmetryClass.DIAGONAL = SymmetryClass("diagonal with pairwise signs")
SymmetryClass.PAIRWISE_ROTATIONS = SymmetryClass("pairwise rotations")
SymmetryClass.ROTARY = SymmetryClass("rotary")
SymmetryClass.ORTHOGONAL_ONES = SymmetryClass("orthogonal fixing ones")
SymmetryClass.ORTHOGONAL = SymmetryClass("orthogonal")
SymmetryClass.INVERTIBLE = SymmetryClass("invertible")
