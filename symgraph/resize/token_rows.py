"""Rows of tokens: which tensors have them, and the shape of a model with another number of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, one_line
from symgraph.io.companions import tokenizer_files
from symgraph.io.models import Model, quiet
from symgraph.io.vocabulary import Joined, joined, vocabulary
from symgraph.tracing.meta import weightless

Tokens = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class WantedTokens:
    """Whose tokens a result has: those of all models ("union"), or those of its owner alone ("base").

    `owner` is the number of the model whose ids are kept, `multiple` of what the number of rows is one; `asked` where
    a user has said so.
    """

    owner: int
    source: str = "union"
    multiple: int = 1
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What models are brought to that have other tokens: the shape, its tokens by text, and the tokenizer's files.

    `axes` names the tensors that have a row for each token, each with the axis.
    """

    like: Model
    tokens: Tokens
    axes: dict[str, int]
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Named:
    """Tokens by their texts: those of the shape that models are brought to, and those of each model.

    `axes` names the tensors that have a row for each.
    """

    there: Tokens
    theirs: Sequence[Tokens]
    axes: Mapping[str, int]

    def pairs(self, number: int, size: int, target: int) -> tuple[Tensor, Tensor]:
        """Which rows of a model are which of the shape: by text; those without one by their number."""
        own, there = self.theirs[number], self.there
        named = [(row, there[text]) for text, row in own.items() if text in there]
        # Rows to fill up to a round number belong to no token.
        spare = set(range(min(size, target))).difference(own.values(), there.values())
        held = [(row, wanted) for row, wanted in named if row < size and wanted < target]
        return matching([*held, *((row, row) for row in sorted(spare))])

    def missing(self, number: int, size: int) -> int:
        """How many tokens of a model have no place in the shape."""
        return sum(text not in self.there for text, row in self.theirs[number].items() if row < size)


def matching(pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Rows of one and of another, in two lists."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    return torch.tensor(first, dtype=torch.int64), torch.tensor(second, dtype=torch.int64)


def told_apart(models: Sequence[Model], wanted: WantedTokens | None, *, sized_alike: bool) -> list[Tokens]:
    """The tokens of each model, where all say what theirs are and there is something to be done about them.

    Args:
        sized_alike: whether the models have equal shapes; a tokenizer that cannot be read tells nothing then.

    Raises:
        UsageError: a user has said whose tokens the result has, and a model does not say what its own are.
        CheckpointError: a tokenizer cannot be read.
    """
    spared = sized_alike and not (wanted and wanted.asked)
    texts = [_told(model, spared=spared) for model in models]
    silent = next((model.spec for model, tokens in zip(models, texts, strict=True) if tokens is None), None)
    if silent is not None and wanted is not None and wanted.asked:
        remedy = "put the tokenizer that it was trained with beside its weights"
        raise UsageError(f"{silent} brings no tokenizer, and tokens are to be joined", remedy=remedy)
    told: list[Tokens] = [tokens for tokens in texts if tokens is not None]
    padded = wanted is not None and wanted.multiple > 1
    return told if silent is None and (padded or any(tokens != told[0] for tokens in told)) else []


def _told(model: Model, *, spared: bool) -> Tokens | None:
    try:
        return vocabulary(model)
    except CheckpointError:
        if spared:
            return None
        raise


def vocabulary_of(models: Sequence[Model], texts: Sequence[Tokens], wanted: WantedTokens) -> Vocabulary:
    """The vocabulary that models are brought to.

    Raises:
        UsageError: two of them have no token in common.
        CheckpointError: their tokenizers cannot be joined, or the rows of tokens cannot be told.
    """
    owner = models[wanted.owner]
    for model, tokens in zip(models, texts, strict=True):
        if not tokens.keys() & texts[wanted.owner].keys():
            what = f"the vocabularies of {owner.spec} and {model.spec} have no token in common"
            raise UsageError(what, remedy="name models that read the same text")
    others = [model for number, model in enumerate(models) if number != wanted.owner and wanted.source == "union"]
    vocabulary = joined(owner, others) if others else Joined(dict(texts[wanted.owner]), tokenizer_files(owner))
    own = tokens_in(owner) or 0
    rows = max([own, *(row + 1 for row in vocabulary.tokens.values())]) if others else own
    rows = -(-rows // wanted.multiple) * wanted.multiple
    if not (axes := token_axes(owner)):
        what = f"the rows of tokens of {owner.spec} cannot be told"
        raise CheckpointError(what, remedy="name models whose tokenizers have the same tokens")
    return Vocabulary(_resized(owner, rows), vocabulary.tokens, axes, vocabulary.files)


def token_axes(model: Model) -> dict[str, int]:
    """The axis of each tensor that has a row for every token: the one that grows with the vocabulary."""
    size = tokens_in(model)
    return {} if size is None else grown_axes(model, size, lambda: _resized(model, size + 1).module)


def grown_axes(model: Model, size: int, grown: Callable[[], nn.Module]) -> dict[str, int]:
    """The axis of each tensor that has so many rows, and one more in a model that has grown by one."""
    try:
        shapes = _shapes(grown())
    except CheckpointError:
        # Some code builds no such model: nothing is known then.
        return {}
    own = _shapes(model.module)
    axes = {name: axis_apart([own[name], shape]) for name, shape in shapes.items() if own.get(name, shape) != shape}
    known = {
        name: axis
        for name, axis in axes.items()
        if axis is not None and (own[name][axis], shapes[name][axis]) == (size, size + 1)
    }
    return known if len(known) == len(axes) else {}


def axis_apart(shapes: Collection[tuple[int, ...]]) -> int | None:
    """The one axis along which shapes differ; None where there is no such, or more than one."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    differing = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    return differing[0] if len(differing) == 1 else None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def tokens_in(model: Model) -> int | None:
    """How many rows a model has for tokens, as its configuration says."""
    size = getattr(_settings(model.config), "vocab_size", None)
    return size if isinstance(size, int) else None


def _settings(config: Any) -> Any:
    """The part of a configuration that says how many tokens there are."""
    outer = hasattr(config, "vocab_size") or not hasattr(config, "get_text_config")
    return config if outer else config.get_text_config()


def _resized(model: Model, rows: int) -> Model:
    """The architecture with so many tokens, without weights.

    Raises:
        CheckpointError: it cannot be built.
    """
    config = copy.deepcopy(model.config)
    _settings(config).vocab_size = rows
    module = rebuilt(model, config, f"{rows} tokens", "name models whose tokenizers have the same tokens")
    return replace(model, module=module, config=config)


def rebuilt(model: Model, config: Any, what: str, remedy: str) -> nn.Module:
    """A module of the model's class for another configuration, without weights.

    Raises:
        CheckpointError: it cannot be built.
    """
    module: Any = model.module
    try:
        with quiet(), weightless():
            made: nn.Module = type(module)._from_config(config, dtype=module.dtype)
    except Exception as error:
        raise CheckpointError(
            f"{model.spec} cannot be built with {what}", cause=one_line(error), remedy=remedy
        ) from error
    return made.eval()
