"""Stages are functions: what a stage is given stays as it was, and the same gives the same."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from mixtures import network
from test_order import graph

import symgraph
from symgraph.errors import UsageError
from symgraph.inference.pipeline import STAGES, run, stages_until
from symgraph.ir import Graph


def traced(name: str) -> Graph:
    return symgraph.trace(network("list")) if name == "mixture" else graph(name)


@pytest.mark.parametrize("name", ["mixture", "gated", "llama", "bert"])
def test_a_stage_leaves_what_it_is_given_as_it_was(name: str) -> None:
    values: list[Any] = [run(traced(name), until="graph")]
    texts = [str(values[0])]
    for stage in STAGES:
        values.append(stage.apply(values[-1]))
        texts.append(str(values[-1]))
    assert list(map(str, values)) == texts
    for stage, value, text in zip(STAGES, values, texts[1:], strict=False):
        assert str(stage.apply(value)) == text, stage.name


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_values_cannot_be_changed(stage: Any) -> None:
    value = run(graph("gated"), until=stage.name)
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


def test_a_stage_that_is_not_there_is_refused_with_the_list() -> None:
    assert stages_until("graph") == () and stages_until("symmetry") == STAGES
    with pytest.raises(UsageError, match="there is no stage 'space'") as caught:
        run(graph("mlp"), until="space")
    assert caught.value.remedy == "did you mean `spaces`?"
    with pytest.raises(UsageError, match="there is no stage 'x'") as caught:
        run(graph("mlp"), until="x")
    assert all(stage.name in str(caught.value.remedy) for stage in STAGES)
