"""Pages of alignments and of loss barriers in a real browser: charts, legends, tables, what is saved, both themes.

Needs Chromium, Node and playwright-core (CONTRIBUTING.md says how), and leaves pictures as `test_browser` does.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import SLOWEST_PAINT, driven, lacking
from models_zoo import batches, case, network
from torch import nn

import symgraph

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking())]
ALIGNED = ("gpt2", "vit", "resnet", "mlp")
BARRIERS = ("two", "three", "four")
EVERY = (*ALIGNED, *BARRIERS, "bare")


def _mlp(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 4))


def _pages(folder: Path) -> list[Path]:
    zoo = {"gpt2": "gpt2-untied", "vit": "vit", "resnet": "resnet"}
    found = []
    for name, key in zoo.items():
        aligned = symgraph.align(network(key, 0), network(key, 1), symmetry=case(key).symmetry)
        found.append(aligned.save_html(folder / f"{name}.html", batches(key), metrics="accuracy"))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    data = [(x, x[:, :4].argmax(1))]
    mlps = symgraph.align(_mlp(0), _mlp(1), x)
    found += [mlps.save_html(folder / "mlp.html", data), mlps.save_html(folder / "bare.html")]
    nets = [_mlp(i) for i in range(4)]
    first, second = (mlps.barrier(data, before=before, metrics="accuracy") for before in (True, False))
    found.append(first.save_html(folder / "two.html", label="before", beside={"after": second}))
    plane = symgraph.loss_plane(nets[:3], data, plane=7, metrics="accuracy")
    three = symgraph.loss_barrier(*nets[:3], data, metrics="accuracy")
    found.append(three.save_html(folder / "three.html", plane=plane))
    found.append(symgraph.loss_barrier(*nets, data).save_html(folder / "four.html"))
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen on every page, by its name."""
    folder = tmp_path_factory.mktemp("results")
    return driven("drive_results.cjs", folder, _pages(folder))


@pytest.mark.parametrize("name", EVERY)
def test_the_console_stays_empty_and_no_network_is_asked(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["said"] == []


@pytest.mark.parametrize("name", EVERY)
def test_a_page_is_painted_at_once_and_fits_the_window(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["paint"] < SLOWEST_PAINT and seen[name]["fits"]


@pytest.mark.parametrize("name", ALIGNED)
def test_an_alignment_says_what_it_did(seen: dict[str, Any], name: str) -> None:
    cards = seen[name]["cards"]
    assert {"summary", "curves", "carried", "spaces", "space", "parameters", "doubtful", "objective", "growth"} <= set(
        cards
    )
    assert (
        re.search(r"alignment (helped|DID NOT HELP)|No difference|no loss barrier", cards["summary"])
        and "\u2192" in cards["summary"]
    )
    assert "highest point" in cards["carried"]


def test_without_data_it_says_what_is_not_known(seen: dict[str, Any]) -> None:
    cards = seen["bare"]["cards"]
    assert "no data was given" in cards["summary"] and "carried" not in cards and "curves" not in cards


@pytest.mark.parametrize("name", EVERY)
def test_pictures_are_read_by_keys_and_pointer(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["charts"]
    for chart in seen[name]["charts"]:
        assert chart["keys"] and chart["pointer"] and re.search(r"\d", chart["keys"]), chart
        assert chart["outside"] == [], chart


@pytest.mark.parametrize("name", [*ALIGNED, "two", "four"])
def test_a_legend_hides_curves(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["legend"]
    assert found["fewer"] == found["every"] - 1 == found["again"] - 1 and found["pressed"] == "false"


@pytest.mark.parametrize("name", EVERY)
def test_pictures_are_saved_as_they_stand(seen: dict[str, Any], name: str) -> None:
    saved = seen[name]["saved"]
    drawn = ElementTree.fromstring(saved["SVG"]["text"])
    assert drawn.tag.endswith("svg") and "var(" not in saved["SVG"]["text"] and saved["SVG"]["name"].endswith(".svg")
    assert saved["PNG"]["text"] == "PNG" and saved["PNG"]["size"] > 3000


@pytest.mark.parametrize("name", ["gpt2", "vit", "two", "three"])
def test_what_is_shown_can_be_chosen(seen: dict[str, Any], name: str) -> None:
    choices = seen[name]["choices"] if name in BARRIERS else {"any": ["a", "b"]}
    assert choices and all(before != after for before, after in choices.values())


@pytest.mark.parametrize("name", EVERY)
def test_tables_sort_search_and_filter(seen: dict[str, Any], name: str) -> None:
    tables = seen[name]["tables"]
    assert tables
    for title, table in tables.items():
        assert table["direction"] in ("ascending", "descending"), title
        numbers = [n for cell in table["sorted"] if (n := _number(cell)) is not None]
        if len(numbers) == len(table["sorted"]) and table["direction"] == "descending":
            # Cells are rounded, each to the digits that its error leaves.
            assert all(x >= y - 0.01 - 0.02 * abs(y) for x, y in pairwise(numbers)), title
        assert 0 < len(table["searched"]) <= len(table["every"])
        assert all(table["word"].lower() in row.lower() for row in table["searched"]), title
        if table["filtered"] is not None:
            assert 0 < len(table["filtered"]) <= len(table["every"])


def _number(cell: str) -> float | None:
    text = cell.replace("\u2212", "-").replace("\u00d7", "").replace("%", "").split("\u00b1")[0].strip()
    try:
        return float(text)
    except ValueError:
        return None


@pytest.mark.parametrize("name", ["gpt2", "vit", "resnet", "mlp"])
def test_a_click_on_a_space_tells_all_of_it(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["space"]
    assert found["clicked"]["row"].replace("\n", "") in found["clicked"]["details"].replace("\n", "")
    assert found["hash"].startswith("#space=") and found["first"] in found["reached"]
    assert "gap to the second best" in found["clicked"]["details"] or "principal angle" in found["clicked"]["details"]


def test_the_address_points_at_a_space(seen: dict[str, Any]) -> None:
    assert seen["vit"]["pointed"] == "residual" == seen["gpt2"]["pointed"]


@pytest.mark.parametrize("name", EVERY)
def test_the_keyboard_reaches_everything(seen: dict[str, Any], name: str) -> None:
    kinds = {(stop["tag"].upper(), stop["kind"]) for stop in seen[name]["stops"]}
    assert {("SVG", "chart"), ("INPUT", ""), ("TR", ""), ("BUTTON", "")} <= kinds


@pytest.mark.parametrize("name", EVERY)
def test_both_themes(seen: dict[str, Any], name: str) -> None:
    grounds = dict(seen[name]["themes"])
    assert grounds["Theme: light"] == "rgb(255, 255, 255)" != grounds["Theme: dark"]
