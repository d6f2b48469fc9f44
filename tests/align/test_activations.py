"""Activation matching: planted elements are recovered, sums are bounded and right, bad input is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models_zoo import build, case, relative, worst

import symgraph
from symgraph.errors import DataError, SymgraphError, UsageError
from symgraph.match.activations import agreement
from symgraph.match.input_moments import weighted
from symgraph.match.match_models import nearest
from symgraph.match.match_options import MatchOptions
from symgraph.match.named_values import named_value
from symgraph.match.observe import observe
from symgraph.match.unit_trees import units
from symgraph.orbit.action import GroupElement
from symgraph.orbit.canonical import canonicalise
from symgraph.prove.verify import random_transform, settled_names
from symgraph.rules.book import default_rules
from symgraph.tracing import state_of
from symgraph.tracing.interpreter import Interpreter

Batch = dict[str, torch.Tensor]
NAMES = ["mlp-relu", "mlp-tanh", "mlp-gelu", "vit", "gpt2-untied", "gpt2-tied", "llama", "bert", "resnet"]
EXACT = MatchOptions(rows=0, batches=0, alpha=1.0)
ALONE = MatchOptions(alpha=1.0)


def batches(name: str, count: int = 12, size: int = 16) -> list[Batch]:
    """Batches in double precision, larger than the traced inputs."""
    c, generator = case(name), torch.Generator().manual_seed(9)
    found = []
    for _ in range(count):
        batch: Batch = {}
        for node, like in zip(c.graph.inputs, c.inputs, strict=True):
            shape = (size, *like.shape[1:])
            drawn = torch.randint(0, int(like.max()) + 1, shape, generator=generator)
            batch[node.target] = torch.randn(shape, generator=generator) if like.is_floating_point() else drawn
        found.append(batch)
    return found


@pytest.mark.parametrize("options", [EXACT, MatchOptions(rows=0, batches=0, alpha=0.5)], ids=["alone", "mixed"])
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_element_is_recovered(name: str, options: MatchOptions) -> None:
    c = case(name)
    a = {n: t.double() if t.is_floating_point() else t for n, t in state_of(c.module).items()}
    moved = random_transform(c.symmetry, a, torch.Generator().manual_seed(4), settled_names(c.symmetry)).apply(a)
    other = copy.deepcopy(c.module).double()
    other.load_state_dict({n: t for n, t in moved.items() if n in other.state_dict()}, strict=False)
    first = copy.deepcopy(c.module).double()
    found = symgraph.align(first, other, method="activations", data=batches(name), options=options, symmetry=c.symmetry)
    assert worst({n: t for n, t in found.state.items() if t.is_floating_point()}, found.reference) < 1e-6


def test_the_sums_are_those_of_all_activations_at_once() -> None:
    """A hidden layer by hand: Pearson's correlation of every pair of units, over both of its values."""
    c = case("mlp-gelu")
    a, b = (canonicalise(c.symmetry, c.state(k)).state for k in (1, 2))
    x = torch.randn(64, 5, dtype=torch.float64)
    seen = symgraph.infer(symgraph.api.trace(c.module, (x.float(),)))
    tree = units(c.symmetry)[0]
    found = observe(c.symmetry, seen, (a, b), [(x,)], [tree], dtype=torch.float64, rows=0)[0, 1]
    first, then = (n.name for n in seen.graph.calls[:2])
    total = torch.zeros(7, 7, dtype=torch.float64)
    for name in (first, then):
        values = [Interpreter(seen.graph).run(s, (x,), keep={name})[1][name] for s in (a, b)]
        whole = torch.corrcoef(torch.cat([v.T for v in values]))[:7, 7:]
        total += whole / 7
    (key, table), *more = found.moved(tree, GroupElement(c.symmetry, {}))
    assert not more and [s for s, _ in key] == [tree.space.id]
    assert torch.allclose(table[0] * found.sites, total)
    assert agreement([(key, table)]) == pytest.approx(float(total.trace()) / found.sites)


def test_one_pass_in_pieces_is_one_pass() -> None:
    c = case("vit")
    a, b = (canonicalise(c.symmetry, c.state(k)).state for k in (1, 2))
    tree = units(c.symmetry)
    given = [[x["pixel_values"].double()] for x in batches("vit", count=4, size=2)]
    whole = observe(c.symmetry, c.symmetry, (a, b), map(tuple, given), tree, dtype=torch.float64, rows=0)[0, 1]
    twice = observe(c.symmetry, c.symmetry, (a, b), map(tuple, [*given, *given]), tree, dtype=torch.float64, rows=0)[
        0, 1
    ]
    assert twice.examples == 2 * whole.examples == 16
    for unit, sums in whole.correlations.items():
        assert all(torch.allclose(t, twice.correlations[unit][k]) for k, t in sums.items())


