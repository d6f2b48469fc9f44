"""Calls that stand for several simpler ones, written out: interpolation, fused products, statistics and biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import Any

from symgraph.ir import Graph, Kind, Node, Ref, Shape, resized
from symgraph.tracing.arguments import arguments
from symgraph.tracing.einsum import product_of
from symgraph.tracing.naming import numbering
from symgraph.tracing.operators import short_name

Known = Mapping[str, Node]


@dataclass
class Writer:
    """Collects the calls that stand for one; the last gets its name."""

    node: Node
    known: Known
    fresh: Callable[[str], str]
    nodes: list[Node]

    def call(self, target: str, args: tuple[Any, ...], shape: Shape | None = None, dtype: str = "") -> Ref:
        """Appends a call whose result has the shape and the dtype of the whole, unless others are given."""
        shape = self.node.shape if shape is None else shape
        made = self.node.call(self.fresh(short_name(target)), target, args, shape, dtype)
        self.nodes.append(made)
        return Ref(made.name)

    def shape(self, value: Any) -> Shape:
        """Shape of an operand; that of a number is ()."""
        if not isinstance(value, Ref):
            return ()
        return (
            next((node.shape for node in reversed(self.nodes) if node.name == value.name), None)
            or self.known[value.name].shape
        )


_DIAGONALS = frozenset({"aten.diag.default", "aten.diag_embed.default"})
_PRODUCTS = frozenset({"aten.matmul.default", "aten.mm.default"})
Form = Callable[[Writer, dict[str, Any]], bool]


def written_out(graph: Graph) -> Graph:
    """The graph with every call that has a written form as that."""
    fresh = numbering(graph.by_name.keys())
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.target == "getitem":
            nodes.append(_one_result(node, graph.by_name))
        else:
            nodes += _written(node, _FORMS.get(node.target), graph.by_name, fresh)
    return replace(graph, nodes=tuple(nodes))


def with_biases_in_parts(graph: Graph) -> Graph:
    """The graph with linear maps whose bias is made of pieces as one map for each."""
    fresh = numbering(graph.by_name.keys())
    nodes: list[Node] = []
    for node in graph.nodes:
        bias = (arguments(node) or {}).get("bias") if node.target == "aten.linear.default" else None
        nodes += _written(node, _in_parts if isinstance(bias, Ref) else None, graph.by_name, fresh)
    return replace(graph, nodes=tuple(nodes)) if len(nodes) > len(graph.nodes) else graph


def _written(node: Node, form: Form | None, known: Known, fresh: Callable[[str], str]) -> list[Node]:
    if node.kind is not Kind.CALL or form is None:
        return [node]
    writer = Writer(node, known, fresh, [])
    if not form(writer, arguments(node) or {}) or not writer.nodes:
        return [node]
    *before, last = writer.nodes
    return [*before, replace(last, name=node.name, result=node.result)]


def _interpolated(writer: Writer, given: dict[str, Any]) -> bool:
    start, end, weight = given["self"], given["end"], given["weight"]
    way = writer.call("aten.sub.Tensor", (end, start))
    part = writer.call("aten.mul.Tensor", (way, weight))
    writer.call("aten.add.Tensor", (start, part))
    return True


def _product_added(writer: Writer, given: dict[str, Any]) -> bool:
    target = "aten.mul.Tensor" if "addcmul" in writer.node.target else "aten.div.Tensor"
    product = writer.call(target, (given["tensor1"], given["tensor2"]))
    if given["value"] != 1:
        product = writer.call("aten.mul.Tensor", (product, given["value"]))
    writer.call("aten.add.Tensor", (given["self"], product))
    return True


def _batched_product_added(writer: Writer, given: dict[str, Any]) -> bool:
    """A batch of products added to something, each times a number."""
    product = writer.call("aten.bmm.default", (given["batch1"], given["batch2"]))
    if given["alpha"] != 1:
        product = writer.call("aten.mul.Tensor", (product, given["alpha"]))
    if given["beta"] == 0:
        return True
    added = given["self"]
    if given["beta"] != 1:
        added = writer.call("aten.mul.Tensor", (added, given["beta"]), writer.shape(added))
    writer.call("aten.add.Tensor", (added, product))
    return True


def _mean_of_values(writer: Writer, given: dict[str, Any]) -> bool:
    """A product divided by the sums of its first operand, as the product of weights that sum to one."""
    if not isinstance(given["other"], Ref):
        return False
    product, total = writer.known[given["self"].name], writer.known[given["other"].name]
    if product.target not in ("aten.matmul.default", "aten.bmm.default") or total.target != "aten.sum.dim_IntList":
        return False
    weights, values = product.args[:2]
    asked, shape = arguments(total) or {}, writer.shape(weights)
    along_last = [dim % len(shape) for dim in asked["dim"]] == [len(shape) - 1]
    if asked["self"] != weights or not asked["keepdim"] or not along_last:
        return False
    normal = writer.call("aten.div.Tensor", (weights, given["other"]), shape)
    writer.call(product.target, (normal, values))
    return True


def _norms_of_groups(writer: Writer, given: dict[str, Any]) -> bool:
    """A group norm of rows as the layer norm of each group, and its gain and bias."""
    if len(writer.node.shape) != 2 or not 1 < given["num_groups"] < writer.node.shape[1]:
        return False
    rows, channels = writer.node.shape
    inside = channels // given["num_groups"]
    cut = (rows, given["num_groups"], inside)
    found = writer.call("aten.reshape.default", (given["input"], cut), cut)
    found = writer.call("aten.layer_norm.default", (found, (inside,), None, None, given["eps"]), cut)
    found = writer.call("aten.reshape.default", (found, (rows, channels)), (rows, channels))
    for target, operand in (("aten.mul.Tensor", given["weight"]), ("aten.add.Tensor", given["bias"])):
        if operand is not None:
            found = writer.call(target, (found, operand))
    return True


def _length(writer: Writer, given: dict[str, Any]) -> bool:
    order = 2 if given["p"] is None else given["p"]
    writer.call("aten.linalg_vector_norm.default", (given["self"], order, given["dim"], given["keepdim"]))
    return True


def _one_result(node: Node, known: Known) -> Node:
    """The result of an operator with several that an operator with one computes as well."""
    both = known[node.args[0].name]
    if both.target == "aten.native_layer_norm.default" and node.args[1] == 0:
        return replace(node, target="aten.layer_norm.default", args=both.args, kwargs=both.kwargs)
    if both.target == "aten._native_batch_norm_legit_no_training.default" and node.args[1] == 0:
        *operands, momentum, eps = both.args
        args = (*operands, False, momentum, eps, False)
        return replace(node, target="aten.batch_norm.default", args=args, kwargs=both.kwargs)
    if both.target == "aten.broadcast_tensors.default":
        return replace(node, target="aten.expand.default", args=(both.args[0][node.args[1]], node.shape))
    return _statistic(node, known)


def _statistic(node: Node, known: Known) -> Node:
    """A variance, a deviation or a mean out of an operator that computes two of them."""
    both = known[node.args[0].name]
    kind = short_name(both.target)
    if kind not in ("var_mean", "std_mean"):
        return node
    given = arguments(both) or {}
    rank = len(known[given["self"].name].shape)
    dims, keep = given.get("dim") or tuple(range(rank)), given.get("keepdim", False)
    if node.args[1] == 1:
        return replace(node, target="aten.mean.dim", args=(given["self"], dims, keep), kwargs=())
    correction = given["correction"] if "correction" in given else int(given["unbiased"])
    kwargs = (("correction", correction), ("keepdim", keep))
    target = f"aten.{kind.removesuffix('_mean')}.correction"
    return replace(node, target=target, args=(given["self"], dims), kwargs=kwargs)


def _einsum(writer: Writer, given: dict[str, Any]) -> bool:
    return _product(writer, given["equation"], given["tensors"]) is not None


def _product(writer: Writer, equation: str, tensors: Sequence[Ref]) -> Ref | None:
    """An Einstein sum of one tensor or two as the calls that compute it, if there are such."""
    shapes, one = [writer.shape(tensor) for tensor in tensors], len(set(tensors)) == 1
    first, *others = tensors
    matrix_first = _is_matrix(first, writer.known) and not any(_stored(other, writer.known) for other in others)
    steps = product_of(equation, shapes, one, matrix_first)
    if steps is None:
        return None
    values = list(tensors)
    for step in steps:
        operands = tuple(values[place] for place in step.operands)
        values.append(writer.call(step.target, (*operands, *step.args), step.shape))
    return values[-1]


def _dot_products(writer: Writer, given: dict[str, Any]) -> bool:
    """A product entry by entry, summed along the last axis of both factors: of matrices where these are spread there.

    A mean is such a sum of shares. Where nothing is spread a rule says what becomes of scales of the other axes.
    """
    product = writer.known[given["self"].name]
    factors = [factor for factor in product.args if isinstance(factor, Ref)]
    plain = product.target == "aten.mul.Tensor" and len(set(factors)) == 2 and not given.get("dtype")
    rank = len(product.shape)
    last = [dim % rank for dim in given["dim"] or ()] == [rank - 1]
    if not plain or not last or not all(writer.known[factor.name].is_floating for factor in factors):
        return False
    if "mean" in writer.node.target:
        share = writer.call("aten.div.Tensor", (factors[0], product.shape[-1]), writer.shape(factors[0]))
        whole = writer.call("aten.mul.Tensor", (share, factors[1]), product.shape)
        writer.call("aten.sum.dim_IntList", (whole, (-1,), given["keepdim"]))
        return True
    shapes = [writer.shape(factor) for factor in factors]
    operands = [ascii_letters[rank - len(shape) : rank] for shape in shapes]
    labelled = (zip(labels, shape, strict=True) for labels, shape in zip(operands, shapes, strict=True))
    first, second = ({label for label, size in axes if size > 1} for axes in labelled)
    if first <= second or second <= first:
        return False
    found = _product(writer, f"{','.join(operands)}->{ascii_letters[: rank - 1]}", factors)
    if found is None:
        return False
    if given["keepdim"]:
        writer.call("aten.reshape.default", (found, writer.node.shape))
    return True


def _in_parts(writer: Writer, given: dict[str, Any]) -> bool:
    """A linear map with a bias that is made of pieces, as one map for each piece."""
    bias = writer.known[given["bias"].name]
    if bias.target != "aten.cat.default" or len(bias.shape) != 1:
        return False
    offset, parts = 0, []
    for piece in bias.args[0]:
        size = writer.known[piece.name].shape[0]
        rows = (size, *writer.shape(given["weight"])[1:])
        weight = writer.call("aten.slice.Tensor", (given["weight"], 0, offset, offset + size), rows)
        added = () if _is_zero(writer.known[piece.name]) else (piece,)
        written = (*writer.node.shape[:-1], size)
        parts.append(writer.call("aten.linear.default", (given["input"], weight, *added), written))
        offset += size
    writer.call("aten.cat.default", (tuple(parts), -1))
    return True


def _put(writer: Writer, given: dict[str, Any]) -> bool:
    """Slices put at, or added to, positions along one axis; or entries put where a mask says so."""
    at = [dim for dim, index in enumerate(given["indices"]) if index is not None]
    if len(at) != 1 or not isinstance(given["values"], Ref):
        return False
    index = writer.known[given["indices"][at[0]].name]
    if index.dtype == "bool":
        return at == [0] and not given["accumulate"] and _put_by_mask(writer, given, index)
    shape, (dim,) = writer.node.shape, at
    slices = resized(shape, dim, *index.shape)
    if len(index.shape) != 1 or writer.shape(given["values"]) != slices:
        return False
    target = "aten.index_add.default" if given["accumulate"] else "aten.index_copy.default"
    writer.call(target, (given["self"], dim, Ref(index.name), given["values"]))
    return True


def _put_by_mask(writer: Writer, given: dict[str, Any], mask: Node) -> bool:
    """What is put is the same wherever the mask is set."""
    shape, values, number = writer.node.shape, given["values"], _number(writer, given["values"])
    inner, put = len(shape) - len(mask.shape), writer.shape(values)
    if len(put) == inner + 1 and put[0] == 1:
        values, put = writer.call("aten.squeeze.dim", (values, 0), put[1:]), put[1:]
    if len(put) > inner:
        return False
    where, wide = Ref(mask.name), (*mask.shape, *[1] * inner)
    if inner:
        where = writer.call("aten.reshape.default", (where, wide), wide, "bool")
    if number is None:
        writer.call("aten.where.self", (where, values, given["self"]))
    else:
        writer.call("aten.masked_fill.Scalar", (given["self"], where, number))
    return True


def _number(writer: Writer, value: Ref) -> int | float | None:
    """The number that a tensor without axes is made of."""
    node = writer.known[value.name]
    while node.shape == () and short_name(node.target) in ("lift_fresh_copy", "clone", "to", "alias", "detach"):
        node = writer.known[node.args[0].name]
    return node.args[1] if node.target == "aten.full.default" and node.shape == () else None


def _is_zero(node: Node) -> bool:
    made = node.target.split(".")[1] if node.target.startswith("aten.") else ""
    return made in ("zeros", "zeros_like", "new_zeros") or (made == "full" and node.args[1] == 0)


def _factor_by_factor(writer: Writer, given: dict[str, Any]) -> bool:
    """A linear map by a product of parameters, as maps and gains one after the other."""
    factors = _factors(given["weight"], writer.known)
    if factors is None:
        return False
    found = given["input"]
    for factor in factors:
        found = _mapped(writer, found, factor)
    if given["bias"] is not None:
        writer.call("aten.add.Tensor", (found, given["bias"]))
    return True


def _matrix_by_matrix(writer: Writer, given: dict[str, Any]) -> bool:
    """A value times a product of parameters, as the products with these one after the other."""
    found, factors = given["self"], _matrices(given["other"], writer.known)
    if len(factors) < 2 or len(writer.shape(found)) < 2 or _matrices(found, writer.known):
        return False
    for factor in factors:
        made, shape = writer.known[factor.name], (*writer.shape(found)[:-1], writer.shape(factor)[1])
        diagonal = made.target in _DIAGONALS
        target, other = ("aten.mul.Tensor", made.args[0]) if diagonal else ("aten.matmul.default", factor)
        found = writer.call(target, (found, other), shape)
    return True


def _matrices(value: Ref, known: Known) -> list[Ref]:
    """The parameters with two axes that a value is the matrix product of, in order; none where it is anything else."""
    made = known[value.name]
    if made.target in _PRODUCTS and not made.kwargs:
        parts = [_matrices(part, known) for part in made.args]
        return [matrix for part in parts for matrix in part] if all(parts) else []
    return [value] if len(made.shape) == 2 and _stored(value, known) is not None else []


def _factors(weight: Ref, known: Known) -> list[Any] | None:
    """What a matrix is the product of, in the order in which a value meets it; None where it is one thing."""
    made = known[weight.name]
    if made.target in _PRODUCTS:
        return [*reversed(_matrices(weight, known))] or None
    if made.target != "aten.mul.Tensor" or made.kwargs:
        return None
    left, right = made.args
    matrix, other = (left, right) if _is_matrix(left, known) else (right, left)
    if not _is_matrix(matrix, known):
        return None
    # A gain that a matrix makes of itself is its length.
    if isinstance(other, Ref) and _stored(other, known) in (None, matrix):
        return None
    (rows, columns), shape = known[matrix.name].shape, known[other.name].shape if isinstance(other, Ref) else ()
    if shape in ((rows, 1), (1, 1), (1,), ()):
        return [matrix, other]
    return [other, matrix] if shape in ((columns,), (1, columns)) else None


def _is_matrix(value: Any, known: Known) -> bool:
    """Whether a value is a parameter with rows and columns."""
    node = known[value.name] if isinstance(value, Ref) else None
    return node is not None and node.kind is Kind.PARAMETER and len(node.shape) == 2 and 1 not in node.shape


def _stored(value: Any, known: Known) -> Ref | None:
    """The parameter that a value is, or is made of by calls of one operand."""
    while isinstance(value, Ref) and known[value.name].kind is Kind.CALL:
        refs = list(known[value.name].refs())
        value = Ref(refs[0]) if len(refs) == 1 else None
    return value if isinstance(value, Ref) and known[value.name].kind is Kind.PARAMETER else None


def _mapped(writer: Writer, value: Ref, factor: Any) -> Ref:
    """A value by one factor of a matrix: a number, a gain, a diagonal or a matrix."""
    made = writer.known[factor.name] if isinstance(factor, Ref) else None
    shape = writer.shape(value)
    if made is None or len(made.shape) < 2 or 1 in made.shape or made.target in _DIAGONALS:
        gain: Any = factor
        if made is not None and made.target in _DIAGONALS:
            gain = made.args[0]
        elif made is not None and len(made.shape) == 2:
            size = made.shape[0] * made.shape[1]
            gain = writer.call("aten.reshape.default", (factor, (size,)), (size,))
        return writer.call("aten.mul.Tensor", (value, gain), shape)
    return writer.call("aten.linear.default", (value, factor), (*shape[:-1], made.shape[0]))


_FORMS: dict[str, Form] = {
    "aten.linear.default": _factor_by_factor,
    "aten.matmul.default": _matrix_by_matrix,
    "aten.mm.default": _matrix_by_matrix,
    "aten.lerp.Scalar": _interpolated,
    "aten.lerp.Tensor": _interpolated,
    "aten.addcmul.default": _product_added,
    "aten.addcdiv.default": _product_added,
    "aten.baddbmm.default": _batched_product_added,
    "aten.div.Tensor": _mean_of_values,
    "aten.norm.ScalarOpt_dim": _length,
    "aten.group_norm.default": _norms_of_groups,
    "aten.einsum.default": _einsum,
    "aten.sum.dim_IntList": _dot_products,
    "aten.mean.dim": _dot_products,
    "aten.index_put.default": _put,
}
