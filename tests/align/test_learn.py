"""Learned matching: the loss between falls, endpoints are kept, resumed runs give the same bits, bad input is named."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import batches, case, network, relative, worst
from torch import nn

import symgraph
from symgraph.errors import CheckpointError, DataError, SymgraphError, UsageError
from symgraph.io.data import from_batches
from symgraph.match.aligned import Aligned
from symgraph.match.feed import Feed, divided
from symgraph.match.learned_matching import Lesson, learn
from symgraph.match.match_options import LearnOptions
from symgraph.match.program import Program
from symgraph.match.program_run import output_change
from symgraph.measure.batches import repeatable
from symgraph.measure.objective import Objective
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of

Batch = dict[str, torch.Tensor]
SHORT = LearnOptions(steps=24, check_every=6, retract_every=3, lr=0.02, warmup=2, patience=0)


def run(name: str, options: LearnOptions = SHORT, **more: Any) -> Aligned:
    data = batches(name)
    # Labels are noise: what is learned of them helps on the same batches only.
    given: dict[str, Any] = {"data": data[:4], "validation": data[:4], "learning": options} | more
    return symgraph.align(network(name, 1), network(name, 2), method="learned", **given)


def midpoint(found: Aligned, data: list[Batch], module: nn.Module) -> float:
    middle = symgraph.loss_barrier(found.reference, found.state, data, module=module, points=[0.5]).midpoint
    assert middle is not None
    return middle


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", SHORT),
        ("gpt2-untied", replace(SHORT, chart="exponential", full=False)),
        ("llama", replace(SHORT, full=False)),
        ("llama", SHORT),
        ("vit", replace(SHORT, dual=True)),
        ("vit", replace(SHORT, gauge=True)),
        ("gpt2-untied", replace(SHORT, dual=True, gauge=True)),
        ("resnet", SHORT),
        ("vit", replace(SHORT, relaxed=("residual",))),
        ("bert", replace(SHORT, optimiser="SGD", lr=0.5, schedule="constant", sampler="normal", lambdas=(0.5, 0.1))),
    ],
    ids=[
        "vit",
        "exponential",
        "rotary",
        "rotary-full",
        "dual",
        "gauge",
        "dual-gauge",
        "scales",
        "relaxed",
        "sgd-normal",
    ],
)
def test_the_loss_between_falls_and_the_endpoints_stay(name: str, options: LearnOptions) -> None:
    found = run(name, options)
    lesson = found.learned
    assert lesson is not None and lesson.history[0][0] == 0
    values = dict(lesson.history)
    assert values[lesson.best] == min(values.values()) < values[0]
    module = network(name, 1)
    assert midpoint(found, batches(name)[:4], module) == pytest.approx(values[lesson.best], abs=2e-5)
    graph = symgraph.infer(module)
    for before, after in ((network(name, 2), found.state), (module, found.reference)):
        wide = {n: t.double() for n, t in (dict(state_of(before)) | after).items() if t.is_floating_point()}
        whole = {n: wide.get(n, t) for n, t in state_of(before).items()}
        assert output_change(graph, dict(state_of(before)), whole) < 1e-4
    moved = options.dual or options.gauge
    assert (found.moved_a is not None) == moved
    notes = "\n".join(found.notes)
    assert "every model computes what it computed, up to" in notes


def test_a_alone_stays_bit_for_bit_and_nothing_given_is_touched() -> None:
    a, b = network("vit", 1), network("vit", 2)
    a.train()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    data = batches("vit")
    found = symgraph.align(a, b, method="learned", data=data, learning=replace(SHORT, steps=4))
    assert a.training and all(p.grad is None for m in (a, b) for p in m.parameters())
    for m, kept in zip((a, b), before, strict=True):
        assert all(torch.equal(t, kept[n]) for n, t in m.state_dict().items())
    assert all(torch.equal(t, before[0][n]) for n, t in found.reference.items())


def test_the_endpoints_are_kept_to_rounding_in_float64() -> None:
    c = case("vit")
    a, b = (canonicalise(c.symmetry, c.state(k, spread=0.4)).state for k in (1, 2))
    module = copy.deepcopy(c.module).double()
    for options in (SHORT, replace(SHORT, dual=True)):
        found = learn(c.symmetry, (a, b), Lesson(module, batches("vit")), options)
        assert (found.transforms[0] is not None) == options.dual
        for state, moved in zip((a, b), found.transforms, strict=True):
            if moved is not None:
                assert relative(c.run(state), c.run(moved.apply(state))) < 1e-12


def test_a_run_in_single_precision() -> None:
    found = run("gpt2-untied", replace(SHORT, steps=6), dtype=torch.float32)
    assert found.learned is not None and found.state["lm_head.weight"].dtype is torch.float32
    assert found.learned.history[-1][0] == 6


def test_runs_are_reproducible_and_the_program_gives_the_same_bits(tmp_path: Path) -> None:
    one, two = run("vit"), run("vit")
    assert all(torch.equal(t, two.state[n]) for n, t in one.state.items())
    saved = Program.load(one.program.save(tmp_path / "plan.yaml"))
    assert saved == one.program and "learn" in str(saved) and "cayley chart" in str(saved)
    data = batches("vit")
    third = symgraph.align(network("vit", 1), network("vit", 2), program=saved, data=data[:4], validation=data[:4])
    assert all(torch.equal(t, third.state[n]) for n, t in one.state.items())
    assert worst(one.state, run("vit", replace(SHORT, seed=1)).state) > 1e-6


class Killed(Exception):
    pass


def _until(step: int) -> Any:
    def progress(line: str) -> None:
        if line.startswith(f"step {step} of"):
            raise Killed

    return progress


RELAXED = replace(SHORT, tightening=0.5, relaxed=("residual",))


@pytest.mark.parametrize("options", [SHORT, replace(SHORT, dual=True), RELAXED], ids=["single", "dual", "relaxed"])
def test_a_killed_run_resumes_to_the_same_bits(options: LearnOptions, tmp_path: Path) -> None:
    whole = run("llama", options)
    file = tmp_path / "run.pt"
    with pytest.raises(Killed):
        run("llama", options, checkpoint=file, progress=_until(18))
    assert file.exists()
    again = run("llama", options, checkpoint=file, resume=True)
    assert again.learned is not None and whole.learned is not None
    assert again.learned.history == whole.learned.history
    assert all(torch.equal(t, whole.state[n]) for n, t in again.state.items())
    assert all(torch.equal(t, whole.reference[n]) for n, t in again.reference.items())


def test_a_loader_is_resumed_at_the_same_batch() -> None:
    loader: Any = torch.utils.data.DataLoader(list(range(10)), batch_size=2, shuffle=True)  # type: ignore[arg-type]
    torch.manual_seed(3)
    feed = Feed(loader, torch.Generator())
    seen = [feed.next().tolist() for _ in range(8)]
    state = feed.state()
    rest = [feed.next().tolist() for _ in range(5)]
    torch.manual_seed(99)
    other = Feed(loader, torch.Generator())
    other.load(state)
    assert [other.next().tolist() for _ in range(2)] == rest[:2]
    assert sorted(x for batch in seen[:5] for x in batch) == list(range(10))


def test_an_alignment_of_another_gauge_is_saved_and_applied(tmp_path: Path) -> None:
    found = run("vit", replace(SHORT, dual=True, gauge=True))
    assert found.moved_a is not None
    for alignment, seed, expected in ((found.alignment, 2, found.state), (found.moved_a, 1, found.reference)):
        file = alignment.save(tmp_path / f"{seed}.safetensors")
        again = type(alignment).load(file, alignment.symmetry)
        state = again.apply(network("vit", seed).state_dict())
        assert worst(expected, {n: state[n] for n in expected}) < 1e-5


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    run("vit", replace(SHORT, steps=6), checkpoint=file)
    with pytest.raises(UsageError, match=r"belongs to another run\n  cause: it differs in options"):
        run("vit", SHORT, checkpoint=file, resume=True)
    file.write_text("nothing")
    with pytest.raises(CheckpointError, match="holds no run"):
        run("vit", SHORT, checkpoint=file, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_best_so_far() -> None:
    calls = 0

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        found = nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        calls += found.requires_grad
        return found * (math.nan if calls == 10 and found.requires_grad else 1.0)

    found = run("vit", SHORT, loss=loss).learned
    assert found is not None and found.ended == "the loss is not finite at step 10" and found.steps == 9
    assert found.history[-1][0] == 6 and found.best in (0, 6)
    assert "not finite at step 10" in str(found)


def test_it_stops_where_nothing_gets_better() -> None:
    found = run("vit", replace(SHORT, lr=1e-9, steps=600, patience=2)).learned
    assert found is not None and found.steps < 600 and "no better for 2 estimates" in found.ended


def test_permutations_by_straight_through_assignment() -> None:
    options = replace(SHORT, permutations=True, spaces=("*.mlp.hidden", "*.heads"))
    found = run("vit", options)
    assert found.learned is not None and found.learned.best > 0
    moved = found.learned.transforms[1]
    assert moved is not None
    indices = [e.index for e in moved.steps[0].element.elements.values()]  # type: ignore[attr-defined]
    assert any(not torch.equal(index, torch.arange(index.shape[-1]).expand_as(index)) for index in indices)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": -1}, "steps is -1"),
    ({"lr": 0.0}, "lr is 0.0"),
    ({"lr": math.nan}, "lr is nan"),
    ({"check_every": 0}, "check_every is 0"),
    ({"optimiser": "Adamm"}, "no optimiser 'Adamm'"),
    ({"optimiser": "LBFGS"}, "no optimiser 'LBFGS'"),
    ({"schedule": "linear"}, "schedule is 'linear'"),
    ({"sampler": "beta"}, "sampler is 'beta'"),
    ({"lambdas": (0.6, 0.4)}, "lambdas is"),
    ({"lambdas": (0.4,)}, "lambdas is"),
    ({"concentration": 0.0}, "concentration is 0.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LearnOptions(**options)


def test_bad_programs_are_refused() -> None:
    plan = run("vit", replace(SHORT, steps=0)).program
    plain = plan.to_plain()
    step = next(s for s in plain["steps"] if s["op"] == "learn")
    for key, value, message in (
        ("full", 1, "full: Expected `bool`"),
        ("lambdas", ["a"], "lambdas: Expected"),
        ("rate", 1, "'rate'"),
    ):
        bad = copy.deepcopy(plain)
        next(s for s in bad["steps"] if s["op"] == "learn")[key] = value
        with pytest.raises(UsageError, match=message):
            Program.loads(json.dumps(bad))
    assert step["full"] is True
    with pytest.raises(UsageError, match="the program reads activations or learns, and there is no training data"):
        symgraph.align(network("vit", 1), network("vit", 2), program=plan)


def _endless() -> Iterator[Batch]:
    yield from ()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": None}, "method 'learned' needs data"),
        ({"data": []}, "training data: no batches"),
        ({"data": _endless()}, "no examples"),
        ({"validation": []}, "validation data: no batches"),
        ({"data": 3}, "training data gave no batches"),
        ({"data": [{"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.tensor([0, 99])}]}, "step 1: the model"),
        ({"validation": [{"pixel_values": torch.randn(2, 3, 5, 5)}]}, "validation data, batch 0"),
        ({"validation": [{"pixel_values": torch.randn(2, 3, 8, 8)}]}, "no loss or metric fits"),
        ({"validation": [batches("vit")[0] | {"pixel_values": torch.full((8, 3, 8, 8), torch.nan)}]}, "loss of A on"),
        ({"method": "learnt"}, "no method 'learnt'"),
        ({"loss": "l2"}, "no loss 'l2'"),
    ],
)
def test_bad_input_is_one_clear_error(more: dict[str, Any], message: str) -> None:
    data = batches("vit")
    given: dict[str, Any] = {"data": data[:4], "validation": data[4:], "learning": SHORT, "method": "learned"} | more
    with pytest.raises(SymgraphError, match=message):
        symgraph.align(network("vit", 1), network("vit", 2), **given)


def test_one_batch_cannot_be_divided_and_ten_can() -> None:
    with pytest.raises(DataError, match="no validation data"):
        divided(batches("vit", count=1))
    training, validation = divided(batches("vit", count=25))
    assert (len(training), len(validation)) == (23, 2)
    few, apart = divided(iter(batches("vit", count=3)))
    assert (len(few), len(apart)) == (2, 1) and few[0]["labels"].shape == (8,)


class Tempered(nn.Module):
    """A network that takes a number beside its examples."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.down(self.up(x).relu())
        return logits / temperature


