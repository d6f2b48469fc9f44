"""Inputs that nobody collected, with what the models themselves make of them: to match by where there is no data.

Language models write windows of text themselves, from random first tokens; images are noise of several spectra. What is
learned on them is the mean of the models' own predictions, so that nothing of the data they were trained on is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.io.columns import Batch
from symgraph.io.data import Batches, NoData
from symgraph.ir import Graph, Node
from symgraph.measure.forward import accepted_names, arguments
from symgraph.measure.losses import SOFT, Named, logits_of
from symgraph.tracing.wrap import evaluating

# How many examples are made where nobody says: windows of text take as many steps of a model as they have tokens.
WINDOWS, OTHERS = 640, 15_360
LONGEST = 256
# Spectra of images: the amplitude falls with the frequency to this power.
POWERS = (0.0, 1.0, 2.0)
CONTRAST, TINT = (0.3, 1.5), 0.4


def synthetic(models: Sequence[nn.Module], graph: Graph, wanted: NoData, loss: Named = "cross-entropy") -> Batches:
    """Batches for models of one architecture, made as they are asked for, always the same.

    Args:
        graph: the traced architecture, which says what its inputs are.
        loss: what is to be trained: of "mse" the labels are the mean of the outputs, else of the probabilities.

    Shapes: images as traced; windows (batch_size, length).

    Raises:
        DataError: the architecture takes inputs of a kind that cannot be made up.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> from symgraph.measure.synthetic import NoData, synthetic
    >>> batches = synthetic([net], symgraph.trace(net, torch.randn(5, 6)), NoData(examples=64, batch_size=16))
    >>> len(batches), {name: tuple(tensor.shape) for name, tensor in batches[0].items()}
    (4, {'input': (16, 6), 'soft_labels': (16, 3)})

    Source: data-free distillation on noise (Baradad et al., arXiv 2106.05963) and on a model's own text.
    """
    node = _only_input(graph)
    is_text = not _is_floating(node)
    if is_text and not _predicts_next(models[0], node):
        cause = f"`{node.target}` are whole numbers, and the model does not predict the next of them"
        raise DataError("there is no way to make inputs for this model", cause=cause, remedy="name training data")
    made = partial(_windows, models, node, wanted) if is_text else partial(_noise, models, node, wanted, loss == "mse")
    examples = wanted.examples or (WINDOWS if is_text else OTHERS)
    count = -(-examples // wanted.batch_size)

    def fetch(number: int) -> Batch:
        generator = torch.Generator().manual_seed(wanted.seed + number)
        with torch.no_grad(), ExitStack() as modes:
            for module in models:
                modes.enter_context(evaluating(module))
            return made(number, generator)

    what = "windows that the models wrote" if is_text else "noise"
    return Batches(f"{examples} {what}" if is_text else f"{examples} examples of {what}", "", examples, count, fetch)


def _only_input(graph: Graph) -> Node:
    if len(graph.inputs) != 1:
        names = ", ".join(str(node.target) for node in graph.inputs)
        cause = f"it takes {names}, and inputs are made up one by one"
        raise DataError("there is no way to make inputs for this model", cause=cause, remedy="name training data")
    return graph.inputs[0]


def _is_floating(node: Node) -> bool:
    dtype: torch.dtype = getattr(torch, node.result.dtype)  # type: ignore[union-attr]
    return dtype.is_floating_point


# -- text ----------------------------------------------------------------------------------------------------------


def _predicts_next(module: nn.Module, node: Node) -> bool:
    """Whether what comes later changes nothing before it, and there is a logit for each token."""
    if len(node.shape) != 2 or node.shape[1] < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, tuple(node.shape), generator=generator)
    other = tokens.clone()
    other[:, -1] = 1 - other[:, -1]
    with torch.no_grad(), evaluating(module):
        one, two = (logits_of(_called(module, {str(node.target): input_tokens})) for input_tokens in (tokens, other))
    if one.dim() != 3 or one.shape[:2] != tokens.shape:
        return False
    same_before = bool(torch.allclose(one[:, :-1], two[:, :-1], atol=1e-5))
    return same_before and not torch.equal(one[:, -1], two[:, -1])


def _windows(models: Sequence[nn.Module], node: Node, wanted: NoData, number: int, generator: torch.Generator) -> Batch:
    """Text of one of the models, in turns; each token is a draw from its prediction."""
    module = models[number % len(models)]
    length = wanted.length or longest(module)
    name = str(node.target)
    vocabulary = logits_of(_called(module, {name: torch.zeros(1, 1, dtype=torch.int64)})).shape[-1]
    written = new = torch.randint(vocabulary, (wanted.batch_size, 1), generator=generator)
    past: Any = None
    for _ in range(length - 1):
        outputs = _called(module, {name: new if past is not None else written}, past)
        past = getattr(outputs, "past_key_values", None)
        chances = logits_of(outputs)[:, -1].double().softmax(-1)
        new = torch.multinomial(chances, 1, generator=generator)
        written = torch.cat([written, new], dim=1)
    return {name: written, "labels": written}


def longest(module: nn.Module) -> int:
    """How many tokens a window has that a model writes."""
    positions = getattr(getattr(module, "config", None), "max_position_embeddings", None) or LONGEST
    return min(int(positions), LONGEST)


def _called(module: nn.Module, inputs: Batch, past: Any = None) -> Any:
    positional, named = arguments(inputs, accepted_names(module))
    if "past_key_values" in accepted_names(module):
        named |= {"use_cache": True, "past_key_values": past}
    return module(*positional, **named)


# -- noise ---------------------------------------------------------------------------------------------------------


def _noise(
    models: Sequence[nn.Module], node: Node, wanted: NoData, regression: bool, number: int, generator: torch.Generator
) -> Batch:
    """Noise, and the mean of what the models say of it."""
    shape = (wanted.batch_size, *node.shape[1:])
    inputs = _images(shape, generator) if len(shape) == 4 else torch.randn(shape, generator=generator)
    like = next(parameter for parameter in models[0].parameters() if parameter.is_floating_point())
    batch = {str(node.target): inputs.to(like)}
    outputs = [logits_of(_called(model, batch)) for model in models]
    if regression:
        return {**batch, "labels": torch.stack(outputs).mean(0)}
    return {**batch, SOFT: torch.stack([output.softmax(1 if output.dim() > 2 else -1) for output in outputs]).mean(0)}


def _images(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normalised noise, each image with a spectrum of its own, and random contrast and tint."""
    count, channels, height, width = shape
    squared = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2
    powers = torch.tensor(POWERS)[torch.arange(count) % len(POWERS)].view(-1, 1, 1, 1)
    white = torch.randn(shape, generator=generator)
    pictures: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / (squared + 1e-3) ** (powers / 2), s=(height, width))
    pictures = (pictures - pictures.mean((1, 2, 3), keepdim=True)) / pictures.std((1, 2, 3), keepdim=True)
    least, most = CONTRAST
    contrast = least + (most - least) * torch.rand(count, 1, 1, 1, generator=generator)
    return pictures * contrast + TINT * torch.randn(count, channels, 1, 1, generator=generator)
