"""What a page of loss barriers says: its numbers are those of the results; the plane through three models."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import symgraph
from symgraph.errors import UsageError
from symgraph.io.files import OutputError
from symgraph.measure.barrier_page import page_data, to_html, triangles
from symgraph.measure.plane import LossPlane, path_points, weights_at
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(12, 4, generator=GENERATOR).double(), torch.randint(0, 3, (12,), generator=GENERATOR))
    for _ in range(2)
]


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture(scope="module")
def pair() -> dict[str, LossBarrier]:
    ends = [(net(0), net(1)), (net(0), net(2))]
    return {
        label: symgraph.loss_barrier(*models, BATCHES, points=5, metrics="accuracy")
        for label, models in zip(("one", "other"), ends, strict=True)
    }


@pytest.fixture(scope="module")
def plane() -> LossPlane:
    return symgraph.loss_plane([net(0), net(1), net(2)], BATCHES, plane=5, metrics="accuracy")


def embedded(html: str) -> Any:
    """The data that stands in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


# -- error bands -------------------------------------------------------------------------------------------------------


def test_bands_are_standard_errors_over_the_examples(pair: dict[str, LossBarrier]) -> None:
    losses = torch.cat([nn.functional.cross_entropy(net(0)(x), y, reduction="none").detach() for x, y in BATCHES])
    expected = float(losses.std() / math.sqrt(len(losses)))
    assert pair["one"].loss.value_errors[0] == pytest.approx(expected, rel=1e-9)
    assert len(pair["one"].loss.value_errors) == 5 == len(pair["one"].metrics[0].value_errors)


def test_results_that_were_saved_without_them_are_read(pair: dict[str, LossBarrier]) -> None:
    again = LossBarrier.from_json(pair["one"].to_json())
    assert again == pair["one"]
    plain = json.loads(pair["one"].to_json())
    for quantity in (plain["loss"], *plain["metrics"]):
        del quantity["value_errors"]
    old = LossBarrier.from_json(json.dumps(plain))
    assert old.loss.value_errors == () and old.losses == pair["one"].losses
    assert "value_errors" in to_html({"old": old})


# -- what the page says ------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_results(pair: dict[str, LossBarrier]) -> None:
    data = embedded(to_html(pair, title="Both"))
    assert [r["label"] for r in data["results"]] == ["one", "other"] and data["models"] == ["A", "B"]
    for said, result in zip(data["results"], pair.values(), strict=True):
        for quantity, measured in zip(said["quantities"], (result.loss, *result.metrics), strict=True):
            assert quantity["values"] == list(measured.values)
            assert quantity["barriers"] == list(measured.barriers)
            assert quantity["places"] == list(measured.lambdas)
            assert quantity["value_errors"] == list(measured.value_errors)
            assert (quantity["barrier"], quantity["argmax"]) == (measured.barrier, measured.argmax)
        assert said["examples"] == 24


def test_three_models_have_a_surface_without_holes() -> None:
    found = symgraph.loss_barrier(net(0), net(1), net(2), BATCHES)
    data = page_data({"loss": found})
    mixtures = found.loss.mixtures
    area = sum(
        abs(float(torch.linalg.det(torch.tensor([mixtures[i] for i in three], dtype=torch.float64))))
        for three in data["triangles"]
    )
    assert area == pytest.approx(1.0) and data["triangles"] == triangles(mixtures)
    assert page_data({"four": symgraph.loss_barrier(*map(net, range(4)), BATCHES)})["triangles"] == []


def test_a_page_is_written_whole_or_not_at_all(pair: dict[str, LossBarrier], tmp_path: Path) -> None:
    path = pair["one"].save_html(tmp_path / "a.html", label="one", beside={"other": pair["other"]})
    assert len(embedded(path.read_text(encoding="utf-8"))["results"]) == 2
    with pytest.raises(OutputError, match="exists already"):
        pair["one"].save_html(path)
    three = symgraph.loss_barrier(net(0), net(1), net(2), BATCHES)
    with pytest.raises(UsageError, match="only barriers of two models"):
        pair["one"].save_html(tmp_path / "b.html", beside={"three": three})
    with pytest.raises(UsageError, match="no loss barrier to show"):
        to_html({})
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_names_of_models_do_not_end_the_data(pair: dict[str, LossBarrier]) -> None:
    odd = replace(pair["one"], models=("</script><b>", "@view@"))
    assert embedded(to_html({"</script>": odd}))["models"] == ["</script><b>", "@view@"]


