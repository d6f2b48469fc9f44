"""Several spellings of one thing, each rewritten as the one that rules speak about: calls, one for one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from symgraph.ir import DType, Kind, Node, Ref, Tensor
from symgraph.tracing.arguments import arguments, operator
from symgraph.tracing.operators import is_wide

Known = Mapping[str, Node]

_TRANSPOSES = frozenset({"aten.t.default", "aten.numpy_T.default", "aten.mT.default", "aten.transpose.int"})
_PRODUCTS = frozenset({"aten.matmul.default", "aten.mm.default", "aten.addmm.default"})
_NAMES = {
    "aten.absolute.default": "aten.abs.default",
    "aten.clip.default": "aten.clamp.default",
    "aten.concat.default": "aten.cat.default",
    "aten.concatenate.default": "aten.cat.default",
    "aten.divide.Scalar": "aten.div.Tensor",
    "aten.divide.Tensor": "aten.div.Tensor",
    "aten.div.Scalar": "aten.div.Tensor",
    "aten.true_divide.Scalar": "aten.div.Tensor",
    "aten.true_divide.Tensor": "aten.div.Tensor",
    "aten.add.Scalar": "aten.add.Tensor",
    "aten.sub.Scalar": "aten.sub.Tensor",
    "aten.subtract.Scalar": "aten.sub.Tensor",
    "aten.subtract.Tensor": "aten.sub.Tensor",
    "aten.mul.Scalar": "aten.mul.Tensor",
    "aten.multiply.Scalar": "aten.mul.Tensor",
    "aten.multiply.Tensor": "aten.mul.Tensor",
    "aten.negative.default": "aten.neg.default",
    "aten.greater.Scalar": "aten.gt.Scalar",
    "aten.greater.Tensor": "aten.gt.Tensor",
    "aten.greater_equal.Scalar": "aten.ge.Scalar",
    "aten.greater_equal.Tensor": "aten.ge.Tensor",
    "aten.less.Scalar": "aten.lt.Scalar",
    "aten.less.Tensor": "aten.lt.Tensor",
    "aten.less_equal.Scalar": "aten.le.Scalar",
    "aten.less_equal.Tensor": "aten.le.Tensor",
    "aten.not_equal.Scalar": "aten.ne.Scalar",
    "aten.not_equal.Tensor": "aten.ne.Tensor",
    "aten.special_expit.default": "aten.sigmoid.default",
    "aten.special_softmax.int": "aten.softmax.int",
    "aten.special_erf.default": "aten.erf.default",
    "aten.moveaxis.int": "aten.movedim.int",
    "aten.moveaxis.intlist": "aten.movedim.intlist",
    "aten.max.other": "aten.maximum.default",
    "aten.min.other": "aten.minimum.default",
}
_EMPTY = frozenset(
    {
        "aten.empty.memory_format",
        "aten.empty_like.default",
        "aten.new_empty.default",
        "aten.new_empty_strided.default",
        "aten.empty_strided.default",
        "aten.zeros_like.default",
        "aten.new_zeros.default",
    }
)
_OF_ALL = {"aten.max.default": "aten.amax.default", "aten.min.default": "aten.amin.default"}
_WITH_PLACES = {"aten.max.dim": "aten.amax.default", "aten.min.dim": "aten.amin.default"}
_STACK = "aten.stack.default"
_SECTIONS = frozenset({"aten.tensor_split.sections", "aten.tensor_split.indices"})
_FULL = "aten.full.default"
_ARITHMETIC = frozenset({f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div")})
_OF_NUMBERS = _ARITHMETIC | {f"aten.{name}.default" for name in ("neg", "sqrt", "rsqrt", "reciprocal", "exp", "log")}
_PADS = frozenset({"aten.pad.default", "aten.constant_pad_nd.default"})
_VIEWS = frozenset({"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"})
_POWERS = {-1: "aten.reciprocal.default", -0.5: "aten.rsqrt.default", 0.5: "aten.sqrt.default", 1: "aten.alias.default"}


def _named(node: Node, known: Known) -> Node:
    """The operator by the first of its names."""
    target = _NAMES.get(node.target)
    return node if target is None else replace(node, target=target)


def _power(node: Node, known: Known) -> Node:
    """A fixed power: roots and reciprocals by their names, squares as the power two."""
    if node.target == "aten.square.default":
        return replace(node, target="aten.pow.Tensor_Scalar", args=(node.args[0], 2))
    if node.target == "aten.mul.Tensor" and node.args[0] == node.args[1]:
        return replace(node, target="aten.pow.Tensor_Scalar", args=(node.args[0], 2))
    if node.target == "aten.pow.Tensor_Tensor":
        node = _with_number(node, known, "aten.pow.Tensor_Scalar")
    if node.target != "aten.pow.Tensor_Scalar" or not node.is_floating:
        return node
    target = _POWERS.get(node.args[1])
    return node if target is None else replace(node, target=target, args=node.args[:1])


def _extreme(node: Node, known: Known) -> Node:
    """The largest or smallest entries by one name, whether or not something asks where they are."""
    if node.kind is Kind.CALL and node.target in _OF_ALL:
        axes = tuple(range(len(known[node.args[0].name].shape)))
        return replace(node, target=_OF_ALL[node.target], args=(node.args[0], axes))
    if node.kind is not Kind.CALL or node.target != "getitem" or node.args[1] != 0:
        return node
    both = known[node.args[0].name]
    given = arguments(both) if both.target in _WITH_PLACES else None
    if given is None:
        return node
    return replace(node, target=_WITH_PLACES[both.target], args=(given["self"], (given["dim"],), given["keepdim"]))


def _weights(node: Node, known: Known) -> Node:
    """The exponential of a logarithm of softmax, as softmax."""
    if node.kind is not Kind.CALL or node.target != "aten.exp.default":
        return node
    before = known[node.args[0].name]
    given = (arguments(before) or {}) if before.target == "aten.log_softmax.int" else {}
    if not given:
        return node
    return replace(node, target="aten.softmax.int", args=(given["self"], given["dim"]))


def _computed(node: Node, known: Known) -> Node:
    """A number made of numbers alone (the root of a width), as that number."""
    if node.target not in _OF_NUMBERS or node.shape != () or node.kwargs or not node.is_floating:
        return node
    numbers = [_number_of(operand, known) for operand in node.args]
    if None in numbers:
        return node
    call = operator(node.target)
    if call is None:
        return node
    number = float(call(*(torch.tensor(operand, dtype=torch.float64) for operand in numbers)))
    return replace(node, target=_FULL, args=((), number)) if math.isfinite(number) else node


def _by_number(node: Node, known: Known) -> Node:
    """A sum or a product with a tensor that is made of one number, with the number written out."""
    both = len(node.args) == 2 and all(isinstance(operand, Ref) for operand in node.args)
    if node.target not in _ARITHMETIC or node.kwargs or not both or not node.is_floating:
        return node
    value, number = known[node.args[0].name], _number_of(node.args[1], known)
    plain = number is not None and keeps_kind(value, node) and value.shape == node.shape
    return replace(node, args=(node.args[0], number)) if plain else node


def _number_of(value: object, known: Known) -> float | None:
    """What an operand is, if that is one number."""
    if isinstance(value, Ref):
        made = known[value.name]
        value = made.args[1] if made.target == _FULL and made.shape == () else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _with_number(node: Node, known: Known, target: str) -> Node:
    """The call with its second operand, a tensor made of one number, as that number."""
    other = known[node.args[1].name]
    if other.target != "aten.full.default" or other.shape != () or not keeps_kind(known[node.args[0].name], node):
        return node
    return replace(node, target=target, args=(node.args[0], other.args[1], *node.args[2:]))


def _copied(node: Node, known: Known) -> Node:
    """A copy into a tensor as what it makes of the other one: nothing of the first is left but its shape and dtype."""
    if node.target != "aten.copy.default" or not isinstance(node.result, Tensor):
        return node
    source, result = known[node.args[1].name], node.result
    if source.shape == node.shape:
        return replace(node, target="aten.to.dtype", args=(node.args[1], DType(result.dtype)), kwargs=())
    if keeps_kind(source, node):
        return replace(node, target="aten.expand.default", args=(node.args[1], node.shape), kwargs=())
    return node


def _one_matrix(node: Node, known: Known) -> Node:
    """A product of a batch with one matrix for all of it, as a product with that matrix."""
    if node.target != "aten.bmm.default":
        return node
    matrix = known[node.args[1].name]
    while matrix.target in _VIEWS and known[matrix.args[0].name].shape == matrix.shape:
        matrix = known[matrix.args[0].name]
    if matrix.target != "aten.expand.default" or len(known[matrix.args[0].name].shape) != 2:
        return node
    return replace(node, target="aten.matmul.default", args=(node.args[0], matrix.args[0]))


def _linear(node: Node, known: Known) -> Node:
    """A product with the transpose of a matrix, with or without a sum, as the linear map that it is."""
    if node.target not in _PRODUCTS or not all(isinstance(argument, Ref) for argument in node.args):
        return node
    *first, left, right = node.args
    turned = known[right.name]
    given = (arguments(turned) if turned.target in _TRANSPOSES else None) or {}
    plain = len(turned.shape) == 2 and {given.get("dim0", 0) % 2, given.get("dim1", 1) % 2} == {0, 1}
    if not given or not plain or node.kwargs or any(len(known[operand.name].shape) != 1 for operand in first):
        return node
    return replace(node, target="aten.linear.default", args=(left, given["self"], *first))


def _filled(node: Node, known: Known) -> Node:
    """A choice between a tensor and one number, with the number written out."""
    if node.target != "aten.where.self":
        return node
    number = known[node.args[2].name]
    if number.target != "aten.full.default" or number.shape != () or not keeps_kind(number, node):
        return node
    return replace(node, target="aten.where.ScalarOther", args=(*node.args[:2], number.args[1]))


def _looked_up(node: Node, known: Known) -> Node:
    """Rows of a table without what concerns gradients alone: derivatives of the graph are those of what it computes."""
    gradients = node.target == "aten.embedding.default" and len(node.args) >= 2
    return replace(node, args=node.args[:2], kwargs=()) if gradients else node


def _joined(node: Node, known: Known) -> Node:
    """A concatenation without its empty parts (a cache that holds nothing yet); of one part it is a copy."""
    if node.target != "aten.cat.default" or not isinstance(node.args[0], tuple):
        return node
    parts = tuple(argument for argument in node.args[0] if 0 not in known[argument.name].shape)
    # What is empty may still be what makes integers into floats.
    if len(parts) == len(node.args[0]) or not any(keeps_kind(known[part.name], node) for part in parts):
        return node
    if len(parts) == 1:
        return replace(node, target="aten.alias.default", args=parts, kwargs=())
    return replace(node, args=(parts, *node.args[1:]))


def _cut_out(node: Node, known: Known) -> Node:
    """A slice of a concatenation that lies within one of its parts, as a slice of that part."""
    if node.target != "aten.slice.Tensor" or known[node.args[0].name].target != "aten.cat.default":
        return node
    whole = known[node.args[0].name]
    given = arguments(node) or {}
    dim, rank = int(given["dim"]) % len(node.shape), len(node.shape)
    joined = (arguments(whole) or {})["dim"]
    if joined % rank != dim or given["step"] != 1:
        return node
    start, stop, _ = slice(given["start"], given["end"]).indices(whole.shape[dim])
    for part in whole.args[0]:
        size = known[part.name].shape[dim] if len(known[part.name].shape) == rank else 0
        if start >= 0 and stop <= size:
            if (start, stop) == (0, size):
                return replace(node, target="aten.alias.default", args=(part,), kwargs=())
            return replace(node, args=(part, dim, start, stop), kwargs=())
        start, stop = start - size, stop - size
    return node


def _out_of_stack(node: Node, known: Known) -> Node:
    """One of the tensors that a stack was made of, however it is picked; several of them are a smaller stack."""
    number = _number_in_stack(node, known)
    if number is None:
        return node
    source = known[node.args[0].name]
    stack = source if node.target != "getitem" else known[source.args[0].name]
    parts = stack.args[0][number]
    if isinstance(parts, Ref):
        return replace(node, target="aten.alias.default", args=(parts,), kwargs=())
    return replace(node, target=_STACK, args=(parts, *stack.args[1:]), kwargs=stack.kwargs)


def _number_in_stack(node: Node, known: Known) -> int | slice | None:
    """Which tensors of a stack a call picks; None where it does something else."""
    if node.kind is not Kind.CALL:
        return None
    pick = known[node.args[0].name] if node.target == "getitem" else node
    if pick.target not in ("aten.select.int", "aten.unbind.int", "aten.slice.Tensor"):
        return None
    stack, given = known[pick.args[0].name], arguments(pick) or {}
    rank = len(stack.shape) if isinstance(stack.result, Tensor) else 0
    if stack.target != _STACK or (given["dim"] - (arguments(stack) or {})["dim"]) % rank:
        return None
    if pick.target == "aten.slice.Tensor":
        return slice(given["start"], given["end"], given["step"])
    number = node.args[1] if node.target == "getitem" else given.get("index")
    return number if isinstance(number, int) else None


def _in_sections(node: Node, known: Known) -> Node:
    """Parts of nearly one length, or between given places, as parts of the lengths that they have."""
    if node.target not in _SECTIONS or not isinstance(node.result, tuple):
        return node
    given = arguments(node) or {}
    dim = given.get("dim", 0)
    sizes = tuple(part.shape[dim] for part in node.result)
    return replace(node, target="aten.split_with_sizes.default", args=(given["self"], sizes, dim), kwargs=())


def _emptied(node: Node, known: Known) -> Node:
    """Memory that is only there to be written to, as zeros: what was never written cannot matter."""
    return _zeros(node) if node.target in _EMPTY and isinstance(node.result, Tensor) else node


def _zeros(node: Node) -> Node:
    """Zeros of the shape and dtype of a result."""
    return replace(node, target="aten.zeros.default", args=(node.shape,), kwargs=(("dtype", DType(node.dtype)),))


def _no_times(node: Node, known: Known) -> Node:
    """Nothing of a tensor is nothing; what was finite is zero."""
    if node.target != "aten.mul.Tensor" or not node.is_floating:
        return node
    numbers = [argument for argument in node.args if type(argument) in (int, float)]
    return _zeros(node) if 0 in numbers else node


def _unchanged(node: Node, known: Known) -> Node:
    """A sum with the number zero, a product with the number one and a pad by nothing, as what they leave unchanged."""
    if node.target in _PADS and not any(node.args[1]):
        return replace(node, target="aten.alias.default", args=node.args[:1], kwargs=())
    if node.target not in _ARITHMETIC or len(node.args) != 2 or not isinstance(node.args[0], Ref):
        return node
    neutral = 0 if node.target in ("aten.add.Tensor", "aten.sub.Tensor") else 1
    number = node.args[1]
    plain = isinstance(number, int | float) and not isinstance(number, bool) and number == neutral
    if not plain or not keeps_kind(known[node.args[0].name], node):
        return node
    return replace(node, target="aten.alias.default", args=node.args[:1], kwargs=())


def _mean(node: Node, known: Known) -> Node:
    """A sum over as many entries as it is divided by."""
    if node.target not in ("aten.div.Tensor", "aten.mul.Tensor") or not isinstance(node.args[0], Ref):
        return node
    total, number = known[node.args[0].name], node.args[1]
    if total.target != "aten.sum.dim_IntList" or isinstance(number, Ref | bool) or not total.is_floating:
        return node
    before, dims = known[total.args[0].name].shape, total.args[1]
    size = 1
    for dim in dims if dims else range(len(before)):
        size *= before[dim]
    if (size if node.target == "aten.div.Tensor" else 1.0 / size) != number:
        return node
    return replace(node, target="aten.mean.dim", args=total.args, kwargs=total.kwargs)


def _reduced(node: Node, known: Known) -> Node:
    """A sum or a mean of floats without the precision that it is computed in."""
    if node.target not in ("aten.sum.dim_IntList", "aten.mean.dim") or not keeps_kind(known[node.args[0].name], node):
        return node
    return replace(node, kwargs=tuple((name, value) for name, value in node.kwargs if name != "dtype"))


def _over_all_axes(node: Node, known: Known) -> Node:
    """A sum or a mean of all entries as one over all axes."""
    whole = {"aten.sum.default": "aten.sum.dim_IntList", "aten.mean.default": "aten.mean.dim"}.get(node.target)
    axes = tuple(range(len(known[node.args[0].name].shape))) if whole else ()
    return replace(node, target=whole, args=(node.args[0], axes, False)) if whole and axes else node


def _quotient(node: Node, known: Known) -> Node:
    """A product with one over a value, as the quotient by this."""
    if node.target != "aten.mul.Tensor" or not all(isinstance(arg, Ref) for arg in node.args):
        return node
    for factor, other in (node.args, node.args[::-1]):
        over = known[other.name]
        if over.target == "aten.reciprocal.default" and keeps_kind(known[over.args[0].name], node):
            return replace(node, target="aten.div.Tensor", args=(factor, over.args[0]))
    return node


def _swapped(node: Node, known: Known) -> Node:
    """A permutation that exchanges two axes, as the transposition that it is."""
    if node.target != "aten.permute.default":
        return node
    order = [dim % len(node.shape) for dim in node.args[1]]
    moved = [axis for axis, dim in enumerate(order) if axis != dim]
    if not moved:
        return replace(node, target="aten.alias.default", args=node.args[:1])
    if len(moved) != 2:
        return node
    first, second = (axis - len(order) for axis in moved)
    return replace(node, target="aten.transpose.int", args=(node.args[0], first, second))


def _one_group(node: Node, known: Known) -> Node:
    """A group norm of rows with a single group, as the layer norm that it is."""
    if node.target != "aten.group_norm.default" or len(node.shape) != 2 or node.args[1] != 1:
        return node
    given = arguments(node) or {}
    args = (given["input"], node.shape[1:], given["weight"], given["bias"], given["eps"])
    return replace(node, target="aten.layer_norm.default", args=args, kwargs=())


def keeps_kind(before: Node, after: Node) -> bool:
    """Whether two values are of one kind of numbers."""
    old, new = before.result, after.result
    return isinstance(old, Tensor) and isinstance(new, Tensor) and kind(old.dtype) == kind(new.dtype)


def kind(dtype: str) -> str:
    """Floating types that are computed in are one kind, complex ones another: the executor has one precision each."""
    known_dtype: torch.dtype = getattr(torch, dtype)
    return "float" if is_wide(known_dtype) else "complex" if known_dtype.is_complex else dtype


SPELLINGS: tuple[Callable[[Node, Known], Node], ...] = (
    _named,
    _copied,
    _joined,
    _looked_up,
    _one_matrix,
    _linear,
    _filled,
    _computed,
    _by_number,
    _power,
    _extreme,
    _weights,
    _cut_out,
    _out_of_stack,
    _in_sections,
    _emptied,
    _no_times,
    _unchanged,
    _over_all_axes,
    _reduced,
    _mean,
    _quotient,
    _swapped,
    _one_group,
)
