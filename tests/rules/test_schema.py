"""The JSON schema that editors complete rules by: every rule there is fits it, and what is misspelt does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from symgraph.rules.book import default_rules, rules_folder
from symgraph.rules.rule_text import as_yaml
from symgraph.rules.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
MODELINE = "# yaml-language-server: $schema=schema.json\n"
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}
_WORDS = {"$schema", "title", "description", "required", "properties", "additionalProperties", "items"}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is valid under those keywords of JSON Schema that the schema of rules is made of."""
    tests: dict[str, Callable[[Any], bool]] = {
        "type": lambda kind: _TYPES[kind](value),
        "enum": lambda known: value in known,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minItems": lambda least: len(value) >= least,
        "anyOf": lambda schemas: any(fits(value, s) for s in schemas),
        "oneOf": lambda schemas: sum(fits(value, s) for s in schemas) == 1,
    }
    unknown = schema.keys() - tests.keys() - _WORDS
    assert not unknown, f"the schema has grown {unknown}"
    if not all(tests[word](told) for word, told in schema.items() if word in tests):
        return False
    if isinstance(value, list) and "items" in schema:
        return all(fits(item, schema["items"]) for item in value)
    return not isinstance(value, dict) or _fits_object(value, schema)


def _fits_object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not value.keys() >= set(schema.get("required", ())):
        return False
    rest = {name: inner for name, inner in value.items() if name not in known}
    of_others = others if isinstance(others, dict) else {}
    inside = (others is not False or not rest) and all(fits(inner, of_others) for inner in rest.values())
    return inside and all(fits(inner, known[name]) for name, inner in value.items() if name in known)


RULE: dict[str, Any] = {
    "rule": "log-gamma",
    "about": "A nonlinear function of each entry.",
    "source": "proof: it acts on each entry alone",
    "ops": ["aten.lgamma.default"],
    "signature": "self[*] -> [*]",
    "admits": {"*": ["semi-permutation", "signed permutation"]},
    "examples": [{"sizes": {"d": 3}, "positive": ["self"]}],
}


@pytest.mark.parametrize("file", sorted(rules_folder().glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_files_fit_and_name_the_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith(MODELINE) and (file.parent / "schema.json").is_file()
    assert fits(yaml.safe_load(text), json_schema())


def test_rules_of_the_documents_and_examples_fit() -> None:
    page = (ROOT / "docs" / "writing-rules.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```\n\n(```text\nerror)?", page, re.MULTILINE | re.DOTALL)
    sound = [text for text, error in blocks if not error]
    assert len(sound) >= 8 and all(fits(yaml.safe_load(text), json_schema()) for text in sound)
    for file in (ROOT / "examples" / "rules").glob("*.yaml"):
        assert fits(yaml.safe_load(file.read_text(encoding="utf-8")), json_schema())


def test_rules_as_they_are_printed_fit() -> None:
    assert fits(yaml.safe_load("".join(map(as_yaml, default_rules().rules))), json_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"admit": {"*": "permutation"}},
        {"admits": {"*": "permutaton"}},
        {"admits": {"*": []}},
        {"source": "because"},
        {"about": ["a list"]},
        {"pattern": "sum(x)"},
        {"broadcast": "sometimes"},
        {"examples": [{"size": {"d": 3}}]},
        {"examples": [{"sizes": {"d": "three"}}]},
        {"product": {"self": 0.5}},
        {"structure": "teleport"},
    ],
    ids=str,
)
def test_what_is_wrong_does_not_fit(change: dict[str, Any]) -> None:
    assert fits([RULE], json_schema())
    assert not fits([{**RULE, **change}], json_schema())


@pytest.mark.parametrize("key", ["rule", "about", "source", "ops"])
def test_what_is_missing_does_not_fit(key: str) -> None:
    assert not fits([{k: v for k, v in RULE.items() if k != key}], json_schema())


def test_every_key_says_what_it_is_for() -> None:
    properties = json_schema()["items"]["properties"]
    inner = properties["examples"]["items"]["properties"]
    assert all(form["description"] for form in (*properties.values(), *inner.values()))