def test_activations_bring_unrelated_models_nearer_and_keep_the_function() -> None:
    c = case("gpt2-untied")
    a, b = (canonicalise(c.symmetry, c.state(k, spread=0.5)).state for k in (1, 2))
    seen = observe(c.symmetry, c.symmetry, (a, b), [tuple(c.inputs)], units(c.symmetry), rows=0, dtype=torch.float64)[
        0, 1
    ]
    for alpha in (0.0, 0.4, 1.0):
        found = nearest(c.symmetry, a, b, MatchOptions(alpha=alpha), seen=seen)
        assert relative(c.run(b), c.run(found.element(b))) < 1e-9
        assert all(x >= y - 1e-9 * abs(x) for x, y in zip(found.objective, found.objective[1:], strict=False))
        assert found.objective[-1] < found.initial


def test_batches_of_another_shape_are_counted() -> None:
    a, b = build(("vit", "sdpa")), build(("vit", "sdpa"))
    data = batches("vit", 5)
    shorter = [{k: t[:3] for k, t in batch.items()} for batch in data[:2]]
    found = symgraph.align(a, b, method="activations", data=[*data, *shorter], options=ALONE)
    assert any("2 batches of another shape left out" in n for n in found.notes)


def test_weights_at_the_moment_of_their_inputs() -> None:
    """T S^1/2 turns as T does, and its squared distance is that of the outputs."""
    c = case("vit")
    a = canonicalise(c.symmetry, c.state(1)).state
    seen = observe(c.symmetry, c.symmetry, (a, a), [tuple(c.inputs)], (), rows=0, dtype=torch.float64, moments=True)[
        0, 1
    ]
    read = {n for n, _ in seen.moments}
    assert {"classifier.weight", "vit.layers.0.mlp.fc1.weight", "vit.layers.0.mlp.fc2.weight"} <= read
    assert not any(n.endswith("bias") or "embeddings" in n for n in read)
    name = "vit.layers.0.mlp.fc2.weight"
    node = next(n for n in c.graph.calls if c.graph.state[name].name in n.refs())
    value = next(r for r in node.refs() if r in c.symmetry.values and r not in {p.name for p in c.graph.state.values()})
    x = Interpreter(c.graph).run(a, c.inputs, keep={value})[1][value]
    outputs = (x @ a[name].T).square().sum(-1).mean()
    assert float(weighted(a, seen.moments, 0)[name].square().sum()) == pytest.approx(float(outputs))
    found = symgraph.align(
        c.module, c.modules(1), data=batches("vit"), options=MatchOptions(weighting="inputs"), symmetry=c.symmetry
    )
    assert any("activations of" in n for n in found.notes)


def labelled(name: str, count: int = 6) -> list[Batch]:
    drawn = torch.randint(5, (count, 16), generator=torch.Generator().manual_seed(1))
    return [x | {"labels": y} for x, y in zip(batches(name, count), drawn, strict=True)]


@pytest.mark.parametrize("validated", [True, False])
def test_the_share_that_is_chosen_has_the_smallest_barrier(validated: bool) -> None:
    """On the data that it is chosen on, and by a loss barrier that is computed elsewhere."""
    c, data = case("vit"), labelled("vit")
    a, b = c.module.double(), c.modules(1).double()
    judged = data[4:] if validated else data

    def midpoint(alpha: float | str) -> tuple[float, tuple[str, ...]]:
        options = MatchOptions(alpha=alpha, sweeps=3, rows=0)
        given: dict[str, Any] = {"data": data, "validation": judged if validated else None, "options": options}
        found = symgraph.align(a, b, method="activations", symmetry=c.symmetry, **given)
        measured = symgraph.loss_barrier(found.reference, found.state, judged, module=a, points=3)
        return measured.loss.midpoint or 0.0, found.notes

    best, notes = midpoint("auto")
    (note,) = (n for n in notes if n.startswith("chosen by the barrier of the even mixture"))
    figures = [float(x.split()[0]) for x in note.split("(of ")[1].split("; ")]
    assert len(figures) == 11 and min(figures) == pytest.approx(best, abs=1e-4) and min(figures) < max(figures)
    for alpha in (0.0, 0.5):
        found, _ = midpoint(alpha)
        assert best <= found + 1e-9 and min(abs(found - x) for x in figures) < 1e-4


def test_batches_that_can_be_read_once_are_read_as_often_as_it_takes() -> None:
    c = case("mlp-gelu")
    data = [batch | {"labels": batch["labels"] % 3} for batch in labelled("mlp-gelu")]
    a, b = c.module.double(), c.modules(1).double()
    given: dict[str, Any] = {"method": "activations", "symmetry": c.symmetry}
    one, other = (symgraph.align(a, b, data=batches, **given) for batches in (iter(data), data))
    assert one.notes == other.notes and any("chosen by the barrier" in note for note in one.notes)


