"""The documents as a site: built with every warning an error, complete, and without a request to anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def listed(nav: object) -> list[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [page for part in parts for page in listed(part)]


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    pages += [f"notebooks/{path.stem}.md" for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")]
    assert sorted(listed(config["nav"])) == sorted(pages)
    assert config["strict"] is True


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(ROOT / "mkdocs.yml")]
    built = subprocess.run([*command, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages
    text = (tmp_path / "site" / "tutorial.html").read_text(encoding="utf-8")
    assert "A rotation that nobody sees" in text
    drawn = (tmp_path / "site" / "notebooks" / "two_models.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "notebooks" / "two_models-1.png").exists() and "two_models-1.png" in drawn
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", text)
    assert not loaded, "pages load nothing from elsewhere"
