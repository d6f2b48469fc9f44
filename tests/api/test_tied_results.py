"""Results of models that share tensors load where their models came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import symgraph
from symgraph.measure.mixture import interpolate

X = torch.arange(10).view(2, 5) % 7


class Tied(nn.Module):
    """A table that embeds tokens and scores them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.table, self.up, self.down = nn.Embedding(7, 6), nn.Linear(6, 9), nn.Linear(9, 6)
            self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.down(torch.relu(self.up(self.table(x)))))
        return scores


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Tensor]]:
    """What every verb gives back, by name."""
    a, b = Tied(0), Tied(1)
    aligned = symgraph.align(a, b, X)
    file = aligned.alignment.save(tmp_path_factory.mktemp("alignments") / "ab.safetensors")
    merged = symgraph.merge([a, b], example=X)
    assert merged.universe is not None
    return {
        "aligned": aligned.state,
        "reference": aligned.reference,
        "applied": symgraph.apply(file, b, X).state,
        "merged": merged.state,
        "universe": merged.universe.states[1],
        "sampled": symgraph.sample(a, X).state_dict(),
    }


@pytest.mark.parametrize("name", ["aligned", "reference", "applied", "merged", "universe", "sampled"])
def test_the_state_loads_strictly_and_stays_tied(states: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    module = Tied(2)
    module.load_state_dict(dict(states[name]), strict=True)
    assert module.head.weight is module.table.weight
    assert torch.equal(states[name]["head.weight"], states[name]["table.weight"])
    assert states[name]["head.weight"].data_ptr() == states[name]["table.weight"].data_ptr()


def test_the_aligned_module_computes_what_the_second_did(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    module = Tied(2)
    module.load_state_dict(dict(states["aligned"]))
    torch.testing.assert_close(module(X), Tied(1)(X), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_holds_a_shared_tensor_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    symgraph.align(Tied(0), Tied(1), X).save_pretrained(tmp_path / "out")
    assert "head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_the_mean_of_a_shared_tensor_is_one_tensor() -> None:
    shared, own = torch.ones(2), torch.zeros(2)
    mean = interpolate([{"a": shared, "b": shared}, {"a": own, "b": own}], [0.5, 0.5])
    assert mean["a"] is mean["b"] and mean["a"].tolist() == [0.5, 0.5]
    apart = interpolate([{"a": shared, "b": shared}, {"a": own, "b": own.clone()}], [0.5, 0.5])
    assert apart["a"] is not apart["b"]
