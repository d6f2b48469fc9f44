"""Several states go through a module together: each weight is read once, and what comes out is that of each alone."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from symgraph.io.state import state_hash
from symgraph.io.sums import extremes, norm, noted, square
from symgraph.prove.eager import Call, Eager, Standing
from symgraph.tracing.deferred import Deferred, later, remembered
from symgraph.tracing.several import ApartError, Several, each, several


def _llama() -> nn.Module:
    sizes: dict[str, Any] = {"vocab_size": 300, "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 300}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=300, n_positions=16))


class Deciding(nn.Module):
    """Takes one way or another, by its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(300, 300)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found if float(self.inner.weight.sum()) > 0 else functional.relu(found)


class Noting(Deciding):
    """Writes into a tensor of its own what came out."""

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros(len(x), 300, dtype=x.dtype)
        found[:, ::2] = self.inner(x)[:, ::2]
        return found


def _read_once(module: nn.Module) -> tuple[dict[str, Tensor], Counter[str]]:
    """The state of a module, read where it is needed, and how often each tensor was."""
    read: Counter[str] = Counter()

    def deferred(name: str, t: Tensor) -> Tensor:
        def make() -> Tensor:
            read[name] += 1
            return t.detach().clone()

        return Deferred(make, t.shape, t.dtype)

    return {n: deferred(n, t) for n, t in module.named_parameters()}, read


def _negated(name: str, t: Tensor) -> Tensor:
    return -t


def _rounded(name: str, t: Tensor) -> Tensor:
    return t.bfloat16()


def _same(name: str, t: Tensor) -> Tensor:
    return t


@pytest.mark.parametrize("make", [_llama, _gpt2])
def test_models_give_the_same_bits_and_every_weight_is_read_once(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    state, read = _read_once(module)
    eager = Eager(module, [Call("tokens", (), {"input_ids": torch.arange(10)[None]})])
    variations = [_same, _negated, _rounded]
    together = eager.variants(state, variations)
    tied = 2 if isinstance(module, GPT2LMHeadModel) else 1
    assert set(read.values()) <= {1, tied}
    for v, found in zip(variations, together, strict=True):
        alone = eager.outputs({n: v(n, t.detach()) for n, t in module.named_parameters()})
        assert all(map(torch.equal, found[0], alone[0]))
    assert not torch.equal(together[0][0][0], together[2][0][0])


def test_what_stands_in_the_place_of_weights_lets_go_of_them() -> None:
    torch.manual_seed(0)
    module, made, alive = nn.Linear(300, 300, bias=False), list[weakref.ref[Tensor]](), list[bool]()
    weight = module.weight.detach()
    stands = weight.bfloat16()

    class Watched(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            alive.extend(reference() is not None for reference in made)
            return super().__getitem__(name)

    def make() -> Tensor:
        found = weight.double()
        made.append(weakref.ref(found))
        return found

    x = torch.randn(4, 300, dtype=torch.float64)
    eager = Eager(module, [Call("x", (x,))])
    state = {"weight": Deferred(make, weight.shape, torch.float64)}
    same, other = eager.variants(state, [_same, Standing(Watched(weight=stands), _negated)])
    assert torch.equal(same[0][0], x @ weight.double().T)
    assert torch.equal(other[0][0], x @ stands.double().T)
    assert alive == [False]


@pytest.mark.parametrize("kind", [Deciding, Noting])
def test_modules_that_do_different_things_are_called_one_by_one(kind: type[Deciding]) -> None:
    torch.manual_seed(0)
    module = kind()
    state, read = _read_once(module)
    x = torch.randn(4, 300, dtype=torch.float64)
    eager = Eager(module, [Call("x", (x,))])
    found = eager.variants(state, [_same, _negated])
    assert read["inner.weight"] > 1
    assert all(
        torch.equal(f[0][0], eager.outputs({n: s * t for n, t in module.named_parameters()})[0][0])
        for f, s in zip(found, (1, -1), strict=True)
    )
    assert eager.dtype is torch.float64


def test_what_is_written_to_stays_one_handle() -> None:
    pair = several([torch.zeros(3), torch.ones(3)])
    assert pair.add_(1) is pair
    assert [float(t[0]) for t in each(pair, 2)] == [1.0, 2.0]
    with pytest.raises(ApartError):
        torch.zeros(3).add_(pair)
    with pytest.raises(ApartError):
        bool((pair == 1).all())


def test_what_is_found_out_about_a_tensor_that_waits_is_found_out_once() -> None:
    torch.manual_seed(0)
    module = nn.Linear(70, 70)
    state, read = _read_once(module)
    for _ in range(2):
        assert state_hash(state, noted) == state_hash(dict(module.named_parameters()))
        assert norm(state["weight"]) == square(module.weight.detach()) ** 0.5
        ends = extremes(later(state["weight"].detach(), torch.float16))
        assert ends is not None and ends[1] == module.weight.detach().half().max()
    assert set(read.values()) == {1}
    assert state_hash({**state, "weight": state["bias"]}) != state_hash(state)


def test_what_is_found_out_about_tensors_together_is_that_of_these() -> None:
    one, two, three = (Deferred(partial(torch.ones, 2), (2,), torch.float32) for _ in range(3))
    calls: list[int] = []

    def find() -> int:
        calls.append(0)
        return len(calls)

    assert remembered([one, two], "x", find) == remembered([one.detach(), two], "x", find) == 1
    assert remembered([one, three], "x", find) == 2
    assert remembered([one, torch.ones(2)], "x", find) == 3
    assert remembered([one, two], "x", find) == 1


def test_each_of_several_is_gone_before_the_next_is_made() -> None:
    before: list[weakref.ref[Tensor]] = []

    def parts() -> Iterator[Tensor]:
        for number in range(3):
            assert all(reference() is None for reference in before)
            yield (part := torch.full((2, 2), float(number)))
            before.append(weakref.ref(part))
            del part

    lazily = Several(parts, torch.empty(2, 2, device="meta"), lazy=True)
    found = list(each(lazily + several([torch.ones(2, 2)] * 3), 3))
    assert [float(part[0, 0]) for part in found] == [1.0, 2.0, 3.0] and len(before) == 3
    with pytest.raises(ApartError, match="different numbers"):
        lazily + several([torch.ones(2, 2)] * 2)
