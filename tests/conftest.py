"""Settings that every test shares: offline, deterministic, and one thread each: two of them run side by side."""

from __future__ import annotations

import os
from pathlib import Path

# The libraries read these once, on import, so they are set before anything below imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["MPLBACKEND"] = "Agg"
# Each test traces for itself.
os.environ["SYMGRAPH_CACHE"] = "off"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("ci")

BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option to write the files under `golden` anew."""
    parser.addoption("--regenerate", action="store_true", help="write golden texts instead of comparing with them")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under `benchmarks` before pytest deselects by marker."""
    for item in items:
        if BENCHMARKS in item.path.parents:
            item.add_marker(pytest.mark.benchmark)
