"""How a parameter moves under the group, in the notation of a paper: `W -> P W O^T`, with what each letter stands for.

- An axis that transforms by M stands as M on the left of a matrix, or as M^T on its right; what contracts with a value
  transforms by the inverse transpose, which of permutations and orthogonal maps is the map itself.
- An axis of several spaces transforms by a Kronecker product. `G_p` is another map for each position p that P moves: P
  moves blocks, then each block is mapped by its own.
- Parts side by side transform by a direct sum; axes that stay have the letters of indices.
- Of more than two axes each transforms along itself (`W x_0 P`, the product along axis 0: Kolda and Bader 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from symgraph.errors import shorten
from symgraph.groups.index_maps import IndexMaps
from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import Concat, Leaf, Product, Term, factors, leaves

_PERMUTATIONS, _DIAGONALS, _PAIRS, _ORTHOGONAL, _INVERTIBLE = "PQST", "DEF", "RV", "OU", "GHAB"
_INDICES = "ijklmn"
_TENSOR = "\N{CIRCLED TIMES}"
_SUM = "\N{CIRCLED PLUS}"
_STAYS = "I"


@dataclass(frozen=True, slots=True)
class Letter:
    """What a letter stands for: a map of a class on a space, another one for each position of the spaces `over`."""

    letter: str
    group: str
    space: str
    over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Law:
    """How a tensor moves: the formula, what its letters stand for, and what else has to be said."""

    formula: str
    letters: tuple[Letter, ...] = ()
    remarks: tuple[str, ...] = ()


def law(symmetry: Structure, name: str) -> Law:
    """How a parameter or buffer moves under the whole group.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> graph = symgraph.infer(net, torch.randn(5, 6))
    >>> law(graph, "2.weight").formula
    'W -> W P^T diag(s^-1)'
    """
    read = symmetry.reading.read(name)
    if len(read) == 1:
        return _Writer(symmetry, read[0]).law()
    letters = dict[int, str]()
    laws = [_Writer(symmetry, own, letters).law() for own in read]
    said = dict.fromkeys(letter for own in laws for letter in own.letters)
    remarks = dict.fromkeys(remark for own in laws for remark in own.remarks)
    formula = "; ".join(f"{own}: {part.formula}" for own, part in zip(read, laws, strict=True))
    return Law(formula, tuple(said), tuple(remarks))


@dataclass
class _Writer:
    """Writes the law of one tensor; letters are given to spaces in the order in which they occur."""

    symmetry: Structure
    name: str
    letters: dict[int, str] = field(default_factory=dict)

    def law(self) -> Law:
        terms = self.symmetry.terms_of(self.name)
        for space in self._held(terms):
            self._name(space)
        if self.name in self.symmetry.gain_sites:
            return self._gain(len(terms))
        moving = {axis: term for axis, term in enumerate(terms) if self._moves(term)}
        before, after = self._symbols(len(terms))
        entries = _slice(moving, len(terms)) if len(terms) > 2 and 0 < len(moving) <= 2 else ""
        formula = f"{before}{entries} -> {self._moved(f'{after}{entries}', moving, len(terms))}"
        return Law(formula, tuple(self._said()), tuple(self._remarks()))

    def _held(self, terms: Sequence[Term]) -> list[int]:
        stack = self.symmetry.stack_of.get(self.name)
        return [*([stack.space] if stack else []), *(leaf.space for term in terms for leaf in leaves(term))]

    def _symbols(self, rank: int) -> tuple[str, str]:
        """The tensor before and after the branches change places, with the number that the model adds to it."""
        offset = self.symmetry.offsets.get(self.name)
        symbol = "W" if rank > 1 else "v"
        value = offset.read(symbol) if offset else symbol
        stack = self.symmetry.stack_of.get(self.name)
        outer = self.letters.get(stack.space) if stack else None
        return (f"{value}_{outer.lower()}", f"{value}_{outer}({outer.lower()})") if outer else (value, value)

    def _gain(self, rank: int) -> Law:
        forward = self.symmetry.gain_sites[self.name][0].forward
        value, _ = self._symbols(rank)
        whose = "the weights that read from it" if forward else "the weights that write into it"
        remark = f"t: any vector of numbers that are not zero; {whose} are divided by it"
        return Law(f"{value} -> t {value}", remarks=(remark,))

    def _moved(self, value: str, moving: dict[int, Term], rank: int) -> str:
        """The tensor, or a slice of it, with the maps of its moving axes beside it."""
        axes = list(moving.items())
        if not axes:
            return value
        if len(axes) > 2:
            products = (f"x_{axis} {_grouped(self._factor(term, _left))}" for axis, term in axes)
            return f"{value} {' '.join(products)}"
        (first, term), *second = axes
        if second:
            return f"{self._side(term, _left)} {value} {self._side(second[0][1], _right)}"
        on_the_right = rank == 2 and first == 1
        return f"{value} {self._side(term, _right)}" if on_the_right else f"{self._side(term, _left)} {value}"

    # -- letters -----------------------------------------------------------------------------------------------

    def _name(self, number: int) -> None:
        if number < 0 or number in self.letters or self.symmetry.spaces[number].rigid:
            return
        for outer in self.symmetry.spaces[number].fibre:
            self._name(outer)
        pool, taken = _pool(self.symmetry.spaces[number]), set(self.letters.values())
        numbered = (f"{letter}{round_ or ''}" for round_ in range(len(taken) + 1) for letter in pool)
        self.letters[number] = next(letter for letter in numbered if letter not in taken)

    def _said(self) -> Iterator[Letter]:
        for number in self.letters:
            space = self.symmetry.spaces[number]
            over = tuple(self.symmetry.spaces[outer].name for outer in space.fibre)
            yield Letter(self._letter(space), str(space.group), space.name, over)

    def _remarks(self) -> Iterator[str]:
        form = self.symmetry.reading.source_of.get(self.name)
        if form is not None and form.joins:
            yield f"it is a piece of this: {shorten(form.stored)} put together along axis {form.axis}"
        elif form is not None and form.parts:
            yield f"the parts of {form.stored[0]} along axis {form.axis} are read by themselves"
        elif form is not None:
            axes = shorten(map(str, range(form.axis, form.axis + len(form.sizes))))
            yield f"the axes {axes} of {form.stored[0]} are read as one"
        if any(isinstance(part, Concat) and part.order for part in _parts(self.symmetry.terms_of(self.name))):
            yield "the parts of a sum stand in another order along the axis"
        for gain in self._absorbed():
            yield f"in the canonical gauge, where {gain} is one and its factor is taken in here"

    def _absorbed(self) -> list[str]:
        frames = {leaf.frame for term in self.symmetry.terms_of(self.name) for leaf in leaves(term)}
        return list(dict.fromkeys(gain.parameter for gain in self.symmetry.gains if {*gain.frames} & frames))

    def _letter(self, space: Space) -> str:
        return _indexed(self.letters[space.id], self._position(space))

    def _position(self, space: Space) -> str:
        """Letters for the positions by which the map of a space differs."""
        return "".join(self.letters[outer].lower() for outer in space.fibre if outer in self.letters)

    # -- what stands beside the tensor -----------------------------------------------------------------------------

    def _moves(self, term: Term) -> bool:
        return any(leaf.space in self.letters for leaf in leaves(term))

    def _side(self, term: Term, side: Side) -> str:
        text = self._factor(term, side)
        return _grouped(text) if isinstance(term, Product | Concat) else text

    def _factor(self, term: Term, side: Side) -> str:
        if isinstance(term, Leaf):
            return self._leaf(term, side)
        sign = f" {_TENSOR} " if isinstance(term, Product) else f" {_SUM} "
        return sign.join(
            _grouped(text) if _is_sum(text) else text for text in (self._factor(child, side) for child in term.children)
        )

    def _leaf(self, leaf: Leaf, side: Side) -> str:
        if leaf.space not in self.letters:
            return _STAYS
        space = self.symmetry.spaces[leaf.space]
        letter = self._letter(space)
        if space.is_matrix:
            compact = bool(getattr(space.maps, "compact", False))
            return side((_turned(letter, leaf.dual and not compact),))
        moves = isinstance(space.maps, IndexMaps) and space.maps.permutes
        return side((*self._diagonal(leaf), *([letter] if moves else []))) or _STAYS

    def _diagonal(self, leaf: Leaf) -> list[str]:
        frame, orientation = self.symmetry.frame(leaf.frame), -1 if leaf.dual else 1
        powers = tuple(orientation * power for power in frame.scale)
        scaled = [
            number
            for number in self.letters
            if self.symmetry.spaces[number].scales or self.symmetry.spaces[number].signs
        ]
        space = self.symmetry.spaces[leaf.space]
        whose = (self.letters[space.id] if len(scaled) > 1 else "") + self._position(space)
        owned = [_owned(text, whose) for text in factors(powers, frame.sign)]
        return [f"diag({' '.join(owned)})"] if owned else []


Side = Callable[[Sequence[str]], str]


def _left(maps: Sequence[str]) -> str:
    return " ".join(maps)


def _right(maps: Sequence[str]) -> str:
    return " ".join(map(_transposed, reversed(maps)))


def _turned(letter: str, inverse: bool) -> str:
    return f"{letter}^-T" if inverse else letter


def _transposed(text: str) -> str:
    if text.startswith("diag("):
        return text
    return f"{text.removesuffix('^-T')}^-1" if text.endswith("^-T") else f"{text}^T"


def _owned(factor: str, whose: str) -> str:
    """A scale or sign to its power, with the letters of the space and position that it belongs to: `s_P^-1`."""
    letter, power, exponent = factor.partition("^")
    return f"{_indexed(letter, whose)}{power}{exponent}"


def _indexed(letter: str, index: str) -> str:
    return f"{letter}_{index}" if index else letter


def _grouped(text: str) -> str:
    return f"({text})" if " " in text else text


def _is_sum(text: str) -> bool:
    return f" {_SUM} " in text or f" {_TENSOR} " in text


def _slice(moving: dict[int, Term], rank: int) -> str:
    """Which axes move, and letters for those that stay: `[:, :, i, j]`."""
    rest = iter(_INDICES)
    return f"[{', '.join(':' if axis in moving else next(rest) for axis in range(rank))}]"


def _pool(space: Space) -> str:
    maps = space.maps
    if isinstance(maps, IndexMaps):
        return _PERMUTATIONS if maps.permutes else _DIAGONALS
    if maps.paired:
        return _PAIRS
    return _ORTHOGONAL if getattr(maps, "compact", False) else _INVERTIBLE


def _parts(terms: Sequence[Term]) -> Iterator[Term]:
    for term in terms:
        yield term
        if not isinstance(term, Leaf):
            yield from _parts(term.children)
