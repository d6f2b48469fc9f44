"""Starting up: what is imported when, and that the facade has all it says it has."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import symgraph
from symgraph import api
from symgraph.cli import main

_HEAVY = ("torch", "transformers", "datasets", "matplotlib", "sklearn", "scipy", "ot", "sympy", "networkx", "yaml")
_SOLVERS = ("transformers", "datasets", "matplotlib", "sklearn", "scipy.optimize", "scipy.sparse", "ot", "networkx")


def _imported(code: str, names: tuple[str, ...]) -> str:
    """Which of the names a new process has imported after running the code."""
    shown = f"import sys\n{code}\nprint(*(n for n in {names!r} if n in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return done.stderr.strip()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["align", "--help"], ["barrier", "--help"], []])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    assert _imported(f"from symgraph.cli import main\nassert main({words!r}) == 0", _HEAVY) == ""


def test_a_command_leaves_garbage_collection_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_threshold()
    assert main(["explain", "residual", "-q"]) in (0, 2)
    capsys.readouterr()
    assert gc.get_threshold() == before


_FAULTS = """
import os, resource, sys
from symgraph.cli import main
with open(os.devnull, "w") as sys.stdout:
    assert main(["explain", "residual", "-q"]) in (0, 2)
import torch
from symgraph.io.heap import give_back_blocks
give_back_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, file=sys.stderr)
"""


def test_large_tensors_are_made_in_large_pages() -> None:
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not pages.exists() or "[never]" in pages.read_text():
        pytest.skip("the system has no large pages")
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    # Of 4 KiB each there are 81,920 pages.
    assert int(done.stderr.split()[-1]) < 20_000


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _imported("import symgraph\nassert 'align' in dir(symgraph)", _HEAVY) == ""


def test_solvers_pictures_and_data_sets_are_imported_where_they_are_used() -> None:
    assert _imported("import symgraph\nsymgraph.infer", _SOLVERS) == ""


def test_the_facade_is_the_api() -> None:
    for name in set(symgraph.__all__) - {"__version__"}:
        assert getattr(symgraph, name) is getattr(api, name), name
    assert set(symgraph.__all__) - {"__version__"} <= set(api.__all__)
    folder = getattr(symgraph, "orbit")  # noqa: B009
    assert folder.alignment.Alignment is symgraph.Alignment


def test_what_is_not_there_is_an_attribute_error() -> None:
    for name in ("nothing", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(symgraph, name)
