"""The tokens of models by their texts, and tokenizers joined into one whose ids are rows of a joined table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symgraph.errors import CheckpointError, one_line
from symgraph.io.companions import folders_of, tokenizer_files
from symgraph.io.models import Model

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
# What a tokenizer.json says anew, and would be wrong in a joined one.
_REPEATED = ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
# Models of tokenizers that keep ids beside their pieces; others tell them from the order.
_BY_ID = ("BPE", "WordLevel", "WordPiece")
Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Joined:
    """A tokenizer: the ids of its tokens by their texts, and its files by name."""

    tokens: dict[str, int]
    files: dict[str, bytes]


def vocabulary(model: Model) -> dict[str, int] | None:
    """The number of every token by its text; None where the model brings no tokenizer.

    Raises:
        CheckpointError: it cannot be read.
    """
    text = _text(model)
    return None if text is None else _tokens(text, model)


def joined(owner: Model, others: Sequence[Model]) -> Joined:
    """A tokenizer with the tokens of all models, the ids of one of them, and further ones for those of the others.

    Text is split as that one splits it; merges of others come after its own.

    Raises:
        CheckpointError: a tokenizer cannot be read, or is of another kind than that one.
    """
    plain, files = json.loads(_required(owner)), tokenizer_files(owner)
    own = set(_tokens(json.dumps(plain), owner))
    for other in others:
        _extend(plain, json.loads(_required(other)), owner, other)
    text = json.dumps(plain, ensure_ascii=False)
    tokens = _tokens(text, owner)
    if tokens.keys() == own:
        return Joined(tokens, files)
    kept = {name: text for name, text in files.items() if name not in _REPEATED and not name.endswith(".model")}
    config = {name: _with_added(text, plain) for name, text in kept.items() if name == "tokenizer_config.json"}
    return Joined(tokens, {**kept, **config, "tokenizer.json": text.encode()})


def _required(model: Model) -> str:
    text = _text(model)
    if text is None:
        remedy = "put the tokenizer that it was trained with beside its weights"
        raise CheckpointError(f"{model.spec} brings no tokenizer", remedy=remedy)
    return text


def _text(model: Model) -> str | None:
    """What stands in a model's tokenizer.json, or would; None where there is no tokenizer."""
    path = next((folder / name for name in _FILES for folder in folders_of(model) if (folder / name).exists()), None)
    if path is None:
        return None
    try:
        if path.name == "tokenizer.json":
            return path.read_text(encoding="utf-8")
        from transformers import AutoTokenizer

        return str(AutoTokenizer.from_pretrained(path.parent, local_files_only=True).backend_tokenizer.to_str())
    except Exception as error:
        raise _unreadable(str(path), error) from error


def _tokens(text: str, model: Model) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        numbers: dict[str, int] = Tokenizer.from_str(text).get_vocab()
    except Exception as error:
        raise _unreadable(f"of {model.spec}", error) from error
    return numbers


def _unreadable(which: str, error: Exception) -> CheckpointError:
    remedy = "put the tokenizer that the model was trained with beside it, or none"
    return CheckpointError(f"the tokenizer {which} cannot be read", cause=one_line(error), remedy=remedy)


def _extend(plain: Plain, other: Plain, owner: Model, model: Model) -> None:
    """Gives a tokenizer the tokens of another one that it lacks, with ids after its own."""
    ids, theirs = _ids(plain), _ids(other)
    added = {token["content"]: token for token in other["added_tokens"]}
    new = [token for token in sorted(theirs, key=theirs.__getitem__) if token not in ids]
    if pieces := [token for token in new if token not in added]:
        _check_kinds(plain, other, (owner, model), len(pieces))
    first = max(ids.values(), default=-1) + 1
    given = {token: first + place for place, token in enumerate(new)}
    plain["added_tokens"] += [{**added[token], "id": row} for token, row in given.items() if token in added]
    if plain["model"]["type"] in _BY_ID:
        # Those that were added stand there as well: else they would be counted from the end of what stands there.
        known = {token["content"]: token["id"] for token in plain["added_tokens"]}
        plain["model"]["vocab"] = {**plain["model"]["vocab"], **known, **given}
        _merge(plain["model"], other["model"])


def _check_kinds(plain: Plain, other: Plain, models: tuple[Model, Model], pieces: int) -> None:
    kinds = [held["model"]["type"] for held in (plain, other)]
    if kinds[0] != kinds[1] or kinds[0] not in _BY_ID:
        names = " and ".join(model.spec for model in models)
        what = f"the tokenizers of {names} cannot be joined"
        cause = f"they are of the kinds {' and '.join(kinds)}, and the first lacks {pieces} pieces of the other"
        remedy = "keep the tokens of one of them: `tokenizer: {source: base}` in a recipe, or --vocabulary base"
        raise CheckpointError(what, cause=cause, remedy=remedy)


def _ids(plain: Plain) -> dict[str, int]:
    held = plain["model"]["vocab"]
    pieces = held if isinstance(held, Mapping) else {piece[0]: row for row, piece in enumerate(held)}
    return {**pieces, **{token["content"]: token["id"] for token in plain["added_tokens"]}}


def _merge(own: Plain, other: Plain) -> None:
    """Merges of another BPE after one's own."""
    have = {_pair(merge) for merge in own.get("merges", ())}
    more = [pair for pair in map(_pair, other.get("merges", ())) if pair not in have]
    if more:
        own["merges"] = [list(_pair(merge)) for merge in own["merges"]] + [list(pair) for pair in more]


def _pair(merge: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)


def _with_added(content: bytes, plain: Plain) -> bytes:
    """A tokenizer's configuration, where it repeats what was added."""
    config = json.loads(content)
    if "added_tokens_decoder" not in config:
        return content
    listed = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in plain["added_tokens"]}
    config["added_tokens_decoder"] = {**config["added_tokens_decoder"], **listed}
    return json.dumps(config, indent=2, ensure_ascii=False).encode()
