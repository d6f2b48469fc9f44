"""Tracing and audits say how far they are."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

import symgraph

NET = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
X = torch.ones(2, 4)


def steps(caplog: pytest.LogCaptureFixture, about: str) -> list[tuple[int, int]]:
    said: list[Any] = [r for r in caplog.records if r.getMessage().startswith(about) and hasattr(r, "done")]
    return [(r.done, r.total) for r in said]


def test_a_trace_counts_the_modules_that_were_called(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "symgraph"):
        symgraph.trace(NET, X)
    found = steps(caplog, "tracing: ")
    assert found and found == [(i, found[-1][1]) for i in range(1, len(found) + 1)]
    # The network, its three layers, and what torch.export wraps around them.
    assert found[-1][0] == found[-1][1] >= 4
    before = len(caplog.records)
    NET(X)
    assert len(caplog.records) == before


def test_an_audit_counts_the_rows_that_it_wants(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "symgraph"):
        assert symgraph.audit(NET, X).complete
    found = steps(caplog, "rows of the Jacobian: ")
    done = [d for d, _ in found]
    assert found[-1][0] == found[-1][1] and done == sorted(done) and len(done) > 3
    assert any("decomposing" in r.getMessage() for r in caplog.records)
