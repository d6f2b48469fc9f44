"""Rotations for quantisers: the function stays, outliers are spread, and a descent loses less still."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import build, network
from torch import nn

import symgraph
from symgraph.errors import DataError, UsageError
from symgraph.io.data import NoData
from symgraph.match.calibrated import Divergence
from symgraph.orbit.incoherent import hadamard, uniform
from symgraph.orbit.rounding_error import Rounding, rounded_matrices, rounding_error
from symgraph.tracing import state_of

NAMES = ("gpt2-untied", "llama", "vit")


@pytest.mark.parametrize("draw", [hadamard, uniform])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 12, 20, 48])
@pytest.mark.parametrize("fixes_ones", [False, True])
def test_matrices_are_orthogonal(draw: object, n: int, fixes_ones: bool) -> None:
    assert draw in (hadamard, uniform) and callable(draw)
    if n == 1 and draw is uniform and fixes_ones:
        return
    found = draw(n, (3,), fixes_ones, torch.Generator().manual_seed(0))
    assert found.shape == (3, n, n)
    torch.testing.assert_close(found @ found.mT, torch.eye(n, dtype=torch.float64).expand(3, n, n))
    if fixes_ones:
        torch.testing.assert_close(found.sum(-1), torch.ones(3, n, dtype=torch.float64))
    elif draw is hadamard and n in (2, 8):
        torch.testing.assert_close(found.abs(), torch.full_like(found, n**-0.5))
    if n >= 8:
        assert not torch.allclose(found[0], found[1])


def outlying(name: str) -> nn.Module:
    """A model with a few coordinates of its stream much larger than the others, as large ones have."""
    model: nn.Module = copy.deepcopy(network(name, 0))
    for parameter_name, p in model.named_parameters():
        if p.dim() == 2 and "embed_tokens" not in parameter_name and "head" not in parameter_name:
            p.data[:, :2] *= 6
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["hadamard", "random"])
def test_the_function_stays_in_the_stock_class(name: str, by: str) -> None:
    model = network(name, 0)
    found = symgraph.rotate(model, by=by)
    assert "residual" in {s.name for s in found.turned}
    x = torch.randint(9, (2, 7)) if name != "vit" else torch.randn(2, 3, 8, 8)
    before, after = (
        m.double()(x if name != "vit" else x.double()).logits for m in (copy.deepcopy(model), found.module)
    )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    own = state_of(model)
    assert any(not torch.allclose(t.float(), own[n].float()) for n, t in found.state.items())


def test_outliers_are_spread_and_a_descent_does_better() -> None:
    model = outlying("llama")
    plain = symgraph.rotate(model)
    assert plain.after < 0.7 * plain.before
    learned = symgraph.rotate(model, by="learned", options={"steps": 40})
    assert learned.after < 0.9 * plain.after and learned.before == plain.before
    x = torch.randint(9, (2, 7))
    torch.testing.assert_close(learned.module(x).logits, model(x).logits, rtol=1e-3, atol=1e-3)


def test_a_learned_rotation_goes_on_on_data() -> None:
    model = outlying("llama")
    x = torch.randint(9, (32, 7), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": x, "labels": x}]
    how: dict[str, Any] = {"by": "learned", "bits": 3, "options": {"steps": 2}}
    found = symgraph.rotate(model, **how, data=batches, inputs=3)
    assert found.descended is not None and "descent on data: 2 steps" in str(found)
    assert dict(found.descended.history)[found.descended.best] <= found.descended.history[0][1]
    torch.testing.assert_close(found.module(x).logits, model(x).logits, rtol=1e-3, atol=1e-3)
    # What the model makes up serves as well, and hooks are gone.
    assert "descent on data" in str(symgraph.rotate(model, **how, data=NoData(examples=4)))
    assert not any(module._forward_pre_hooks for module in model.modules())
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"by": "hadamard", "data": batches}, "that is drawn"),
        ({"by": "learned", "inputs": 4}, "no data that they are seen on"),
        ({"by": "learned", "inputs": 1, "data": batches}, "no rounding"),
    )
    for wrong, says in mistakes:
        with pytest.raises(UsageError, match=says):
            symgraph.rotate(model, **wrong)
    with pytest.raises(DataError, match="cannot be evaluated on the calibration data"):
        symgraph.rotate(model, **how, data=[{"input_ids": torch.tensor([[99]])}])


@pytest.mark.parametrize("inputs", [0, 3])
def test_what_is_rounded_has_the_slope_of_what_it_was_and_of_its_step(inputs: int) -> None:
    net: Any = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    grid, before = Rounding(3), net(x).detach()
    apart = Divergence(net, {"0.weight": 1}, grid, inputs, [{"input": x}])
    weight = net[0].weight.detach().clone().requires_grad_()
    value = apart({"0.weight": weight})
    (slope,) = torch.autograd.grad(value, [weight])
    seen = Rounding(inputs)(x, -1) if inputs else x
    change = seen @ grid(weight.detach(), 1).T - before
    torch.testing.assert_close(value, change.square().sum() / before.square().sum())
    straight, largest = 2 * change.T @ seen / before.square().sum(), weight.abs().argmax(1)
    rows = torch.arange(4)
    step = weight[rows, largest].abs() / 3
    # Entries that are rounded up or down go further by that where the step grows, which the largest one sets.
    off = (grid(weight, 1) - weight).detach() / step[:, None]
    more = (straight * off).sum(1) * weight[rows, largest].sign() / 3
    torch.testing.assert_close(slope, straight.index_put((rows, largest), more, accumulate=True))
    labelled = Divergence(net, {"0.weight": 1}, grid, 0, [{"input": x, "labels": torch.zeros(7, dtype=torch.long)}])
    assert float(labelled({"0.weight": weight.detach()})) > 0


def test_rounding_is_to_the_grid_of_each_output() -> None:
    matrix = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for axis, group in ((1, 0), (1, 4), (0, 0), (0, 3)):
        found = Rounding(3, group)(matrix, axis)
        rows = found.movedim(axis, -1)
        width = group or rows.shape[-1]
        for row in rows.reshape(-1, width):
            assert len(row.unique()) <= 7
        assert torch.equal(Rounding(3, group)(found, axis), found)
        assert (found - matrix).abs().max() <= matrix.abs().max() / 3 / 2 + 1e-6


def test_matrices_between_spaces_are_rounded_along_what_they_read() -> None:
    symmetry = symgraph.infer(build(("gpt2-untied", "sdpa")))
    found = rounded_matrices(symmetry)
    assert set(found.values()) == {0} and all("wte" not in n and "lm_head" not in n for n in found)
    assert {n.split(".")[-2] for n in found} == {"c_attn", "c_proj", "c_fc"}
    zero = {n: torch.zeros(symmetry.graph.state[n].shape) + 1.0 for n in found}
    assert float(rounding_error(zero, found, Rounding(4))) < 1e-9


def test_patterns_choose_and_what_cannot_turn_is_said(tmp_path: Path) -> None:
    found = symgraph.rotate(network("llama", 0), spaces=["residual"])
    assert [s.name for s in found.turned] == ["residual"]
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match="nothing to rotate") as raised:
        symgraph.rotate(net, torch.randn(3, 4))
    assert "its group is positive monomial" in str(raised.value) and "explain" in str(raised.value)
    with pytest.raises(UsageError, match="no rotation is called"):
        symgraph.rotate(net, torch.randn(3, 4), by="hadamart")


def test_a_checkpoint_is_written_that_opens_as_it_is(tmp_path: Path) -> None:
    import transformers

    model = network("llama", 0)
    found = symgraph.rotate(model)
    found.save_pretrained(tmp_path / "out")
    opened = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    x = torch.randint(9, (2, 7))
    torch.testing.assert_close(opened(x).logits, model(x).logits, rtol=1e-4, atol=1e-4)
    assert "rotated by hadamard" in (tmp_path / "out" / "README.md").read_text()


def test_ties_are_cut_by_choice() -> None:
    tied = network("gpt2-tied", 0)
    kept, cut = (symgraph.rotate(tied, tied=t) for t in ("keep", "untie"))
    tables = [[f.state[n] for n in ("lm_head.weight", "transformer.wte.weight")] for f in (kept, cut)]
    assert [torch.equal(*both) for both in tables] == [True, False]
    assert "untied" in str(cut)
