"""What stands beside the weights of a checkpoint and goes with them: tokenizer, processor, generation config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from symgraph.io.models import Model

_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "chat_template*",
)
_OTHERS = ("generation_config.json", "*preprocessor_config.json", "processor_config.json")


def folders_of(*models: Model) -> set[Path]:
    """The folders that models were read from."""
    return {file.parent for model in models for file in model.files if file.name == "config.json"}


def companions(model: Model, *, tokenizer: bool = True) -> Iterator[Path]:
    """The files beside a model's weights; those of its tokenizer only where they are asked for."""
    yield from _matching(model, (*_OTHERS, *(_TOKENIZER if tokenizer else ())))


def tokenizer_files(model: Model) -> dict[str, bytes]:
    """The files of a model's tokenizer by name; none where it brings none."""
    return {path.name: path.read_bytes() for path in _matching(model, _TOKENIZER)}


def _matching(model: Model, patterns: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders_of(model):
        for pattern in patterns:
            yield from (path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".safetensors")
