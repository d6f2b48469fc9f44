"""Traces of the user's own modules are found again only where all of the code that they reach is the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import symgraph
from symgraph.tracing.fingerprint import fingerprint

CODE = """
import math
import os
import random
import time
from functools import partial

import numpy
import torch
from torch import nn
from torch.nn import functional as F

SLOPE, TABLE, clock, SHARED = 0.1, {"power": 2}, time.time, nn.Linear(3, 3)


def outer(x):
    return inner(x) * TABLE["power"]


def inner(x):
    return torch.relu(x) + SLOPE


def times(number):
    def scaled(x):
        return x * number

    return scaled


class Base(nn.Module):
    ready = 1

    def before(self, x):
        return x


class Net(Base):
    def __init__(self):
        super().__init__()
        self.linear, self.seed = nn.Linear(3, 3), random.random()
        self.seed, self.act, self.size = 0, F.gelu, (3, [4])

    def forward(self, x, flag=True):
        return outer(self.act(self.linear(self.before(x)))) @ self.linear.weight * math.pi
"""
# What is changed in the code, and into what.
SEEN = {
    "a number": ("SLOPE, TABLE, clock, SHARED = 0.1", "SLOPE, TABLE, clock, SHARED = 0.2"),
    "a table": ('{"power": 2}', '{"power": 3}'),
    "a function that a function calls": ("torch.relu(x) +", "torch.tanh(x) +"),
    "a base class": ("        return x\n", "        return x + 1\n"),
    "an attribute of a class": ("ready = 1", "ready = 2"),
    "a default": ("flag=True", "flag=False"),
    "a setting": ("(3, [4])", "(3, [5])"),
    "a function that it holds": ("F.gelu", "F.silu"),
    "what a function closes over": ("F.gelu", "times(2.0)"),
}
UNKNOWN = {
    "a file": ("outer(self.act", "outer(float(open('x').read()) * self.act"),
    "the environment": ("outer(self.act", "outer(len(os.environ) * self.act"),
    "the time": ("outer(self.act", "outer(time.time() * self.act"),
    "the time under another name": ("outer(self.act", "outer(clock() * self.act"),
    "chance": ("outer(self.act", "outer(random.random() * self.act"),
    "another library": ("outer(self.act", "outer(numpy.pi * self.act"),
    "an import inside": ("        return outer", "        import json\n        return outer"),
    "an added operator": ("torch.relu(x) +", "torch.ops.mine.relu(x) +"),
    "a module beside": ("outer(self.act", "outer(SHARED(x) + self.act"),
    "a part of a function": ("F.gelu", "partial(F.gelu, approximate='tanh')"),
    "a method that it holds": ("F.gelu", "self.before"),
    "an instance": ("F.gelu", "type('Own', (), {'__call__': lambda self, x: x})()"),
}


def load(folder: Path, code: str) -> ModuleType:
    path = folder / "own_nets.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("own_nets", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    exec(compile(code, str(path), "exec"), found.__dict__)
    return found


def key(folder: Path, before: str = "", after: str = "", example: Any = None) -> str | None:
    code = CODE.replace(before, after) if before else CODE
    assert not before or code != CODE
    return fingerprint(load(folder, code).Net(), "Net", (torch.randn(2, 3) if example is None else example,))


def test_the_same_code_with_other_weights_has_the_same_key(tmp_path: Path) -> None:
    assert key(tmp_path) == key(tmp_path) is not None


@pytest.mark.parametrize("change", SEEN)
def test_a_change_is_seen(change: str, tmp_path: Path) -> None:
    assert key(tmp_path, *SEEN[change]) not in (None, key(tmp_path))


@pytest.mark.parametrize("change", UNKNOWN)
def test_what_cannot_be_known_has_no_key(change: str, tmp_path: Path) -> None:
    assert key(tmp_path, *UNKNOWN[change]) is None


def test_inputs_count_by_their_shapes(tmp_path: Path) -> None:
    assert key(tmp_path, example=torch.zeros(2, 3)) == key(tmp_path)
    assert key(tmp_path, example=torch.zeros(4, 3)) != key(tmp_path)
    assert key(tmp_path, example=torch.zeros(2, 3).double()) != key(tmp_path)


def test_a_global_that_is_set_again_and_a_function_that_is_replaced(tmp_path: Path) -> None:
    module = load(tmp_path, CODE)
    net, example = module.Net(), (torch.randn(2, 3),)
    before = fingerprint(net, "Net", example)
    module.__dict__["SLOPE"] = 0.3
    assert fingerprint(net, "Net", example) not in (before, None)
    module.__dict__["SLOPE"] = 0.1
    assert fingerprint(net, "Net", example) == before
    net.forward = lambda x: x
    assert fingerprint(net, "Net", example) != before
    del net.forward
    net.linear.register_forward_hook(lambda *_: None)
    assert fingerprint(net, "Net", example) is None


def test_the_second_trace_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAPH_CACHE", str(tmp_path / "cache"))
    nets, x = load(tmp_path, CODE), torch.randn(2, 3)
    first, traced = symgraph.trace(nets.Net(), x), list[Any]()
    monkeypatch.setattr("symgraph.tracing.export._traced", lambda *given, **more: traced.append(given))
    assert symgraph.trace(nets.Net(), x) == first
    assert not traced


def test_networks_of_layers_of_torch_and_other_things(tmp_path: Path) -> None:
    def net(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), *layers)

    x = (torch.randn(1, 3),)
    assert fingerprint(net(nn.ReLU()), "", x) == fingerprint(net(nn.ReLU()), "", x) is not None
    assert fingerprint(net(nn.ReLU()), "", x) != fingerprint(net(nn.Tanh()), "", x)
    assert fingerprint(torch.fx.symbolic_trace(net(nn.ReLU())), "", x) is None
    parametrised = torch.nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    plain = fingerprint(nn.Linear(3, 3), "", x)
    assert fingerprint(parametrised, "", x) != plain