def test_without_labels_one_half_is_taken_and_said() -> None:
    c = case("vit")
    given: dict[str, Any] = {"method": "activations", "data": batches("vit", 2), "symmetry": c.symmetry}
    options = (MatchOptions(), MatchOptions(alpha=0.5))
    found, half = (symgraph.align(c.module, c.modules(1), options=o, **given) for o in options)
    assert any("which nothing has chosen: no loss fits the data" in n for n in found.notes)
    assert all(torch.equal(found.state[n], half.state[n]) for n in half.state)
    a = canonicalise(c.symmetry, c.state(1)).state
    seen = observe(c.symmetry, c.symmetry, (a, a), [tuple(c.inputs)], units(c.symmetry))[0, 1]
    with pytest.raises(UsageError, match="one share of activations"):
        nearest(c.symmetry, a, a, seen=seen)


def _one(**tensors: torch.Tensor) -> list[Batch]:
    return [tensors]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": None}, "method 'activations' needs data"),
        ({"data": []}, "training data: no batches"),
        ({"data": _one(pixel_values=torch.full((2, 3, 8, 8), torch.nan))}, "activations are not finite at"),
        ({"data": _one(pixel_values=torch.randn(2, 3, 6, 6))}, "pixel_values|image"),
        ({"start": "nothing"}, "start is 'nothing'"),
        ({"method": "weights", "data": None, "options": MatchOptions(weighting="inputs")}, "'inputs' needs data"),
    ],
)
def test_bad_input_is_one_clear_error(more: dict[str, Any], message: str) -> None:
    c = case("vit")
    given: dict[str, Any] = {"method": "activations", "data": batches("vit"), "symmetry": c.symmetry} | more
    with pytest.raises(SymgraphError, match=message):
        symgraph.align(c.module, c.modules(1), **given)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match=r"alpha is 1\.5"):
        MatchOptions(alpha=1.5)
    with pytest.raises(UsageError, match="alpha is best"):
        MatchOptions(alpha="best")
    with pytest.raises(UsageError, match="batches is -1"):
        MatchOptions(batches=-1)
    c = case("vit")
    a = canonicalise(c.symmetry, c.state(1)).state
    with pytest.raises(DataError, match="no batches"):
        observe(c.symmetry, c.symmetry, (a, a), [], units(c.symmetry))
    assert default_rules().hash


def test_units_that_are_not_observed_go_by_weights() -> None:
    c = case("vit")
    options = MatchOptions(rows=0, batches=0, alpha=1.0, observed=("residual",))
    found = symgraph.align(
        c.module, c.modules(1), method="activations", data=batches("vit"), options=options, symmetry=c.symmetry
    )
    assert found.alignment.element("layers.0.mlp.hidden") is not None
    with pytest.raises(UsageError, match="nothing to observe matches 'residul'"):
        options = MatchOptions(observed=("residul",))
        symgraph.align(c.module, c.modules(1), method="activations", data=batches("vit"), options=options)


def test_a_stream_is_fitted_where_it_is_asked_for() -> None:
    """With nothing but the result of one block the element of the stream is the Procrustes fit of its values there."""
    c = case("llama")
    a, b = (canonicalise(c.symmetry, c.state(seed)).state for seed in (1, 2))
    place, given = "model.layers.0", [tuple(c.inputs)]
    trees = units(c.symmetry)
    seen = observe(c.symmetry, c.symmetry, (a, b), given, trees, rows=0, dtype=torch.float64, at=(place,))[0, 1]
    assert seen.sites == 1
    options = MatchOptions(alpha=1.0, precision="float64", spaces=("residual",))
    found = nearest(c.symmetry, a, b, options, seen=seen).element.elements
    (matrix,) = (e.matrix for s, e in found.items() if c.symmetry.spaces[s].name == "residual")
    value = named_value(c.graph, place)
    one, other = (Interpreter(c.graph).run(s, c.inputs, [value])[1][value].flatten(0, -2) for s in (a, b))
    common = (one - one.mean(0)).T @ (other - other.mean(0))
    assert matrix is not None
    # What Procrustes reaches; there are fewer positions than directions, so that several rotations do.
    assert float((matrix * common).sum()) == pytest.approx(float(torch.linalg.svdvals(common).sum()), rel=1e-6)
    with pytest.raises(UsageError, match="no value and no module"):
        observe(c.symmetry, c.symmetry, (a, b), given, trees, at=("model.layers.7",))
    with pytest.raises(UsageError, match="no activations are matched"):
        observe(
            c.symmetry,
            c.symmetry,
            (a, b),
            given,
            trees,
            at=(next(n.name for n in c.graph.calls if "rsqrt" in n.target),),
        )


def test_learning_starts_from_activations() -> None:
    from symgraph.match.match_options import LearnOptions

    c = case("vit")
    data = [x | {"labels": torch.zeros(16, dtype=torch.long)} for x in batches("vit", count=3)]
    learning = LearnOptions(steps=2)
    found = symgraph.align(c.module, c.modules(1), method="learned", start="activations", data=data, learning=learning)
    assert "by activations" in str(found.program) and found.learned is not None
