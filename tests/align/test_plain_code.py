"""An alignment as plain torch: the same bits in a process that may not import symgraph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from models_zoo import case, pair_program
from safetensors.torch import load_file, save_file
from torch import Tensor

from symgraph.io.files import OutputError
from symgraph.match.match_options import MatchOptions
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.plain_code import plain_code, write_code

# Runs the code as a script, in an interpreter that has no symgraph.
ALONE = """
import runpy, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "symgraph":
            raise ImportError("no symgraph here")

sys.meta_path.insert(0, Nothing())
words = sys.argv[1:]
for i in range(0, len(words), 3):
    sys.argv = words[i : i + 3]
    runpy.run_path(sys.argv[0], run_name="__main__")
assert not any(n.partition(".")[0] == "symgraph" for n in sys.modules)
"""


def aligned(name: str, dtype: torch.dtype = torch.float32) -> tuple[Alignment, dict[str, Tensor]]:
    """An alignment of two random models, and the state that it was made for."""
    c = case(name)
    states = {n: {k: _in(t, dtype) for k, t in c.state(seed).items()} for n, seed in (("A", 1), ("B", 2))}
    run = pair_program(c.symmetry, MatchOptions(sweeps=1)).run(c.symmetry, states)
    return run.alignments["B.aligned"], states["B"]


def _in(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype) if t.is_floating_point() else t


def ran(jobs: list[tuple[Path, Mapping[str, Tensor]]], folder: Path) -> list[dict[str, Tensor]]:
    """What pieces of code make of checkpoints, all in one process."""
    words = []
    for i, (code, state) in enumerate(jobs):
        save_file({n: t.clone().contiguous() for n, t in state.items()}, folder / f"given-{i}.safetensors")
        words += [str(code), str(folder / f"given-{i}.safetensors"), str(folder / f"out-{i}.safetensors")]
    done = subprocess.run([sys.executable, "-c", ALONE, *words], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"out-{i}.safetensors") for i in range(len(jobs))]


def test_the_code_gives_the_bits_of_apply(tmp_path: Path) -> None:
    jobs: list[tuple[Path, Mapping[str, Tensor]]] = []
    expected = []
    for name in ("gpt2-untied", "vit", "llama", "mlp-relu"):
        alignment, state = aligned(name)
        code = write_code(alignment, state, tmp_path / f"{name}.py")
        kept = Alignment.load(tmp_path / f"{name}.safetensors", alignment.symmetry)
        # And what it does to another model of the architecture, whose own gains are taken.
        other = {n: _in(t, torch.bfloat16) for n, t in case(name).state(5).items()}
        jobs += [(code, state), (code, other)]
        expected += [kept.apply(state), kept.apply(other)]
    for found, wanted, (_, given) in zip(ran(jobs, tmp_path), expected, jobs, strict=True):
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in wanted.items())
        assert any(not torch.equal(found[n], t) for n, t in given.items())


def test_layers_that_are_alike_share_their_code() -> None:
    alignment, state = aligned("llama", torch.float64)
    text = plain_code(alignment, state)
    assert "# model.layers.{0..1}.mlp.down_proj.weight\ndef move_" in text
    # Of nine kinds of tensors of a layer and three others.
    assert text.count("\ndef move_") <= 12
    assert "symgraph" not in text.partition('"""\n\nimport')[2]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    alignment, state = aligned("mlp-relu")
    (tmp_path / "moved.safetensors").write_text("mine")
    with pytest.raises(OutputError, match=r"moved\.safetensors exists already"):
        write_code(alignment, state, tmp_path / "moved.py")
    assert [p.name for p in tmp_path.iterdir()] == ["moved.safetensors"]
    assert write_code(alignment, state, tmp_path / "moved.py", overwrite=True).exists()
