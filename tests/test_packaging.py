"""A built wheel carries all that the package reads at run time."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import symgraph

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree, built as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"symgraph-{symgraph.__version__}.dist-info/{name}").decode()


def test_the_rule_files_and_their_schema_are_inside(wheel: Path) -> None:
    rules = {path.relative_to(ROOT / "rules").as_posix() for path in (ROOT / "rules").rglob("*.yaml")}
    assert rules
    assert {f"symgraph/_rules/{rule}" for rule in rules | {"schema.json"}} <= names(wheel)


def test_every_module_and_the_type_marker_are_inside(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "symgraph").rglob("*.py")}
    assert modules | {"symgraph/py.typed"} <= names(wheel)


def test_the_files_of_pages_and_the_glossary_are_inside(wheel: Path) -> None:
    files = [path for path in (ROOT / "symgraph" / "io" / "assets").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    assert {"symgraph/io/assets/vendor/cytoscape.LICENSE", "symgraph/io/assets/page.html"} <= wanted
    assert wanted | {"symgraph/symmetry/glossary.yaml"} <= names(wheel)


def test_nothing_else_is_installed(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert tops == {"symgraph", f"symgraph-{symgraph.__version__}.dist-info"}
    assert not any(name.endswith((".pyc", ".whl")) for name in names(wheel))


def test_the_command_and_the_licence_are_declared(wheel: Path) -> None:
    assert "symgraph = symgraph.cli:main" in metadata(wheel, "entry_points.txt")
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_the_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert {requirement.split(">=")[0].lower() for requirement in wanted} <= pinned
    assert not [line for line in lines if "/" in line or "+" in line]
