"""Calls as people make them: inputs in any form, a shape alone, misplaced options, results at the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import symgraph
from symgraph.errors import DataError, SymgraphError, TraceError, UsageError
from symgraph.io.example import example_of

X, LABELS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
LOADER = DataLoader(TensorDataset(X, LABELS), batch_size=4)


def net(seed: int = 0, width: int = 7) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3)).eval()


class Sum(nn.Module):
    """A network on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor, scale: Tensor | None = None) -> Tensor:
        found: Tensor = self.second(torch.relu(self.first(left) + self.first(right)))
        return found


# -- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [X, (X,), [X, LABELS], (X, LABELS), {"input": X, "labels": LABELS}, LOADER, [{"input": X}, LABELS]]
)
def test_inputs_in_every_form(given: Any) -> None:
    known = symgraph.infer(net(), X).fingerprint
    assert symgraph.infer(net(), given).fingerprint == known
    assert symgraph.infer(net(), example=given).fingerprint == known


@pytest.mark.parametrize("given", [(X, X), [X, X], [X, X, LABELS], {"left": X, "right": X}])
def test_two_inputs(given: Any) -> None:
    assert [n.shape for n in symgraph.trace(Sum(), given).inputs] == [tuple(X.shape)] * 2


def test_a_shape_alone_serves_with_and_without_weights() -> None:
    known = symgraph.infer(net(), X).fingerprint
    assert symgraph.infer(net(), input_size=(8, 5)).fingerprint == known
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    assert example_of(module, input_size=(8, 5))[0].is_meta  # type: ignore[index]
    assert symgraph.infer(module, input_size=(8, 5)).fingerprint == known
    assert symgraph.verify(net(), input_size=(8, 5)).passed
    assert symgraph.align(net(0), net(1), input_size=(8, 5)).after < 2
    assert len(symgraph.trace(Sum(), input_size={"left": (8, 5), "right": (8, 5)}).inputs) == 2


def test_every_verb_takes_inputs_beside_plain_modules() -> None:
    a, b, wide = net(0), net(1), net(2, width=9)
    known = symgraph.align((a, X), (b, X)).state
    for found in (symgraph.align(a, b, X), symgraph.align(a, b, example=[X, LABELS])):
        assert all(torch.equal(t, known[n]) for n, t in found.state.items())
    assert len(symgraph.plan([a, b], X).steps) and len(symgraph.universe([a, b], X).members) == 2
    assert symgraph.merge([a, b], example=X).ingredients[0].weight == 0.5
    assert symgraph.embed(a, X, like=wide).module(X).shape == symgraph.narrow(wide, X, like=a).module(X).shape
    assert symgraph.audit(a, X).complete and symgraph.canonicalise(a, X).state
    assert symgraph.descend([a, b], _distance, {"steps": 2}, example=X).steps == 2


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
    return torch.stack([(one[n] - other[n]).square().sum() for n in one]).sum()


def test_a_symmetry_graph_takes_the_module_in_the_place_of_its_state() -> None:
    model = net()
    symmetry = symgraph.infer(model, X)
    assert symgraph.verify(symmetry, model).passed and symgraph.verify(net(1), X, state=model).passed
    assert symgraph.audit(symmetry, model).complete
    moved = symgraph.sample(symmetry, model, seed=1)
    assert not torch.equal(moved["0.weight"], model.state_dict()["0.weight"])
    assert torch.allclose(torch.func.functional_call(model, moved, (X,)), model(X), atol=1e-5)


