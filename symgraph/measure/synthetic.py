"""Inputs that nobody collected, with what the models themselves make of them: to match by where there is no data.

Language models write windows of text themselves, from random first tokens; images are noise of several spectra, led to
where the models are sure of what they see. What is learned on them is the mean of the models' own predictions, so that
nothing of the data they were trained on is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import DataError
from symgraph.io.columns import Batch
from symgraph.io.data import Batches, NoData
from symgraph.ir import Graph, Node
from symgraph.measure.forward import accepted_names, arguments
from symgraph.measure.losses import SOFT, SOFT_NEXT, Named, logits_of
from symgraph.tracing.wrap import evaluating

# How many examples are made where nobody says: windows of text take as many steps of a model as they have tokens.
WINDOWS, OTHERS = 640, 15_360
LONGEST = 256
# So many windows are written at once: a step of a model takes hardly longer for many than for a few.
AT_ONCE = 32
# Spectra of images, and of the outlines of what is in them: the amplitude falls with the frequency to this power.
POWERS, OUTLINE = (0.0, 1.0, 2.0), 2.5
CONTRAST, TINT = (0.3, 1.5), 0.4
# Batches of noise take none, half or all of the steps towards a class, in turns; each is so long for the noise.
STAGES, STRIDE = 3, 0.3


def synthetic(models: Sequence[nn.Module], graph: Graph, wanted: NoData, loss: Named | None = None) -> Batches:
    """Batches for models of one architecture, made as they are asked for, always the same.

    Args:
        graph: the traced architecture, which says what its inputs are.
        loss: what is to be trained: of "mse" the labels are the mean of the outputs, else of the probabilities. None:
            nothing is, and what the models say of each token of a window is left out.

    Shapes: images as traced; windows (batch_size, length).

    Raises:
        DataError: the architecture takes inputs of a kind that cannot be made up.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> from symgraph.measure.synthetic import NoData, synthetic
    >>> batches = synthetic([net], symgraph.trace(net, torch.randn(5, 6)), NoData(examples=64, batch_size=16))
    >>> len(batches), {name: tuple(tensor.shape) for name, tensor in batches[0].items()}
    (4, {'input': (16, 6), 'soft_labels': (16, 3)})

    Source: learning on noise (Baradad et al., arXiv 2106.05963); inputs that a model is sure of (DeepInversion, Yin et
    al., arXiv 1912.08795); a model's own text.
    """
    node = _only_input(graph)
    is_text = not node.is_floating
    if is_text and not _predicts_next(models[0], node):
        cause = f"`{node.target}` are whole numbers, and the model does not predict the next of them"
        raise DataError("there is no way to make inputs for this model", cause=cause, remedy="name training data")
    examples = wanted.examples or (WINDOWS if is_text else OTHERS)
    count = -(-examples // wanted.batch_size)
    made = _text(models, node, wanted, loss, count) if is_text else _noise(models, node, wanted, loss)

    def fetch(number: int) -> Batch:
        with torch.no_grad(), ExitStack() as modes:
            for module in models:
                modes.enter_context(evaluating(module))
            return made(number)

    what = "windows that the models wrote" if is_text else "noise"
    return Batches(f"{examples} {what}" if is_text else f"{examples} examples of {what}", "", examples, count, fetch)


def _only_input(graph: Graph) -> Node:
    if len(graph.inputs) != 1:
        names = ", ".join(str(node.target) for node in graph.inputs)
        cause = f"it takes {names}, and inputs are made up one by one"
        raise DataError("there is no way to make inputs for this model", cause=cause, remedy="name training data")
    return graph.inputs[0]


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


def _text(
    models: Sequence[nn.Module], node: Node, wanted: NoData, loss: Named | None, count: int
) -> Callable[[int], Batch]:
    """Windows by the number of a batch, of the models in turns, with the mean of what they predict next."""
    name, size, turns = str(node.target), wanted.batch_size, len(models)
    # A lot is of one model, and has so many batches.
    batches = max(1, min(AT_ONCE // size, -(-count // turns)))
    lots = -(-count // (turns * batches)) * turns

    def lot(number: int) -> Batch:
        return {name: _windows(models[number % turns], name, wanted, batches * size, _generator(wanted, number))}

    written = Batches("windows", "", lots * batches * size, lots, lot)

    def made(number: int) -> Batch:
        of_model, model = divmod(number, turns)
        before, part = divmod(of_model, batches)
        windows = written[before * turns + model][name][part * size : (part + 1) * size]
        batch = {name: windows, "labels": windows}
        return batch if loss is None else {**batch, SOFT_NEXT: _mean_said(models, {name: windows}, -1)}

    return made


def _windows(module: nn.Module, name: str, wanted: NoData, count: int, generator: torch.Generator) -> Tensor:
    """Text of a model, (count, length); each token is a draw from its prediction."""
    length = wanted.length or longest(module)
    vocabulary = logits_of(_called(module, {name: torch.zeros(1, 1, dtype=torch.int64)})).shape[-1]
    written = new = torch.randint(vocabulary, (count, 1), generator=generator)
    past: Any = None
    for _ in range(length - 1):
        outputs = _called(module, {name: new if past is not None else written}, past)
        past = getattr(outputs, "past_key_values", None)
        chances = logits_of(outputs)[:, -1].double().softmax(-1)
        new = torch.multinomial(chances, 1, generator=generator)
        written = torch.cat([written, new], dim=1)
    return written


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


def _noise(models: Sequence[nn.Module], node: Node, wanted: NoData, loss: Named | None) -> Callable[[int], Batch]:
    """Noise by the number of a batch, mostly led to where the models are sure, and the mean of what they say of it."""
    shape = (wanted.batch_size, *node.shape[1:])
    like = next(parameter for parameter in models[0].parameters() if parameter.is_floating_point())

    def made(number: int) -> Batch:
        generator = _generator(wanted, number)
        shown = _images(shape, generator) if len(shape) == 4 else _as_it_is

        def batch(noise: Tensor) -> Batch:
            return {str(node.target): shown(noise).to(like)}

        noise = torch.randn(shape, generator=generator)
        if loss == "mse":
            outputs = [logits_of(_called(model, batch(noise))) for model in models]
            return {**batch(noise), "labels": torch.stack(outputs).mean(0)}
        steps = wanted.steps * (number % STAGES) // (STAGES - 1)
        turns = [models[(number + step) % len(models)] for step in range(steps)]
        images = batch(_led(turns, batch, noise, generator))
        return {**images, SOFT: _mean_said(models, images)}

    return made


def _generator(wanted: NoData, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(wanted.seed + number)


def _mean_said(models: Sequence[nn.Module], batch: Batch, classes: int | None = None) -> Tensor:
    """The mean of the models' probabilities, whose classes lie along an axis."""
    return torch.stack([_said(model, batch, classes).exp() for model in models]).mean(0)


