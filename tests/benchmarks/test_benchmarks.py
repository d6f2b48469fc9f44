"""The benchmarks run and give figures; `make bench` shows what they print (`docs/benchmarks.md` keeps it)."""

from __future__ import annotations

import math
from pathlib import Path

import bench_align
import bench_barrier
import bench_embed
import bench_experts
import bench_inference
import bench_zoo
import pytest


def test_inference() -> None:
    found = bench_inference.main()
    assert 0 < found["ratio"] < 1
    assert 0 < found["peak"] < 2
    shallow, *_, deep = found["linearity"].values()
    assert deep["infer"] / deep["nodes"] < 10 * shallow["infer"] / shallow["nodes"]


def test_align() -> None:
    found = bench_align.main()
    assert math.isfinite(found["ratio"]) and found["ratio"] > 0


def test_embedding_is_linear_in_depth() -> None:
    shallow, deep = bench_embed.main((1, 4)).values()
    assert deep["seconds"] / deep["nodes"] < 3 * shallow["seconds"] / shallow["nodes"]


def test_loss_barrier() -> None:
    found = bench_barrier.main()
    assert 0.5 < found["ratio"] < 1.5


@pytest.mark.skipif(bench_zoo.zoo() is None, reason="SYMGRAPH_ZOO names no folder of trained pairs")
def test_experts(tmp_path: Path) -> None:
    folder = bench_zoo.zoo()
    assert folder is not None
    data = ["--data", str(folder.parent / "data" / "cifar10"), "--limit", "4000", "--out", str(tmp_path)]
    for record in bench_experts.main(
        [*data, "--layers", "first", "--gates", "dense", "--experts", "4", "--steps", "10"]
    ):
        assert record["ways"]["loss"]["validation"] <= record["ways"]["weights"]["validation"] + 1e-6
        assert record["ways"]["loss"]["test"] < record["naive"]


@pytest.mark.skipif(bench_zoo.zoo() is None, reason="SYMGRAPH_ZOO names no folder of trained pairs")
def test_zoo() -> None:
    for found in bench_zoo.main().values():
        assert found["aligned"].barrier < found["vanilla"].barrier
