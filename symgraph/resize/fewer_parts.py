"""A model with fewer parts of a kind, such as experts: merged with those they are nearest to, or dropped.

A router sees how many experts there are, so that a model with fewer of them is embedded in none with more: what stays
stands at the first positions of every axis, or in the first entries of a list of modules, and no factor is taken. The
router's rows go with the experts. The result is approximate unless nothing picks what is merged.

Source: experts merged after they are brought into one basis, MC-SMoE, arXiv 2310.01334.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symgraph.inference.read_forms import as_read
from symgraph.ir import Graph
from symgraph.orbit.steps import State
from symgraph.orbit.tensor_blocks import on_blocks
from symgraph.resize.narrow import Reduction, canonical_form, changed
from symgraph.resize.narrow_fold import Folding, Keep
from symgraph.resize.smaller import Smaller
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.terms import Leaf
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import float64, random_inputs


def fewer_parts(
    symmetry: SymmetryGraph,
    fewer: Graph,
    wanted: Smaller,
    state: Mapping[str, Tensor],
    keep: Keep | None = None,
) -> Reduction:
    """A state of the model with fewer parts, in canonical form, and what the parts that went cost.

    Args:
        fewer: the graph of a model with fewer parts.
        state: parameters and buffers of the model as it is.
        keep: which parts stay; without it they are merged where they are nearest to one another.
    """
    plain, read = float64(state), as_read(symmetry)
    known = {name: tensor for name, tensor in symmetry.reading.of(plain).items() if name in read.terms}
    with torch.no_grad():
        folding = Folding(read, canonical_form(read, known), keep)
        folds = tuple(folding.choose(space, wanted.sizes[space.id]) for space in wanted.spaces)
        done = {
            name: tensor
            for name, tensor in {**plain, **symmetry.reading.back(_cut(read, folding.result(), wanted))}.items()
            if name not in wanted.gone
        }
        inputs = random_inputs(fewer, torch.Generator().manual_seed(0))
        before, after = (
            Interpreter(graph).run(tensors, inputs) for graph, tensors in ((symmetry.graph, plain), (fewer, done))
        )
    return Reduction(done, folds, changed(before, after))


def _cut(symmetry: SymmetryGraph, state: State, wanted: Smaller) -> State:
    """The state with the first positions of the spaces alone."""

    def on(tensor: Tensor, leaves: tuple[Leaf, ...]) -> Tensor:
        for dim, leaf in enumerate(leaves):
            tensor = tensor.narrow(dim, 0, wanted.sizes.get(leaf.space, leaf.size))
        return tensor

    return {
        name: on_blocks(tensor, symmetry.terms[name], on) if name in symmetry.terms else tensor
        for name, tensor in state.items()
    }
