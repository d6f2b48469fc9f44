"""Every script under `examples/` runs, and prints what it promises."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Capture = pytest.CaptureFixture[str]


def run(name: str, out: Path, capsys: Capture, *more: str) -> str:
    """What the script prints; it writes under `out` alone."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = {p for p in EXAMPLES.rglob("*") if "__pycache__" not in p.parts}
    module.main(["--fast", "--out", str(out), *more])
    assert {p for p in EXAMPLES.rglob("*") if "__pycache__" not in p.parts} == before
    return capsys.readouterr().out


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} is not in\n{text}"
    return float(found[1])


def loss_barriers(text: str) -> tuple[float, float]:
    return number(r"as trained +loss barrier ([\d.]+)", text), number(r"aligned +loss barrier ([\d.]+)", text)


def test_every_example_is_tested() -> None:
    tested = {"mlp_by_hand", "vit_on_digits", "gpt2_on_text", "custom_rule", "rounding", "task_vector"}
    tested |= {"rule_by_measurement", "prune_digits", "prune_split_data", "kinship", "rotate_before_rounding"}
    assert {p.stem for p in EXAMPLES.glob("*.py")} == tested


def test_mlp_by_hand(tmp_path: Path, capsys: Capture) -> None:
    text = run("mlp_by_hand", tmp_path, capsys)
    assert number(r"weights differ by ([\d.]+) \(relative\)", text) > 0.5
    assert number(r"outputs by (\S+)\n", text) < 1e-3
    assert re.search(r"^hidden +32 +positive monomial +32 ", text, re.MULTILINE)
    assert number(r"change the outputs by (\S+)", text) < 1e-9
    assert number(r"aligned back: weights differ by (\S+)", text) < 1e-6
    before, after = loss_barriers(text)
    assert after < before / 2
    assert (tmp_path / "barrier.png").stat().st_size > 1000


def test_vit_on_digits(tmp_path: Path, capsys: Capture) -> None:
    text = run("vit_on_digits", tmp_path, capsys)
    assert re.search(r"^residual +32 +orthogonal fixing ones +465 ", text, re.MULTILINE)
    assert number(r"change the outputs by (\S+)", text) < 1e-9
    before, after = loss_barriers(text)
    assert after < before / 2
    assert (tmp_path / "barrier.png").stat().st_size > 1000


def test_gpt2_on_text(tmp_path: Path, capsys: Capture) -> None:
    book = tmp_path / "book.txt"
    book.write_text((EXAMPLES.parent / "LICENSE").read_text(encoding="utf-8") * 6, encoding="utf-8")
    text = run("gpt2_on_text", tmp_path / "out", capsys, "--text", str(book))
    assert re.search(r"^residual +48 +orthogonal fixing ones +1,081 ", text, re.MULTILINE)
    assert number(r"change the outputs by (\S+)", text) < 1e-9
    before, after = loss_barriers(text)
    assert after < before / 2
    assert (tmp_path / "out" / "barrier.png").stat().st_size > 1000


def test_gpt2_on_a_text_that_is_too_short(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "line.txt").write_text("too short", encoding="utf-8")
    with pytest.raises(SystemExit):
        run("gpt2_on_text", tmp_path / "out", capsys, "--text", str(tmp_path / "line.txt"))
    assert "too short" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_custom_rule(tmp_path: Path, capsys: Capture) -> None:
    text = run("custom_rule", tmp_path, capsys)
    without, refused, ruled, python = re.split(r"^[2-4]\. ", text, flags=re.MULTILINE)
    assert "0 active" in without and "no rule covers examples.two_slopes.default" in without
    assert "symgraph rules new examples.two_slopes.default --model MODEL" in without
    assert "class signed permutation: equivariance fails on examples.two_slopes.default" in refused
    assert re.search(r"^hidden +16 +positive monomial +16 ", ruled, re.MULTILINE)
    assert number(r"change the outputs by (\S+)", ruled) < 1e-9
    assert "fingerprints equal: True" in python
    assert '"positive monomial"' in (tmp_path / "symmetry.json").read_text(encoding="utf-8")


def test_rule_by_measurement(tmp_path: Path, capsys: Capture) -> None:
    text = run("rule_by_measurement", tmp_path, capsys)
    assert "is called 2 times and freezes 872 of 923 parameters" in text
    assert "signature: x[... a], weight[a~]? -> [... a]" in text and "sound: True, tight: True" in text
    assert re.search(r"^residual +8 +orthogonal +28 ", text, re.MULTILINE)
    assert number(r"change the outputs by (\S+)", text) < 1e-9
    assert "a: orthogonal" in (tmp_path / "fused_norm.yaml").read_text(encoding="utf-8")


def test_rounding(tmp_path: Path, capsys: Capture) -> None:
    text = run("rounding", tmp_path, capsys)
    before, after = number(r"as given ([\d.]+)", text), number(r"-> ([\d.]+) \(kept", text)
    assert after < 0.8 * before
    assert number(r"outputs change by (\S+),", text) < 1e-4
    assert (tmp_path / "rounding" / "model.safetensors").exists()


def test_task_vector(tmp_path: Path, capsys: Capture) -> None:
    text = run("task_vector", tmp_path, capsys)
    own, naive, carried = (
        number(rf"B{how} +accuracy ([\d.]+) on turned", text) for how in ("", r" \+ difference", r" \+ transported")
    )
    assert carried > max(own, naive) + 0.05
    assert (tmp_path / "b-on-turned-digits.pt").exists()


def test_kinship(tmp_path: Path, capsys: Capture) -> None:
    text = run("kinship", tmp_path, capsys)
    verdicts = re.findall(r"weights alike by +-?([\d.]+): (\w+), ([\d.]+) left", text)
    assert [verdict for _, verdict, _ in verdicts] == ["same", "noise", "derived", "independent"]
    assert max(float(cosine) for cosine, _, _ in verdicts) < 0.2 and abs(float(verdicts[1][2]) - 0.05) < 0.005
    assert (
        number(r"merged aligned +accuracy ([\d.]+)", text)
        > number(r"merged as they are +accuracy ([\d.]+)", text) + 0.1
    )
    assert (tmp_path / "merged.pt").exists()


def test_rotate_before_rounding(tmp_path: Path, capsys: Capture) -> None:
    text = run("rotate_before_rounding", tmp_path, capsys)
    before, after = (number(rf"{how} .* and ([\d.]+) when rounded", text) for how in ("as it is", "learned"))
    assert after < 0.8 * before and number(r"learned +predicts (\S+) apart", text) < 1e-6
    assert (tmp_path / "model.safetensors").exists()


def test_prune_digits(tmp_path: Path, capsys: Capture) -> None:
    text = run("prune_digits", tmp_path, capsys)
    dropped, fused = (number(rf"{how} .*accuracy ([\d.]+)", text) for how in ("units dropped by l1", "units fused"))
    assert fused > dropped + 0.05
    assert (tmp_path / "pruned.pt").exists()


def test_prune_split_data(tmp_path: Path, capsys: Capture) -> None:
    text = run("prune_split_data", tmp_path, capsys)
    for way in ("a half, pruned", "prune and fuse", "fuse and prune"):
        assert number(rf"{way} +[\d,]+ parameters +accuracy [\d.]+, after tuning ([\d.]+)", text) > 0.9
    assert (tmp_path / "prune-and-fuse.pt").exists()
