"""The program: text, YAML and JSON, the same result when run again, and every mistake in it a clear error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from models_zoo import case, pair_program

from symgraph.errors import UsageError
from symgraph.io.files import OutputError
from symgraph.io.pinned import ModelInput
from symgraph.match.match_options import MatchOptions
from symgraph.match.match_step import MatchStep
from symgraph.match.prepare_steps import Canonicalise
from symgraph.match.program import Program
from symgraph.match.program_step import UnitPlan, folded
from symgraph.match.settle_step import Settle

OPTIONS = MatchOptions(
    sweeps=7, tolerance=1e-7, weighting={"lm_head.weight": 2.5}, seed=3, restarts=1, spaces=("residual", "h.*")
)

GOLDEN = """\
program for GPT2LMHeadModel (rules 01234567)
  1  canonicalise  A -> A.canonical
  2  canonicalise  B -> B.canonical
  3  match         A.canonical, B.canonical -> matched (by weights, at most 15 sweeps, tolerance 1e-07, seed 0)
      residual                               orthogonal fixing ones   polar factor on the hyperplane of mean zero
      h.{0..1}.attn.heads                    permutation              assignment over inner optima
        h.{0..1}.attn.query-key              invertible               polar factor (balanced already)
        h.{0..1}.attn.value-output           invertible               polar factor (balanced already)
      h.{0..1}.mlp.hidden                    permutation              assignment
  4  settle        matched -> A.aligned, B.aligned, in the gauge of their reference"""


def plan(options: MatchOptions = OPTIONS, name: str = "gpt2-untied") -> Program:
    return pair_program(case(name).symmetry, options)


def test_the_text_is_what_a_reader_needs() -> None:
    found = replace(plan(MatchOptions()), rules="0123456789abcdef")
    assert str(found) == GOLDEN


def test_a_deep_plan_is_on_one_screen() -> None:
    """As of 48 layers: those that are alike are one line, and one that is not stays by itself."""
    shallow = plan()
    step = next(s for s in shallow.steps if isinstance(s, MatchStep))

    def layer(unit: UnitPlan, number: int) -> UnitPlan:
        inside = tuple(layer(u, number) for u in unit.inside)
        return replace(unit, space=unit.space.replace("{0..1}", str(number)), inside=inside)

    units = tuple(layer(u, i) for i in range(48) for u in step.units if "{" in u.space)
    deep = replace(step, units=folded((*units, UnitPlan("h.48.mlp.hidden", "identity", "none"))))
    assert [u.space for u in deep.units] == ["h.{0..47}.attn.heads", "h.{0..47}.mlp.hidden", "h.48.mlp.hidden"]
    assert [u.space for u in deep.units[0].inside] == ["h.{0..47}.attn.query-key", "h.{0..47}.attn.value-output"]
    program = replace(shallow, steps=(*shallow.steps[:2], deep, *shallow.steps[3:]))
    assert len(str(program).splitlines()) < 15 and len(program.dumps().splitlines()) < 45
    assert Program.loads(program.dumps()) == program


def test_a_program_saved_with_one_line_for_each_layer_loads() -> None:
    plain = plan().to_plain()
    plain["inputs"] = {"A": "a", "B": "b"}
    unit = {"space": "h.0.mlp.hidden", "group": "permutation", "solver": "assignment", "inside": []}
    plain["steps"][2] |= {"units": [unit, {**unit, "space": "h.1.mlp.hidden"}], "reference": ""}
    found = Program.loads(yaml.safe_dump(plain))
    assert found.inputs["A"] == ModelInput(model="a")
    assert Program.loads(found.dumps()) == found


def test_every_solver_is_named() -> None:
    text = "\n".join(str(plan(MatchOptions(), n)) for n in ("llama", "mlp-tanh", "mlp-relu", "resnet"))
    for solver in (
        "polar factor\n",
        "angle of each frequency pair",
        "assignment on the better sign\n",
        "assignment (scales are equal already)",
        "assignment on the better sign (scales are equal already)",
        "assignment over inner optima",
    ):
        assert solver in text + "\n", solver


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("options", [OPTIONS, MatchOptions()])
def test_a_saved_program_is_the_same_program(suffix: str, options: MatchOptions, tmp_path: Path) -> None:
    found = plan(options)
    path = found.save(tmp_path / f"program.{suffix}")
    assert Program.load(path) == found
    assert Program.loads(found.dumps("json")) == Program.loads(found.dumps("yaml")) == found
    assert path.read_text().lstrip().startswith("{") == (suffix == "json")
    with pytest.raises(OutputError, match="exists already"):
        found.save(path)
    assert found.save(path, overwrite=True) == path


def test_a_program_run_again_gives_the_same_bits(tmp_path: Path) -> None:
    c = case("llama")
    states = {"A": c.state(1), "B": c.state(2)}
    first = pair_program(c.symmetry, MatchOptions(restarts=1, sweeps=3, weighting="normalised"))
    again = Program.load(first.save(tmp_path / "p.yaml"))
    one, other = (p.run(c.symmetry, states).states["B.aligned"] for p in (first, again))
    assert all(torch.equal(one[n], other[n]) for n in c.symmetry.graph.parameters)


def test_progress_names_each_step() -> None:
    c = case("mlp-gelu")
    lines: list[str] = []
    states = {"A": c.state(1), "B": c.state(2)}
    pair_program(c.symmetry, MatchOptions()).run(c.symmetry, states, progress=lines.append)
    heads = [line.split()[0] for line in lines]
    assert [h for h in heads if h != "sweep"] == ["canonicalise", "canonicalise", "match", "settle"]
    assert heads.count("sweep") >= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_computation_is_a_choice(dtype: torch.dtype) -> None:
    from symgraph.orbit.alignment import distance
    from symgraph.prove.verify import random_transform, settled_names

    for name in ("vit", "llama", "resnet"):
        c = case(name)
        a = c.state(1)
        b = random_transform(c.symmetry, a, torch.Generator().manual_seed(1), settled_names(c.symmetry)).apply(a)
        run = pair_program(c.symmetry, MatchOptions()).run(c.symmetry, {"A": a, "B": b}, dtype=dtype)
        assert distance(a, run.states["B.aligned"]) < {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]


# -- what is refused ---------------------------------------------------------------------------------------------------


def damaged(**changes: Any) -> str:
    """The plan as YAML with one thing changed: `steps_2_sweeps=...` changes the key of a step."""
    plain = plan().to_plain()
    for place, value in changes.items():
        *path, key = place.split("__")
        at: Any = plain
        for p in path:
            at = at[int(p) if p.isdigit() else p]
        if value is None:
            del at[key]
        else:
            at[int(key) if key.isdigit() else key] = value
    return yaml.safe_dump(plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symgraph-program": 3}, "p is not a symgraph program"),
        ({"stepz": []}, "p: 'stepz' is unknown (did you mean `steps`?)"),
        ({"steps": 3}, "p: steps: Expected `array`, got `int`"),
        ({"inputs": [1]}, "p: inputs: Expected `object`, got `array`"),
        (
            {"steps__0__op": "magic"},
            "p: step 1 is none of embed, reduce, canonicalise, match, split, soften, learn, settle, interpolate, recal",
        ),
        ({"steps__0__op": ["match"]}, "p: step 1 is none of"),
        ({"steps__0__modle": "A"}, "p: step 1 (canonicalise): 'modle' is unknown (did you mean `model`?)"),
        ({"steps__0__model": None}, "p: step 1 (canonicalise): Object missing required field `model`"),
        ({"steps__2__sweeps": "many"}, "p: step 3 (match): sweeps: Expected `int`, got `str`"),
        ({"steps__2__sweeps": -1}, "p: step 3 (match): sweeps is -1"),
        ({"steps__2__sweeps": True}, "p: step 3 (match): sweeps: Expected `int`, got `bool`"),
        ({"steps__2__tolerance": "1e-7"}, "p: step 3 (match): tolerance: Expected `float`, got `str`"),
        ({"steps__2__spaces": "residual"}, "p: step 3 (match): spaces: Expected `array`, got `str`"),
        ({"steps__2__weighting": {"x": "heavy"}}, "p: step 3 (match): weighting[...]: Expected `float`, got `str`"),
        ({"steps__2__units": 1}, "p: step 3 (match): units: Expected `array`, got `int`"),
        ({"steps__2__units__0": "residual"}, "p: step 3 (match): units[0]: Expected `object`, got `str`"),
        ({"steps__2__units__0__spaec": "x"}, "p: step 3 (match): units[0]: 'spaec' is unknown (did you mean `space`?)"),
    ],
)
def test_mistakes_are_named_with_their_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Program.loads(damaged(**changes), "p")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["", "[", "a: *b", "2001-99-99", "!!int ''", "!!timestamp x", "!!python/object:os.x {}", "\0"]
)
def test_text_that_is_no_yaml(text: str) -> None:
    with pytest.raises(UsageError, match=r"^p is not"):
        Program.loads(text, "p")


def test_what_refers_to_itself_or_explodes() -> None:
    head = "symgraph-program: 2\nsteps:\n- op: match\n  models: [a, b]\n  into: c\n"
    with pytest.raises(UsageError):
        Program.loads(head + "  units: [&u {space: s, group: g, solver: x, inside: [*u]}]\n")
    bomb = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else 1}]\n" for i in range(12))
    with pytest.raises(UsageError, match="'k0' is unknown"):
        Program.loads(bomb + head)
    with pytest.raises(UsageError):
        Program.loads("[" * 5000)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for place in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError, match="cannot read the program"):
            Program.load(place)


def test_steps_that_do_not_fit_together() -> None:
    c = case("mlp-gelu")
    states = {"A": c.state(1), "B": c.state(2)}
    found = pair_program(c.symmetry, MatchOptions())
    canon = Canonicalise("A", "A.canonical"), Canonicalise("B", "B.canonical")

    def run(*steps: Any, **changes: Any) -> None:
        replace(found, steps=steps or found.steps, **changes).run(c.symmetry, states)

    with pytest.raises(UsageError, match="made for another architecture"):
        run(symmetry="another")
    with pytest.raises(UsageError, match="needs a model C"):
        run(Canonicalise("C", "C.canonical"))
    with pytest.raises(UsageError, match=r"step match reads 'A\.canonical'"):
        run(MatchStep(("A.canonical", "B.canonical"), "matched"))
    with pytest.raises(UsageError, match="method is 'magic'"):
        run(*canon, MatchStep(("A.canonical", "B.canonical"), "matched", method="magic"))
    with pytest.raises(UsageError, match="step settle reads 'matched'"):
        run(*canon, Settle("matched", ("A.aligned", "B.aligned")))
    with pytest.raises(UsageError, match="step settle names 1 of 2 models"):
        run(*canon, MatchStep(("A.canonical", "B.canonical"), "matched"), Settle("matched", ("B.aligned",)))


def test_align_refuses_a_program_that_does_not_align() -> None:
    from models_zoo import build

    from symgraph.match.align import align

    c = case("mlp-gelu")
    module = build(("mlp-gelu", "sdpa"))
    short = replace(pair_program(c.symmetry, MatchOptions()), steps=(Canonicalise("A", "A.canonical"),))
    with pytest.raises(UsageError, match="does not bring 2 models into one basis"):
        align(module, module, symmetry=c.symmetry, program=short)


@pytest.mark.parametrize("name", ["align.program.yaml", "universe.program.json"])
def test_a_program_of_the_version_before_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(UsageError, match=r"is a program of an earlier version of symgraph\n  help: `symgraph.plan"):
        Program.load(Path(__file__).parent / "saved" / name)


KEYS = st.sampled_from(
    ["symgraph-program", "steps", "op", "model", "into", "units", "inside", "spaces", "weighting", "x"]
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.sampled_from(["match", "apply", "A", ""])
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(0, 1), inner, max_size=4),
    max_leaves=12,
)


def loaded_or_refused(text: str) -> None:
    try:
        found = Program.loads(text)
    except UsageError as error:
        assert str(error)
    else:
        assert Program.loads(found.dumps()) == found


@given(st.text(alphabet=st.sampled_from("symgraph-pro1: \n[]{}!&*'\"#%@`|>?,x0\t\\"), max_size=60))
@settings(max_examples=150)
def test_no_text_is_more_than_a_usage_error(text: str) -> None:
    loaded_or_refused(text)
    loaded_or_refused("symgraph-program: 2\n" + text)


@given(PLAIN, st.integers(0, 3), KEYS, st.booleans())
@settings(max_examples=200)
def test_no_data_is_more_than_a_usage_error(value: Any, step: int, key: str, whole: bool) -> None:
    plain = plan().to_plain()
    if whole:
        plain[key] = value
    else:
        plain["steps"][step][key] = value
    loaded_or_refused(yaml.safe_dump(plain))
    loaded_or_refused(json.dumps(plain, default=str))
