"""Which entry stands where, as numbers: structural operators are carried out on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from symgraph.ir import Answers, Graph, Node, kept
from symgraph.ir import Tensor as Meta
from symgraph.rules.signature import Tokens
from symgraph.symmetry.axis_parts import Run, places_of
from symgraph.tracing.interpreter import Interpreter

Window = tuple[int, int]


class Numbers(Answers):
    """Which entry of a constant stands at each position of a value, counted from one; zero where none does.

    `rows` has in the same way the row of the table that it comes from, where rows are told apart.

    They never change, and what is asked of them is answered once. Those of layers that are alike are the same ones, so
    that little is computed however deep a model is.

    Shapes: at, rows: that of the value.
    """

    __slots__ = ("at", "rows")

    def __init__(self, at: Tensor, rows: Tensor | None = None) -> None:
        super().__init__()
        self.at, self.rows = at, rows

    def moved(self, move: Callable[[Tensor], Tensor]) -> Numbers:
        """The same entries and rows where an operator puts them."""
        return Numbers(move(self.at), None if self.rows is None else move(self.rows))

    @kept
    def is_constant(self, dim: int) -> bool:
        """Whether the same entries stand all along a dimension."""
        return is_constant(self.at, dim)

    @kept
    def line(self, dim: int) -> Numbers:
        """The entries along one dimension, at the first position of all others."""
        return Numbers(line_along(self.at, dim))

    @kept
    def put(self, places: Tensor, length: int) -> Numbers:
        """The entries of a line at these places of a longer one."""
        return Numbers(self.at.new_zeros(length).index_copy(0, places, self.at))

    @kept
    def of(self, run: Run) -> Numbers:
        """The entries of a line at the places of a piece."""
        return Numbers(self.at[places_of(run)])

    @kept
    def stands_along(self, dim: int) -> Tensor:
        """At which positions along a dimension any entry stands; shapes: (size of the dimension,)."""
        return stands_along(self.at, dim)

    @kept
    def stands_anywhere(self) -> bool:
        """Whether any entry does."""
        return stands_anywhere(self.at)

    @kept
    def stands_everywhere(self) -> bool:
        """Whether at all positions some entry does."""
        return bool((compact([self.at])[0] != 0).all())

    @kept
    def even(self) -> Numbers:
        """The first entry wherever any stands."""
        return Numbers(compact([self.at])[0].clamp_max(1.0).expand(self.at.shape), self.rows)

    @kept
    def without_rows(self) -> Numbers:
        """The same of rows that are all equal."""
        return self if self.rows is None else Numbers(self.at)

    @kept
    def narrowed(self, dim: int, start: int, stop: int) -> Numbers:
        """What stands at some positions along a dimension."""
        return self.moved(lambda numbers: numbers.narrow(dim, start, stop - start))

    @kept
    def spread(self, shape: tuple[int, ...]) -> Numbers:
        """The same along dimensions that it had one position of."""
        return self.moved(lambda numbers: numbers.expand(shape))

    @kept
    def laid_out(self, dims: tuple[int | None, ...], shape: tuple[int, ...]) -> Numbers:
        """What stands at the positions of a result (see `laid_out`)."""
        if dims == tuple(range(len(shape))) and shape == tuple(self.at.shape):
            return self
        return self.moved(lambda numbers: laid_out(numbers, dims, shape))

    @kept
    def one_everywhere(self, dim: int) -> Numbers | None:
        """One position along a dimension at all of them, where the same stands at some and nothing at the others."""
        held = self.stands_along(dim).nonzero()[:, 0]
        if len(held) == self.at.shape[dim] or not is_constant(compact([self.at])[0].index_select(dim, held), dim):
            return None
        return self.narrowed(dim, int(held[0]), int(held[0]) + 1).spread(tuple(self.at.shape))

    @kept
    def tells_rows_apart(self, dim: int) -> bool:
        """Whether along a dimension entries of several rows stand anywhere."""
        if self.rows is None or is_constant(self.rows, dim):
            return False
        return _several(self.rows, self.at, dim)

    @kept
    def span(self) -> Window | None:
        """All rows that it comes from, where they are told apart."""
        return None if self.rows is None else span_of(self.rows, self.at)

    @kept
    def is_same(self, other: Numbers) -> bool:
        """Whether the same entries of the same rows stand at the same positions."""
        if self.rows is not None and other.rows is not None and not same_numbers(self.rows, other.rows):
            return False
        return (self.rows is None) == (other.rows is None) and same_numbers(self.at, other.at)

    @kept
    def beside(self, other: Numbers) -> Numbers | None:
        """These entries and the others, where those stand elsewhere."""
        mine, theirs = compact([self.at, other.at])
        meet = bool(((mine > 0) & (theirs > 0)).any())
        return None if meet else Numbers((mine + theirs).expand(self.at.shape))


def moved(graph: Graph, nodes: tuple[Node, ...], given: dict[str, Tensor]) -> Tensor:
    """What the last of some calls makes of numbers that stand for the values they read."""
    if len(nodes) == 1 and nodes[0].target == "aten.index.Tensor":
        return _picked(graph, nodes[0], given)
    return _carried_out(graph, nodes, given)


def _picked(graph: Graph, node: Node, given: dict[str, Tensor]) -> Tensor:
    """What picking makes of them: numbers that are the same all along an axis where nothing is picked are kept once.

    The weights of an expert are picked for each token, and so many of them are larger than any memory.
    """
    value, index = next(iter(node.refs())), node.args[1]
    numbers = given[value]
    picked = (
        [i for i, at in enumerate(index) if at is not None] if isinstance(index, list | tuple) else range(numbers.dim())
    )
    once = tuple(slice(None) if i in picked or varies(numbers, i) else slice(1) for i in range(numbers.dim()))
    return _carried_out(graph, (node,), {**given, value: numbers[once]}).expand(node.shape)


def _carried_out(graph: Graph, nodes: tuple[Node, ...], given: dict[str, Tensor]) -> Tensor:
    inputs = []
    for name, tensor in given.items():
        meta = Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        inputs.append(graph.by_name[name].as_input(meta))
    run = Interpreter(Graph((*inputs, *nodes), (nodes[-1].name,)))
    try:
        return run.run({}, given)[0]
    except RuntimeError:
        # A view of numbers that stand for all positions at once may not exist.
        return run.run({}, {n: t.contiguous() for n, t in given.items()})[0]


def compact(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors without the positions along dimensions that none of them varies along."""
    kept = [any(varies(tensor, i) for tensor in tensors) for i in range(tensors[0].dim())]
    window = tuple(slice(None) if varies else slice(1) for varies in kept)
    return [tensor[window] for tensor in tensors]


