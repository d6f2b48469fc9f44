"""The reproduction of GLMC runs end to end on data of its own, and keeps what is done."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
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


@pytest.mark.slow
def test_methods_side_by_side_and_a_deadline(tmp_path: Path) -> None:
    data = ["--data", f"cifar10={pictures(tmp_path / 'images')}", "--pairs", "1", "--scale", "tiny"]
    both: list[str | Path] = ["--out", tmp_path / "out", *data, "--jobs", "2", "--methods", "vanilla", "weights"]
    late = run(*both, "--deadline", "0")
    assert late.returncode == 0, late.stderr
    assert late.stdout.count("no time left") == 2 and late.stdout.count(TRAINED) == 2
    done = run(*both)
    assert done.returncode == 0, done.stderr
    assert TRAINED not in done.stdout and done.stdout.count("(1 pair)") == 2


def test_training_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are drawn, augmented and timed on the device learn what the plain loop learns."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "glmc"))
    together, training, corpora, settings = map(import_module, ("together", "training", "corpora", "settings"))
    labels = torch.arange(600) % 10
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))[labels]
    train, test = (images[:500], labels[:500]), (images[500:], labels[500:])
    corpus = corpora.Corpus(train, test, test, 10, text=False)
    s = replace(settings.scaled(settings.PAPER["cifar10"], "tiny"), epochs=10, batch=64)
    models = [training.fresh(s, corpus, i) for i in range(2)]
    together.train_together(models, s, corpus, [0, 1])
    assert all(training.measured(m, corpus, "test")[1] > 0.9 for m in models)
    words = torch.arange(64 * 100).view(-1, 64) % 17
    corpus = corpora.Corpus((words[:60],) * 2, (words[60:80],) * 2, (words[80:],) * 2, 17, text=True)
    s = replace(settings.scaled(settings.PAPER["tinyshakespeare"], "tiny"), epochs=30, context=64, stop_early=True)
    model = training.fresh(s, corpus, 0)
    before, _ = training.measured(model, corpus, "test")
    together.train_together([model], s, corpus, [0])
    assert training.measured(model, corpus, "test")[0] < 0.6 * before


def test_augmented_images_are_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a grey image colour jitter changes the brightness alone; what is moved in from outside is the mean colour."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "glmc"))
    corpora = import_module("corpora")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (corpora.MEAN, corpora.STD))
    grey = (torch.full((64, 3, 32, 32), 0.5) - mean) / std
    found = corpora.Augmentation(32)(grey, torch.Generator().manual_seed(0))
    inside = (found * std + mean)[:, :, 12:20, 12:20]
    spread = inside.amax((1, 2, 3)) - inside.amin((1, 2, 3))
    assert float(spread.max()) < 1e-5
    assert 0.25 < float(inside.min()) < 0.4 and 0.6 < float(inside.max()) < 0.75
