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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.axes.store import Ref, Shape, Store
from symgraph.axes.structural import FIXES_ONES, TRANSFORMERS
from symgraph.groups.classes import RIGID, TOP, Bound, describe, group_of
from symgraph.infer.engine import prepare
from symgraph.infer.equations import Equations, collect
from symgraph.interpret import Interpreter
from symgraph.ir import Graph
from symgraph.rules.book import default_rules
from symgraph.rules.sample import random_element
from symgraph.trace import trace

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
        self.eq: Equations = collect(prepare(replace(self.graph, outputs=()), default_rules()), default_rules())
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
            self.elements[leaf >> 1] = random_element(group, self.store.size(leaf), self.generator)
        return self.elements[leaf >> 1][leaf & 1]

    def act(self, tensor: Tensor, axes: Sequence[Ref]) -> Tensor:
        for i, ref in enumerate(axes):
            shape = self.store.children(ref)
            if shape is None:
                continue
            sizes = [self.store.size(r) for r in shape[1]]
            if shape[0] is Shape.PRODUCT:
                inner = tensor.reshape(*tensor.shape[:i], *sizes, *tensor.shape[i + 1 :])
                return self.act(inner, (*axes[:i], *shape[1], *axes[i + 1 :])).reshape(tensor.shape)
            cuts = zip(tensor.split(sizes, i), shape[1], strict=True)
            return torch.cat([self.act(t, (*axes[:i], r, *axes[i + 1 :])) for t, r in cuts], i)
        for i, ref in enumerate(axes):
            if tensor.shape[i] > 1:
                tensor = torch.tensordot(self.matrix(ref), tensor, dims=([1], [i])).movedim(0, i)
        return tensor

    def text(self) -> str:
        names: dict[int, str] = {}

        def show(ref: Ref) -> str:
            shape = self.store.children(ref)
            if shape is None:
                leaf = self.store.find(ref)
                if self.store.size(leaf) == 1:
                    return "1"
                name = names.setdefault(leaf >> 1, "abcdefghijklmnopqrstuvwxyz"[len(names)])
                return name + "'" * (leaf & 1) + SUFFIX.get(self.bound(leaf), f":{describe(self.bound(leaf))}")
            return f"({('*' if shape[0] is Shape.PRODUCT else '+').join(map(show, shape[1]))})"

        def tensors(values: list[tuple[Ref, ...]]) -> str:
            return ", ".join(f"[{' '.join(map(show, axes))}]" for axes in values)

        return f"{tensors(self.parameters())} -> {tensors(self.results())}"

    def largest_difference(self) -> float:
        noise = torch.Generator().manual_seed(1)
        state = {
            k: torch.randn(n.shape, generator=noise, dtype=torch.float64) for k, n in self.graph.parameters.items()
        }
        moved = {
            k: self.act(x, axes) for (k, x), axes in zip(state.items(), self.parameters(), strict=True)
        }
        run = Interpreter(self.graph)
        differences = [
            (y - self.act(x, axes)).abs().max()
            for x, y, axes in zip(run.run(state, ()), run.run(moved, ()), self.results(), strict=True)
        ]
        return max(map(float, differences))


