"""Pruned models: planted copies go exactly, what is important stays, losses and errors are stated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import PRETRAINED
from safetensors.torch import save_file
from torch import Tensor, nn

import symgraph
from symgraph.errors import SymgraphError, UsageError
from symgraph.resize.importance import by_gradient, by_norm, sides
from symgraph.resize.maps import rebuild
from symgraph.resize.smaller import smaller
from symgraph.symmetry.terms import Term
from symgraph.tracing import state_of

MLP = "mlp"
# The settings of a model with every unit twice.
TWICE: dict[str, dict[str, Any]] = {
    "vit": dict(intermediate_size=20),
    "gpt2-tied": dict(n_inner=24),
    "llama": dict(intermediate_size=20),
    "resnet": dict(embedding_size=12, hidden_sizes=[12, 16]),
}


def made(name: str, **more: Any) -> nn.Module:
    """A model with parameters and statistics of its own, in float64."""
    torch.manual_seed(1)
    if name == MLP:
        width = more.get("width", 6)
        found: nn.Module = nn.Sequential(
            nn.Linear(5, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 3),
        )
    else:
        import transformers

        config, cls, settings, _ = PRETRAINED[name]
        found = getattr(transformers, cls)(getattr(transformers, config)(**settings | more))
    with torch.no_grad():
        for n, t in (*found.named_parameters(), *found.named_buffers()):
            if t.is_floating_point() and "inv_freq" not in n:
                t.add_(0.3 * torch.randn_like(t)).abs_() if "running_var" in n else t.add_(0.3 * torch.randn_like(t))
    return found.double().eval()


def with_inputs(name: str, module: nn.Module) -> symgraph.Model:
    return symgraph.model(module, torch.randn(4, 5)) if name == MLP else symgraph.model(module)


@cache
def graph(name: str) -> symgraph.SymmetryGraph:
    return symgraph.infer(with_inputs(name, made(name)))


def run(name: str, module: nn.Module) -> Tensor:
    torch.manual_seed(5)
    shape = (4, 5) if name == MLP else PRETRAINED[name][3]
    x = torch.randn(shape, dtype=torch.float64) if shape else torch.randint(11, (2, 6))
    with torch.no_grad():
        found = module(x)
    return found if isinstance(found, Tensor) else found.logits


def copied(symmetry: symgraph.SymmetryGraph, state: Mapping[str, Tensor], spaces: Sequence[int]) -> dict[str, Tensor]:
    """Every unit twice: both are entered alike, and what leaves one is shared out to both."""

    def act(x: Tensor, dim: int, flat: Sequence[Term]) -> Tensor:
        dual = flat[dim].dual  # type: ignore[union-attr]
        return torch.cat([0.3 * x, 0.7 * x], dim) if dual else torch.cat([x, x], dim)

    axes = symmetry.terms
    return {n: rebuild(t, axes[n], spaces, lambda term: term.size, act) if n in axes else t for n, t in state.items()}


BY: dict[str, dict[str, Any]] = {"": {}, "l1": {"importance": "l1"}, "l2": {"importance": "l2", "drop": True}}


@pytest.mark.parametrize(("name", "by"), [*((MLP, by) for by in BY), *((name, "l1") for name in TWICE), ("resnet", "")])
def test_planted_copies_go_exactly(name: str, by: str) -> None:
    small, wide = made(name), made(name, **TWICE.get(name, {"width": 12}))
    symmetry = graph(name)
    spaces = [symmetry.by_name[s.name].id for s in smaller(symmetry, 0.5, None).spaces]
    wide.load_state_dict(copied(symmetry, state_of(small), spaces), strict=False)
    assert torch.allclose(run(name, wide), run(name, small), atol=1e-12)
    found = symgraph.prune(with_inputs(name, wide), ratio=0.5, **BY[by])
    assert found.reduction.exact and "the same function" in str(found)
    assert torch.allclose(run(name, found.module), run(name, small), atol=1e-9)
    assert {n: t.shape for n, t in found.module.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    if name != MLP:
        own, wanted = found.model.config.to_dict(), symgraph.model(small).config.to_dict()
        assert all(own[k] == wanted[k] for k in TWICE[name])


def test_heads_go_with_their_groups_and_a_stream_by_its_leading_directions() -> None:
    llama = symgraph.model(made("llama", head_dim=4))
    groups = symgraph.prune(llama, ratio=0.5, spaces=["*groups*"], importance="l2")
    assert groups.model.config.num_key_value_heads == 1 and groups.model.config.num_attention_heads == 2
    stream = symgraph.prune(llama, ratio=0.25, spaces=["residual"])
    assert stream.model.config.hidden_size == 12 and "leading directions" in str(stream)


def test_dead_units_are_dropped_exactly_and_the_most_important_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net.get_parameter("2.weight")[:, [1, 4]] = 0.0
        net.get_parameter("0.weight")[[1, 4]] *= 9
    x = torch.randn(7, 4).double()
    found = symgraph.prune(net, x, ratio=1 / 3, importance="l1", drop=True)
    assert torch.allclose(found.module(x), net(x), atol=1e-12)


def test_scores_choose_the_units() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    score = torch.tensor([1.0, 2, 6, 5, 3, 4])
    kept = symgraph.prune(net, torch.randn(7, 4), ratio=0.5, importance={"hidden": score}, drop=True).state
    assert torch.allclose(kept["0.weight"], net.state_dict()["0.weight"][[2, 3, 5]])
    assert torch.allclose(kept["2.weight"], net.state_dict()["2.weight"][:, [2, 3, 5]])


def test_a_function_is_given_what_enters_and_what_leaves() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()

    def by_leaving(name: str, enters: Tensor, leaves: Tensor) -> Tensor:
        assert name == "hidden" and enters.shape == (1, 6, 5) and leaves.shape == (1, 6, 3)
        return leaves[0].abs().sum(-1)

    found = symgraph.prune(net, torch.randn(7, 4), ratio=0.5, importance=by_leaving, drop=True)
    chosen = net.state_dict()["2.weight"].abs().sum(0).topk(3).indices.sort().values
    assert torch.allclose(found.state["2.weight"], net.state_dict()["2.weight"][:, chosen])
    assert "by_leaving: the most important kept" in str(found)


def test_lamp_is_the_share_among_all_that_are_not_smaller() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    symmetry = symgraph.infer(net, torch.randn(2, 4))
    rows = sides(symmetry, symmetry["hidden"], state_of(net))
    norms, found = (by_norm(kind, symmetry["hidden"], rows, inside=False)[0] for kind in ("l2", "lamp"))
    squares = norms.square()
    wanted = [float(x / squares[squares >= x].sum()) for x in squares]
    assert torch.allclose(found, torch.tensor(wanted).double()) and float(found.max()) == 1.0


def test_fusing_loses_less_than_dropping_where_units_are_near_copies() -> None:
    net, x = made(MLP, width=12), torch.randn(64, 5).double()
    with torch.no_grad():
        for i in (0, 3):
            net[i].weight[6:] = net[i].weight[:6] + 0.02 * torch.randn_like(net[i].weight[:6])  # type: ignore[index]
            net[i].bias[6:] = net[i].bias[:6]  # type: ignore[index]
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(net[1], name)[6:] = getattr(net[1], name)[:6]  # type: ignore[index]
    ways: list[dict[str, Any]] = [{}, {"importance": "l1"}, {"importance": "l1", "drop": True}]
    nearest, fused, dropped = (symgraph.prune(net, x, ratio=0.5, **how).reduction.error for how in ways)
    assert nearest < 0.2 < fused < dropped


def test_norms_do_not_depend_on_the_gauge() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    symmetry = symgraph.infer(net, torch.randn(2, 4))
    scale = torch.rand(6).double() + 0.5
    state = state_of(net)
    moved = {
        "0.weight": scale[:, None] * state["0.weight"],
        "0.bias": scale * state["0.bias"],
        "2.weight": state["2.weight"] / scale,
        "2.bias": state["2.bias"],
    }
    for kind in ("l1", "l2"):
        one, other = (
            by_norm(kind, symmetry["hidden"], sides(symmetry, symmetry["hidden"], s), inside=False)
            for s in (state, moved)
        )
        assert torch.allclose(one, other)


def test_taylor_is_the_first_order_of_leaving_a_unit_out() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(9, 4).double(), torch.randint(3, (9,))
    symmetry = symgraph.infer(net, x)
    found = by_gradient(net, symmetry, [symmetry["hidden"]], [(x, y)], "cross-entropy")["hidden"][0]
    step, state = 1e-6, state_of(net)
    for unit in range(6):
        losses = []
        for sign in (1, -1):
            weight = state["2.weight"].detach().clone()
            weight[:, unit] *= 1 + sign * step
            out = torch.func.functional_call(net, {**state, "2.weight": weight}, (x,))
            losses.append(float(nn.functional.cross_entropy(out, y).detach()))
        assert abs(abs(losses[0] - losses[1]) / (2 * step) - float(found[unit])) < 1e-6


def test_statistics_of_batch_norms_stay_of_the_size_of_what_they_normalise() -> None:
    """Gain and variance go together, so that training goes on from where the model is."""
    net, x = made(MLP, width=8), torch.randn(512, 5).double()
    net.load_state_dict(symgraph.recalibrated(net, net.state_dict(), [[x]]))
    found = symgraph.prune(net, x[:4], ratio=0.25)
    inside = found.module[0](x)  # type: ignore[index]
    norm = found.module[1]  # type: ignore[index]
    assert torch.allclose(inside.mean(0), norm.running_mean, atol=1e-6)
    assert bool((inside.var(0) < 1.1 * norm.running_var).all() and (inside.var(0) > 0.05 * norm.running_var).all())
    again = symgraph.prune(net, x[:4], ratio=0.25, recalibrate=[[x]])
    assert torch.allclose(again.module[1].running_var, inside.var(0), rtol=1e-3)  # type: ignore[index]


def test_a_part_of_a_transformer_is_a_module_where_no_config_has_these_sizes() -> None:
    found = symgraph.prune(symgraph.model(made("vit")), ratio=0.5, spaces=["*0.mlp.hidden"])
    assert found.model.config is None and "no config" in str(found)
    assert found.reduction.spaces[0].after == 5 and len(found.reduction.spaces) == 1
    assert run("vit", found.module).shape == (2, 5)


class Fixed(nn.Module):
    """A module with a size written in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(torch.relu(self.a(x)).reshape(-1, 6))
        return found


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "ratio": (_net, dict(ratio=1.5), "the ratio is 1.5"),
    "below one": (_net, dict(ratio=0.95), "below one unit"),
    "nothing": (_net, dict(ratio=0.01), "prunes nothing"),
    "rigid": (_net, dict(ratio=0.5, spaces=["2.weight*"]), "cannot be pruned|no space"),
    "no name": (_net, dict(ratio=0.5, spaces=["heads"]), "no space is called 'heads'"),
    "no kind": (_net, dict(ratio=0.5, importance="l3"), "l3: no scores can be read"),
    "function fails": (_net, dict(ratio=0.5, importance=lambda name: 1), "importance of hidden: the function fails"),
    "function's shape": (_net, dict(ratio=0.5, importance=lambda *_: torch.ones(5)), "scores of hidden do not fit"),
    "no data": (_net, dict(ratio=0.5, importance="taylor"), "needs data"),
    "idle data": (_net, dict(ratio=0.5, data=[torch.randn(2, 4)]), "nothing reads it"),
    "drop": (_net, dict(ratio=0.5, drop=True), "which units to drop"),
    "shape": (_net, dict(ratio=0.5, importance={"hidden": torch.ones(5)}), "scores of hidden do not fit"),
    "names": (_net, dict(ratio=0.5, importance={"other": torch.ones(6)}), "scores do not fit the spaces"),
    "negative": (_net, dict(ratio=0.5, importance={"hidden": -torch.ones(6)}), "cannot be used"),
    "no units": (lambda: nn.Linear(4, 3), dict(ratio=0.5), "nothing to prune"),
    "written in": (Fixed, dict(ratio=0.5), "its code has sizes written in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused(name: str) -> None:
    make, how, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as raised:
        symgraph.prune(make(), torch.randn(2, 4), **how)
    assert isinstance(raised.value, SymgraphError) and "help" in str(raised.value)


def test_scores_are_read_from_files(tmp_path: Path) -> None:
    net, score = _net(), torch.tensor([1.0, 2, 6, 5, 3, 4])
    (tmp_path / "s.json").write_text(json.dumps({"hidden": score.tolist()}))
    save_file({"hidden": score}, tmp_path / "s.safetensors")
    x = torch.randn(7, 4)
    states = [symgraph.prune(net, x, ratio=0.5, importance=tmp_path / f).state for f in ("s.json", "s.safetensors")]
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())