def test_a_model_keeps_inputs_of_its_own() -> None:
    module = net()
    module.example_inputs = X[:2]
    assert symgraph.trace(module).inputs[0].shape == (2, 5)
    assert symgraph.align(module, net(1), X).a.example[0].shape == (2, 5)  # type: ignore[index]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: symgraph.infer(net()),
            TraceError,
            "infer(model, inputs), or as its attribute `example_inputs`; a shape alone serves: input_size=",
        ),
        (lambda: symgraph.infer(net(), (8, 5)), UsageError, "input_size=(8, 5)"),
        (lambda: symgraph.infer(net(), X, input_size=(8, 5)), UsageError, "leave out one of the two"),
        (lambda: symgraph.infer(net(), input_size=(8, -5)), UsageError, "(1, 3, 32, 32)"),
        (lambda: symgraph.infer(Sum(), {"left": X, "rigth": X}), UsageError, "call 'rigth' 'right'"),
        (lambda: symgraph.infer(net(), DataLoader(TensorDataset(X[:0]))), DataError, "the loader of example inputs"),
        (lambda: symgraph.infer(nn.Linear), UsageError, "Linear is a class, not a model"),
        (lambda: symgraph.infer([net()]), UsageError, "call `universe` or `merge` with several"),
        (lambda: symgraph.infer(42), UsageError, "int is not a model"),
        (lambda: symgraph.infer(net().state_dict()), UsageError, "give the nn.Module that it belongs to"),
        (lambda: symgraph.align(net(), net(1), X, sweeps=3), UsageError, "MatchOptions: options={'sweeps': ...}"),
        (lambda: symgraph.align(net(), net(1), X, chart="exp"), UsageError, "LearnOptions: learning={'chart': ...}"),
        (lambda: symgraph.verify(net(), X, sample=2), UsageError, "did you mean `samples`?"),
        (lambda: symgraph.descend((net(), X), _distance, steps=2), UsageError, "options={'steps': ...}"),
    ],
)
def test_mistakes_say_what_to_give(call: Any, error: type[SymgraphError], says: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)


# -- results ---------------------------------------------------------------------------------------------------------


def test_results_read_alike_and_short() -> None:
    a, b = net(0), net(1)
    graph, aligned = symgraph.infer(a, X), symgraph.align(a, b, X)
    results: list[Any] = [
        *(graph, graph["hidden"], graph.edges(), aligned, aligned.alignment, aligned.program),
        *(symgraph.verify(a, X), symgraph.audit(a, X), symgraph.canonicalise(a, X), symgraph.merge([a, b], example=X)),
        *(symgraph.universe([a, b], X), symgraph.model(a, X), symgraph.rule_book()),
        *(aligned.barrier(LOADER, points=3), symgraph.embed(a, X, like=net(2, width=9))),
    ]
    for found in results:
        assert repr(found) == str(found) and len(str(found)) < 1500
        # A symmetry graph is a table there, all else the same text.
        tag = "<p>" if found is graph else "<pre>"
        assert found._repr_html_().startswith(tag) and "<torch" not in found._repr_html_()
    assert repr(symgraph.trace(a, X)) == "graph Sequential: 3 calls, 66 parameters, inputs input (8, 5)"


def test_a_symmetry_graph_is_asked_like_a_collection() -> None:
    graph = symgraph.infer(net(), X)
    assert [s.name for s in graph] == ["hidden"] and len(graph) == 1
    assert graph["hidden"] is graph.space("hidden") and "hidden" in graph and graph["hidden"] in graph
    assert "nothing" not in graph
    with pytest.raises(UsageError, match="there is hidden"):
        graph["zzz"]
    rigid = symgraph.infer(nn.Linear(5, 3), X)
    assert len(rigid) == 0 and bool(rigid)


def test_an_aligned_pair_is_used_as_people_expect(tmp_path: Path) -> None:
    a, b = net(0), net(1)
    aligned = symgraph.align(a, b, X)
    assert torch.allclose(aligned.module(X), b(X), atol=1e-5)
    assert not torch.equal(aligned.module[0].weight, b[0].weight)  # type: ignore[index]
    net(2).load_state_dict(aligned.state)
    assert aligned.save_pretrained(tmp_path / "out") == {"B aligned": tmp_path / "out"}
    before, after = aligned.barrier(LOADER, before=True, points=3), aligned.barrier(LOADER, points=3)
    assert before.losses[0] == after.losses[0] and before.losses[1] != after.losses[1]
    assert aligned.plot(tmp_path / "curves.svg", LOADER, points=3).stat().st_size > 1000
    assert "weight matching" in aligned.report() and "from transformers" not in aligned.report()
    merged = symgraph.merge([a, b], example=X)
    assert torch.equal(merged.module[0].weight, merged.state["0.weight"])  # type: ignore[index]
    assert merged.save_pretrained(tmp_path / "merged").exists()


def test_a_moved_file_of_an_alignment_gives_a_module(tmp_path: Path) -> None:
    a, b = net(0), net(1)
    aligned = symgraph.align(a, b, X)
    applied = symgraph.apply(aligned.alignment.save(tmp_path / "ab.safetensors"), b, X)
    assert torch.equal(applied.module[0].weight, aligned.module[0].weight)  # type: ignore[index]
    assert str(applied) == f"Sequential after the alignment in {tmp_path / 'ab.safetensors'}"