# -- the plane ---------------------------------------------------------------------------------------------------------


def test_the_plane_is_true_to_scale(plane: LossPlane) -> None:
    flat = [torch.cat([p.detach().flatten() for p in net(i).parameters()]) for i in range(3)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        distance = math.dist(plane.corners[i], plane.corners[j])
        assert distance == pytest.approx(float((flat[i] - flat[j]).norm()), rel=1e-12)
    for i, corner in enumerate(plane.corners):
        assert weights_at(plane.corners, corner) == pytest.approx([float(i == k) for k in range(3)])


def test_values_on_the_plane_are_those_of_the_mixtures(plane: LossPlane) -> None:
    columns, rows = plane.axes
    weights = weights_at(plane.corners, (columns[0], rows[-1]))
    assert min(weights) < 0 and sum(weights) == pytest.approx(1.0)
    mixed = net(0)
    with torch.no_grad():
        for p, *three in zip(mixed.parameters(), *(net(i).parameters() for i in range(3)), strict=True):
            p.copy_(sum(w * t for w, t in zip(weights, three, strict=True)))
    x, y = (torch.cat(part) for part in zip(*BATCHES, strict=True))
    expected = float(nn.functional.cross_entropy(mixed(x), y).detach())
    assert plane.grid(plane.loss)[-1][0] == pytest.approx(expected, rel=1e-9)
    assert embedded(to_html({"loss": symgraph.loss_barrier(net(0), net(1), net(2), BATCHES)}, plane))["plane"][
        "quantities"
    ][0]["grid"] == plane.grid(plane.loss)


def test_the_path_leads_through_the_models_in_their_order(plane: LossPlane) -> None:
    path = {place: value for place, value, _ in plane.path(plane.loss)}
    assert [path[0.0], path[1.0], path[2.0]] == list(plane.loss.ends) and len(path) == len(path_points(3)) == 17
    segment = symgraph.loss_barrier(net(0), net(1), BATCHES, points=9)
    assert [path[i / 8] for i in range(9)] == pytest.approx(list(segment.losses), rel=1e-12)


def test_levels_lie_inside_of_what_was_measured(plane: LossPlane) -> None:
    for measured in (plane.loss, *plane.metrics):
        values = [v for row in plane.grid(measured) for v in row]
        levels = plane.levels(measured)
        assert all(min(values) <= level <= max(values) for level in levels)
        assert levels == sorted(levels, reverse=measured.higher_is_better)


def test_what_has_no_plane_is_refused() -> None:
    a, b = net(0), net(1)
    middle = net(0)
    with torch.no_grad():
        for p, q, r in zip(middle.parameters(), a.parameters(), b.parameters(), strict=True):
            p.copy_((q + r) / 2)
    with pytest.raises(UsageError, match="on one line"):
        symgraph.loss_plane([a, b, middle], BATCHES)
    with pytest.raises(UsageError, match="on one line"):
        symgraph.loss_plane([a, a, b], BATCHES)
    with pytest.raises(UsageError, match="three models, not 2"):
        symgraph.loss_plane([a, b], BATCHES)
    with pytest.raises(UsageError, match="plane"):
        symgraph.loss_plane([a, b, net(2)], BATCHES, plane=2)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_it_is_drawn(plane: LossPlane, tmp_path: Path, suffix: str) -> None:
    path = plane.plot(tmp_path / f"plane.{suffix}")
    assert path.stat().st_size > 3000
    with pytest.raises(UsageError, match="nothing to draw"):
        barrier_plot({}, tmp_path / "none.png")
