"""The alignment as an artifact: files, inverse, composition, other states, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, State, build, case, pair_program, relative, worst
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from symgraph.errors import CheckpointError, SymgraphError, UsageError
from symgraph.io.files import OutputError
from symgraph.io.state import state_hash
from symgraph.match.match_options import MatchOptions
from symgraph.orbit.alignment import Alignment, distance
from symgraph.prove.verify import random_transform, settled_names


@cache
def aligned(name: str, source: int = 1, target: int = 2) -> Alignment:
    """B (seed `source`) brought to A (seed `target`), two unrelated models."""
    c = case(name)
    states = {"A": c.state(target), "B": c.state(source)}
    hashes = {k: state_hash(s) for k, s in states.items()}
    return (
        pair_program(c.symmetry, MatchOptions(sweeps=4)).run(c.symmetry, states, hashes=hashes).alignments["B.aligned"]
    )


def parameters(name: str) -> list[str]:
    return list(case(name).symmetry.graph.parameters)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_gives_back_the_same_alignment(name: str, tmp_path: Path) -> None:
    c, found = case(name), aligned(name)
    path = found.save(tmp_path / "ab.safetensors")
    again = Alignment.load(path, c.symmetry)
    assert (again.source, again.target) == (state_hash(c.state(1)), state_hash(c.state(2)))
    assert (again.objective, again.notes) == (found.objective, found.notes)
    one, other = found.apply(c.state(7)), again.apply(c.state(7))
    assert all(torch.equal(one[n], other[n]) for n in one)
    for space in c.symmetry.active:
        e, f = found.element(space.name), again.element(space.name)
        assert e is not None and f is not None
        assert e.tensors().keys() == f.tensors().keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_checkpoint_of_the_architecture_keeps_its_function(name: str) -> None:
    c, found = case(name), aligned(name)
    for seed in (1, 7):
        assert relative(c.run(c.state(seed)), c.run(found.apply(c.state(seed)))) < 1e-9
        assert relative(c.run(c.state(seed)), c.run(found.inverse().apply(c.state(seed)))) < 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inverse_and_composition(name: str) -> None:
    c, ab, bc = case(name), aligned(name, 1, 2), aligned(name, 2, 3)
    x = c.state(1)
    back = ab.inverse().apply(ab.apply(x))
    assert worst(x, back, parameters(name)) < 1e-9
    assert (ab.inverse().source, ab.inverse().target) == (ab.target, ab.source)
    both = ab.then(bc)
    assert (both.source, both.target) == (ab.source, bc.target)
    assert worst(bc.apply(ab.apply(x)), both.apply(x), parameters(name)) < 1e-9
    assert worst(x, both.inverse().apply(both.apply(x)), parameters(name)) < 1e-8


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_task_vector_goes_through_the_linear_part(name: str) -> None:
    c, found = case(name), aligned(name)
    x, y = c.state(8), c.state(9)
    tau = {n: x[n] - y[n] for n in parameters(name)}
    want, got = [found.transform.apply(t) for t in (x, y)], found.apply(tau, task_vector=True)
    scale = max(float(want[0][n].abs().max()) for n in tau)
    assert max(float((want[0][n] - want[1][n] - got[n]).abs().max()) for n in tau) < 1e-9 * scale
    zero = found.apply({n: torch.zeros_like(t) for n, t in tau.items()}, task_vector=True)
    assert all(float(t.abs().max()) == 0.0 for t in zero.values())
    source = c.state(1)
    assert worst(found.transform.apply(source), found.apply(source)) < 1e-12


def test_a_task_vector_through_a_singular_gauge() -> None:
    c = case("llama")
    a, b = c.state(1), c.state(2)
    a["model.norm.weight"][3] = 0.0
    run = pair_program(c.symmetry, MatchOptions()).run(c.symmetry, {"A": b, "B": a})
    found = run.alignments["B.aligned"]
    zero = {n: torch.zeros_like(a[n]) for n in parameters("llama")}
    assert all(float(t.abs().max()) == 0.0 for t in found.apply(zero, task_vector=True).values())
    assert relative(c.run(a), c.run(found.apply(a))) < 1e-9
    with pytest.raises(SymgraphError, match=r"model\.norm\.weight is singular"):
        found.inverse()


@pytest.mark.parametrize("name", ["gpt2-tied", "bert"])
def test_every_name_of_a_tied_tensor_is_transformed(name: str) -> None:
    """A whole state dict goes in and comes out, and the module computes the same with it."""
    c, found = case(name), aligned(name)
    module = build((name, "sdpa")).double()
    state = {n: t.clone() for n, t in module.state_dict().items()}
    moved = found.apply(state)
    assert moved.keys() == state.keys()
    assert all(not t.requires_grad for t in moved.values())
    ids = {n.target: x for n, x in zip(c.graph.inputs, c.inputs, strict=True)}
    with torch.no_grad():
        before = module(**ids).logits
        module.load_state_dict(moved)
        assert relative(before, module(**ids).logits) < 1e-6
    for other, first in c.graph.tied.items():
        assert torch.equal(moved[other], moved[first])
        for kept, without in ((other, first), (first, other)):
            assert torch.equal(found.apply({n: t for n, t in state.items() if n != without})[kept], moved[first])
    word = c.graph.tied[next(n for n in c.graph.tied if n.endswith("weight"))]
    assert torch.equal(found.apply({word: state[word]})[word], moved[word])


def test_a_bias_without_the_matrix_that_makes_a_constant_arrive_is_refused() -> None:
    state = case("bert").state(1)
    bias, weight = (f"bert.encoder.layer.0.attention.self.query.{n}" for n in ("bias", "weight"))
    with pytest.raises(UsageError, match=f"`{weight}` is missing beside `{bias}`"):
        aligned("bert").apply({bias: state[bias]})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_tensor_keeps_its_dtype(dtype: torch.dtype) -> None:
    c, found = case("vit"), aligned("vit")
    state: State = {n: t.to(dtype) for n, t in c.state(1).items()}
    state["step"] = torch.tensor(5)
    moved = found.apply(state)
    assert {n: t.dtype for n, t in moved.items()} == {n: t.dtype for n, t in state.items()}
    assert torch.equal(moved["step"], state["step"])
    exact = found.apply({n: t.double() for n, t in state.items() if n != "step"})
    assert distance(exact, moved) < {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]


def test_a_random_transform_survives_a_file(tmp_path: Path) -> None:
    """All kinds of steps with random coefficients, not only those that a match produces."""
    for name in ARCHITECTURES:
        c = case(name)
        t = random_transform(c.symmetry, c.state(3), torch.Generator().manual_seed(3), settled_names(c.symmetry))
        found = replace(aligned(name), transform=t)
        again = Alignment.load(found.save(tmp_path / f"{name}.safetensors"), c.symmetry)
        assert worst(t.apply(c.state(4)), again.transform.apply(c.state(4)), parameters(name)) < 1e-12


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_files_are_never_overwritten_unasked(tmp_path: Path) -> None:
    found = aligned("mlp-relu")
    path = found.save(tmp_path / "ab.safetensors")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        found.inverse().save(path)
    assert path.read_bytes() == before
    found.inverse().save(path, overwrite=True)
    assert path.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["ab.safetensors"]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    found = aligned("vit")
    path = found.save(tmp_path / "ab.safetensors")
    with pytest.raises(CheckpointError, match="made for another architecture"):
        Alignment.load(path, case("bert").symmetry)
    assert Alignment.load(path, case("vit", "eager").symmetry).source == found.source
    with pytest.raises(UsageError, match="different architectures cannot be composed"):
        found.then(aligned("bert"))
    wrong = {n: t[..., :1] if n == "classifier.weight" else t for n, t in case("vit").state(1).items()}
    with pytest.raises(
        CheckpointError, match=r"does not fit this state: classifier\.weight: \(5, 1\) against \(5, 12\)"
    ):
        found.apply(wrong)
    with pytest.raises(UsageError, match="did you mean `residual`"):
        found.element("residul")


def test_what_is_no_alignment_is_refused(tmp_path: Path) -> None:
    s = case("mlp-relu").symmetry
    with pytest.raises(CheckpointError, match="does not exist"):
        Alignment.load(tmp_path / "none", s)
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        Alignment.load(tmp_path / "text", s)
    save_file({"x": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="holds no alignment"):
        Alignment.load(tmp_path / "weights", s)


def damaged(meta: dict[str, Any], how: str) -> Any:
    first = meta["steps"][0]
    return {
        "no steps": {k: v for k, v in meta.items() if k != "steps"},
        "no hash": {k: v for k, v in meta.items() if k != "source"},
        "a list": [meta],
        "a step of no kind": meta | {"steps": [{k: v for k, v in first.items() if k != "kind"}]},
        "an unknown kind": meta | {"steps": [first | {"kind": "magic"}]},
        "an unknown space": meta | {"steps": [{"kind": "act", "spaces": ["nowhere"]}]},
        "no tensors": meta | {"steps": [*meta["steps"], first]},
        "an unknown gain": meta | {"steps": [{"kind": "rescale", "parameter": "nothing"}]},
        "an unknown bias": meta | {"steps": [{"kind": "push", "parameter": "nothing", "start": 0}]},
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "no steps",
        "no hash",
        "a list",
        "a step of no kind",
        "an unknown kind",
        "an unknown space",
        "no tensors",
        "an unknown gain",
        "an unknown bias",
    ],
)
def test_a_damaged_file_is_one_clear_error(how: str, tmp_path: Path) -> None:
    path = aligned("vit").save(tmp_path / "good.safetensors")
    with safe_open(path, framework="pt") as f:
        meta = json.loads(f.metadata()["symgraph"])
    bad = tmp_path / "bad.safetensors"
    save_file(load_file(path), bad, {"symgraph": json.dumps(damaged(meta, how))})
    with pytest.raises(SymgraphError) as error:
        Alignment.load(bad, case("vit").symmetry)
    assert str(bad) in str(error.value)


SAVED = Path(__file__).parent / "saved"


def test_a_file_of_the_version_before_loads_and_does_the_same() -> None:
    found = Alignment.load(SAVED / "mlp-relu.alignment.safetensors", case("mlp-relu").symmetry)
    expected = load_file(SAVED / "mlp-relu.applied.safetensors")
    moved = found.apply(case("mlp-relu").state(7))
    assert [type(s).__name__ for s in found.transform.steps] == ["Act", "Blend", "Act"]
    assert worst(expected, moved) < 1e-12


@pytest.mark.parametrize(
    ("part", "spoil", "words"),
    [
        ("index", lambda t: torch.zeros_like(t), "is no permutation"),
        ("scale", lambda t: -t, "has a scale that is not positive"),
        ("matrix", lambda t: t * torch.nan, "is not finite"),
        ("matrix", lambda t: 2.0 * t, "is not orthogonal"),
    ],
)
def test_an_element_of_a_file_is_one_of_its_class(tmp_path: Path, part: str, spoil: Any, words: str) -> None:
    name = "llama"
    path = aligned(name).save(tmp_path / "ab.safetensors")
    tensors = load_file(path)
    chosen = [n for n in tensors if n.endswith(f".{part}") and (part != "matrix" or "residual" in n)]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors[chosen[0]] = spoil(tensors[chosen[0]])
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="damaged") as found:
        Alignment.load(path, case(name).symmetry)
    assert words in str(found.value)
