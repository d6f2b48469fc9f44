"""Headless Chromium for pages, driven by Node; where one of them is missing, tests that need it are skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
SLOWEST_PAINT = 2000


@cache
def lacking() -> str:
    """What is not installed here, empty if all is."""
    if CHROMIUM is None or NODE is None:
        return f"no {'Chromium' if CHROMIUM is None else 'Node'} on the path"
    found = subprocess.run([NODE, "-e", "require('playwright-core')"], capture_output=True, text=True)
    return "" if found.returncode == 0 else "Node finds no playwright-core; set NODE_PATH to the folder that has it"


def driven(driver: str, folder: Path, pages: Sequence[Path]) -> dict[str, Any]:
    """What a driver beside this file has seen on every page, by its name; pictures go into SYMGRAPH_PICTURES."""
    pictures = Path(os.environ.get("SYMGRAPH_PICTURES", folder))
    pictures.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name(driver)
    command = [str(NODE), str(script), str(CHROMIUM), str(pictures), *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
