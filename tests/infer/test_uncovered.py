"""What is said about operators without a rule: one paragraph for each cause, with something to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import CoverageError
from symgraph.inference.pipeline import infer
from symgraph.symmetry.coverage import NOTHING, gaps, measuring, remedy, report
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
    assert lines[2] == f"  to do: {measuring('aten.lgamma.default')}"
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
        ("aten.foo.default", "symgraph rules new"),
    ],
)
def test_kernels_have_plain_operators_in_their_place(operator: str, word: str) -> None:
    assert word in remedy(Uncovered(operator, "mlp (foo, net.py:1)", ()))


def test_strict_says_what_to_do_at_every_place() -> None:
    with pytest.raises(CoverageError) as caught:
        infer(trace(Layer(), (torch.zeros(2, 4),)), strict=True)
    text = str(caught.value)
    assert "aten.lgamma.default at (top level)" in text and f"to do: {measuring('aten.lgamma.default')}" in text
    assert text.endswith(f"help: {measuring('aten.lgamma.default')}")


class Two(nn.Module):
    """Two operators without a rule: one between two large maps, one between small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.back, self.small, self.out = (nn.Linear(*n) for n in ((4, 30), (30, 3), (3, 2), (2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.special.bessel_j0(self.small(self.back(torch.lgamma(self.large(x))))))
        return result


def test_what_freezes_most_comes_first() -> None:
    large, small = gaps(infer(trace(Two(), (torch.zeros(2, 4),))))
    assert (large.operator, small.operator) == ("aten.lgamma.default", "aten.special_bessel_j0.default")
    assert (large.frozen, small.frozen) == (4 * 30 + 30 + 30 * 3, 3 * 2 + 2 + 2 * 3)
    assert (large.calls, large.todo) == (1, measuring("aten.lgamma.default"))


def test_what_other_evidence_holds_is_not_counted() -> None:
    (gap,) = gaps(infer(trace(Counted(), (torch.zeros(2, 4),))))
    assert (gap.frozen, gap.todo) == (0, NOTHING)


def test_a_covered_model_has_no_gaps() -> None:
    assert gaps(infer(trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (torch.zeros(2, 4),)))) == ()