CASES: dict[str, tuple[Callable[..., Any], Shapes, str]] = {
    "view-splits": (lambda x: x.view(2, 3, 5), ((6, 5),), ""),
    "view-merges": (lambda x: x.view(6, 5), ((2, 3, 5),), ""),
    "view-moves-a-cut": (lambda x: x.view(2, 6, 1), ((6, 2),), ""),
    "view-crosses-a-cut": (lambda x: x.reshape(2, 6), ((4, 3),), ""),
    "view-without-common-cut": (lambda x: x.reshape(3, 2), ((2, 3),), ""),
    "view-of-view": (lambda x: x.view(2, 6).view(2, 2, 3), ((12,),), ""),
    "view-two-ways": (lambda x: (x.view(2, 6), x.view(4, 3)), ((12,),), ""),
    "view-two-ways-that-clash": (lambda x: (x.view(5, 2, 3), x.view(5, 3, 2)), ((30,),), ""),
    "flatten": (lambda x: x.flatten(1), ((2, 3, 4),), ""),
    "ravel": (lambda x: x.ravel(), ((2, 3),), ""),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), ((3, 6),), ""),
    "squeeze-all": (lambda x: x.squeeze(), ((1, 3, 1),), ""),
    "squeeze-one": (lambda x: x.squeeze(-1), ((1, 3, 1),), ""),
    "squeeze-several": (lambda x: x.squeeze((0, 2)), ((1, 3, 1),), ""),
    "unsqueeze": (lambda x: x.unsqueeze(1), ((2, 3),), ""),
    "permute": (lambda x: x.permute(2, 0, 1), ((2, 3, 4),), ""),
    "permute-from-the-end": (lambda x: x.permute(-1, 0, -2), ((2, 3, 4),), ""),
    "transpose": (lambda x: x.transpose(0, -1), ((2, 3, 4),), ""),
    "swapaxes": (lambda x: x.swapaxes(0, 1), ((2, 3, 4),), ""),
    "t": (lambda x: x.t(), ((2, 3),), ""),
    "mT": (lambda x: x.mT, ((2, 3, 4),), ""),
    "movedim": (lambda x: x.movedim(0, -1), ((2, 3, 4),), ""),
    "movedim-several": (lambda x: x.movedim((0, 1), (2, 0)), ((2, 3, 4),), ""),
    "cat": (lambda x, y: torch.cat([x, y], 1), ((2, 3), (2, 4)), ""),
    "cat-of-one": (lambda x: torch.cat([x, x], 0), ((2, 3),), ""),
    "cat-then-split-elsewhere": (lambda x, y: torch.cat([x, y]).split([2, 5]), ((3,), (4,)), ""),
    "stack": (lambda x, y: torch.stack([x, y], 1), ((2, 3), (2, 3)), ""),
    "stack-at-the-end": (lambda x, y: torch.stack([x, y], -1), ((2, 3), (2, 3)), ""),
    "split-evenly": (lambda x: x.split(2, 1), ((2, 6),), ""),
    "split-with-rest": (lambda x: x.split(4, -1), ((2, 6),), ""),
    "split-by-sizes": (lambda x: x.split([1, 2, 3], 1), ((2, 6),), ""),
    "chunk": (lambda x: x.chunk(3, -1), ((2, 6),), ""),
    "chunk-with-rest": (lambda x: x.chunk(3, 1), ((2, 5),), ""),
    "tensor-split": (lambda x: x.tensor_split(3, 1), ((2, 7),), ""),
    "split-heads": (lambda x: x.view(2, 3, 4).split([1, 3], 2), ((24,),), ""),
    "split-flat-heads": (lambda x: (x.view(4, 3), x.split(6)), ((12,),), ""),
    "split-inside-a-head": (lambda x: (x.view(4, 3), x.split(4)), ((12,),), ""),
    "slice": (lambda x: x[:, 2:5], ((2, 6),), ""),
    "slice-from-the-end": (lambda x: x[:, -2:], ((2, 6),), ""),
    "slice-of-everything": (lambda x: x[:, 0:], ((2, 6),), ""),
    "slice-with-step": (lambda x: x[:, ::2], ((2, 6),), ""),
    "narrow": (lambda x: x.narrow(1, 1, 3), ((2, 6),), ""),
    "select": (lambda x: x[:, 0], ((2, 6),), ""),
    "select-from-the-end": (lambda x: x.select(1, -2), ((2, 6),), ""),
    "unbind": (lambda x: x.unbind(1), ((2, 3),), ""),
    "expand": (lambda x: x.expand(2, 4), ((2, 1),), ""),
    "expand-new-axes": (lambda x: x.expand(4, 2, 3), ((2, 3),), ""),
    "expand-keeping": (lambda x: x.expand(-1, 4), ((2, 1),), ""),
    "expand-as": (lambda x, y: (x.expand_as(y), y), ((2, 1), (2, 3)), ""),
    "broadcast-to": (lambda x: x.broadcast_to(2, 3), ((3,),), ""),
    "repeat": (lambda x: x.repeat(2, 3), ((2, 3),), ""),
    "repeat-new-axes": (lambda x: x.repeat(2, 1, 1), ((2, 3),), ""),
    "repeat-of-one": (lambda x: x.repeat(1, 4), ((2, 1),), ""),
    "tile": (lambda x: x.tile(2), ((2, 3),), ""),
    "repeat-interleave": (lambda x: x.repeat_interleave(2, dim=0), ((3, 2),), ""),
    "repeat-interleave-last": (lambda x: x.repeat_interleave(3, dim=-1), ((3, 2),), ""),
    "repeat-interleave-flat": (lambda x: x.repeat_interleave(2), ((3, 2),), ""),
    "grouped-heads": (lambda x: x[:, :, None].expand(2, 3, 2, 4).reshape(2, 6, 4), ((2, 3, 4),), ""),
    "index": (lambda x: x[:, torch.tensor([0, 2])], ((3, 4),), ""),
    "index-two": (lambda x: x[torch.tensor([0, 2]), :, torch.tensor([1, 1])], ((3, 4, 2),), ""),
    "index-two-neighbours": (lambda x: x[:, torch.tensor([0, 2]), torch.tensor([1, 1])], ((3, 4, 2),), ""),
    "index-by-a-matrix": (lambda x: x[torch.tensor([[0, 2], [1, 1]])], ((3, 4),), ""),
    "index-select": (lambda x: x.index_select(1, torch.tensor([2, 0])), ((3, 4),), ""),
    "getitem": (lambda x: x.chunk(3, 1)[1], ((2, 6),), ""),
    "copy": (lambda x: x.clone().contiguous(), ((2, 3),), ""),
    "constant": (lambda x: torch.cat([x, torch.zeros(2, 3)], 1), ((2, 3),), ""),
    "flip": (lambda x: x.flip(1), ((2, 3),), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_terms(case: str) -> None:
    f, shapes, expected = CASES[case]
    solved = Solved(f, shapes)
    assert all(a.rule is not None and a.rule.structure for a in solved.eq.applied)
    assert solved.text() == expected
    assert solved.largest_difference() < 1e-12
