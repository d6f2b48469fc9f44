"""The plan of the house: imports go one way, as pyproject.toml declares, and everything has its place."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "symgraph"
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
SOURCES = {p: p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__")
# Not a place of its own: the package itself, what Python leaves behind, and a marker that tools want there.
NO_ENTRY = {"__init__.py", "__pycache__", "py.typed"}
MAX_ENTRIES, MAX_CONTRACT, MAX_LINES = 16, 20, 450


def test_every_module_imports_only_from_the_layers_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    # It would silence every logger that is there already, also for the tests that come after.
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_contract_is_short_and_the_root_is_tidy() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert contract["exhaustive"]
    assert len(contract["layers"]) <= MAX_CONTRACT
    entries = {p.name for p in PACKAGE.iterdir()} - NO_ENTRY
    assert len(entries) <= MAX_ENTRIES, sorted(entries)


def test_folders_hold_modules_alone() -> None:
    assert not [p for folder in FOLDERS for p in (PACKAGE / folder).glob("*/*.py")]


def test_no_file_is_long() -> None:
    long = {str(p): n for p, text in SOURCES.items() if (n := text.count("\n")) > MAX_LINES}
    assert not long


def test_no_two_modules_have_one_name() -> None:
    names = Counter(p.stem for p in SOURCES if p.stem != "__init__")
    assert not [name for name, n in names.items() if n > 1]
    assert not names.keys() & set(FOLDERS)


# -- cycles --------------------------------------------------------------------------------------------------------


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = frozenset(map(_name, SOURCES))


def _imported(text: str) -> Iterator[str]:
    """Modules of the package that a source imports, also in functions and for type checking alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a module stands"
            whole = {f"{node.module}.{a.name}" for a in node.names} & MODULES
            yield from whole or {str(node.module)} & MODULES


def test_no_modules_import_each_other() -> None:
    graph = networkx.DiGraph()
    graph.add_edges_from((_name(p), other) for p, text in SOURCES.items() for other in _imported(text))
    knots = [sorted(found) for found in networkx.strongly_connected_components(graph) if len(found) > 1]
    assert not knots


def test_typing_only_and_deferred_imports_count() -> None:
    text = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from symgraph.ir import Graph
def f():
    from symgraph import errors
    import symgraph.symmetry.terms
"""
    assert set(_imported(text)) == {"symgraph.ir", "symgraph.errors", "symgraph.symmetry.terms"}


# -- the description -----------------------------------------------------------------------------------------------


def _sections() -> set[str]:
    return set(re.findall(r"^## (\d+)\. ", DESIGN, re.MULTILINE))


def test_every_folder_and_every_module_has_its_words() -> None:
    section = re.split(r"^## ", DESIGN, flags=re.MULTILINE)[2]
    assert section.startswith("2. ")
    named = set(re.findall(r"`(\w+)`", section))
    assert not set(FOLDERS) - named
    modules = {p.stem for p in SOURCES if p.stem != "__init__"}
    assert sorted(modules - named) == [], "modules to be named in section 2 of docs/design.md"
    assert sorted(named - modules - set(FOLDERS)) == [], "named in section 2 of docs/design.md, and not there"


def test_modules_that_are_named_are_there() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})\.\w+)", DESIGN))
    modules = {name.removeprefix("symgraph.") for name in MODULES}
    assert sorted(named - modules) == []


def test_every_section_that_code_cites_exists() -> None:
    cited = {n for text in SOURCES.values() for n in re.findall(r"design section (\d+)", " ".join(text.split()))}
    assert cited
    assert cited <= _sections()
