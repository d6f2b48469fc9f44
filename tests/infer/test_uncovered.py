"""What is said about operators without a rule: one paragraph for each cause, with something to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import CoverageError
from symgraph.inference.pipeline import infer
from symgraph.symmetry.coverage import NOTHING, WRITE, remedy, report
from symgraph.symmetry.structure import Uncovered
from symgraph.tracing import trace


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.write(torch.lgamma(self.read(x)))
        return result


class Counted(nn.Module):
    """What a histogram counts here is the order of its inputs, which is rigid whatever the histogram does."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.histc(self.read(x).argsort(-1).float()[0], 3)


def test_repeated_layers_are_one_cause() -> None:
    missing = infer(trace(nn.Sequential(Layer(), Layer()), (torch.zeros(2, 4),))).uncovered
    lines = list(report(missing))
    assert lines[0] == "no rule covers aten.lgamma.default; the axes it touches are rigid at"
    assert lines[1].startswith("    {0..1} (aten.lgamma, test_uncovered.py:")
    assert lines[1].endswith("operands float32[2, 6]")
    assert lines[2] == f"  to do: {WRITE}"
    assert sum("no rule covers" in line for line in lines) == 1


def test_what_reads_positions_alone_needs_nothing() -> None:
    (found,) = infer(trace(Counted(), (torch.zeros(2, 4),))).uncovered
    assert found.operator == "aten.histc.default" and found.idle
    assert list(report((found,)))[-1] == f"  to do: {NOTHING}"


@pytest.mark.parametrize(
    ("operator", "word"),
    [
        ("transformers.grouped_mm_fallback.default", "experts_implementation"),
        ("flash_attn._flash_attn_forward.default", "attn_implementation"),
        ("aten.foo.default", "your rules"),
    ],
)
def test_kernels_have_plain_operators_in_their_place(operator: str, word: str) -> None:
    assert word in remedy(Uncovered(operator, "mlp (foo, net.py:1)", ()))


def test_strict_says_what_to_do_at_every_place() -> None:
    with pytest.raises(CoverageError) as caught:
        infer(trace(Layer(), (torch.zeros(2, 4),)), strict=True)
    text = str(caught.value)
    assert "aten.lgamma.default at (top level)" in text and f"to do: {WRITE}" in text and "- rule: lgamma" in text
