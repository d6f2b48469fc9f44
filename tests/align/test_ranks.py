"""Processes that share a match: the element of one, one voice, and what is left where one of them ends."""

from __future__ import annotations

import textwrap
from math import prod
from pathlib import Path
from typing import Any

import pytest
import ranked
import torch
from models_zoo import case
from ranked import RUNS, Ended, started
from safetensors.torch import load_file
from torch import Tensor

from symgraph.cli import main as command_line
from symgraph.io.ranks import ALONE, current, joined, release
from symgraph.orbit.owned import owners

# A stream that norms, and permutations beside it; `SCENE` says what befalls the second process.
NETS = """
import logging, os
import torch
from torch import nn

SECOND = os.environ.get("RANK") == "1"
SCENE = os.environ.get("SCENE", "")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.blocks, self.norm = nn.Linear(4, 8), nn.Sequential(Block(), Block()), nn.RMSNorm(8)
        self.head = nn.Linear(8, 3)
        self.example_inputs = (torch.randn(2, 4),)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x))))


class Ends(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("sweep 1"):
            os._exit(9)


def a():
    if SECOND and SCENE == "raises":
        raise ValueError("no such thing")
    if SECOND and SCENE == "ends":
        logging.getLogger("symgraph").setLevel(logging.DEBUG)
        logging.getLogger("symgraph").addHandler(Ends())
    return Net(5 if SECOND and SCENE == "other" else 0)


def b():
    return Net(1)
"""
ALIGN = ("align", "ranked_nets:a", "ranked_nets:b", "--sweeps", "4", "--tolerance", "0")


@pytest.fixture(autouse=True)
def _nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranked_nets.py").write_text(textwrap.dedent(NETS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def together(*words: str, scene: str = "") -> list[Ended]:
    """The command line in two processes."""
    return started(["-m", "symgraph", *ALIGN, *words], SCENE=scene)


def alignment(file: str) -> dict[str, Tensor]:
    return {n: t.double() for n, t in load_file(file).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    ended = started([ranked.__file__, tmp_path / "found"])
    assert [e.code for e in ended] == [0, 0], ended[0].err + ended[1].err
    for name, run in RUNS.items():
        found: dict[str, Any] = torch.load(tmp_path / f"{name}.pt")
        assert found.pop("count") == 2
        same(run(), found)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("raises", "ranked_nets:a: the factory failed"),
        pytest.param("other", "A has other weights here than in the first process", marks=pytest.mark.slow),
    ],
)
def test_what_a_process_raises_the_first_one_says(scene: str, said: str, tmp_path: Path) -> None:
    first, second = together("--out", "out", scene=scene)
    assert first.err.count("error[") == 1 and f"error[checkpoint]: process 1: {said}" in first.err
    assert first.code == second.code == 7
    assert second.out == second.err == "" and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_speaks_and_writes_for_all_and_goes_on_where_another_has_died(tmp_path: Path) -> None:
    first, second = together("--out", "out", "--checkpoint", "run.pt", scene="ends")
    assert second.code == 9 and first.code == 1
    assert first.err.count("error[processes]: process 1 of 0 to 1 has ended before the run was done") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"ranked_nets.py", "__pycache__", "run.pt"}
    ended = together("--out", "out", "--alignment", "on.safetensors", "--checkpoint", "run.pt", "--resume")
    assert [e.code for e in ended] == [0, 0], ended[0].err
    assert "wrote B aligned to out" in ended[0].out
    assert ended[1].out == ended[1].err == ""
    assert command_line([*ALIGN, "--out", "alone", "--alignment", "alone.safetensors", "-q"]) == 0
    same(alignment("alone.safetensors"), alignment("on.safetensors"))


@pytest.mark.slow
def test_data_is_read_in_one_process() -> None:
    first, second = together("--out", "out", "--method", "activations", "--train-data", "none")
    assert first.code == 2 and "several processes share a match by weights alone" in first.err
    assert second.err == ""


@pytest.mark.parametrize("name", ["gpt2-untied", "resnet", "llama"])
def test_layers_stay_together_and_none_has_most(name: str) -> None:
    symmetry = case(name).symmetry
    homes = owners(symmetry, 2)
    sizes = [sum(prod(symmetry.graph.state[n].shape) for n, home in homes.items() if home == rank) for rank in (0, 1)]
    assert homes.keys() == symmetry.terms.keys() and max(sizes) <= 0.75 * sum(sizes)
    inner = [s for s in symmetry.active if len({homes[n] for n in symmetry.parameters_of[s.id]}) == 1]
    assert len(inner) > len(symmetry.active) / 2
    assert set(owners(symmetry, 1).values()) == {0}
    whole = symmetry.active[0].id
    assert len({owners(symmetry, 2, {whole})[n] for n in symmetry.parameters_of[whole]}) == 1


def test_a_group_of_one_sends_nothing() -> None:
    table = {"key": torch.ones(2, 2)}
    with joined() as ranks:
        assert ranks is ALONE is current()
        assert ranks.gathered(3) == [3] and ranks.total(0.5) == 0.5
        assert ranks.each("ab", [0, 0], str.upper) == ["A", "B"]
        assert ranks.summed(0, table) is table and ranks.sent(0, lambda: table) is table
        release()
        assert current() is ALONE
