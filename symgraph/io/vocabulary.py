"""The tokens of a model by their texts, where it brings a tokenizer."""

from __future__ import annotations

from pathlib import Path

from symgraph.errors import CheckpointError, one_line
from symgraph.io.models import Model

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


def vocabulary(model: Model) -> dict[str, int] | None:
    """The number of every token by its text; None where the model brings no tokenizer.

    Raises:
        CheckpointError: it cannot be read.
    """
    folders = {file.parent for file in model.files}
    path = next((folder / name for name in _FILES for folder in folders if (folder / name).exists()), None)
    if path is None:
        return None
    try:
        return _read(path)
    except Exception as error:
        remedy = "put the tokenizer that the model was trained with beside it, or none"
        raise CheckpointError(f"the tokenizer {path} cannot be read", cause=one_line(error), remedy=remedy) from error


def _read(path: Path) -> dict[str, int]:
    if path.name == "tokenizer.json":
        from tokenizers import Tokenizer

        numbers: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab()
        return numbers
    from transformers import AutoTokenizer

    loaded: dict[str, int] = AutoTokenizer.from_pretrained(path.parent, local_files_only=True).get_vocab()
    return loaded
