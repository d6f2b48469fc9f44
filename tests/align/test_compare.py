"""Two models by every way of matching: what is measured is what align and loss_barrier give, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from models_zoo import batches, network

import symgraph
from symgraph.errors import UsageError
from symgraph.match.compare import WAYS, Compared

LEARNING: dict[str, Any] = {"steps": 6, "check_every": 3}


@cache
def compared() -> Compared:
    a, b = network("vit", 0), network("vit", 1)
    return symgraph.compare(a, b, batches("vit"), training=batches("vit"), learning=LEARNING, points=3)


def test_every_way_is_there_and_in_its_order() -> None:
    assert tuple(w.name for w in compared().ways) == WAYS
    distances = {w.name: w.distance for w in compared().ways}
    assert distances["vanilla"] is None
    assert distances["weights"] is not None and distances["permutations"] is not None
    assert distances["weights"] < distances["permutations"]


def test_figures_are_those_of_the_verbs() -> None:
    a, b = network("vit", 0), network("vit", 1)
    ways = {w.name: w for w in compared().ways}
    assert ways["vanilla"].barrier.losses == symgraph.loss_barrier(a, b, batches("vit"), points=3).losses
    aligned = symgraph.align(a, b)
    assert ways["weights"].distance == aligned.after
    assert ways["weights"].barrier.losses == aligned.barrier(batches("vit"), points=3).losses


def test_the_table_names_the_best_and_the_picture_has_all(tmp_path: Path) -> None:
    found = compared()
    text = str(found)
    assert text.splitlines()[0].split() == ["way", "distance", "barrier", "std.err.", "midpoint", "seconds"]
    assert f"the least barrier by {found.best.name}" in text and "over 48 examples" in text
    assert found.best.barrier.barrier == min(w.barrier.barrier for w in found.ways)
    assert set(found.to_plain()["ways"]) == set(WAYS)
    picture = found.plot(tmp_path / "compared.svg").read_text()
    assert all(way in picture for way in WAYS)


def test_without_training_data_only_weights_are_compared() -> None:
    a, b = network("llama", 0), network("llama", 1)
    found = symgraph.compare(a, b, batches("llama"), points=3)
    assert [w.name for w in found.ways] == ["vanilla", "permutations", "weights"]
    with pytest.raises(UsageError, match="learned needs training data"):
        symgraph.compare(a, b, batches("llama"), ways=["learned"])
    with pytest.raises(UsageError, match="no way 'magic'"):
        symgraph.compare(a, b, batches("llama"), ways=["magic"])
