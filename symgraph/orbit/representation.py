"""How a group acts on the inputs and outputs of a model, as a rule in YAML, and on the spaces between them.

    inputs: {x: "examples bodies channels plane"}
    output: "examples bodies channels plane"
    group:
      turn: {plane: {circle: [1]}}

`inputs` and `output` name the axes; what a tensor holds flattened stands in parentheses, "(channels plane)". `group`
has generators: what each does to an axis is an index vector (position i becomes what position index[i] was), a matrix,
or `circle` with the frequency of each pair of coordinates, for turns by every angle. Axes that are not named stay.
`hidden` says for patterns of spaces whether they carry the `regular` representation, copies of that of an axis, or
stay (`trivial`); by default each carries the first of these that its class admits and that leaves the most blocks of
weights with entries, so that numbers which are made of what stays do so as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError, near
from symgraph.groups.class_names import SymmetryClass
from symgraph.io.decode import Malformed, decode, parse
from symgraph.io.shown import Shown

REGULAR, TRIVIAL = "regular", "trivial"
Axes = tuple[tuple[str, ...], ...]
"""Of each axis of a tensor the names of what it holds: one, or several that are flattened."""
_AXES = re.compile(r"\s*(?:([A-Za-z_]\w*)|\(([^()]+)\))")


@dataclass(frozen=True, slots=True)
class Circle:
    """Turns by any angle: coordinates 2 k and 2 k + 1 turn `circle[k]` times as fast."""

    circle: tuple[int, ...]

    def at(self, angle: float) -> Tensor:
        """The turn as a matrix, float64."""
        size = 2 * len(self.circle)
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for at, frequency in zip(range(0, size, 2), self.circle, strict=True):
            cosine, sine = math.cos(angle * frequency), math.sin(angle * frequency)
            block = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
            matrix[at : at + 2, at : at + 2] = block
        return matrix


Action = Circle | tuple[int | tuple[float, ...], ...]


@dataclass(frozen=True, repr=False)
class Representation(Shown):
    """A group that acts on inputs and outputs: f(g x) = g f(x) is what is wanted.

    >>> turn = {"plane": {"circle": [1]}}
    >>> Representation.of({"inputs": {"x": "bodies plane"}, "output": "bodies plane", "group": {"turn": turn}})
    turn acts on plane (2)
    """

    inputs: dict[str, str]
    output: str
    group: dict[str, dict[str, Action]]
    hidden: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(source: Representation | Mapping[str, Any] | str | Path) -> Representation:
        """A representation from plain data, from YAML or JSON, or from a file of it.

        Raises:
            UsageError: it is malformed: the place and what is wrong there.
        """
        if isinstance(source, Representation):
            return source
        place = "the representation"
        if isinstance(source, Path) or (isinstance(source, str) and "\n" not in source and ":" not in source):
            place = str(source)
            if not Path(source).is_file():
                raise UsageError(f"{source} is no file", remedy="name a YAML file with inputs, output and group")
            source = Path(source).read_text(encoding="utf-8")
        try:
            representation = decode(Representation, _plain(parse(source) if isinstance(source, str) else source))
            representation._check()
        except Malformed as error:
            remedy = "give inputs: {x: 'rows plane'}, output: 'rows plane', group: {turn: {plane: {circle: [1]}}}"
            raise UsageError(f"{place} is malformed", cause=str(error), remedy=remedy) from error
        return representation

    def _check(self) -> None:
        if not self.group:
            raise Malformed("group: it has no generator")
        named = {name for axes in (*self.input_axes.values(), self.output_axes) for axis in axes for name in axis}
        for generator, actions in self.group.items():
            if len({isinstance(action, Circle) for action in actions.values()}) != 1:
                raise Malformed(f"group.{generator}: it acts on nothing, or turns some axes and moves others in steps")
            for axis, action in actions.items():
                at = f"group.{generator}.{axis}"
                if axis not in named:
                    raise Malformed(f"{at}: no axis has that name ({near(axis, sorted(named))})")
                _check_action(action, at)
        for axis in self.acting:
            sizes = {_size(actions[axis]) for actions in self.group.values() if axis in actions}
            if len(sizes) > 1:
                raise Malformed(f"group: the generators act on {sorted(sizes)} positions of {axis}")

    @cached_property
    def input_axes(self) -> dict[str, Axes]:
        """The axes of every input."""
        return {name: parsed(text, f"inputs.{name}") for name, text in self.inputs.items()}

    @cached_property
    def output_axes(self) -> Axes:
        """The axes of the output."""
        return parsed(self.output, "output")

    @cached_property
    def acting(self) -> dict[str, int]:
        """The axes on which a generator acts, and their sizes."""
        return {axis: _size(action) for actions in self.group.values() for axis, action in actions.items()}

    @property
    def continuous(self) -> bool:
        """Whether a generator turns by any angle."""
        return any(isinstance(action, Circle) for actions in self.group.values() for action in actions.values())

    def frequency(self, axis: str) -> int:
        """The largest frequency on an axis."""
        circles = [actions.get(axis) for actions in self.group.values()]
        return max((max(map(abs, circle.circle)) for circle in circles if isinstance(circle, Circle)), default=0)

    def generators(self, angle: float) -> list[dict[str, Tensor]]:
        """Every generator as a matrix on each axis that any of them acts on; circles turn by the angle."""
        return [
            {
                axis: _matrix(actions[axis], angle) if axis in actions else torch.eye(size, dtype=torch.float64)
                for axis, size in self.acting.items()
            }
            for actions in self.group.values()
        ]

    def __str__(self) -> str:
        acts = (
            f"{generator} acts on " + ", ".join(f"{axis} ({self.acting[axis]})" for axis in actions)
            for generator, actions in self.group.items()
        )
        return "; ".join(acts)


def parsed(text: str, at: str) -> Axes:
    """Axes from their text: "examples (channels plane)".

    Raises:
        Malformed: it is no such text.

    >>> parsed("examples (channels plane)", "output")
    (('examples',), ('channels', 'plane'))
    """
    axes: list[tuple[str, ...]] = []
    position, rest = 0, text.rstrip()
    while position < len(rest):
        match = _AXES.match(rest, position)
        names = tuple((match[1] or match[2]).split()) if match else ()
        if match is None or not names or not all(name.isidentifier() for name in names):
            raise Malformed(f"{at}: {text!r} is not a text of axes such as 'rows (channels plane)'")
        axes.append(names)
        position = match.end()
    return tuple(axes)


def shape_of(axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int], at: str) -> tuple[int, ...]:
    """The shape in which every named axis has a dimension of its own.

    Raises:
        UsageError: the axes are not those of the tensor.
    """
    if len(axes) != len(shape):
        what = f"{at} has {len(shape)} axes, {shape}, and the representation names {len(axes)}"
        raise UsageError(what, remedy="name every axis; what is flattened stands in parentheses")
    lengths: list[int] = []
    for names, size in zip(axes, shape, strict=True):
        known = math.prod(sizes.get(name, 1) for name in names)
        free = [name for name in names if name not in sizes]
        if len(free) > 1:
            what = f"the sizes of {', '.join(free)} in {at} are not known"
            raise UsageError(what, remedy="leave one axis of each parenthesis to be found, and act on the others")
        if size % known or (not free and size != known):
            what = f"the axis ({' '.join(names)}) of {at} has {size} positions"
            raise UsageError(what, cause=f"the group acts on {known} of them", remedy="give actions of its size")
        lengths += [sizes.get(name, size // known) for name in names]
    return tuple(lengths)


def smallest_class(matrices: Tensor) -> SymmetryClass:
    """The smallest class of the lattice that these matrices (m, n, n) are all in, among those that need no pairs."""
    magnitudes = matrices.abs()
    entries = magnitudes > _SMALL
    single = (entries.sum(-1) == 1).all() and (entries.sum(-2) == 1).all()
    units = bool(single) and bool(((magnitudes - 1).abs().lt(_SMALL) | magnitudes.lt(_SMALL)).all())
    if units and bool((matrices > -_SMALL).all()):
        return SymmetryClass.PERMUTATION
    if units:
        return SymmetryClass.SIGNED
    if bool(single):
        return SymmetryClass.POSITIVE_MONOMIAL if bool((matrices > -_SMALL).all()) else SymmetryClass.MONOMIAL
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    if not bool(((matrices @ matrices.mT - eye).abs() < _SMALL).all()):
        return SymmetryClass.INVERTIBLE
    ones = ((matrices.sum(-1) - 1).abs() < _SMALL).all()
    return SymmetryClass.ORTHOGONAL_ONES if bool(ones) else SymmetryClass.ORTHOGONAL


_SMALL = 1e-9


def _plain(source: Any) -> Any:
    """The same with tensors and arrays as lists."""
    if isinstance(source, Mapping):
        return {key: _plain(value) for key, value in source.items()}
    return source.tolist() if hasattr(source, "tolist") else source


def _size(action: Action) -> int:
    return 2 * len(action.circle) if isinstance(action, Circle) else len(action)


def _matrix(action: Action, angle: float) -> Tensor:
    if isinstance(action, Circle):
        return action.at(angle)
    matrix = torch.tensor(action)
    return torch.eye(len(action), dtype=torch.float64)[matrix] if matrix.dim() == 1 else matrix.double()


def _check_action(action: Action, at: str) -> None:
    if isinstance(action, Circle):
        if not action.circle:
            raise Malformed(f"{at}: a circle has a frequency for each pair of coordinates")
        return
    if not action:
        raise Malformed(f"{at}: it is empty")
    rows = [row for row in action if isinstance(row, tuple)]
    if not rows:
        if sorted(action) != list(range(len(action))):
            raise Malformed(f"{at}: the numbers are no permutation of 0 to {len(action) - 1}")
    elif len(rows) != len(action) or any(len(row) != len(action) for row in rows):
        raise Malformed(f"{at}: the matrix is not square")
    elif abs(float(torch.linalg.det(torch.tensor(rows, dtype=torch.float64)))) < _SMALL:
        raise Malformed(f"{at}: the matrix has no inverse")
