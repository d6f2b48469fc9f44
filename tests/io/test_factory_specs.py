"""`package.module:factory`: what counts as one, where it is looked for, and what its failures say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import refused

from symgraph.errors import CheckpointError, DataError
from symgraph.io import models
from symgraph.io.factories import call_factory, import_factory, is_factory

MADE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 3)

    @classmethod
    def build(cls):
        return cls()


def late():
    import made_later
    return made_later.value


def pair():
    return Net(), (torch.zeros(1, 2),)


def attribute():
    net = Net()
    net.example_inputs = torch.zeros(1, 2)
    return net


def half():
    return Net().half()


def broken():
    net = Net()
    net.line.weight.data[0, 1] = float("nan")
    return net


def whole():
    net = Net()
    net.line.weight = nn.Parameter(net.line.weight.to(torch.int8), requires_grad=False)
    return net


def nothing():
    return None


def leaves():
    raise SystemExit(0)


def fails():
    raise LookupError("no such\\nweights")


def needs(argument):
    return argument


number = 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "made_nets.py").write_text(MADE)
    (tmp_path / "made_later.py").write_text("value = 5\n")
    (tmp_path / "made_script.py").write_text("import sys\nsys.exit()\n")
    (tmp_path / "made_wrong.py").write_text("def f(:\n")
    (tmp_path / "made_mover.py").write_text("import os, sys\nsys.path.remove(os.getcwd())\nf = dict\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    assert sys.path == before
    for name in [n for n in sys.modules if n.startswith("made_")]:
        del sys.modules[name]


# -- the form --------------------------------------------------------------------------------------------------------

WORDS = st.text("abXY_7\u00e9\u5909", min_size=1, max_size=6).filter(str.isidentifier)
DOTTED = st.lists(WORDS, min_size=1, max_size=3).map(".".join)


@given(DOTTED, DOTTED)
def test_names_of_modules_and_of_what_is_in_them_make_a_factory(module: str, attribute: str) -> None:
    assert is_factory(f"{module}:{attribute}")
    for other in (f"{module}", f"{module}:", f":{attribute}", f"{module}.:{attribute}", f"{module}:.{attribute}"):
        assert not is_factory(other)
    for other in (f"{module}::{attribute}", f" {module}:{attribute}", f"{module}:{attribute}\n", f"{module}/{module}"):
        assert not is_factory(other)


@given(st.text(max_size=12))
def test_whatever_counts_as_one_has_two_parts_that_python_could_import(spec: str) -> None:
    module, _, attribute = spec.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    assert is_factory(spec) == all(part.isidentifier() for part in parts)


# -- importing and calling -------------------------------------------------------------------------------------------


def test_the_working_folder_is_a_place_to_import_from() -> None:
    assert import_factory("made_nets:late").__name__ == "late"
    assert type(call_factory("made_nets:Net.build")).__name__ == "Net"


def test_also_while_the_factory_runs() -> None:
    assert call_factory("made_nets:late") == 5


def test_a_module_may_change_where_imports_come_from(tmp_path: Path) -> None:
    assert call_factory("made_mover:f") == {}


@pytest.mark.parametrize(
    ("spec", "what", "cause"),
    [
        ("made_gone:f", "cannot be imported", "ModuleNotFoundError: No module named 'made_gone'"),
        ("made_nets:gone", "cannot be imported", "AttributeError"),
        ("made_nets:Net.gone", "cannot be imported", "AttributeError"),
        ("made_wrong:f", "cannot be imported", "SyntaxError"),
        ("made_script:f", "cannot be imported", "SystemExit"),
        ("made_nets:number", "is no function", "it is a int"),
        ("made_nets:fails", "the factory failed", "LookupError: no such weights"),
        ("made_nets:leaves", "the factory failed", "SystemExit"),
        ("made_nets:needs", "the factory failed", "TypeError"),
    ],
)
@pytest.mark.parametrize("kind", [CheckpointError, DataError])
def test_failures_say_what_and_why(spec: str, what: str, cause: str, kind: Any) -> None:
    with refused(kind, f"{spec}", what, cause):
        call_factory(spec, kind)


# -- models from factories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pair", "attribute"])
def test_a_module_and_its_inputs(name: str) -> None:
    found = models.load(f"made_nets:{name}")
    assert found.kind == "factory" and found.files == () and found.config is None and not found.module.training
    assert isinstance(found.example, tuple) and torch.equal(found.example[0], torch.zeros(1, 2))


def test_a_module_without_weights_or_in_another_dtype() -> None:
    assert not models.load("made_nets:pair", weights=False).has_weights
    assert {p.dtype for p in models.load("made_nets:half").module.parameters()} == {torch.float16}
    assert {p.dtype for p in models.load("made_nets:half", dtype=torch.float64).module.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("nothing", ("gave no module", "it gave a NoneType")),
        ("broken", ("not finite", "line.weight: 1 of 6 values")),
        ("whole", ("quantised", "line.weight")),
    ],
)
def test_what_is_no_model(name: str, texts: tuple[str, ...]) -> None:
    with refused(CheckpointError, f"made_nets:{name}", *texts):
        models.load(f"made_nets:{name}")


def test_a_path_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "made_nets:pair").mkdir()
    with refused(CheckpointError, "made_nets:pair", "is not a checkpoint"):
        models.load("made_nets:pair")
