"""Structural operators against torch: the terms of a result say where every entry went.

Each case traces a function of parameters, lets the shipped rules give every axis its term, draws an element for every
space (a generic invertible matrix where nothing bounds it), and compares f(g x) with g f(x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import RIGID, TOP, Bound, describe, group_of, maps
from symgraph.inference.axis_nodes import Shape
from symgraph.inference.claims import Ref
from symgraph.inference.collect import collect
from symgraph.inference.equations import Equations
from symgraph.inference.pipeline import run
from symgraph.inference.store import Store
from symgraph.inference.structural import FIXES_ONES, TRANSFORMERS, Call
from symgraph.ir import Graph
from symgraph.tracing import trace
from symgraph.tracing.interpreter import Interpreter

Shapes = tuple[tuple[int, ...], ...]
SUFFIX = {TOP: "", FIXES_ONES: "=", RIGID: "!"}


class Function(nn.Module):
    """A function of its parameters alone."""

    def __init__(self, f: Callable[..., Any], shapes: Shapes) -> None:
        super().__init__()
        self.f = f
        self.p = nn.ParameterList([nn.Parameter(torch.zeros(s)) for s in shapes])

    def forward(self) -> Any:
        return self.f(*self.p)


class Solved:
    """The equations of one function, with an element drawn for every space."""

    def __init__(self, f: Callable[..., Any], shapes: Shapes) -> None:
        self.graph: Graph = trace(Function(f, shapes))
        # Outputs would be rigid; here they are ordinary values.
        self.eq: Equations = collect(run(replace(self.graph, outputs=()), until="rules"))
        self.store: Store = self.eq.store
        self.bounds: dict[int, Bound] = {}
        for claim in self.store.claims:
            for leaf in self.store.leaves(claim.ref):
                self.bounds[leaf >> 1] = self.bounds.get(leaf >> 1, TOP) & claim.bound
        self.elements: dict[int, tuple[Tensor, Tensor]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def parameters(self) -> list[tuple[Ref, ...]]:
        return [self.eq.axes(n.name) for n in self.graph.parameters.values()]

    def results(self) -> list[tuple[Ref, ...]]:
        return [self.eq.axes(o) for o in self.graph.outputs]

    def bound(self, leaf: Ref) -> Bound:
        return self.bounds.get(leaf >> 1, TOP)

    def matrix(self, leaf: Ref) -> Tensor:
        leaf = self.store.find(leaf)
        if leaf >> 1 not in self.elements:
            group = group_of(self.bound(leaf))
            found = maps(group).sample(IndexSet(self.store.size(leaf)), self.generator)
            self.elements[leaf >> 1] = found.co, found.dual
        return self.elements[leaf >> 1][leaf & 1]

    def act(self, tensor: Tensor, axes: Sequence[Ref]) -> Tensor:
        for i, ref in enumerate(axes):
            shape = self.store.children(ref)
            if shape is None:
                continue
            if shape[0] is Shape.MOVED:
                order = torch.tensor(self.store.order(ref))
                inner = self.act(tensor.index_select(i, order.argsort()), (*axes[:i], *shape[1], *axes[i + 1 :]))
                return inner.index_select(i, order)
            sizes = [self.store.size(r) for r in shape[1]]
            if shape[0] is Shape.PRODUCT:
                inner = tensor.reshape(*tensor.shape[:i], *sizes, *tensor.shape[i + 1 :])
                return self.act(inner, (*axes[:i], *shape[1], *axes[i + 1 :])).reshape(tensor.shape)
            cuts = zip(tensor.split_with_sizes(sizes, i), shape[1], strict=True)
            return torch.cat([self.act(t, (*axes[:i], r, *axes[i + 1 :])) for t, r in cuts], i)
        for i, ref in enumerate(axes):
            if tensor.shape[i] > 1:
                tensor = torch.tensordot(self.matrix(ref), tensor, dims=([1], [i])).movedim(0, i)
        return tensor

    def text(self) -> str:
        names: dict[int, str] = {}

        def flat(ref: Ref, kind: Shape) -> Iterator[Ref]:
            shape = self.store.children(ref)
            if shape is None or shape[0] is not kind:
                yield ref
                return
            for inner in shape[1]:
                yield from flat(inner, kind)

        def show(ref: Ref) -> str:
            shape = self.store.children(ref)
            if shape is None:
                leaf = self.store.find(ref)
                if self.store.size(leaf) == 1:
                    return "1"
                name = names.setdefault(leaf >> 1, "abcdefghijklmnopqrstuvwxyz"[len(names)])
                return name + "'" * (leaf & 1) + SUFFIX.get(self.bound(leaf), f":{describe(self.bound(leaf))}")
            if shape[0] is Shape.MOVED:
                return f"moved {show(shape[1][0])}"
            return f"({('*' if shape[0] is Shape.PRODUCT else '+').join(map(show, flat(ref, shape[0])))})"

        def tensors(values: list[tuple[Ref, ...]]) -> str:
            return ", ".join(f"[{' '.join(map(show, axes))}]" for axes in values)

        return f"{tensors(self.parameters())} -> {tensors(self.results())}"

    def largest_difference(self) -> float:
        noise = torch.Generator().manual_seed(1)
        state = {
            k: torch.randn(n.shape, generator=noise, dtype=torch.float64) for k, n in self.graph.parameters.items()
        }
        moved = {k: self.act(x, axes) for (k, x), axes in zip(state.items(), self.parameters(), strict=True)}
        run = Interpreter(self.graph)
        differences = [
            (y - self.act(x, axes)).abs().max()
            for x, y, axes in zip(run.run(state, ()), run.run(moved, ()), self.results(), strict=True)
        ]
        return max(map(float, differences))


CASES: dict[str, tuple[Callable[..., Any], Shapes, str]] = {
    "view-splits": (lambda x: x.view(2, 3, 5), ((6, 5),), "[(a*b) c] -> [a b c]"),
    "view-merges": (lambda x: x.view(6, 5), ((2, 3, 5),), "[a b c] -> [(a*b) c]"),
    "view-moves-a-cut": (lambda x: x.view(2, 6, 1), ((6, 2),), "[(a*b) c] -> [a (b*c) 1]"),
    "view-crosses-a-cut": (lambda x: x.reshape(2, 6), ((4, 3),), "[(a*b) c] -> [a (b*c)]"),
    "view-without-common-cut": (lambda x: x.reshape(3, 2), ((2, 3),), "[a! b!] -> [c! d!]"),
    "view-of-view": (lambda x: x.view(2, 6).view(2, 2, 3), ((12,),), "[(a*b*c)] -> [a b c]"),
    "view-two-ways": (lambda x: (x.view(2, 6), x.view(4, 3)), ((12,),), "[(a*b*c)] -> [a (b*c)], [(a*b) c]"),
    "view-two-ways-that-clash": (
        lambda x: (x.view(5, 2, 3), x.view(5, 3, 2)),
        ((30,),),
        "[(a*b!*c!)] -> [a b! c!], [a d! e!]",
    ),
    "flatten": (lambda x: x.flatten(1), ((2, 3, 4),), "[a b c] -> [a (b*c)]"),
    "ravel": (lambda x: x.ravel(), ((2, 3),), "[a b] -> [(a*b)]"),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), ((3, 6),), "[a (b*c)] -> [a b c]"),
    "squeeze-all": (lambda x: x.squeeze(), ((1, 3, 1),), "[1 a 1] -> [a]"),
    "squeeze-one": (lambda x: x.squeeze(-1), ((1, 3, 1),), "[1 a 1] -> [1 a]"),
    "squeeze-several": (lambda x: x.squeeze((0, 2)), ((1, 3, 1),), "[1 a 1] -> [a]"),
    "unsqueeze": (lambda x: x.unsqueeze(1), ((2, 3),), "[a b] -> [a 1 b]"),
    "permute": (lambda x: x.permute(2, 0, 1), ((2, 3, 4),), "[a b c] -> [c a b]"),
    "permute-from-the-end": (lambda x: x.permute(-1, 0, -2), ((2, 3, 4),), "[a b c] -> [c a b]"),
    "transpose": (lambda x: x.transpose(0, -1), ((2, 3, 4),), "[a b c] -> [c b a]"),
    "swapaxes": (lambda x: x.swapaxes(0, 1), ((2, 3, 4),), "[a b c] -> [b a c]"),
    "t": (lambda x: x.t(), ((2, 3),), "[a b] -> [b a]"),
    "mT": (lambda x: x.mT, ((2, 3, 4),), "[a b c] -> [a c b]"),
    "movedim": (lambda x: x.movedim(0, -1), ((2, 3, 4),), "[a b c] -> [b c a]"),
    "movedim-several": (lambda x: x.movedim((0, 1), (2, 0)), ((2, 3, 4),), "[a b c] -> [b c a]"),
    "channel-shuffle": (lambda x: torch.channel_shuffle(x, 2), ((2, 6, 3),), "[a b c] -> [a moved b c]"),
    "channel-unshuffle": (
        lambda x: torch.ops.aten.native_channel_shuffle(x, 2),
        ((2, 6, 3),),
        "[a moved b c] -> [a b c]",
    ),
    "cat": (lambda x, y: torch.cat([x, y], 1), ((2, 3), (2, 4)), "[a b], [a c] -> [a (b+c)]"),
    "cat-of-one": (lambda x: torch.cat([x, x], 0), ((2, 3),), "[a b] -> [(a+a) b]"),
    "cat-then-split-elsewhere": (
        lambda x, y: torch.split(torch.cat([x, y]), [2, 5]),
        ((3,), (4,)),
        "[(a+1)], [b] -> [a], [(1+b)]",
    ),
    "stack": (lambda x, y: torch.stack([x, y], 1), ((2, 3), (2, 3)), "[a b], [a b] -> [a c! b]"),
    "stack-at-the-end": (lambda x, y: torch.stack([x, y], -1), ((2, 3), (2, 3)), "[a b], [a b] -> [a b c!]"),
    "split-evenly": (lambda x: x.split(2, 1), ((2, 6),), "[a (b+c+d)] -> [a b], [a c], [a d]"),
    "split-with-rest": (lambda x: x.split(4, -1), ((2, 6),), "[a (b+c)] -> [a b], [a c]"),
    "split-by-sizes": (lambda x: torch.split(x, [1, 2, 3], 1), ((2, 6),), "[a (1+b+c)] -> [a 1], [a b], [a c]"),
    "chunk": (lambda x: x.chunk(3, -1), ((2, 6),), "[a (b+c+d)] -> [a b], [a c], [a d]"),
    "chunk-with-rest": (lambda x: x.chunk(3, 1), ((2, 5),), "[a (b+c+1)] -> [a b], [a c], [a 1]"),
    "tensor-split": (lambda x: x.tensor_split(3, 1), ((2, 7),), "[a (b+c+d)] -> [a b], [a c], [a d]"),
    "split-heads": (lambda x: torch.split(x.view(2, 3, 4), [1, 3], 2), ((24,),), "[(a*b*(1+c))] -> [a b 1], [a b c]"),
    "split-flat-heads": (lambda x: (x.view(4, 3), x.split(6)), ((12,),), "[((a+b)*c)] -> [(a+b) c], [(a*c)], [(b*c)]"),
    "split-inside-a-head": (
        lambda x: (x.view(4, 3), x.split(4)),
        ((12,),),
        "[((1+1+1+1)*(1+1+1))] -> [(1+1+1+1) (1+1+1)], [(1+1+1+1)], [(1+1+1+1)], [(1+1+1+1)]",
    ),
    "slice": (lambda x: x[:, 2:5], ((2, 6),), "[a (b!+c+1)] -> [a c]"),
    "slice-from-the-end": (lambda x: x[:, -2:], ((2, 6),), "[a (b!+c)] -> [a c]"),
    "slice-with-step": (lambda x: x[:, ::2], ((2, 6),), "[a moved (b+c!)] -> [a b]"),
    "slices-that-take-turns": (lambda x: (x[::3], x[1::3], x[2::3]), ((7,),), "[moved (a+b+c)] -> [a], [b], [c]"),
    "slice-of-one-turn": (lambda x: x[5:12:3], ((12,),), "[moved (a!+b)] -> [b]"),
    "slices-by-two-and-by-four": (
        lambda x: (x[1::2], x[1::4]),
        ((12,),),
        "[moved (moved (a!+b!)+moved (c+d))] -> [moved (c+d)], [c]",
    ),
    "slices-of-a-product": (
        lambda x: (x.view(4, 6), x[1::3]),
        ((24,),),
        "[(a*moved (b+c+d))] -> [a moved (b+c+d)], [(a*c)]",
    ),
    "slice-of-a-concatenation": (
        lambda x, y: torch.cat([x, y])[::2],
        ((4,), (6,)),
        "[moved (a+b)], [moved (c+d)] -> [(a+c)]",
    ),
    "narrow": (lambda x: x.narrow(1, 1, 3), ((2, 6),), "[a (1+b+c!)] -> [a b]"),
    "select": (lambda x: x[:, 0], ((2, 6),), "[a (1+b!)] -> [a]"),
    "select-from-the-end": (lambda x: x.select(1, -2), ((2, 6),), "[a (b!+1+1)] -> [a]"),
    "unbind": (lambda x: x.unbind(1), ((2, 3),), "[a b!] -> [a], [a], [a]"),
    "expand": (lambda x: x.expand(2, 4), ((2, 1),), "[a 1] -> [a b=]"),
    "expand-new-axes": (lambda x: x.expand(4, 2, 3), ((2, 3),), "[a b] -> [c= a b]"),
    "expand-keeping": (lambda x: x.expand(-1, 4), ((2, 1),), "[a 1] -> [a b=]"),
    "expand-as": (lambda x, y: (x.expand_as(y), y), ((2, 1), (2, 3)), "[a 1], [b c] -> [a d=], [b c]"),
    "broadcast-to": (lambda x: x.broadcast_to(2, 3), ((3,),), "[a] -> [b= a]"),
    "repeat": (lambda x: x.repeat(2, 3), ((2, 3),), "[a b] -> [(c=*a) (d=*b)]"),
    "repeat-new-axes": (lambda x: x.repeat(2, 1, 1), ((2, 3),), "[a b] -> [c= a b]"),
    "repeat-of-one": (lambda x: x.repeat(1, 4), ((2, 1),), "[a 1] -> [a b=]"),
    "tile": (lambda x: x.tile(2), ((2, 3),), "[a b] -> [a (c=*b)]"),
    "repeat-interleave": (lambda x: x.repeat_interleave(2, dim=0), ((3, 2),), "[a b] -> [(a*c=) b]"),
    "repeat-interleave-last": (lambda x: x.repeat_interleave(3, dim=-1), ((3, 2),), "[a b] -> [a (b*c=)]"),
    "grouped-heads": (
        lambda x: x[:, :, None].expand(2, 3, 2, 4).reshape(2, 6, 4),
        ((2, 3, 4),),
        "[a b c] -> [a (b*d=) c]",
    ),
    "index": (lambda x: x[:, torch.tensor([0, 2])], ((3, 4),), "[a b!] -> [a c!]"),
    "index-two": (lambda x: x[torch.tensor([0, 2]), :, torch.tensor([1, 1])], ((3, 4, 2),), "[a! b c!] -> [d! b]"),
    "index-two-neighbours": (
        lambda x: x[:, torch.tensor([0, 2]), torch.tensor([1, 1])],
        ((3, 4, 2),),
        "[a b! c!] -> [a d!]",
    ),
    "index-by-a-matrix": (lambda x: x[torch.tensor([[0, 2], [1, 1]])], ((3, 4),), "[a! b] -> [c! d! b]"),
    "index-select": (lambda x: x.index_select(1, torch.tensor([2, 0])), ((3, 4),), "[a b!] -> [a c!]"),
    "getitem": (lambda x: x.chunk(3, 1)[1], ((2, 6),), "[a (b!+c+d!)] -> [a c]"),
    "constant": (lambda x: torch.cat([x, torch.ones(2, 3)], 1), ((2, 3),), "[a= b] -> [a= (b+c=)]"),
    "beside-zeros": (lambda x: torch.cat([x, torch.full((2, 3), 0.0)], 1), ((2, 3),), "[a b] -> [a (b+c)]"),
    "zero": (lambda x: torch.stack([x, torch.zeros(2, 3)]), ((2, 3),), "[a b] -> [c! a b]"),
    "pad": (lambda x: F.pad(x, (1, 2)), ((2, 3),), "[a b] -> [a moved (b+c)]"),
    "pad-two": (lambda x: F.pad(x, (0, 2, 2, 0)), ((2, 3),), "[a b] -> [(c+a) (b+d)]"),
    "pad-and-cut": (lambda x: F.pad(x, (0, 0, 2, -1)), ((3, 4),), "[(a+1) b] -> [(c+a) b]"),
    "pad-with-a-number": (lambda x: F.pad(x, (0, 2), value=2.0), ((2, 3),), "[a= b=] -> [a= (b=+c=)]"),
    "pad-with-itself": (lambda x: F.pad(x, (1, 1), mode="circular"), ((2, 5, 3),), "[a b c!] -> [a b d!]"),
    "windows": (lambda x: x.unfold(1, 3, 2), ((2, 7, 4),), "[a b! c] -> [a d! c e!]"),
    "rigid": (lambda x: x.diff(dim=1), ((2, 3),), "[a! b!] -> [c! d!]"),
}


@pytest.mark.parametrize("case", CASES)
def test_terms(case: str) -> None:
    f, shapes, expected = CASES[case]
    solved = Solved(f, shapes)
    assert len(solved.eq.applied) == len(solved.eq.graph.calls)
    assert all(a.rule.structure for a in solved.eq.applied)
    assert solved.text() == expected
    assert solved.largest_difference() < 1e-12


def test_every_transformer_has_a_case() -> None:
    seen: set[str] = set()
    for f, shapes, _ in CASES.values():
        seen |= {a.rule.structure for a in Solved(f, shapes).eq.applied if a.rule.structure}
    # Copies leave the graph before rules see it.
    assert seen == set(TRANSFORMERS) - {"identity"}


def test_identity_keeps_the_axes() -> None:
    store = Store()
    axes = (store.new(2), store.new(3))
    assert TRANSFORMERS["identity"](store, Call((axes,), {}, ((2, 3),))) == (axes,)


def test_what_no_rule_covers_is_rigid() -> None:
    solved = Solved(lambda x: x.lgamma(), ((3, 2),))
    assert solved.text() == "[a! b!] -> [c! d!]"
    assert [n.target for n in solved.eq.uncovered] == ["aten.lgamma.default"]


def test_copies_leave_the_graph_before_rules_see_it() -> None:
    solved = Solved(lambda x: x.clone().contiguous().t(), ((2, 3),))
    assert solved.text() == "[a b] -> [b a]"


# -- chains of operators ---------------------------------------------------------------------------------------------

Step = Callable[[Tensor], Tensor]


@st.composite
def steps(draw: st.DrawFn, /, shape: tuple[int, ...]) -> Step:
    """One operator that fits a tensor of this shape."""
    dim = draw(st.integers(0, len(shape) - 1))
    n, kind = shape[dim], draw(st.sampled_from(sorted(STEPS)))
    return STEPS[kind](draw, shape, dim, n)


def _view(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    left = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
    return lambda x: x.reshape(*shape[:dim], left, n // left, *shape[dim + 1 :])


def _merge(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    return lambda x: x.flatten(max(dim - 1, 0), dim)


def _reorder(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    order = draw(st.permutations(range(len(shape))))
    return lambda x: x.permute(order)


def _swap_parts(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    at = draw(st.integers(0, n))
    return lambda x: torch.cat([x.narrow(dim, at, n - at), x.narrow(dim, 0, at)], dim) if 0 < at < n else x


def _part(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    start = draw(st.integers(0, n - 1))
    length = draw(st.integers(1, n - start))
    return lambda x: x.narrow(dim, start, length)


def _every(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    step = draw(st.integers(1, n))
    start = draw(st.integers(0, step - 1))
    return lambda x: x[tuple(slice(start, None, step) if i == dim else slice(None) for i in range(len(shape)))]


def _stack(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    return lambda x: torch.stack([x, x], dim)


def _repeat(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    return lambda x: x.repeat_interleave(2, dim=dim)


def _double(draw: st.DrawFn, shape: tuple[int, ...], dim: int, n: int) -> Step:
    return lambda x: x.repeat(*(1 + (i == dim) for i in range(len(shape))))


STEPS = {
    "view": _view,
    "merge": _merge,
    "reorder": _reorder,
    "swap-parts": _swap_parts,
    "part": _part,
    "every": _every,
    "stack": _stack,
    "repeat": _repeat,
    "double": _double,
}


@st.composite
def chains(draw: st.DrawFn, /) -> tuple[list[Step], list[int]]:
    x = torch.zeros(draw(st.sampled_from([(12,), (4, 6), (2, 3, 2)])))
    shape, found = list(x.shape), []
    for _ in range(draw(st.integers(2, 6))):
        if x.dim() > 5 or x.numel() > 200:
            break
        found.append(draw(steps(tuple(x.shape))))
        x = found[-1](x)
    return found, shape


@settings(max_examples=50)
@given(chains())
@example(([lambda x: torch.stack([x, x], 0), lambda x: x.flatten(0, 1)], [12]))
def test_chains_of_operators(chain: tuple[list[Step], list[int]]) -> None:
    functions, shape = chain

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        # The first value is read again at the end, so that cuts made on the way must agree with it.
        y = x.t() if x.dim() == 2 else x.unsqueeze(0)
        for f in functions:
            x = f(x)
        return x.unsqueeze(0), y

    assert Solved(run, (tuple(shape),)).largest_difference() < 1e-9
