"""Exported programs, their modules and files, and graphs of torch.fx are models; what is found is written into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import symgraph
from symgraph.errors import CheckpointError, TraceError, UsageError

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two inputs, one of them by name, and a batch norm."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enter, self.norm, self.leave = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        found: Tensor = self.leave(torch.relu(self.norm(self.enter(x * scale))))
        return found


def program(seed: int = 0) -> torch.export.ExportedProgram:
    return torch.export.export(Net(seed).eval(), (X,), {"scale": torch.ones(())})


def test_a_program_its_module_its_file_and_its_graph_are_models(tmp_path: Path) -> None:
    exported, file = program(), tmp_path / "net.pt2"
    torch.export.save(exported, file)
    known = symgraph.infer(Net().eval(), {"x": X, "scale": torch.ones(())})
    assert len(known) == 1
    for given in (exported, exported.module(), file, str(file)):
        assert symgraph.infer(given).fingerprint == known.fingerprint
        assert symgraph.verify(given).passed
    traced = fx.symbolic_trace(Net().eval())
    example = {"x": X, "scale": torch.ones(())}
    assert symgraph.infer(traced, example).fingerprint == known.fingerprint
    with pytest.raises(TraceError, match="has no example inputs"):
        symgraph.infer(traced)


def test_results_are_of_the_kind_that_was_given() -> None:
    a, b = program(0), program(1)
    x, scale = X, torch.ones(())
    moved = symgraph.sample(b)
    assert isinstance(moved, torch.export.ExportedProgram)
    assert not torch.equal(moved.state_dict["enter.weight"], b.state_dict["enter.weight"])
    assert torch.allclose(moved.module()(x, scale=scale), b.module()(x, scale=scale), atol=1e-5)
    aligned = symgraph.align(a, b)
    assert torch.allclose(aligned.exported.module()(x, scale=scale), b.module()(x, scale=scale), atol=1e-5)
    assert torch.equal(aligned.exported.state_dict["enter.weight"], aligned.state["enter.weight"])
    assert isinstance(symgraph.sample(b.module()), fx.GraphModule)
    with pytest.raises(UsageError, match="is no exported program"):
        _ = symgraph.align(a.module(), b.module()).exported


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"code": print}, tmp_path / "bad.pt2")
    with pytest.raises(CheckpointError, match="is no exported program"):
        symgraph.infer(tmp_path / "bad.pt2")


def terms(graph: Any) -> dict[str, list[str]]:
    return {n.name: [a.term for a in n.meta["symmetry"]] for n in graph.nodes if "symmetry" in n.meta}


def test_what_acts_is_written_into_every_node() -> None:
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    traced, exported = fx.symbolic_trace(module), torch.export.export(module, (X,))
    found = symgraph.annotate(traced, X)
    assert found.fingerprint == symgraph.infer(module, X).fingerprint
    assert terms(traced.graph) == {
        "input_1": ["4", "5"],
        "_0": ["4", "hidden"],
        "_1": ["4", "hidden"],
        "_2": ["4", "3"],
    }
    symgraph.annotate(exported)
    assert terms(exported.graph)["p_0_weight"] == ["hidden", "5"]
    assert terms(exported.graph)["p_2_weight"] == ["3", "hidden'"]
    assert terms(exported.graph)["relu"] == ["4", "hidden"]
    axis = next(n for n in traced.graph.nodes if n.name == "_1").meta["symmetry"][1]
    assert (axis.size, axis.spaces, axis.classes, axis.rigid) == (6, ("hidden",), ("positive monomial",), False)
    with pytest.raises(UsageError, match="Sequential is no graph"):
        symgraph.annotate(module)  # type: ignore[arg-type]


def test_edges_are_the_same_as_a_table() -> None:
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    edges = symgraph.infer(module, X).edges()
    first = edges.named("0.weight")
    assert first is not None and [a.term for a in first.axes] == ["hidden", "5"] and first.kind == "parameter"
    lines = str(edges).splitlines()
    assert lines[0].split() == ["value", "kind", "axis", "size", "term", "classes"]
    assert lines[1].split() == ["0.weight", "parameter", "0", "6", "hidden", "positive", "monomial"]
    assert edges.named("nothing") is None
