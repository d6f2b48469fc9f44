"""Tiny models of the architectures that inference must get right, perturbed, traced and inferred once per session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.match.match_options import MatchOptions
from symgraph.match.plan_program import Plan, plan_program
from symgraph.match.program import Program
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import example_inputs, state_of, trace
from symgraph.tracing.interpreter import Interpreter

State = dict[str, Tensor]

ACTIVATIONS: dict[str, type[nn.Module]] = {"mlp-relu": nn.ReLU, "mlp-tanh": nn.Tanh, "mlp-gelu": nn.GELU}
TEXT = dict(vocab_size=23, num_hidden_layers=2, num_attention_heads=4, intermediate_size=10)
GPT2 = dict(vocab_size=11, n_positions=9, n_embd=8, n_layer=2, n_head=2, n_inner=12, bos_token_id=0, eos_token_id=0)
VIT = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=10, image_size=8, patch_size=4)
RESNET = dict(embedding_size=6, hidden_sizes=[6, 8], depths=[1, 2], layer_type="basic")

# name -> config class, model class, settings, shape of the input (None: token ids)
PRETRAINED: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...] | None]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", VIT | dict(num_labels=5), (2, 3, 8, 8)),
    "gpt2-tied": ("GPT2Config", "GPT2LMHeadModel", GPT2, None),
    "gpt2-untied": ("GPT2Config", "GPT2LMHeadModel", GPT2 | dict(tie_word_embeddings=False), None),
    "llama": ("LlamaConfig", "LlamaForCausalLM", TEXT | dict(hidden_size=16, num_key_value_heads=2), None),
    "bert": ("BertConfig", "BertForMaskedLM", TEXT | dict(hidden_size=8, max_position_embeddings=9), None),
    "resnet": ("ResNetConfig", "ResNetForImageClassification", RESNET | dict(num_labels=5), (2, 3, 16, 16)),
}
ATTENDING = ("vit", "gpt2-tied", "gpt2-untied", "llama", "bert")
ARCHITECTURES = (*ACTIVATIONS, *PRETRAINED)
VARIANTS = [(n, i) for n in ARCHITECTURES for i in (("sdpa", "eager") if n in ATTENDING else ("sdpa",))]


@dataclass(frozen=True)
class Case:
    """One architecture: a perturbed module, its graph, its symmetry, and inputs in the order of the graph."""

    module: nn.Module
    graph: Graph
    symmetry: SymmetryGraph
    inputs: list[Tensor]

    def state(self, seed: int = 0, spread: float = 0.2) -> State:
        """A float64 state of its own for each seed: every parameter moved, statistics kept positive."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name, t in state_of(self.module).items():
            wide = t.detach().double() if t.is_floating_point() else t.detach().clone()
            moves = name in self.graph.parameters or name.endswith("running_mean")
            noise = spread * torch.randn(t.shape, generator=generator, dtype=torch.float64)
            found[name] = wide + noise if moves else wide * noise.exp() if name.endswith("running_var") else wide
        return found

    def run(self, state: State) -> Tensor:
        """The first output, in float64."""
        return Interpreter(self.graph).run(state, self.inputs)[0]

    def modules(self, seed: int) -> nn.Module:
        """A module of this architecture with weights of its own."""
        return _perturbed(build(self.module._zoo), seed)  # type: ignore[arg-type]


def build(key: tuple[str, str]) -> nn.Module:
    """A fresh module at its own initial values."""
    name, implementation = key
    torch.manual_seed(0)
    if name in ACTIVATIONS:
        act = ACTIVATIONS[name]
        model: nn.Module = nn.Sequential(nn.Linear(5, 7), act(), nn.Linear(7, 6), act(), nn.Linear(6, 3))
    else:
        import transformers

        config, kind, settings, _ = PRETRAINED[name]
        made = getattr(transformers, config)(**settings, architectures=[kind])
        if name in ATTENDING:
            made._attn_implementation = implementation
        model = getattr(transformers, kind)(made)
    model._zoo = key  # type: ignore[assignment]
    return model.eval()


def _perturbed(model: nn.Module, seed: int) -> nn.Module:
    # Initial values (zero biases, unit gains, unit variances) would hide errors.
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    for name, b in model.named_buffers():
        noise = torch.randn(b.shape, generator=generator)
        if name.endswith("running_mean"):
            b += 0.2 * noise
        if name.endswith("running_var"):
            b *= (0.2 * noise).exp()
    return model


@cache
def case(name: str, implementation: str = "sdpa") -> Case:
    """The perturbed, traced and inferred model; made once."""
    model = _perturbed(build((name, implementation)), 0)
    generator = torch.Generator().manual_seed(1)
    if name in ACTIVATIONS:
        given: dict[str, Tensor] = {}
        inputs = [torch.randn(4, 5, generator=generator)]
        graph = trace(model, tuple(inputs), name="MLP")
    else:
        given = dict(example_inputs(model))
        shape = PRETRAINED[name][3]
        if shape is None:
            given["input_ids"] = torch.randint(0, model.config.vocab_size, (2, 7), generator=generator)  # type: ignore[union-attr, arg-type]
        else:
            given["pixel_values"] = torch.randn(shape, generator=generator)
        graph = trace(model, kwargs=given)
        inputs = [given[n.target] for n in graph.inputs]
    return Case(model, graph, infer(graph), inputs)


def pair_program(symmetry: SymmetryGraph, options: MatchOptions | None = None, **more: Any) -> Program:
    """The program that brings B to A."""
    inputs = {"A": "a folder", "B": "b folder"}
    return plan_program(symmetry, Plan(inputs=inputs, options=options or MatchOptions(), reference="A", **more))


def network(name: str, seed: int) -> Any:
    """A model of the zoo with larger weights, so that two of them are far apart and the loss between them is high."""
    model = build((name, "sdpa"))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


def reorder(model: nn.Module, size: int, seed: int) -> None:
    """Puts the units of the axes of a size, which no parameter has two of, into another order."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for parameter in model.parameters():
        if size in parameter.shape:
            parameter.data = parameter.data.index_select(parameter.shape.index(size), order)


def batches(name: str, count: int = 6, size: int = 8) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    shape = PRETRAINED[name][3]
    if shape is None:
        vocabulary = build((name, "sdpa")).config.vocab_size  # type: ignore[union-attr]
        tokens = torch.randint(0, vocabulary, (count, size, 7), generator=generator)  # type: ignore[arg-type]
        return [{"input_ids": t, "labels": t} for t in tokens]
    images = torch.randn(count, size, *shape[1:], generator=generator)
    labels = torch.randint(0, 5, (count, size), generator=generator)
    return [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-300))


def worst(a: State, b: State, names: Any = None) -> float:
    """The largest `relative` over the floating tensors of two states."""
    return max(relative(a[n], b[n]) for n in (a if names is None else names) if a[n].is_floating_point())
