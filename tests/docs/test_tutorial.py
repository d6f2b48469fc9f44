"""Every block of the tutorial runs, in its order, and the text tells the numbers that come out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_the_tutorial_runs_and_says_what_it_finds(capsys: pytest.CaptureFixture[str]) -> None:
    held: dict[str, object] = {"__name__": "tutorial"}
    state = torch.random.get_rng_state()
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "tutorial.md", "exec"), held)
    torch.random.set_rng_state(state)
    printed = capsys.readouterr().out
    row = re.search(r"^residual +16 +orthogonal +120 ", printed, re.MULTILINE)
    assert row is not None and "`residual 16 orthogonal 120`" in PAGE
    assert "W -> A W B^T" in printed and "`W -> A W B^T`" in PAGE
    assert "without rule rms-norm the other evidence would admit invertible" in printed
    assert "answers by" in printed and "aligned, the matrix is off by" in printed
