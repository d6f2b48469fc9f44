"""The reproduction of GLMC runs end to end on data of its own, and keeps what is done."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TRAINED = "trained in"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "glmc"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def pictures(folder: Path) -> Path:
    from datasets import Dataset

    random = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        rows = []
        for _ in range(count):
            stored = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stored, "PNG")
            rows.append({"bytes": stored.getvalue(), "path": None})
        labels = [i % 10 for i in range(count)]
        Dataset.from_dict({"img": rows, "label": labels}).to_parquet(str(folder / f"{split}.parquet"))
    return folder


@pytest.mark.slow
def test_from_training_to_the_table(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    book = tmp_path / "book.txt"
    book.write_text("".join(topics.values())[:100_000], encoding="utf-8")
    data = ["--data", f"tinyshakespeare={book}", "--data", f"cifar10={pictures(tmp_path / 'images')}"]
    methods = ["vanilla", "mixed", "weights", "learned, permutations only", "learned, dual"]
    options: list[str | Path] = ["--scale", "tiny", "--out", tmp_path / "out", *data, "--methods"]
    first = run(*options, *methods[:3])
    assert first.returncode == 0, first.stderr
    assert first.stdout.count(TRAINED) == 8
    again = run(*options, *methods)
    assert again.returncode == 0, again.stderr
    assert TRAINED not in again.stdout
    rows = dict(line.split("  ", 1) for line in again.stdout.split("\nbarrier", 1)[1].splitlines() if "  " in line)
    assert list(rows)[-len(methods) :] == methods
    assert "(2 pairs)" in rows["weights"] and "0.34" in rows["weights"] and "0.36" in rows["weights"]
    found = json.loads((tmp_path / "out/tiny/cifar10/pair-1/learned-dual.json").read_text(encoding="utf-8"))
    assert len(found["curve"]["loss"]["lambdas"]) == 11


@pytest.mark.parametrize("given", ["cifar10", "mnist=."])
def test_data_that_is_not_there(given: str, tmp_path: Path) -> None:
    found = run("--data", given, "--out", tmp_path / "out")
    assert found.returncode == 2
    assert f"--data {given}" in found.stderr and "tiny-imagenet" in found.stderr
    assert not (tmp_path / "out" / "small").exists()
