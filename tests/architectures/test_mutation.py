"""A rule that claims too much is found three times over: by its own law, at every call, and by verify."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from models_zoo import ARCHITECTURES, case

from symgraph.errors import RuleError
from symgraph.groups.lattice import SymmetryClass as C
from symgraph.groups.lattice import down, next_larger
from symgraph.inference.pipeline import infer, run
from symgraph.prove.verify import verify
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.check import check
from symgraph.rules.proof import Proof
from symgraph.rules.schema import Admits, Rule

# architecture, implementation, rule, axis, claim too many, whether it decides a group of this architecture
DECIDING = [
    ("mlp-relu", "sdpa", "positively-homogeneous", "*", C.SIGNED, True),
    ("mlp-relu", "sdpa", "linear", "...", C.SIGNED, False),
    ("mlp-tanh", "sdpa", "odd-function", "*", C.POSITIVE_MONOMIAL, True),
    ("mlp-gelu", "sdpa", "activation", "*", C.SIGNED, True),
    ("mlp-gelu", "sdpa", "activation", "*", C.POSITIVE_MONOMIAL, True),
    ("vit", "sdpa", "layer-norm", "d", C.ORTHOGONAL, True),
    ("vit", "sdpa", "activation", "*", C.ORTHOGONAL_ONES, True),
    ("vit", "sdpa", "attention", "...", C.INVERTIBLE, True),
    ("vit", "eager", "softmax", "...", C.ORTHOGONAL_ONES, False),
    ("vit", "sdpa", "attention", "s", C.SIGNED, False),
    ("gpt2-tied", "sdpa", "embedding", "v", C.SIGNED, False),
    ("gpt2-tied", "sdpa", "layer-norm", "d", C.SIGNED, True),
    ("gpt2-untied", "sdpa", "embedding", "v", C.SIGNED, False),
    ("gpt2-untied", "sdpa", "layer-norm", "d", C.ORTHOGONAL, True),
    ("gpt2-untied", "sdpa", "multiply", "*", C.ORTHOGONAL_ONES, False),
    ("llama", "sdpa", "activation", "*", C.SIGNED, True),
    ("llama", "sdpa", "embedding", "v", C.SIGNED, False),
    ("bert", "sdpa", "activation", "*", C.SIGNED, True),
    ("bert", "eager", "softmax", "d", C.SIGNED, False),
    ("bert", "sdpa", "layer-norm", "d", C.SIGNED, True),
    ("resnet", "sdpa", "positively-homogeneous", "*", C.SIGNED, True),
    ("resnet", "sdpa", "batch-norm", "c", C.INVERTIBLE, False),
    ("resnet", "sdpa", "max-pool", "...", C.SIGNED, False),
]


def corrupted(rule: Rule, axis: str, claim: C) -> Rule:
    return replace(rule, admits=Admits({**rule.admits, axis: rule.admits[axis] | down(claim)}))


@cache
def used(name: str, implementation: str) -> frozenset[str]:
    applied = run(case(name, implementation).graph, until="rules").applied
    return frozenset(a.rule.rule for a in applied)


def test_every_architecture_has_a_rule_that_decides() -> None:
    assert {d[0] for d in DECIDING if d[-1]} == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "implementation", "rule", "axis", "claim", "decides"), DECIDING)
def test_a_claim_too_many_is_caught(
    name: str, implementation: str, rule: str, axis: str, claim: C, decides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, c = default_rules(), case(name, implementation)
    assert rule in used(name, implementation)
    wrong = corrupted(book.named(rule), axis, claim)
    report = check(wrong)
    assert not report.sound
    assert any(f.axis == axis and f.cls == claim for f in report.failures)
    with pytest.raises(RuleError, match=rule):
        with_user_rules(book, [wrong])
    loaded = RuleBook(tuple(wrong if r.rule == rule else r for r in book.rules))
    lowered = infer(c.graph, loaded)
    assert verify(lowered, c.state(), c.inputs, samples=1).passed
    assert any(note.startswith(f"rule {rule},") for note in lowered.notes) >= decides
    monkeypatch.setattr(RuleBook, "proof", lambda self, binding, *call: Proof(binding.rule))
    assert verify(infer(c.graph, loaded), c.state(), c.inputs, samples=1).passed is not decides


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_claim_too_many_of_any_rule_gets_past_both(name: str) -> None:
    """Every next larger class on every axis of every rule in use, but for the gaps that a rule explains."""
    book, c = default_rules(), case(name)
    for rule in (r for r in book.rules if r.rule in used(name, "sdpa") and r.signature is not None):
        for axis in (a for a in rule.signature.axes if a not in rule.gaps):  # type: ignore[union-attr]
            for claim in next_larger(rule.admits[axis]):
                wrong = corrupted(rule, axis, claim)
                if not check(wrong).sound:
                    continue
                loaded = RuleBook(tuple(wrong if r.rule == rule.rule else r for r in book.rules))
                assert not verify(infer(c.graph, loaded), c.state(), c.inputs, samples=1).passed, (
                    rule.rule,
                    axis,
                    claim,
                )
