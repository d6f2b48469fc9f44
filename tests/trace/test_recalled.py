"""Traces found by the text of a config: nothing of the model is imported for them, and none of them is out of date."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import symgraph
from symgraph.cli import main
from symgraph.cli.inputs import beginning
from symgraph.io.models import config_alone
from symgraph.tracing.recalled import Recalled

SIZES: dict[str, Any] = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "architectures": ["GPT2LMHeadModel"]}


def later() -> float:
    """A time after all that this process has loaded was written."""
    return time.time() + 10


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, a cache beside it, and a module that is loaded."""
    monkeypatch.setenv("SYMGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "some_code.py").write_text("x = 1\n")
    monkeypatch.delitem(sys.modules, "some_code", raising=False)
    monkeypatch.setitem(sys.modules, "some_code", import_module("some_code"))
    path = tmp_path / "config.json"
    path.write_text(transformers.GPT2Config(**SIZES).to_json_string())
    return path


def note(config: Path, since: float | None = None) -> symgraph.Graph:
    """Traces a model, and notes where that is kept."""
    recalled = Recalled(config, later() if since is None else since)
    model = symgraph.model(config)
    graph = symgraph.trace(model)
    recalled.note(model.module, graph)
    return graph


def test_what_is_noted_is_the_trace(config: Path) -> None:
    assert Recalled(config, later()).graph() is None
    graph = note(config)
    found = Recalled(config, later()).graph()
    assert found == graph
    assert str(symgraph.infer(found)) == str(symgraph.infer(graph))


def test_what_buffers_hold_comes_back(config: Path) -> None:
    model = symgraph.model(config)
    held = {
        "mask": torch.ones(2, 3, dtype=torch.bool).tril(),
        "places": torch.arange(4)[None],
        "rounded": torch.randn(3, 2).bfloat16().T,
        "scale": torch.tensor(0.1, dtype=torch.float64),
        "nothing": torch.empty(0, 2),
    }
    Recalled(config, later()).note(model.module, replace(symgraph.trace(model), known=held))
    found = Recalled(config, later()).graph()
    assert found is not None
    assert list(found.known) == list(held)
    for name, tensor in held.items():
        torch.testing.assert_close(found.known[name], tensor, rtol=0, atol=0)


def _edit(config: Path, _: Any) -> None:
    code = config.parent / "code" / "some_code.py"
    before = code.stat()
    # As long as before, and as old.
    code.write_text("x = 2\n")
    os.utime(code, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "the config": lambda config, _: config.write_text(config.read_text().replace('"n_layer": 2', '"n_layer": 3')),
    "code": _edit,
    "code that is gone": lambda config, _: (config.parent / "code" / "some_code.py").unlink(),
    "a package": lambda config, _: (config.parent / "code" / "kernels-1.0.dist-info").mkdir(),
    "a place of code": lambda config, patch: patch.syspath_prepend(config.parent),
    "a setting": lambda _, patch: patch.setenv("TRANSFORMERS_SETTING", "1"),
    "the trace": lambda config, _: shutil.rmtree(config.parent / "cache" / "traces"),
    "the note": lambda config, _: [
        path.write_bytes(path.read_bytes()[:-9]) for path in (config.parent / "cache" / "configs").iterdir()
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_recalled_after_a_change(change: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(config)
    assert Recalled(config, later()).graph() is not None
    CHANGES[change](config, monkeypatch)
    assert Recalled(config, later()).graph() is None


def test_another_precision_is_another_model(config: Path) -> None:
    note(config)
    torch.set_default_dtype(torch.float64)
    try:
        assert Recalled(config, later()).graph() is None
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_is_noted_of_what_may_have_changed_meanwhile(config: Path) -> None:
    note(config, time.time())
    assert Recalled(config, later()).graph() is None


def test_nothing_is_noted_of_another_config_than_was_read(config: Path) -> None:
    recalled = Recalled(config, later())
    text = config.read_text()
    config.write_text(text.replace('"n_layer": 2', '"n_layer": 3'))
    model = symgraph.model(config)
    recalled.note(model.module, symgraph.trace(model))
    config.write_text(text)
    assert Recalled(config, later()).graph() is None


def test_nothing_is_noted_of_changed_classes(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.models.gpt2.modeling_gpt2.GPT2MLP, "forward", lambda self, x: x)
    note(config)
    assert Recalled(config, later()).graph() is None


def test_a_process_that_has_imported_classes_looks_at_them(config: Path) -> None:
    assert beginning() is None
    assert main(["inspect", str(config), "-q"]) == 0
    assert {path.name for path in (config.parent / "cache").iterdir()} == {"traces", "symmetries"}


def test_what_a_config_alone_decides(config: Path) -> None:
    folder = config.parent
    assert config_alone(str(folder)) == config_alone(str(config)) == config
    assert config_alone(str(folder / "nothing")) is config_alone("owner/name") is None
    assert config_alone(str(folder / "code" / "some_code.py")) is None
    config.write_text('{"configuration_files": ["config.4.0.0.json"]}')
    assert config_alone(str(folder)) is None


# -- whole processes -------------------------------------------------------------------------------------------------


def _shadow(place: Path, *parts: str) -> Path:
    """A package like the installed one, of which the file at the end of this path may be edited."""
    (spec,) = find_spec(parts[0]).submodule_search_locations  # type: ignore[union-attr, misc]
    real, made = Path(spec), place / parts[0]
    for part in parts[1:]:
        made.mkdir(parents=True)
        for entry in real.iterdir():
            if entry.name not in (part, "__pycache__"):
                (made / entry.name).symlink_to(entry)
        real, made = real / part, made / part
    shutil.copy(real, made)
    return made


_RUN = "import sys; from symgraph.cli import main; main(sys.argv[1:]); print('transformers' in sys.modules)"


def _inspected(config: Path, code: Path) -> tuple[str, bool]:
    """What a process of its own prints, and whether it has imported transformers."""
    path = os.pathsep.join((str(code), *filter(None, sys.path)))
    environment = os.environ | {"PYTHONPATH": path, "SYMGRAPH_CACHE": str(config.parent / "cache")}
    command = [sys.executable, "-P", "-c", _RUN, "inspect", str(config), "-q"]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    *lines, imported = found.stdout.splitlines()
    return "\n".join(lines), imported == "True"


@pytest.mark.slow
def test_a_class_is_edited_between_processes(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(transformers.GPT2Config(**SIZES).to_json_string())
    code = tmp_path / "code"
    source = _shadow(code, "transformers", "models", "gpt2", "modeling_gpt2.py")
    # Clocks of file systems are coarse: what was written just now may not be what is loaded.
    time.sleep(2.5)
    first, imported = _inspected(config, code)
    assert imported
    assert _inspected(config, code) == (first, False)
    text = source.read_text()
    call = "hidden_states = self.act(hidden_states)"
    assert call in text
    source.write_text(text.replace(call, "pass"))
    second, imported = _inspected(config, code)
    assert imported
    assert second != first
    assert "invertible" in second