def _said(model: nn.Module, batch: Batch, classes: int | None = None) -> Tensor:
    """The logarithms of the probabilities of all classes, (N, C) or (N, C, ...), or along the axis that is named."""
    outputs = logits_of(_called(model, batch))
    usual = 1 if outputs.dim() > 2 else -1
    return outputs.log_softmax(usual if classes is None else classes)


def _led(
    turns: Sequence[nn.Module], batch: Callable[[Tensor], Batch], noise: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise after a step up what each of the models in turn says of a class, drawn for each example.

    A step is `STRIDE` times as long as the noise, which keeps its size: what is made of it keeps its spectrum. Models
    whose outputs tell nothing of a class, or not by a gradient, leave it as it is.
    """
    drawn: Tensor | None = None
    for model in turns:
        with torch.enable_grad():
            leaf = noise.detach().requires_grad_()
            # A copy: a model may work on its input in place.
            said = _said(model, batch(leaf.clone()))
            if said.dim() < 2 or not said.requires_grad:
                return noise
            if drawn is None:
                drawn = torch.randint(said.shape[1], (len(noise),), generator=generator)
            (uphill,) = torch.autograd.grad(said[torch.arange(len(noise)), drawn].sum(), leaf)
        noise = _of_unit_spread(noise + STRIDE * _of_unit_spread(uphill.nan_to_num()))
    return noise


def _of_unit_spread(examples: Tensor) -> Tensor:
    """Each divided by its root mean square."""
    squares = examples.flatten(1).square().mean(1).clamp(min=1e-30)
    return examples / squares.sqrt().view(-1, *(1,) * (examples.dim() - 1))


def _as_it_is(noise: Tensor) -> Tensor:
    return noise


def _images(shape: tuple[int, ...], generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """What white noise is to an image: a part of it seen in one way, the rest in another, as things lie in a scene."""
    one, other = _look(shape, generator), _look(shape, generator)
    count, _, height, width = shape
    white = torch.randn(count, 1, height, width, generator=generator)
    part = _with_spectrum(white, torch.tensor(OUTLINE)) > 0
    return lambda noise: torch.where(part, one(noise), other(noise))


def _look(shape: tuple[int, ...], generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Noise, each image with a spectrum of its own, and random contrast and tint.

    Channels have a random share in common: what is collected is more grey than coloured.
    """
    count, channels, _, _ = shape
    powers = torch.tensor(POWERS)[torch.arange(count) % len(POWERS)].view(-1, 1, 1, 1)
    least, most = CONTRAST
    contrast = least + (most - least) * torch.rand(count, 1, 1, 1, generator=generator)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    tint = TINT * torch.randn(count, channels, 1, 1, generator=generator)

    def common(each: Tensor) -> Tensor:
        grey = each.mean(1, keepdim=True) * math.sqrt(channels)
        return share.sqrt() * grey + (1 - share).sqrt() * each

    def look(noise: Tensor) -> Tensor:
        pictures = _with_spectrum(common(noise), powers)
        pictures = pictures - pictures.mean((1, 2, 3), keepdim=True)
        scaled: Tensor = pictures / pictures.std((1, 2, 3), keepdim=True) * contrast
        return scaled + common(tint)

    return look


def _with_spectrum(white: Tensor, power: Tensor) -> Tensor:
    """White noise made to fall in amplitude with the frequency to a power. Shapes: white (N, C, H, W)."""
    height, width = white.shape[2:]
    squared = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / (squared + 1e-3) ** (power / 2), s=(height, width))
    return found
