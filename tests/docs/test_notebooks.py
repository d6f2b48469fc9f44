"""The notebooks run from their first cell to their last, and print what they hold; the site shows them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = load()
FILES = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


def texts(notebook: dict[str, Any]) -> list[str]:
    """What cells print and give; numbers that differ between machines are left out."""
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", ())]
    found = ["".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs]
    return [re.sub(r"\d[\d.,e%-]*", "0", text) for text in found]


def test_there_are_three() -> None:
    assert [path.stem for path in FILES] == ["own_rule", "rotation", "two_models"]
    assert all(path.stat().st_size < 150_000 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_as_it_was_kept(path: Path) -> None:
    kept, again = notebooks.read(path), notebooks.read(path)
    state = torch.random.get_rng_state()
    notebooks.run(again)
    torch.random.set_rng_state(state)
    assert texts(again) == texts(kept), "run `python docs/notebooks.py`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_page_has_all_cells_and_pictures(path: Path) -> None:
    text, pictures = notebooks.page(path)
    cells = notebooks.read(path)["cells"]
    assert text.startswith("# ") and text.count("```python") == sum(cell["cell_type"] == "code" for cell in cells)
    assert pictures and all(f"]({name})" in text and data[:4] == b"\x89PNG" for name, data in pictures.items())
