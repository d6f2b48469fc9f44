"""Plausible mistakes in Python: one message each, with a remedy that can be pasted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import symgraph as sg
from symgraph.errors import SymgraphError, argument, called, either, read_at


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()


def constant(_: Any) -> Any:
    return 1.0


A, B, X = net(0), net(1), torch.ones(8, 5)
BATCHES: list[Any] = [(X, torch.arange(8) % 3)] * 2
LINEAR = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
RECIPE: dict[str, Any] = {"merge_method": "ties", "base_model": "a", "models": [{"model": "a"}, {"model": "b"}]}
MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: sg.infer(A, (8, 5)), "input_size=(8, 5)"),
    (lambda: sg.align(A, B, X, method="lerned"), "method='learned'"),
    (lambda: sg.align(A, B, X, method="learned"), "data="),
    (lambda: sg.align(A, B, X, sweeps=3), "options={'sweeps': ...}"),
    (lambda: sg.align(A, B, X, device="gpu"), "device='cpu'"),
    (lambda: sg.align(A, B, X, dtype="float64"), "dtype=torch.float64"),
    (lambda: sg.align(A, B, X, method="learned", data=BATCHES, learning={"full": False}), "learning={'full': True}"),
    (lambda: sg.align(A, B, X, method="learned", data=BATCHES[:1]), "validation"),
    (lambda: sg.align(A, B, X).plot("z.jpg", BATCHES), ".png"),
    (lambda: sg.merge(A, B, example=X), "merge([a, b, ...])"),  # type: ignore[arg-type]
    (lambda: sg.universe(A, example=X), "universe([a, b, ...])"),  # type: ignore[arg-type]
    (lambda: sg.universe([A, B], X, options={"weighting": "inputs"}), "options={'weighting': 'inputs-halved'}"),
    (lambda: sg.loss_barrier(A, B), "loss_barrier(a, b, batches)"),
    (lambda: sg.loss_barrier(A, BATCHES), "loss_barrier(a, b, batches)"),
    (lambda: sg.loss_barrier(A, B, B, BATCHES, refine=True), "raise resolution or samples"),
    (lambda: sg.loss_barrier(A.state_dict(), B.state_dict(), BATCHES), "module="),
    (lambda: sg.canonicalise(sg.trace(A, X)), "state="),
    (lambda: sg.descend(A, constant, example=X), "a tensor of one number"),
    (lambda: sg.descend(A, lambda s: s["0.bias"].sum(), {"full": False}, example=X), "options={'full': True}"),
    (lambda: sg.prune(A, X, ratio=40), "between 0 and 1"),
    (lambda: sg.prune(A, X, ratio="0.4"), "between 0 and 1"),  # type: ignore[arg-type]
    (lambda: sg.prune(A, X, ratio=0.4, importance="tayler"), "did you mean `taylor`?"),
    (lambda: sg.prune(A, X, ratio=0.4, importance="taylor"), "name training data, data="),
    (lambda: sg.prune(A, X, ratio=0.4, importance=[1.0] * 7), "{'hidden': [0.3, ...]}"),  # type: ignore[arg-type]
    (lambda: sg.prune(A, X, ratio=0.4, spaces="hiden"), "did you mean `hidden`?"),
    (lambda: sg.rotate(A, X), "symgraph.infer(model).explain('hidden')"),
    (lambda: sg.rotate(LINEAR, X, by="hadamrd"), "did you mean `hadamard`?"),
    (lambda: sg.rotate(LINEAR, X, tied="cut"), "use 'keep' or 'untie'"),
    (lambda: sg.rotate(LINEAR, X, by="learned"), "leave by='learned' out"),
    (lambda: sg.transport(A, A, B, X), "as tuned, and the other one as to"),
    (lambda: sg.transport(A, net(2), B, X, scale="half"), "a finite number"),  # type: ignore[arg-type]
    (lambda: sg.transport(A, net(2), B, X, alignment="gone"), "symgraph.align(a, b).alignment.save(FILE)"),
    (lambda: sg.transport(A, net(2), B, X, fit=[]), "the data loader"),
    (lambda: sg.gather(A, X), "mixtures of experts"),
    (lambda: sg.gather(A, X, rounds=0), "rounds=10"),
    (lambda: sg.compare(A, B, BATCHES, X, ways="wieghts"), "did you mean `weights`?"),
    (lambda: sg.compare(A, B, BATCHES, X, ways="learned"), "'none' for inputs"),
    (lambda: sg.merge_by_recipe(RECIPE | {"merge_method": "tyes"}), "did you mean ties?"),
    (lambda: sg.merge_by_recipe(RECIPE, models=[A, B], example=X), "models={'a': ..., 'b': ...}"),
    (lambda: sg.merge_by_recipe(RECIPE | {"parameters": {"density": 1.5}}), "from 0 to 1"),
    (lambda: sg.infer(A, X).diff(B), "graph.diff(symgraph.infer(other))"),
    (lambda: sg.infer(A, X, rules={"rule": "x"}), "[symgraph.rule(rule=..., about=..., ...)]"),
    (lambda: sg.verify(sg.infer(A, X), [1.0]), "the module whose weights they are"),
    (lambda: sg.apply("gone.safetensors", A, X), "symgraph.align(a, b).alignment.save(FILE)"),
]


@pytest.mark.parametrize(("wrong", "remedy"), MISTAKES, ids=[remedy for _, remedy in MISTAKES])
def test_one_message_with_a_remedy(wrong: Callable[[], Any], remedy: str) -> None:
    with pytest.raises(SymgraphError) as caught:
        wrong()
    assert remedy in caught.value.remedy and "--" not in caught.value.remedy


def test_arguments_are_named_as_they_are_given_where_they_are_read() -> None:
    def forms() -> tuple[str, ...]:
        return argument("tied", "untie"), argument("block_size"), called("alpha"), either("here", "there")

    assert forms() == ("tied='untie'", "block_size=", "alpha", "here")
    with read_at(command_line=True, alpha="--share"):
        assert forms() == ("--tied untie", "--block-size", "--share", "there")
        assert argument("std", (0.5, 1)) == "--std 0.5 1" and argument("dual", True) == "--dual"
    with read_at(learning="options"):
        assert argument("dual", True, within="learning") == "options={'dual': True}"
    assert forms()[0] == "tied='untie'"
