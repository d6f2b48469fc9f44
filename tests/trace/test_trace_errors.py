"""What stops a trace is one typed error that leads with the user's module and line."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import TraceError
from symgraph.tracing import trace, trace_config


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line
            return x
        return -x


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.gates = nn.ModuleList([Gate()])

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.gates[0](self.lin(x))
        return gated


def line_of(cls: type, text: str) -> int:
    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, line in enumerate(lines) if text in line)


def test_control_flow_on_data_names_the_module_and_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceError) as caught:
        trace(Gated(), (torch.randn(2, 3),))
    assert caught.value.what.startswith(f"gates.0 (forward, test_trace_errors.py:{line_of(Gate, 'the line')})")
    assert "depends on the values of a tensor" in caught.value.cause
    assert "torch.where" in caught.value.remedy
    assert capsys.readouterr() == ("", "")


class WrongShape(nn.Module):
    def forward(this, x: Tensor) -> Tensor:
        return x.view(5, 5)  # the line


def test_an_error_of_the_model_itself() -> None:
    with pytest.raises(TraceError) as caught:
        trace(WrongShape(), (torch.randn(2, 3),))
    assert f"test_trace_errors.py:{line_of(WrongShape, 'the line')}" in caught.value.what
    assert "shape '[5, 5]' is invalid" in caught.value.cause


class Ragged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0] * 2


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))
        return found


@pytest.mark.parametrize(("model", "cause"), [(Ragged(), "shape of its result"), (Conditional(), "`cond`")])
def test_graphs_that_are_no_straight_line(model: nn.Module, cause: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace(model, (torch.randn(2, 3),))
    assert cause in caught.value.cause
    assert "test_trace_errors.py:" in caught.value.what


class Checked(nn.Module):
    """Looks at a value only to refuse a bad one."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        torch._check(lengths.max().item() <= x.shape[1])  # type: ignore[no-untyped-call]
        return x.cumsum(1)


class Repeated(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x * (lengths.max().item() + 1)  # the line


def test_a_number_that_only_a_check_reads_stops_nothing() -> None:
    graph = trace(Checked(), (torch.randn(2, 3), torch.tensor([2, 3])))
    assert [n.target for n in graph.calls] == ["aten.cumsum.default"]


def test_a_number_that_a_tensor_is_made_of_is_named() -> None:
    with pytest.raises(TraceError, match="`add`, which is no tensor operator") as caught:
        trace(Repeated(), (torch.randn(2, 3), torch.tensor([2, 3])))
    assert f"test_trace_errors.py:{line_of(Repeated, 'the line')}" in caught.value.what


def test_missing_inputs() -> None:
    with pytest.raises(TraceError, match="missing a required argument"):
        trace(Gated())


def test_a_model_stays_usable_after_an_error() -> None:
    model = Gated()
    with pytest.raises(TraceError):
        trace(model, (torch.randn(2, 3),))
    assert model.training
    assert model(torch.randn(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("architectures", [None, ["NoSuchModel"]])
def test_a_config_that_names_no_model(architectures: list[str] | None) -> None:
    from transformers import BertConfig

    with pytest.raises(TraceError, match="no class of model") as caught:
        trace_config(BertConfig(architectures=architectures))
    assert "model_class=" in caught.value.remedy


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x) @ nn.Parameter(torch.randn(4, 4))
        return found


def test_a_parameter_that_forward_makes_at_random_is_an_error() -> None:
    with pytest.raises(TraceError) as error:
        trace(Drawing(), (torch.zeros(2, 4),))
    assert "draws random numbers in eval mode" in str(error.value) and "aten.randn" in str(error.value)
    assert "give them as an input" in str(error.value)


def test_what_would_draw_in_training_only_is_no_error() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.3, batch_first=True).eval()
    assert trace(layer, (torch.zeros(2, 3, 4),)).outputs
