"""Pages in a real browser: clicks, folding, search, the keyboard, both themes, and a clean console.

Needs Chromium, Node and playwright-core (CONTRIBUTING.md says how); pictures are kept in the folder of
`--basetemp`, or in SYMGRAPH_PICTURES where that is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from browser import SLOWEST_PAINT, driven, lacking
from models_zoo import case
from torch import Tensor, nn

import symgraph

DEEP = 80
ZOO = ("vit", "gpt2-untied", "resnet", "bert", "mlp-relu")
LARGEST_PAGE = 3_000_000


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking())]


class Mixer(nn.Module):
    """A block of nobody's architecture: tokens read a memory, and a gated MLP reads both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.memory = nn.Parameter(torch.randn(7, width))
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        found = torch.softmax(y @ self.memory.T, -1) @ self.memory
        added: Tensor = self.down(torch.tanh(self.gate(y + found)) * self.up(y))
        return x + added


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.special.bessel_j0(self.down(torch.special.bessel_j0(self.up(x))))
        return found


def _deep(folder: Path) -> symgraph.SymmetryGraph:
    from transformers import LlamaConfig

    sizes: dict[str, Any] = dict(
        hidden_size=8192, intermediate_size=28672, num_attention_heads=64, num_key_value_heads=8
    )
    config = LlamaConfig(num_hidden_layers=DEEP, vocab_size=32000, architectures=["LlamaForCausalLM"], **sizes)
    config.save_pretrained(folder)
    return symgraph.infer(folder / "config.json")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen on every page, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    custom = nn.Sequential(nn.Linear(6, 16), *(Mixer(16) for _ in range(3)), nn.Linear(16, 4))
    graphs = {name: case(name).symmetry for name in ZOO} | {
        "custom": symgraph.infer(custom, torch.randn(2, 5, 6)),
        "frozen": symgraph.infer(Frozen(), torch.randn(2, 4)),
        "deep": _deep(folder),
    }
    pages = [graph.save_html(folder / f"{name}.html") for name, graph in graphs.items()]
    assert (folder / "deep.html").stat().st_size < LARGEST_PAGE
    return driven("drive.cjs", folder, pages)


EVERY = (*ZOO, "custom", "frozen", "deep")


@pytest.mark.parametrize("name", EVERY)
def test_the_console_stays_empty_and_no_network_is_asked(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["said"] == []


@pytest.mark.parametrize("name", EVERY)
def test_a_page_is_painted_at_once_and_fits_the_window(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["paint"] < SLOWEST_PAINT and seen[name]["fits"]


def test_eighty_layers_read_like_two(seen: dict[str, Any]) -> None:
    drawn = seen["deep"]["drawn"]
    moving = [label for label in drawn["spaces"] if "identity" not in label]
    repeated = f"layers.{{0..{DEEP - 1}}} \N{MULTIPLICATION SIGN}{DEEP}"
    assert len(moving) == 6 and any(repeated in label for label in drawn["open"])


@pytest.mark.parametrize("name", ["vit", "gpt2-untied", "resnet", "deep"])
def test_a_click_on_a_space_tells_all_of_it(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["clicks"]["space"]
    assert found["hash"].startswith("#space=residual") and "Why this class" in found["details"]
    for word in ("size", "dimension", "rule", "admits", "What would make it larger", "Axes on it", "modeling_"):
        assert word in found["details"], word


@pytest.mark.parametrize("name", ["vit", "gpt2-untied", "deep"])
def test_a_click_on_a_link_shows_the_law(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["clicks"]["link"]
    assert "→" in found["details"] and "W" in found["details"] and "Axes" in found["details"]


@pytest.mark.parametrize("name", EVERY)
def test_words_have_their_meaning_behind_them(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["clicks"]
    assert len(found["glossary"].splitlines()) > 1 and found["closed"]


@pytest.mark.parametrize("name", ["vit", "deep"])
def test_modules_fold_and_come_apart(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["folding"]
    assert not found["folded"]["open"] and found["folded"]["closed"]
    assert set(found["opened"]["spaces"]) >= set(found["before"]["spaces"])
    assert len(found["closed"]["spaces"]) < len(found["opened"]["spaces"])
    apart = [label.splitlines()[0] for label in found["apart"]["closed"] if "layers." in label]
    others = f"layers.{{0,2..{DEEP - 1}}} \N{MULTIPLICATION SIGN}{DEEP - 1}" if name == "deep" else "layers.0"
    assert {label[2:] for label in apart} == {"layers.1", others}
    assert len(found["again"]["closed"]) <= 2


@pytest.mark.parametrize("name", ["vit", "resnet", "deep"])
def test_the_table_searches_filters_and_sorts(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["search"]
    assert 0 < len(found["found"]) < len(found["every"]) and all("identity" in row for row in found["found"])
    assert 0 < len(found["filtered"]) < len(found["every"])
    sizes = [int(size.replace(",", "")) for size in found["sizes"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", EVERY)
def test_the_keyboard_reaches_everything(seen: dict[str, Any], name: str) -> None:
    found = seen[name]["keyboard"]
    kinds = {(stop["tag"], stop["kind"]) for stop in found["stops"]}
    assert {("DIV", "canvas"), ("INPUT", ""), ("TR", ""), ("SECTION", "details")} <= kinds
    assert found["first"].startswith(("space ", "module ")) and found["row"] == found["chosen"]
    assert found["tab"] == "Parameters"


@pytest.mark.parametrize("name", EVERY)
def test_both_themes(seen: dict[str, Any], name: str) -> None:
    grounds = dict(seen[name]["themes"])
    assert grounds["Theme: light"] == "rgb(255, 255, 255)" != grounds["Theme: dark"]


def test_the_address_points_at_a_space(seen: dict[str, Any]) -> None:
    assert seen["vit"]["pointed"] == "residual" == seen["deep"]["pointed"]


def test_a_page_without_symmetries_says_why(seen: dict[str, Any]) -> None:
    said = seen["frozen"]["headline"]
    assert "No space admits more than the identity" in said and "bessel" in said and "to do" in said
