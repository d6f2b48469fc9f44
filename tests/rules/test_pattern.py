"""Patterns find their idioms in real traces, whatever the order of operands, and compute the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor as T

from symgraph.ir import DType, Graph, Kind, Node, Ref, Tensor, map_refs
from symgraph.rules.book import RuleBook
from symgraph.rules.dummy import as_graph
from symgraph.rules.loading import load_file
from symgraph.rules.pattern import parse
from symgraph.rules.rewrite import rewrite
from symgraph.tracing import arguments as operators

BOOK = RuleBook(load_file(Path(__file__).with_name("idioms.yaml")))


class Function(torch.nn.Module):
    def __init__(self, function: Callable[..., T]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: T) -> T:
        return self.function(*tensors)


def traced(function: Callable[..., T], *tensors: T) -> Graph:
    """The graph of a function of tensors, as exported."""
    exported = torch.export.export(Function(function), tensors, strict=False)
    nodes: dict[Any, Node] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return Ref(value.name)
        if isinstance(value, list | tuple):
            return tuple(map(plain, value))
        return DType(str(value).removeprefix("torch.")) if isinstance(value, torch.dtype) else value

    for n in exported.graph.nodes:
        if n.op == "output" or "_assert" in str(n.target):
            continue
        kind = Kind.INPUT if n.op == "placeholder" else Kind.CALL
        target = "getitem" if n.target is operator.getitem else str(n.target)
        value = n.meta["val"]
        result = Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        kwargs = tuple((k, plain(v)) for k, v in n.kwargs.items())
        nodes[n] = Node(n.name, kind, target, plain(n.args) if kind is Kind.CALL else (), kwargs, result)
    output = next(n for n in exported.graph.nodes if n.op == "output").args[0][0]
    return Graph(tuple(nodes.values()), (output.name,))


def run(graph: Graph, tensors: tuple[T, ...]) -> T:
    """Interprets a graph whose pattern nodes are run by their rules."""
    given, values = iter(tensors), {}
    for node in graph.nodes:
        if node.kind is Kind.INPUT:
            values[node.name] = next(given)
            continue
        args = map_refs(node.args, lambda r: values[r.name])
        kwargs = {k: map_refs(v, lambda r: values[r.name]) for k, v in node.kwargs}
        kwargs = {k: getattr(torch, v.name) if isinstance(v, DType) else v for k, v in kwargs.items()}
        args = tuple(getattr(torch, a.name) if isinstance(a, DType) else a for a in args)
        if node.target.startswith("pattern:"):
            rule = BOOK.named(node.target.removeprefix("pattern:"))
            spelling = next(s for s in rule.pattern if set(s.variables) == set(kwargs))
            values[node.name] = spelling.evaluate(kwargs)
        else:
            values[node.name] = operators.operator(node.target)(*args, **kwargs)  # type: ignore[misc]
    return values[graph.outputs[0]]


def random(*shape: int) -> T:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


X, W = random(2, 3, 6), random(6)
Q, K, V, M = random(2, 3, 5, 4), random(2, 3, 7, 4), random(2, 3, 7, 6), random(2, 1, 5, 7)
ANGLE = random(1, 5, 2)


def rms(x: T, w: T) -> T:
    wide = x.to(torch.float64)
    return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def centred(x: T) -> T:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 1e-5)


def rotated(x: T, angle: T) -> T:
    table = torch.cat((angle, angle), dim=-1)
    cos, sin = table.cos() * 1.0, table.sin() * 1.0
    half = torch.cat((-x[..., 2:], x[..., :2]), dim=-1)
    return (x * cos.unsqueeze(1)) + (half * sin.unsqueeze(1))


CASES: dict[str, tuple[str, Callable[..., T], tuple[T, ...]]] = {
    "rms with gain and casts": ("rms-norm-written-out", rms, (X, W)),
    "rms gain on the right": (
        "rms-norm-written-out",
        lambda x, w: (x / (1e-6 + (x * x).mean(-1, True)).sqrt()) * w,
        (X, W),
    ),
    "rms by square": ("rms-norm-written-out", lambda x: torch.rsqrt(x.square().mean(2, True) + 1e-6) * x, (X,)),
    "layer norm": ("layer-norm-written-out", lambda x, w: w * centred(x), (X, W)),
    "normalise": ("normalise", lambda x: torch.nn.functional.normalize(x, dim=-1), (X,)),
    "attention": (
        "attention-written-out",
        lambda q, k, v, m: torch.softmax(m + 0.5 * (q @ k.transpose(2, 3)), -1, torch.float32) @ v,
        (Q, K, V, M),
    ),
    "attention by division": (
        "attention-written-out",
        lambda q, k, v: torch.dropout((q @ k.transpose(-1, -2) / 2.0).softmax(3), 0.1, False) @ v,
        (Q, K, V),
    ),
    "attention with bmm": (
        "attention-written-out-with-bmm",
        lambda q, k, v: torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v),
        (Q[0], K[0], V[0]),
    ),
    "attention with filled mask": (
        "attention-with-filled-mask",
        lambda q, k, v, m: (q @ k.transpose(-1, -2)).masked_fill(m > 0, -1e30).softmax(-1) @ v,
        (Q, K, V, M),
    ),
    "rotary": ("rotary-halves", rotated, (Q, ANGLE)),
}


@pytest.mark.parametrize("name", CASES)
def test_idiom_is_found_and_computes_the_same(name: str) -> None:
    expected, function, tensors = CASES[name]
    graph = traced(function, *tensors)
    found = rewrite(graph, BOOK.patterns)
    assert [n.target for n in found.calls if n.target.startswith("pattern:")] == [f"pattern:{expected}"]
    assert found.by_name[found.outputs[0]].target == f"pattern:{expected}"
    assert torch.allclose(run(found, tensors).double(), function(*tensors).double(), atol=1e-6)


NEAR: dict[str, tuple[Callable[..., T], tuple[T, ...]]] = {
    "mean over another axis": (lambda x: x * torch.rsqrt((x * x).mean(1, True) + 1e-6), (X,)),
    "a norm of something else": (lambda x, w: x * torch.rsqrt((w * w).mean(-1, True) + 1e-6), (X, W)),
    "a cast to integers in between": (lambda x: x.long() * torch.rsqrt((x * x).mean(-1, True) + 1e-6), (X,)),
    "softmax over queries": (lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2), -2) @ v, (Q, K, V)),
    "dropout in training": (lambda q, k, v: torch.dropout((q @ k.mT).softmax(-1), 0.1, True) @ v, (Q, K, V)),
    "a mask that is seen": (lambda q, k, v, m: (q @ k.mT).masked_fill(m > 0, -2.0).softmax(-1) @ v, (Q, K, V, M)),
    "unequal rotary halves": (
        lambda x, a: x * a.cos().unsqueeze(1) + torch.cat((-x[..., 2:], x[..., :2]), -1) * a.sin().unsqueeze(1),
        (Q, random(1, 5, 4)),
    ),
    "rotary cut off the middle": (
        lambda x, a: (
            x * torch.cat((a, a), -1).cos().unsqueeze(1)
            + torch.cat((-x[..., 1:], x[..., :1]), -1) * torch.cat((a, a), -1).sin().unsqueeze(1)
        ),
        (Q, ANGLE),
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_are_left_alone(name: str) -> None:
    function, tensors = NEAR[name]
    graph = traced(function, *tensors)
    assert rewrite(graph, BOOK.patterns) is graph


def test_a_gain_of_full_rank_is_no_gain() -> None:
    graph = traced(lambda x, g: g * (x * torch.rsqrt((x * x).mean(-1, True) + 1e-6)), X, random(2, 3, 6))
    found = rewrite(graph, BOOK.patterns)
    assert [n.target for n in found.calls] == ["pattern:rms-norm-written-out", "aten.mul.Tensor"]


def test_values_used_elsewhere_stay() -> None:
    def function(x: T) -> T:
        mean = (x * x).mean(-1, True)
        return x * torch.rsqrt(mean + 1e-6) + mean

    found = rewrite(traced(function, X), BOOK.patterns)
    assert [n.target.split(".")[-2:][0] for n in found.calls] == ["mul", "mean", "pattern:rms-norm-written-out", "add"]
    assert torch.allclose(run(found, (X,)), function(X))


def test_parameters_and_inputs_stay_when_nothing_reads_them() -> None:
    graph = traced(lambda x, w: rms(x, w) + 0 * w, X, W)
    assert {n.name for n in graph.inputs} == {n.name for n in rewrite(graph, BOOK.patterns).inputs}


@pytest.mark.parametrize("text", ["x * sigmoid(x)", "cat([x, neg(y)], -1)", "softmax(x, -1, _)", "slice(x, 3, 2, inf)"])
def test_a_pattern_matches_its_own_graph(text: str) -> None:
    pattern = parse(text)
    graph, root = as_graph(pattern)
    found = pattern.match(graph, root)
    assert found is not None and set(found) == set(pattern.variables)


def test_commuted_operands_match() -> None:
    graph, root = as_graph(parse("(c + b) * a"))
    found = parse("x * (y + c)").match(graph, root)
    assert found is not None and len({repr(v) for v in found.values()}) == 3
