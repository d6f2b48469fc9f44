"""What a run says it will take is what it takes: how often it reads each model, and how much waits on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import symgraph
from symgraph.io import models
from symgraph.io.models import Model
from symgraph.io.shards import Stored
from symgraph.io.spool import Spool
from symgraph.match.aligned import write_aligned
from symgraph.match.cost import Cost, cost_of_apply, cost_of_mean, cost_of_program
from symgraph.match.match_options import MatchOptions
from symgraph.match.merge import merge, write_merged
from symgraph.match.program import Program
from symgraph.match.write import apply, write_applied

SHORT = MatchOptions(sweeps=1)
SHAPE: dict[str, Any] = {"vocab_size": 800, "hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 600}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three Llamas in bfloat16, of tensors so large that they are read where they are needed."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=2))
        found.append(tmp_path_factory.mktemp("cost") / f"model-{seed}")
        model.to(torch.bfloat16).save_pretrained(found[-1])
    return found


class Watched:
    """How many bytes of each file were read, and how many waited on disk at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: Counter[Path] = Counter()
        self.disk = 0
        read, put = Stored.read, Spool.put

        def reading(stored: Stored) -> Tensor:
            self.read[stored.file] += stored.size
            return read(stored)

        def putting(spool: Spool, tensor: Tensor) -> Tensor:
            found = put(spool, tensor)
            self.disk = max(self.disk, spool.size)
            return found

        monkeypatch.setattr(Stored, "read", reading)
        monkeypatch.setattr(Spool, "put", putting)

    @property
    def passes(self) -> float:
        """How often the model that was read most often was read."""
        return max(count / file.stat().st_size for file, count in self.read.items())


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def _loaded(folders: list[Path]) -> list[Model]:
    return [models.load(f, deferred=True) for f in folders]


def _of(given: list[Model], program: Program, written: int) -> Cost:
    return cost_of_program(given, program, symgraph.infer(given[0]), written=written)


def _written(cost: Cost, count: int, given: list[Model]) -> int:
    """What of the disk is written for good."""
    return cost.disk - count * cost.stored // len(given)


def test_an_alignment_reads_each_model_six_times_at_most(saved: list[Path], watched: Watched, tmp_path: Path) -> None:
    given = _loaded(saved[:2])
    cost = _of(given, symgraph.plan(given, options=SHORT), 1)
    aligned = symgraph.align(*given, options=SHORT, scratch=tmp_path)
    write_aligned(aligned, tmp_path / "b")
    assert str(aligned) and cost.passes == 6
    assert 4 < watched.passes <= cost.passes
    assert 0.5 < watched.disk / _written(cost, 1, given) <= 1


def test_an_application_reads_its_model_three_times(saved: list[Path], watched: Watched, tmp_path: Path) -> None:
    one, other = _loaded(saved[:2])
    file = symgraph.align(one, other, options=SHORT).alignment.save(tmp_path / "ab.safetensors")
    watched.read.clear()
    (model,) = given = _loaded(saved[1:2])
    cost = cost_of_apply(model, file.stat().st_size)
    write_applied(apply(file, model, scratch=tmp_path), tmp_path / "b")
    assert cost.passes - 1 < watched.passes <= cost.passes == 3
    assert 0.7 < watched.disk / _written(cost, 1, given) <= 1


@pytest.mark.parametrize("align", [True, False])
def test_a_merge_of_two_reads_each_seven_times_at_most(
    saved: list[Path], watched: Watched, tmp_path: Path, align: bool
) -> None:
    given = _loaded(saved[:2])
    cost = _of(given, symgraph.plan(given, options=SHORT, common=True), 1) if align else cost_of_mean(given)
    how: dict[str, Any] = {"options": SHORT, "scratch": tmp_path} if align else {}
    watched.read.clear()
    write_merged(merge(_loaded(saved[:2]), [0.5, 0.5], align=align, **how), tmp_path / "mean")
    assert cost.passes == (7 if align else 3)
    assert cost.passes - 1.5 < watched.passes <= cost.passes
    assert watched.disk <= _written(cost, 1, given)


@pytest.mark.slow
def test_rounds_of_many_models_read_them_no_more_often_than_is_said(
    saved: list[Path], watched: Watched, tmp_path: Path
) -> None:
    given = _loaded(saved)
    cost = _of(given, symgraph.plan(given, options=SHORT, rounds=1), 3)
    symgraph.universe(_loaded(saved), options=SHORT, rounds=1, scratch=tmp_path)
    assert cost.passes / 2 < watched.passes <= cost.passes
