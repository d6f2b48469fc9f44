"""The generated pages say what the rule files and the docstrings say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from symgraph.rules.book import default_rules

DOCS = Path(__file__).resolve().parents[2] / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load()


@pytest.mark.parametrize("name", generate.PAGES)
def test_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `python docs/generate.py`"


def test_every_rule_is_on_the_page_once_with_its_source() -> None:
    page = generate.rules_page()
    for rule in default_rules().rules:
        assert page.count(f"### {rule.rule}\n") == 1
        section = page.split(f"### {rule.rule}\n")[1].split("\n### ")[0]
        assert rule.about in section and f"- source: {rule.source}" in section
        assert all(f"`{op}`" in section for op in rule.ops)
        assert all(reason in section for reason in rule.gaps.values())


def test_links_lead_to_headings() -> None:
    page = generate.rules_page()
    headings = {h.lstrip("# ").replace(".", "") for h in page.splitlines() if h.startswith("##")}
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links <= headings


def test_signatures_keep_their_defaults() -> None:
    def function(a: int, *, text: str = "x", other: tuple[str, ...] = ("*",)) -> None:
        """Does nothing."""

    assert generate._code("f", function) == (
        "```python\nf(a: int, *, text: str = 'x', other: tuple[str, ...] = ('*',)) -> None\n```\n"
    )


def test_sections_of_a_docstring_become_markdown() -> None:
    def function() -> None:
        """Does a thing.

        Args:
            first: what it is,
                on two lines.

        Source: a paper.
        """

    expected = "Does a thing.\n\n**Args:**\n\n- `first`: what it is,\non two lines.\n\n**Source:** a paper.\n"
    assert generate._docstring(function) == expected


def test_check_names_the_page_that_is_not_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "rules.md").write_text("old", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "docs/rules.md is not current; run `python docs/generate.py`\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(generate.PAGES)
