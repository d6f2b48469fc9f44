"""Every public function shows how it is called, and what it shows is true."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch

import symgraph

FUNCTIONS = sorted(n for n in symgraph.__all__ if inspect.isfunction(getattr(symgraph, n)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_of_a_function_run(name: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = {"symgraph": symgraph, "torch": torch, "folder": tmp_path}
        (found,) = doctest.DocTestFinder(recurse=False).find(getattr(symgraph, name), name, globs=given)
        assert found.examples, f"{name} has no example in its docstring"
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found).failed == 0