@pytest.mark.parametrize("method", ["learned", "activations"])
def test_a_batch_may_hold_a_number(method: str) -> None:
    inputs = {"x": torch.randn(16, 5), "temperature": torch.tensor(2.0)}
    data = [{**inputs, "labels": torch.arange(16) % 3}] * 4
    more: dict[str, Any] = {"learning": {"steps": 2}} if method == "learned" else {}
    found = symgraph.align(Tempered(1), Tempered(2), inputs, method=method, data=data, **more)
    assert found.after < found.before


def test_every_round_of_a_feed_is_all_the_batches_in_another_order() -> None:
    data = from_batches([{"x": torch.tensor([k])} for k in range(7)])
    feed = Feed(data, torch.Generator().manual_seed(0))
    rounds = [[int(feed.next()["x"]) for _ in range(7)] for _ in range(3)]
    assert all(sorted(r) == list(range(7)) for r in rounds) and rounds[0] != rounds[1]
    assert repeatable(data, "data") is data


def test_an_objective_falls_back_to_the_loss_of_the_model() -> None:
    module = network("vit", 1)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
            loss = None if labels is None else self.inner(pixel_values).logits.square().mean()
            return {"loss": loss}

    own = Own()
    batch = batches("vit")[0]
    value, weight = Objective(own).mean(dict(state_of(own)), batch, "here")
    assert weight == 8.0
    expected = module(batch["pixel_values"]).logits.square().mean()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
