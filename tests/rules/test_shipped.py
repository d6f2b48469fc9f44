"""Every shipped rule is sound and tight, and the files around them are current."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from symgraph.groups.elements import IndexSet
from symgraph.groups.lattice import SymmetryClass, classes, down, maps
from symgraph.inference.structural import TRANSFORMERS
from symgraph.rules.book import default_rules, rules_folder
from symgraph.rules.check import check
from symgraph.rules.schema import KEYS, STRUCTURES, Admits, Rule, schema_text

RULES = default_rules().rules
by_name = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.rule)


@by_name
def test_rule_is_sound_and_tight(rule: Rule) -> None:
    report = check(rule)
    assert report.sound, report.counterexample
    assert report.tight, report.hints


@by_name
def test_rule_explains_itself(rule: Rule) -> None:
    assert rule.about.endswith(".") and len(rule.about) > 20


def test_every_structure_has_a_transformer() -> None:
    assert set(STRUCTURES) == set(TRANSFORMERS)


def _raised(rule: Rule) -> list[tuple[str, Rule]]:
    """The rule with one axis claimed to admit any linear map."""
    top = down(SymmetryClass.INVERTIBLE)
    axes = [a for a, b in rule.admits.items() if b != top and a not in rule.gaps]
    return [(a, replace(rule, admits=Admits({**rule.admits, a: top}))) for a in axes]


@pytest.mark.parametrize(
    ("axis", "rule"), [(a, r) for rule in RULES for a, r in _raised(rule)], ids=lambda v: getattr(v, "rule", v)
)
def test_raised_claim_is_refused_by_axis(axis: str, rule: Rule) -> None:
    report = check(rule)
    assert not report.sound
    assert any(axis in f.axis.split(", ") for f in report.failures)


def test_schema_file_is_current() -> None:
    assert (rules_folder() / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_every_field_has_a_key() -> None:
    assert [k.name for k in KEYS] == [f.name for f in fields(Rule) if f.name != "place"]


def test_hash_is_of_the_content() -> None:
    book = default_rules()
    assert len(book.hash) == 64
    moved = replace(book, rules=tuple(replace(r, place="elsewhere") for r in book.rules))
    changed = replace(book, rules=(replace(book.rules[0], gain="input"), *book.rules[1:]))
    assert moved.hash == book.hash != changed.hash


@pytest.mark.parametrize("cls", classes())
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_random_elements_are_of_their_class(cls: SymmetryClass, n: int) -> None:
    found = maps(cls).sample(IndexSet(n), torch.Generator().manual_seed(n))
    co, dual = found.co, found.dual
    ones = torch.ones(n, dtype=torch.float64)
    assert torch.allclose(dual.T @ co, torch.eye(n, dtype=torch.float64))
    if cls in down(SymmetryClass.ORTHOGONAL):
        assert torch.allclose(co @ co.T, torch.eye(n, dtype=torch.float64))
    if cls in down(SymmetryClass.ORTHOGONAL_ONES, SymmetryClass.SEMI_PERMUTATION):
        assert torch.allclose(co @ ones, torch.ones(len(co), dtype=torch.float64))
    if cls is SymmetryClass.SEMI_PERMUTATION:
        assert len(co) > n and torch.allclose(dual.sum(0), ones) and bool((dual >= 0).all())


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_rotary_elements_commute_with_rotations_of_their_pairs(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (maps(SymmetryClass.ROTARY).sample(IndexSet(6, layout), generator).co for _ in range(2))
    assert torch.allclose(a @ b, b @ a)
    swapped = IndexSet(6, "halves" if layout != "halves" else "interleaved")
    other = maps(SymmetryClass.ROTARY).sample(swapped, generator).co
    assert not torch.allclose(a @ other, other @ a)


def test_rule_files_are_data_only() -> None:
    for path in Path(rules_folder()).glob("*.yaml"):
        assert "!!" not in path.read_text(encoding="utf-8")
