"""What a page of an alignment says: distances, confidence, angles, what carries the barrier, and whether it helped."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import batches, case, network
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.io.files import OutputError
from symgraph.match.aligned import Aligned
from symgraph.match.analysis import Analysis, _turned
from symgraph.match.barrier_by_space import barrier_by_space
from symgraph.match.confidence import confidences
from symgraph.match.helped import helped
from symgraph.match.pair_basis import PairBasis
from symgraph.match.suitable import suitable
from symgraph.match.tensor_weights import parameter_weights, tensor_weights
from symgraph.measure.measured import Measured
from symgraph.measure.result import LossBarrier
from symgraph.tracing import state_of

ZOO = ("vit", "gpt2-untied", "llama", "resnet")


class Mlp(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second, self.third = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return found


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
DATA = [(X.repeat(3, 1) + i, torch.tensor([0, 1, 2, 1] * 3)) for i in range(2)]


def align(name: str, **how: Any) -> Aligned:
    return symgraph.align(network(name, 0), network(name, 1), symmetry=case(name).symmetry, **how)


@cache
def pair(name: str) -> Aligned:
    return align(name)


@cache
def figures_of(name: str) -> Analysis:
    return pair(name).analysis()


@cache
def analysed() -> tuple[Aligned, Analysis]:
    found = pair("vit")
    return found, found.analysis(batches("vit"), metrics="accuracy", points=5)


def basis_of(found: Aligned) -> PairBasis:
    assert found.basis is not None
    return found.basis


# -- distances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_distances_of_parameters_add_up_to_that_of_the_models(name: str) -> None:
    found = pair(name)
    basis = basis_of(found)
    states = [basis.symmetry.shifted(s) for s in (basis.before(0), basis.before(1), basis.after(1))]
    weights = tensor_weights(basis.symmetry, basis.weighting, *states[:2])
    size = {n: weights[n] * float(t.double().square().sum()) for n, t in states[0].items()}
    parameters = {p.name: p for p in figures_of(name).parameters}
    assert parameters.keys() == states[0].keys()
    for when, expected in (("before", found.before), ("after", found.after)):
        known = (n for n in size if math.isfinite(getattr(parameters[n], when)))
        total = sum(size[n] * getattr(parameters[n], when) ** 2 for n in known)
        assert math.sqrt(total / sum(size.values())) == pytest.approx(expected, rel=1e-4)
    assert sum(p.share for p in parameters.values()) == pytest.approx(1.0)
    assert {n: p.growth for n, p in parameters.items() if p.growth} == {
        n: g for n, g in found.growth.items() if n in parameters
    }


def test_what_was_planted_is_found_with_certainty() -> None:
    a = Mlp(0)
    shuffled, order = Mlp(0), torch.randperm(7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        shuffled.first.weight.copy_(a.first.weight[order])
        shuffled.first.bias.copy_(a.first.bias[order])
        shuffled.second.weight.copy_(a.second.weight[:, order])
    found = symgraph.align(a, shuffled, X).analysis()
    first = next(s for s in found.spaces if s.size == 7)
    assert first.assigned is not None and first.after < 1e-6 < first.before
    assert first.assigned.moved == int((order != torch.arange(7)).sum()) and first.assigned.units == 7
    for unit in first.assigned.doubtful:
        assert unit.cosine == pytest.approx(1.0, abs=1e-6) and unit.gap > 0.05
        # The unit of A at this place is the one that B has at the place it was moved to.
        assert int(order[unit.unit[0]]) == unit.place[0]
        assert unit.other != unit.unit
    assert sum(bar.count for bar in first.assigned.bars) == 7


# -- confidence --------------------------------------------------------------------------------------------------------


def test_cosines_of_units_by_hand() -> None:
    found = symgraph.align(Mlp(0), Mlp(1), X)
    basis = basis_of(found)
    a, b = basis.after(0), basis.after(1)
    weights = parameter_weights(basis.symmetry, basis.weighting, a, b)
    known = {c.space.size: c for c in confidences(basis.symmetry, a, b, weights)}

    def rows(state: dict[str, Tensor]) -> Tensor:
        """All that stands on the units of the first layer, weighed."""
        parts = [
            weights["first.weight"] ** 0.5 * state["first.weight"],
            weights["first.bias"] ** 0.5 * state["first.bias"].unsqueeze(1),
            weights["second.weight"] ** 0.5 * state["second.weight"].T,
        ]
        return torch.cat(parts, 1).double()

    # Units of tanh have a sign: that of the whole unit.
    cosines = (nn.functional.normalize(rows(a)) @ nn.functional.normalize(rows(b)).T).abs()
    others = cosines - 10 * torch.eye(7)
    torch.testing.assert_close(known[7].matched[0], cosines.diagonal(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(known[7].second[0], others.max(1).values, rtol=1e-5, atol=1e-6)
    assert known[7].other[0].tolist() == others.argmax(1).tolist()


def test_heads_are_compared_with_the_best_of_what_is_inside() -> None:
    found = pair("gpt2-untied")
    basis = basis_of(found)
    symmetry = basis.symmetry
    a, b = basis.after(0), basis.after(1)
    both = [symmetry.stacked(symmetry.shifted(s)) for s in (a, b)]
    weights = parameter_weights(symmetry, basis.weighting, *both)
    known = next(c for c in confidences(symmetry, a, b, weights) if c.space.name == "h.0.attn.heads")
    assert known.matched.shape == (1, 2)
    width = 8
    n, inside = 2, width // 2

    def heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Queries, keys and values with their biases, and outputs, each (heads, inside, rest)."""
        weight, bias = state["transformer.h.0.attn.c_attn.weight"], state["transformer.h.0.attn.c_attn.bias"]
        rows = torch.cat([weight.T, bias.unsqueeze(1)], 1).double().reshape(3, n, inside, -1)
        out = state["transformer.h.0.attn.c_proj.weight"].double().reshape(n, inside, -1)
        return {"query": rows[0], "key": rows[1], "value": rows[2], "out": out}

    one, other = heads(a), heads(b)
    assert weights["transformer.h.0.attn.c_attn.weight"] == weights["transformer.h.0.attn.c_proj.weight"] == 1.0
    for i in range(n):
        for j in range(n):
            sums = [sum(one[k][i] @ other[k][j].T for k in names) for names in (("query", "key"), ("value", "out"))]
            worth = sum(float(torch.linalg.matrix_norm(s, "nuc")) for s in sums)
            norms = [math.sqrt(sum(float(x[k][p].square().sum()) for k in x)) for x, p in ((one, i), (other, j))]
            expected = worth / (norms[0] * norms[1])
            assert float((known.matched if i == j else known.second)[0, i]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_every_space_that_permutes_has_a_confidence_below_one(name: str) -> None:
    found = figures_of(name)
    assert any(s.assigned for s in found.spaces)
    for space in found.spaces:
        if space.assigned:
            assert sum(bar.count for bar in space.assigned.bars) == space.assigned.units
            for unit in space.assigned.doubtful:
                assert -1 <= unit.second <= 1 + 1e-6 and -1 <= unit.cosine <= 1 + 1e-6
                assert unit.gap == pytest.approx(unit.cosine - unit.second)
        if space.turned:
            assert 0 <= space.turned.median <= space.turned.largest <= 180


# -- angles ------------------------------------------------------------------------------------------------------------


def test_angles_are_those_of_the_planes() -> None:
    def plane(degrees: float) -> Tensor:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)

    turned = torch.eye(5, dtype=torch.float64)
    turned[:2, :2], turned[2:4, 2:4] = plane(30), plane(100)
    basis, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    found = _turned(basis @ turned @ basis.T)
    assert found.matrices == 1 and not found.nearest and found.median == pytest.approx(30)
    assert found.largest == pytest.approx(100)
    # A multiple of five lies on the edge between two bars, to which side rounding sends it.
    filled = {bar.low for bar in found.bars if bar.count}
    assert filled <= {0.0, 25.0, 30.0, 95.0, 100.0} and sum(bar.count for bar in found.bars) == 5
    stretched = _turned(basis @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double()) @ turned @ basis.T)
    assert stretched.nearest


