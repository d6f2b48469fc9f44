"""transport, end to end: a checkpoint, a scale that is chosen on data, an adapter; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import symgraph
from cli.runner import Cli


@pytest.fixture
def three(checkpoints: Path, tmp_path: Path) -> list[Path]:
    """A, A after some training as it were, and B."""
    a, b = checkpoints / "vit-0", checkpoints / "vit-1"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.json").write_text((a / "config.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state = load_file(a / "model.safetensors")
    moved = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in state.items()}
    save_file(moved, tuned / "model.safetensors", {"format": "pt"})
    return [a, tuned, b]


def named(three: list[Path]) -> list[object]:
    return [part for pair in zip(("--base", "--tuned", "--to"), three, strict=True) for part in pair]


def test_what_was_learned_is_carried_and_written(cli: Cli, three: list[Path]) -> None:
    found = cli("transport", *named(three), "--out", "out", "--scale", "0.5", "--json")
    assert found.code == 0, found.err
    assert found.json["scale"] == 0.5 and found.json["adapter"] is False and found.json["norm"] > 0
    ours = symgraph.transport(*three, scale=0.5)
    written = symgraph.model("out").module.state_dict()
    assert all(torch.allclose(t, ours.state[n]) for n, t in written.items())
    assert "symgraph transport" in Path("out/README.md").read_text()
    again = cli("transport", *named(three), "--out", "out")
    assert again.code != 0 and "--overwrite" in again.err


def test_an_alignment_is_kept_and_used(cli: Cli, three: list[Path]) -> None:
    a, _, b = three
    assert cli("align", a, b, "--out", "aligned", "--alignment", "ab.safetensors").code == 0
    assert cli("transport", *named(three), "--out", "one").code == 0
    found = cli("transport", *named(three), "--out", "other", "--alignment", "ab.safetensors")
    assert found.code == 0, found.err
    one, other = (load_file(f"{n}/model.safetensors") for n in ("one", "other"))
    assert all(torch.allclose(t, other[n]) for n, t in one.items())


def test_the_scale_is_chosen_on_data(cli: Cli, three: list[Path]) -> None:
    found = cli("transport", *named(three), "--out", "out", "--fit", "cli_nets:images", "--json")
    assert found.code == 0, found.err
    losses = found.json["fitted"]["loss"]["values"]
    assert len(losses) == 17 and found.json["scale"] == losses.index(min(losses)) / 8


@pytest.mark.parametrize("method", ["activations", "learned"])
def test_data_of_what_was_learned_is_seen(cli: Cli, three: list[Path], method: str) -> None:
    more = ("--steps", "3") if method == "learned" else ()
    found = cli("transport", *named(three), "--out", "out", "--method", method, "--data", "cli_nets:images", *more)
    if method == "learned":
        assert found.code == 8 and "1 batch cannot be divided" in found.err and not Path("out").exists()
        found = cli("transport", *named(three), "--out", "out", "--method", method, "--data", "cli_nets:photos", *more)
    assert found.code == 0, found.err
    assert {"activations": "activations of 6 examples", "learned": "learned over 3 steps"}[method] in found.out
    changed, own = (load_file(folder / "model.safetensors") for folder in (Path("out"), three[2]))
    assert any(not torch.equal(tensor, own[name]) for name, tensor in changed.items())


def test_a_scale_for_each_tensor(cli: Cli, three: list[Path]) -> None:
    found = cli("transport", *named(three), "--out", "out", "--fit", "cli_nets:photos", "--per-tensor", "--json")
    assert found.code == 0, found.err
    assert found.json["scales"].keys() == dict(symgraph.model(three[2]).module.named_parameters()).keys()


def test_an_adapter_is_written_as_one(cli: Cli, three: list[Path]) -> None:
    peft = pytest.importorskip("peft")
    a, _, b = three
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(symgraph.model(a).module, config).save_pretrained("adapter")
    found = cli("transport", "--base", a, "--tuned", "adapter", "--to", b, "--out", "carried")
    assert found.code == 0, found.err
    assert "the adapter adapter on" in found.out
    assert json.loads(Path("carried/adapter_config.json").read_text())["base_model_name_or_path"] == str(b)
    opened = peft.PeftModel.from_pretrained(symgraph.model(b).module, "carried")
    assert opened.peft_config["default"].r == 2


def test_what_does_not_fit_is_refused(cli: Cli, three: list[Path], checkpoints: Path) -> None:
    other = cli("transport", "--base", three[0], "--tuned", three[1], "--to", checkpoints / "gpt2-0", "--out", "out")
    assert other.code != 0 and "help:" in other.err
    scale = cli("transport", *named(three), "--out", "out", "--scale", "nan")
    assert scale.code == 2 and "no finite number" in scale.err
    assert not Path("out").exists()


def test_what_belongs_to_a_value_is_carried_and_written(cli: Cli, three: list[Path]) -> None:
    a, _, b = three
    width = load_file(a / "model.safetensors")["vit.layernorm.weight"].numel()
    save_file({"steer": torch.randn(2, width)}, "v.safetensors")
    given = ("transport", "--base", a, "--to", b, "--vectors", "v.safetensors")
    found = cli(*given, "--at", "vit.layers.0", "--out", "out.safetensors", "--json")
    assert found.code == 0, found.err
    assert found.json["kind"] == "directions" and found.json["size"] == width
    ours = symgraph.transport_vectors(a, "v.safetensors", b, at="vit.layers.0")
    assert torch.allclose(load_file("out.safetensors")["steer"], ours.tensors["steer"], atol=1e-5)
    assert any("noise" in note for note in found.json["notes"])
    other = cli(*given, "--at", "vit.layers.0", "--by-weights", "--out", "w.safetensors", "--json")
    assert other.code == 0 and not any("noise" in note for note in other.json["notes"])
    both = cli(*given, "--at", "vit.layers.0", "--by-weights", "--data", "cli_nets:images", "--out", "x.safetensors")
    assert both.code == 2 and "leave out --data" in both.err and not Path("x.safetensors").exists()
    again = cli(*given, "--at", "vit.layers.0", "--out", "out.safetensors")
    assert again.code != 0 and "--overwrite" in again.err
    nowhere = cli(*given, "--out", "other.safetensors")
    assert nowhere.code == 2 and "--at model.layers.6" in nowhere.err and not Path("other.safetensors").exists()
    astray = cli(*given, "--at", "vit.layer.0", "--out", "other.safetensors")
    assert "did you mean `vit.layers.0" in astray.err and not Path("other.safetensors").exists()


def test_moments_are_carried_and_written(cli: Cli, three: list[Path]) -> None:
    a, _, b = three
    module = symgraph.model(a).module
    optimiser = torch.optim.AdamW(module.parameters())
    torch.stack([p.square().sum() for p in module.parameters()]).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    torch.save(optimiser.state_dict(), "optimizer.pt")
    found = cli("transport", "--base", a, "--to", b, "--moments", "optimizer.pt", "--out", "there.pt", "--json")
    assert found.code == 0, found.err
    assert found.json["parameters"] == len(list(module.parameters())) and found.json["mixed"]
    optimiser.load_state_dict(torch.load("there.pt", weights_only=True))
    astray = cli("transport", "--base", a, "--to", b, "--moments", "optimizer.pt", "--out", "x.pt", "--scale", "2")
    assert astray.code == 2 and "leave out --scale" in astray.err
