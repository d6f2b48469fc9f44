"""Rules meet nodes: tokens of every axis, and the cases where a rule is silent."""

from __future__ import annotations

from typing import Any

import pytest

from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.binding import Binding, bind, tensor_refs
from symgraph.rules.book import default_rules

BOOK = default_rules()


def bound(target: str, args: tuple[Any, ...], result: Any, **kwargs: Any) -> Binding | None:
    """Binds the first rule that applies to a call whose tensors are given by their shapes."""
    nodes: list[Node] = []

    def value(x: Any) -> Any:
        if isinstance(x, list):
            return tuple(value(i) for i in x)
        if not isinstance(x, tuple):
            return x
        nodes.append(Node(f"v{len(nodes)}", Kind.INPUT, "", result=Tensor(x, "float32")))
        return Ref(nodes[-1].name)

    operands = tuple(value(a) for a in args)
    named = tuple((k, value(v)) for k, v in kwargs.items())
    results = Tensor(result, "float32") if isinstance(result, tuple) else result
    node = Node("y", Kind.CALL, target, operands, named, results)
    graph = Graph((*nodes, node), ("y",))
    return next((b for r in BOOK.for_node(node) if (b := bind(r, node, graph)) is not None), None)


def shown(binding: Binding | None) -> tuple[str, str]:
    assert binding is not None
    operands = ", ".join(f"{k}[{' '.join(map(str, t))}]" for k, (_, t) in binding.operands.items())
    return f"{binding.rule.rule}: {operands}", ", ".join(f"[{' '.join(map(str, t))}]" for t in binding.results)


@pytest.mark.parametrize(
    ("binding", "operands", "results"),
    [
        (
            bound("aten.linear.default", ((2, 7, 4), (3, 4), (3,)), (2, 7, 3)),
            "linear: input[...1 ...0 i], weight[o i'], bias[o]",
            "[...1 ...0 o]",
        ),
        (
            bound("aten.linear.default", ((4,), (3, 4)), (3,)),
            "linear-without-bias: input[i], weight[o i']",
            "[o]",
        ),
        (
            bound("aten.add.Tensor", ((2, 7, 4), (1, 4)), (2, 7, 4)),
            "add: self[*2 *1 *0], other[1 *0]",
            "[*2 *1 *0]",
        ),
        (bound("aten.add.Tensor", ((2, 4), 1e-6), (2, 4)), "add: self[*1 *0]", "[*1 *0]"),
        (bound("aten.mul.Tensor", ((2, 4), 0.5), (2, 4)), "multiply-by-number: self[*1 *0]", "[*1 *0]"),
        (bound("aten.mul.Tensor", ((2, 4), ()), (2, 4)), "multiply-by-number: self[*1 *0], other[]", "[*1 *0]"),
        (bound("aten.softmax.int", ((2, 3, 4), 1), (2, 3, 4)), "softmax: self[...1 d ...0]", "[...1 d ...0]"),
        (bound("aten.mean.dim", ((2, 3, 4), [-1]), (2, 3)), "mean: self[...1 ...0 d]", "[...1 ...0]"),
        (
            bound("aten.mean.dim", ((2, 3, 4, 5), [1, -1], True), (2, 1, 4, 1)),
            "mean: self[...1 d ...0 d.1]",
            "[...1 1 ...0 1]",
        ),
        (bound("aten.sum.dim_IntList", ((2, 3), None), ()), "sum: self[d d.1]", "[]"),
        (
            bound("aten.conv2d.default", ((2, 3, 8, 8), (5, 3, 3, 3), None), (2, 5, 6, 6)),
            "convolution: input[...0 c _0 _1], weight[o c' _2 _3]",
            "[...0 o _4 _5]",
        ),
        (
            bound("aten.embedding.default", ((9, 4), (2, 7)), (2, 7, 4)),
            "embedding: weight[v d], indices[...1 ...0]",
            "[...1 ...0 d]",
        ),
        (
            bound(
                "aten.scaled_dot_product_attention.default",
                ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7), (2, 1, 1, 6)),
                (2, 3, 5, 7),
                scale=0.5,
            ),
            "attention: query[...1 ...0 t k], key[...1 ...0 s k'], value[...1 ...0 s v], attn_mask[...1 1 1 s]",
            "[...1 ...0 t v]",
        ),
        (bound("aten.numpy_T.default", ((3, 4),), (4, 3)), "transpose-matrix: ", ""),
    ],
)
def test_tokens(binding: Binding | None, operands: str, results: str) -> None:
    assert shown(binding) == (operands, results)


@pytest.mark.parametrize(
    "binding",
    [
        bound("aten.numpy_T.default", ((3, 4, 5),), (5, 4, 3)),
        bound("aten.conv2d.default", ((2, 4, 8, 8), (6, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], 2), (2, 6, 6, 6)),
        bound("aten.dropout.default", ((3, 4), 0.1, True), (3, 4)),
        bound("aten.layer_norm.default", ((5, 2, 3, 4, 6), [2, 3, 4, 6]), (5, 2, 3, 4, 6)),
        bound("aten.addmm.default", ((3,), (2, 4), (4, 3)), (2, 3), beta=2),
        bound("aten.topk.values", ((3, 4), 2), (Tensor((3, 2), "float32"), Tensor((3, 2), "int64"))),
        bound("aten.no_such_operator.default", ((3, 4),), (3, 4)),
    ],
)
def test_silence(binding: Binding | None) -> None:
    assert binding is None


def test_admits_of_numbered_axes() -> None:
    binding = bound("aten.mean.dim", ((2, 3, 4, 5), [1, -1], True), (2, 1, 4, 1))
    assert binding is not None
    admits = binding.rule.admits
    assert admits["d.1"] == admits["d"] and admits["...1"] == admits["..."]
    with pytest.raises(KeyError):
        admits["e"]


def test_refs_of_a_list_operand() -> None:
    binding = bound("aten.cat.default", ([(2, 3), (2, 4)], 1), (2, 7))
    assert binding is not None and tensor_refs(binding) == (Ref("v0"), Ref("v1"))
    assert binding.arguments["dim"] == 1
