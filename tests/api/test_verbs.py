"""The public verbs: every form of a model, graphs with states of their own, and what is refused with which words."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models_zoo import ARCHITECTURES, PRETRAINED, batches, case
from torch import Tensor, nn

import symgraph
from symgraph import api
from symgraph.errors import SymgraphError, TraceError, UsageError
from symgraph.io.models import Model
from symgraph.prove.verify import family_names
from symgraph.tracing import state_of

VERBS = (
    *("trace", "infer", "verify", "audit", "canonicalise", "sample", "align", "apply", "merge", "universe", "embed"),
    *("narrow", "loss_barrier"),
)
X, LABELS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


def net(seed: int = 0, width: int = 7) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).eval()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in module.state_dict().items()}


def test_one_function_for_each_verb_and_none_hides_a_package() -> None:
    packages = {m.name for m in pkgutil.iter_modules(symgraph.__path__)} - {"__main__"}
    for verb in VERBS:
        assert getattr(symgraph, verb) is getattr(api, verb) and callable(getattr(api, verb))
        assert verb in symgraph.__all__ and verb in api.__all__ and verb not in packages
    for package in packages:
        assert getattr(symgraph, package) is importlib.import_module(f"symgraph.{package}")


# -- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        lambda m: (m, X),
        lambda m: (m, (X,)),
        lambda m: (m, {"input": X}),
        lambda m: (m, [X, LABELS]),
        lambda m: (m, {"input": X, "labels": LABELS}),
        lambda m: ((m, X),),
        lambda m: (Model(m, None, (X,), "net", "factory"),),
        lambda m: (symgraph.trace(m, X),),
        lambda m: ((symgraph.trace(m, X), weights(m)),),
        lambda m: (symgraph.infer(m, X), weights(m)),
    ],
)
def test_every_form_of_a_model(given: Any) -> None:
    module, first = net(), given(net())
    known = symgraph.infer(module, X)
    assert symgraph.infer(*first).fingerprint == known.fingerprint
    assert symgraph.verify(*first).passed and symgraph.audit(*first).complete


def test_a_module_with_inputs_of_its_own() -> None:
    module = net()
    module.example_inputs = (X,)  # type: ignore[assignment]
    assert symgraph.verify(module).passed
    assert symgraph.canonicalise(module).state.keys() == module.state_dict().keys()


@pytest.mark.parametrize("name", ["gpt2-tied", "vit"])
def test_a_batch_of_a_loader_serves_as_inputs(name: str) -> None:
    batch, module = batches(name)[0], case(name).module
    inputs = {k: t for k, t in batch.items() if k != "labels"}
    graph = symgraph.trace(module, batch)
    assert [n.target for n in graph.inputs] == list(inputs)
    assert [n.shape for n in graph.inputs] == [tuple(t.shape) for t in inputs.values()]


def test_a_config_of_transformers() -> None:
    config = case("bert").module.config
    assert symgraph.infer(config).fingerprint == case("bert").symmetry.fingerprint
    assert symgraph.verify(config, samples=1, each=False).passed


def test_all_verbs_take_graphs_with_states() -> None:
    a, b, graph = net(0), net(1), symgraph.trace(net(), X)
    pairs = [(graph, weights(a)), (graph, weights(b))]
    found, known = symgraph.align(*pairs), symgraph.align((a, X), (b, X))
    assert all(torch.equal(t, known.state[n]) for n, t in found.state.items())
    together, alone = symgraph.universe(pairs), symgraph.universe([(a, X), (b, X)])
    assert all(torch.equal(t, alone.states[1][n]) for n, t in together.states[1].items())
    assert symgraph.merge(pairs, [0.5, 0.5]).state.keys() == weights(a).keys()
    data = [(X, LABELS)]
    assert symgraph.loss_barrier(*pairs, data, points=5) == symgraph.loss_barrier(a, b, data, points=5)
    assert symgraph.loss_barrier(weights(a), weights(b), data, module=graph, points=3).losses
    wide = net(2, width=9)
    like = (symgraph.trace(wide, X), weights(wide))
    grown = symgraph.embed(pairs[0], like=like)
    assert torch.allclose(grown.model.module(X), a(X), atol=1e-6)
    assert symgraph.narrow(like, like=pairs[0]).state["0.bias"].shape == (7,)


def test_an_alignment_is_applied_to_a_graph_with_a_state(tmp_path: Path) -> None:
    a, b = net(0), net(1)
    found = symgraph.align((a, X), (b, X))
    file = found.alignment.save(tmp_path / "ab.safetensors")
    moved = symgraph.apply(file, (symgraph.trace(b, X), weights(b)))
    assert all(torch.equal(t, found.state[n]) for n, t in moved.state.items())


# -- a random element ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sample_computes_the_same_at_other_weights(name: str) -> None:
    c = case(name)
    before = c.state()
    after = symgraph.sample(c.symmetry, before, seed=3)
    assert torch.allclose(c.run(before), c.run(after), rtol=1e-9, atol=1e-9)
    moved = {n for n in c.graph.parameters if not torch.equal(before[n], after[n])}
    terms = {n for s in c.symmetry.active for n in c.symmetry.parameters_of[s.id]}
    assert moved >= terms & set(c.graph.parameters)


@pytest.mark.parametrize("name", ["gpt2-tied", "resnet"])
def test_a_sample_is_of_the_kind_that_was_given(name: str) -> None:
    module: Any = case(name).module
    before = copy.deepcopy(module.state_dict())
    found = symgraph.sample(module, seed=1)
    assert type(found) is type(module) and found is not module
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    given = PRETRAINED[name][3]
    inputs = {"input_ids": torch.arange(6).reshape(2, 3)} if given is None else {"pixel_values": torch.randn(given)}
    with torch.no_grad():
        assert torch.allclose(found(**inputs).logits, module(**inputs).logits, atol=1e-3)
    assert {n: t.dtype for n, t in found.state_dict().items()} == {n: t.dtype for n, t in before.items()}
    if name == "gpt2-tied":
        assert found.lm_head.weight is found.transformer.wte.weight
    wrapped = symgraph.sample(Model(module, module.config, None, name, "factory"), seed=1)
    assert isinstance(wrapped, Model)
    assert all(torch.equal(t, found.state_dict()[n]) for n, t in wrapped.module.state_dict().items())
    states = symgraph.sample((symgraph.trace(module), state_of(module)), seed=1)
    assert all(torch.equal(t, states[n]) for n, t in state_of(found).items())


def test_a_sample_of_a_module_with_inputs_and_of_a_state() -> None:
    a, b = net(0), net(1)
    moved = symgraph.sample(a, X, seed=5)
    assert torch.allclose(moved(X), a(X), atol=1e-5) and not torch.equal(moved[0].weight, a[0].weight)  # type: ignore[index]
    state = symgraph.sample(a, X, state=weights(b), seed=5)
    assert isinstance(state, dict) and state.keys() == weights(b).keys()
    again, other = (symgraph.sample(a, X, seed=s)[0].weight for s in (5, 6))
    assert torch.equal(again, moved[0].weight) and not torch.equal(other, again)


def test_families_are_chosen_by_patterns() -> None:
    c = case("gpt2-untied")
    before = c.state()
    names = family_names(c.symmetry)
    inner = next(n for n in names if "mlp" in n)
    after = symgraph.sample(c.symmetry, before, families=[inner])
    moved = {n for n, t in after.items() if not torch.allclose(t, before[n])}
    assert moved and all("mlp" in n for n in moved)
    with pytest.raises(UsageError, match=f"did you mean `{inner}`"):
        symgraph.sample(c.symmetry, before, families=[inner + "x"])


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error", "texts"),
    [
        (weights(net()), UsageError, ("a state (dict of tensors) is not a model", "(graph, state)")),
        (42, UsageError, ("int is not a model", "an nn.Module with example inputs")),
        (None, UsageError, ("NoneType is not a model",)),
        ((1, 2), UsageError, ("tuple is not a model",)),
        (
            net(),
            TraceError,
            ("Sequential has no example inputs", "required argument: 'input'", "example_inputs"),
        ),
        ((symgraph.trace(net(), X), {}), UsageError, ("the state does not fit the graph", "it lacks 0.weight")),
    ],
)
@pytest.mark.parametrize("verb", ["infer", "verify", "audit", "canonicalise", "sample"])
def test_what_is_no_model(verb: str, source: Any, error: type[SymgraphError], texts: tuple[str, ...]) -> None:
    if verb == "infer" and isinstance(source, tuple) and isinstance(source[0], symgraph.Graph):
        return
    with pytest.raises(error) as caught:
        getattr(symgraph, verb)(source)
    assert all(t in str(caught.value) for t in texts)


def test_shapes_that_do_not_fit_a_graph() -> None:
    graph = symgraph.trace(net(), X)
    with pytest.raises(UsageError, match=r"wrong shapes: 0.bias \(3,\) instead of \(7,\)"):
        symgraph.sample(graph, weights(net()) | {"0.bias": torch.zeros(3)})
    with pytest.raises(TraceError, match=r"input is \(2, 5\) where the graph has \(4, 5\)"):
        pairs = [(graph, weights(net(s))) for s in (0, 1)]
        symgraph.align(*pairs, method="activations", data=[(X[:2], LABELS[:2])])


def test_what_has_no_weights() -> None:
    for verb in (symgraph.sample, symgraph.canonicalise):
        with pytest.raises(UsageError, match="has no weights"):
            verb(symgraph.trace(net(), X))
        with pytest.raises(UsageError, match="has no weights"):
            verb(case("bert").module.config)