# -- which space carries the barrier -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_model_with_one_space_left_computes_the_same(name: str) -> None:
    found = pair(name)
    basis = basis_of(found)
    spaces = basis.moved_spaces()
    (batch, *_), own = batches(name, 1, 2), state_of(found.b.module)
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    names = [n for n in own if n in basis.symmetry.terms]
    whole = basis.used(1, names)
    for space in (spaces[0], spaces[-1], spaces[len(spaces) // 2]):
        without = basis.without(space)
        changed = without.used(1, names)
        # All that is another one is known before it is computed.
        others = {n for n in names if not torch.allclose(changed[n], whole[n], rtol=1e-5, atol=1e-6)}
        assert others <= basis.affected(space) and others
        moved = torch.func.functional_call(found.b.module, {**own, **changed}, (), inputs)
        torch.testing.assert_close(moved.logits, found.b.module(**inputs).logits, rtol=1e-3, atol=1e-4)


def test_barriers_without_a_space_are_measured() -> None:
    found, analysis = analysed()
    basis, by_space = basis_of(found), analysis.by_space
    assert by_space is not None and by_space.worst is not None
    assert [s.space for s in by_space.spaces] == [s.name for s in basis.moved_spaces()]
    space = basis.symmetry.space("residual")
    tied = basis.symmetry.graph.tied
    changed = basis.without(space).used(1, basis.affected(space))
    state = {n: changed.get(tied.get(n, n), t) for n, t in found.state.items()}
    expected = symgraph.loss_barrier(
        found.reference, state, batches("vit"), module=found.b, points=(0.25, 0.5, 0.75)
    ).loss
    measured = next(s.measured for s in by_space.spaces if s.space == "residual")
    assert measured.values == pytest.approx(expected.values, rel=1e-5)
    assert measured.lambdas == expected.lambdas == (0.0, 0.25, 0.5, 0.75, 1.0)
    aligned = symgraph.loss_barrier(
        found.reference, found.state, batches("vit"), module=found.b, points=(0.25, 0.5, 0.75)
    )
    assert by_space.aligned.values == pytest.approx(aligned.losses, rel=1e-6)


def test_nothing_to_align_carries_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    found = symgraph.align(net, nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4))
    analysis = found.analysis([(torch.randn(6, 4), torch.randint(0, 3, (6,)))], points=3)
    assert analysis.spaces == () and analysis.by_space is not None and analysis.by_space.worst is None
    assert len(analysis.parameters) == 2


# -- unlike and unusual pairs ------------------------------------------------------------------------------------------


def test_pairs_of_every_kind_are_analysed(tmp_path: Path) -> None:
    data = batches("gpt2-untied", 2)
    learning: dict[str, Any] = {"steps": 2, "check_every": 1, "dual": True}
    both = align("gpt2-untied", method="learned", data=data, learning=learning)
    soft, split = align("vit", soft=0.2), align("vit", split=True)
    for name, found in (("both", both), ("soft", soft), ("split", split)):
        said = embedded(found.save_html(tmp_path / f"{name}.html"))
        assert said["spaces"] and said["by_space"] is None and said["results"] == []
        assert bool(said["learned"]) == (name == "both")
    assert basis_of(both).basis[0].steps
    basis = basis_of(both)
    own = basis.own_states(both.reference, both.state)
    found_by_space = barrier_by_space(basis, own, data)
    assert len(found_by_space.spaces) == len(basis.moved_spaces())


def test_a_narrower_model_is_analysed_in_the_wide_shape() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    narrow: Any = network("vit", 0)
    wide: Any = ViTForImageClassification(ViTConfig(**{**narrow.config.to_dict(), "intermediate_size": 14}))
    found = symgraph.align(narrow, wide.eval())
    analysis = found.analysis(batches("vit", 1), points=3)
    hidden = next(s for s in analysis.spaces if s.name.endswith("mlp.hidden"))
    assert hidden.size == 14 and found.embedded == "A" and analysis.by_space is not None


# -- the page ----------------------------------------------------------------------------------------------------------


def embedded(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_numbers_on_the_page_are_those_of_the_analysis(tmp_path: Path) -> None:
    found, analysis = analysed()
    said = embedded(found.save_html(tmp_path / "a.html", batches("vit"), metrics="accuracy", points=5))
    plain = json.loads(json.dumps(analysis.to_plain()))
    assert said["parameters"] == plain["parameters"] and said["spaces"] == plain["spaces"]
    assert (said["before"], said["after"]) == (found.before, found.after)
    assert said["objective"] == list(found.alignment.objective)
    assert [r["quantities"][0]["values"] for r in said["results"]] == [
        list(analysis.barriers[when].losses) for when in ("before", "after")
    ]
    assert [(s["space"], s["barrier"]) for s in said["by_space"]["spaces"]] == [
        (s["space"], s["barrier"]) for s in plain["by_space"]["spaces"]
    ]
    assert said["helped"]["said"] == found.helped(analysis.barriers["before"], analysis.barriers["after"]).text
    assert [g["name"] for g in said["growth"]] == list(found.growth)[:20]
    assert said["models"] == ["A", "B"] and "match" in said["program"]


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pair("llama")
    (tmp_path / "a.html").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        found.save_html(tmp_path / "a.html")
    monkeypatch.setattr("symgraph.match.aligned.figures", None)
    with pytest.raises(OutputError, match="exists already"):
        found.save_html(tmp_path / "a.html")
    with pytest.raises(TypeError):
        found.save_html(tmp_path / "b.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"] and (tmp_path / "a.html").read_text() == "mine"
    with pytest.raises(UsageError, match="how it was found"):
        replace(found, basis=None).analysis()


# -- whether it helped, and what suits ---------------------------------------------------------------------------------


def barrier(height: float, error: float) -> LossBarrier:
    mixtures = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    return LossBarrier(Measured("loss", mixtures, (1.0, 1.0 + height, 1.0), (0.0, error, 0.0)))


@pytest.mark.parametrize(
    ("before", "after", "better", "said"),
    [
        ((2.0, 0.1), (0.5, 0.1), True, "the alignment helped: the loss barrier is 0.5000, and was 2.0000"),
        ((4.7, 0.1), (9.4, 0.1), False, "DID NOT HELP: the loss barrier is 9.4000, and was 4.7000; try method="),
        ((1.0, 0.5), (0.5, 0.5), None, "no difference beyond 2 standard errors"),
        ((1.0, 0.0), (1.0, 0.0), None, "no difference"),
        ((0.0, 0.0), (0.0, 0.0), None, "there is no loss barrier to lower"),
    ],
)
def test_it_is_said_whether_it_helped(
    before: tuple[float, float], after: tuple[float, float], better: bool | None, said: str
) -> None:
    found = helped(barrier(*before), barrier(*after))
    assert found.better is better and said in found.text
    assert found.to_plain()["better"] is better
    assert "method='learned'" in helped(barrier(1, 0), barrier(2, 0), "activations").text
    assert "longer training" in helped(barrier(1, 0), barrier(2, 0), "learned").text


@pytest.mark.parametrize(
    ("name", "method"),
    [("resnet", "activations"), ("vit", "weights"), ("llama", "weights"), ("gpt2-tied", "weights")],
)
def test_what_suits_follows_from_the_spaces(name: str, method: str) -> None:
    assert suitable(case(name).symmetry)[0] == method


def test_where_nobody_chose_a_method_what_suits_is_taken_and_said() -> None:
    a, b = Mlp(0), Mlp(1)
    chosen = symgraph.align(a, b, X, data=DATA)
    assert "matched by activations, since there are only permutations" in chosen.notes[0]
    plan = symgraph.plan([a, b], X, data=DATA)
    assert str(plan) == str(chosen.program)
    asked = symgraph.align(a, b, X, method="weights", data=DATA)
    assert not any("matched by" in note for note in asked.notes)
    assert str(symgraph.align(a, b, X).program) == str(asked.program) == str(symgraph.plan([a, b], X))
    turning = align("vit", data=batches("vit"))
    assert "matched by weights, since there are rotations, as of residual" in turning.notes[0]