def varies(numbers: Tensor, dim: int) -> bool:
    """Whether numbers may differ along a dimension, as far as strides tell."""
    return numbers.shape[dim] > 1 and numbers.stride(dim) != 0


def stands_anywhere(numbers: Tensor) -> bool:
    """Whether any number is not zero."""
    return bool(compact([numbers])[0].any())


def stands_along(numbers: Tensor, dim: int) -> Tensor:
    """At which positions along a dimension any number is not zero; shapes: (size of the dimension,)."""
    kept = compact([numbers])[0] != 0
    others = [i for i in range(numbers.dim()) if i != dim]
    return (kept.amax(others) if others else kept).expand(numbers.shape[dim])


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers at the same positions."""
    return one.shape == other.shape and torch.equal(*compact([one, other]))


def is_constant(numbers: Tensor, dim: int) -> bool:
    """Whether numbers are the same all along a dimension."""
    if numbers.shape[dim] == 1 or numbers.stride(dim) == 0:
        return True
    kept = compact([numbers])[0]
    return bool((kept == kept.narrow(dim, 0, 1)).all())


def line_along(numbers: Tensor, dim: int) -> Tensor:
    """The numbers along one dimension, at the first position of all others."""
    for i in reversed(range(numbers.dim())):
        numbers = numbers if i == dim else numbers.select(i, 0)
    return numbers


def laid_out(numbers: Tensor, dims: tuple[int | None, ...], shape: tuple[int, ...]) -> Tensor:
    """Numbers at the positions of a result; where they lack an axis they are the same all along it.

    Args:
        dims: which axis of the result each of theirs is; None for one that it does not have.
    """
    for i in reversed([i for i, dim in enumerate(dims) if dim is None]):
        numbers = numbers.select(i, 0)
    places = [dim for dim in dims if dim is not None]
    numbers = numbers.permute(sorted(range(len(places)), key=places.__getitem__))
    for i in range(len(shape)):
        numbers = numbers if i in places else numbers.unsqueeze(i)
    return numbers.expand(shape)


def dims_in(result: Tokens, tokens: Tokens) -> tuple[int | None, ...]:
    """Which axis of a result each axis of an operand is; None for one that it does not have."""
    order = {token.name: i for i, token in enumerate(result)}
    return tuple(order.get(token.name) for token in tokens)


def span_of(rows: Tensor, at: Tensor) -> Window:
    """The first and the last row (one past it) of those at positions where an entry stands.

    A table has as many positions as entries, but rows and entries vary along dimensions of their own as a rule, and
    then no tensor of that size is made.

    Shapes: rows, at: (...), where strides of zero say that nothing varies.
    """
    if any(varies(rows, i) and varies(at, i) for i in range(rows.dim())):
        kept = rows[at > 0]
    else:
        kept = rows[tuple(slice(None) if varies(rows, i) else slice(1) for i in range(rows.dim()))]
    return int(kept.min()) - 1, int(kept.max())


def _several(rows: Tensor, at: Tensor, dim: int) -> bool:
    """Whether along a dimension, where rows vary, entries of several stand anywhere."""
    if bool((compact([at])[0] > 0).all()):
        return True
    rows, at = compact([rows, at])
    held = at > 0
    last = torch.where(held, rows, 0.0).amax(dim)
    first = torch.where(held, rows, torch.inf).amin(dim)
    return bool((first < last).any())
