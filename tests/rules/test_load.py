"""Rule files: errors with place and caret, rules from Python, and a user's rules against ours."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symgraph.errors import RuleError
from symgraph.ir import Graph, Kind, Node, Ref, Tensor
from symgraph.rules.book import RuleBook, default_rules, with_user_rules
from symgraph.rules.check import check, require_sound
from symgraph.rules.loading import load_file, parse, rule

GOOD = """\
- rule: my-gelu
  about: A nonlinear function of each entry.
  source: "proof: f acts on each entry alone"
  ops: [aten.gelu.default]
  signature: "self[*] -> [*]"
  admits: {"*": permutation}
"""

GOLDEN = {
    "unknown-key": (
        GOOD.replace("admits:", "admit:").replace('signature: "self[*] -> [*]"', 'signature: "self[] -> []"'),
        """\
my.yaml:6:3: error[unknown-key]: a rule has no `admit`
    admit: {"*": permutation}
    ^
  help: did you mean `admits`?""",
    ),
    "missing-key": (
        GOOD.replace("  about: A nonlinear function of each entry.\n", ""),
        """\
my.yaml:1:3: error[missing-key]: a rule needs `about`
  - rule: my-gelu
    ^""",
    ),
    "wrong-type": (
        GOOD.replace("about: A nonlinear function of each entry.", "about: [1, 2]"),
        """\
my.yaml:2:10: error[wrong-type]: `about` must be text, found a list
    about: [1, 2]
           ^""",
    ),
    "unknown-class": (
        GOOD.replace("permutation}", "permutaton}"),
        """\
my.yaml:6:17: error[unknown-class]: `permutaton` is no symmetry class
    admits: {"*": permutaton}
                  ^
  help: did you mean `permutation`?""",
    ),
    "unused-axis": (
        GOOD.replace("permutation}", "permutation, c: permutation}"),
        """\
my.yaml:6:30: error[unused-axis]: `c` has a class but is not in the signature
    admits: {"*": permutation, c: permutation}
                               ^
  help: rename `c` to one of *, or remove it""",
    ),
    "unclassified-axis": (
        GOOD.replace('"self[*] -> [*]"', '"self[c] -> [c]"').replace('{"*": permutation}', "{}"),
        """\
my.yaml:5:14: error[unclassified-axis]: axis `c` has no class
    signature: "self[c] -> [c]"
               ^
  help: add `c: ...` to `admits`""",
    ),
    "bad-signature": (
        GOOD.replace("self[*] ->", "self[*] =>"),
        """\
my.yaml:5:23: error[bad-signature]: unexpected character '='
    signature: "self[*] => [*]"
                        ^""",
    ),
    "bad-pattern": (
        GOOD.replace("ops: [aten.gelu.default]", "pattern: self + gleu(self)"),
        """\
my.yaml:4:19: error[bad-pattern]: torch has no operator `aten.gleu`
    pattern: self + gleu(self)
                    ^""",
    ),
    "bad-condition": (
        GOOD + "  when: approximate = 1\n",
        """\
my.yaml:7:21: error[bad-condition]: unexpected character '='
    when: approximate = 1
                      ^""",
    ),
    "duplicate-rule": (
        GOOD + GOOD,
        """\
my.yaml:7:3: error[duplicate-rule]: a rule called `my-gelu` exists already
  - rule: my-gelu
    ^
  help: give it another name""",
    ),
    "unknown-op": (
        GOOD.replace("gelu.default", "gelu.defualt"),
        """\
my.yaml:4:9: error[unknown-op]: torch has no operator `aten.gelu.defualt`
    ops: [aten.gelu.defualt]
          ^
  help: did you mean `aten.gelu.default`?""",
    ),
    "yaml-syntax": (
        GOOD.replace("[aten.gelu.default]", "[aten.gelu.default"),
        """\
my.yaml:5:12: error[yaml-syntax]: expected ',' or ']', but got ':'
    signature: "self[*] -> [*]"
             ^
  help: check quotes and brackets""",
    ),
}


@pytest.mark.parametrize("code", GOLDEN)
def test_error_text(code: str) -> None:
    text, expected = GOLDEN[code]
    with pytest.raises(RuleError) as caught:
        parse(text, "my.yaml")
    assert caught.value.what == expected


def test_all_problems_are_reported_at_once() -> None:
    text = GOOD.replace("about:", "abuot:").replace("permutation}", "nothing}")
    with pytest.raises(RuleError) as caught:
        parse(text)
    for code in ("unknown-key", "missing-key", "unknown-class"):
        assert f"error[{code}]" in caught.value.what


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("  when: dropout == 1\n", "bad-condition"),
        ("  adds: bias\n", "bad-signature"),
        ("  product: {other: 1}\n", "bad-signature"),
        ("  shift: {self: weight}\n", "bad-signature"),
        ("  structure: reshape\n", "missing-key"),
        ("  gaps: {d: because}\n", "unused-axis"),
        ("  at: {'*': dim}\n", "bad-signature"),
        ("  structure: reshap\n", "wrong-type"),
        ("  ops: [aten.silu.default]\n", "duplicate-key"),
        ("  examples: [{size: {a: 3}}]\n", "unknown-key"),
        ("  product: {self: two}\n", "wrong-type"),
    ],
)
def test_further_mistakes(line: str, code: str) -> None:
    with pytest.raises(RuleError, match=rf"error\[{code}\]"):
        parse(GOOD + line)


@settings(max_examples=200)
@given(st.text(max_size=60), st.integers(0, len(GOOD)))
def test_arbitrary_files_never_crash(noise: str, at: int) -> None:
    with suppress(RuleError):
        parse(GOOD[:at] + noise + GOOD[at:])


def test_tags_are_not_executed() -> None:
    with pytest.raises(RuleError):
        parse("- rule: !!python/object/apply:os.system ['true']\n")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="cannot read rules"):
        load_file(tmp_path / "none.yaml")
    with pytest.raises(RuleError, match="no rules at"):
        with_user_rules(default_rules(), [tmp_path])


def _attention(key: str) -> dict[str, object]:
    return {
        "rule": "my-attention",
        "about": "Attention without a mask.",
        "source": "proof: none",
        "ops": ["aten.scaled_dot_product_attention.default"],
        "when": "is_causal == false and attn_mask == none",
        "signature": f"query[... t k], key[... s {key}], value[... s v] -> [... t v]",
        "admits": {"t": "semi-permutation", "s": "permutation", "k": "invertible", "v": "invertible"},
        "examples": [{"args": {"scale": 0.5}}],
    }


def test_unsound_rule_is_refused_with_its_axis() -> None:
    require_sound(rule(**_attention("k'")))
    with pytest.raises(RuleError) as caught:
        require_sound(rule(**_attention("k")))
    assert "axis `k`, class invertible" in caught.value.cause
    assert "my-attention" in caught.value.what and "query [2, 3, 4, 5]" in caught.value.cause


def test_weak_rule_gets_a_hint() -> None:
    report = check(parse(GOOD)[0])
    assert report.sound and not report.tight
    assert "axis `*` admits semi-permutation" in report.hints[0]


def test_explained_gap_is_no_hint() -> None:
    report = check(parse(GOOD + '  gaps: {"*": not needed here}\n')[0])
    assert report.tight and report.loose and not report.hints


@pytest.mark.parametrize(
    "law",
    [
        {"shift": {"query": "none"}},
        {"shift": {"value": "none"}},
        {"shift": {"key": "output"}},
        {"adds": "query"},
    ],
)
def test_false_further_laws_are_refused(law: dict[str, object]) -> None:
    with pytest.raises(RuleError, match="claims something false"):
        require_sound(rule(**{**_attention("k'"), **law}))


def test_false_product_and_broadcast_are_refused() -> None:
    base = {"about": "x.", "source": "proof: x", "signature": "self[*], other[*] -> [*]"}
    product = {
        "rule": "p",
        "ops": ["aten.mul.Tensor"],
        "admits": {"*": "monomial"},
        "product": {"self": 1, "other": -1},
    }
    free = {"rule": "p", "ops": ["aten.add.Tensor"], "admits": {"*": "invertible"}, "broadcast": "free"}
    for keys in (product, free):
        with pytest.raises(RuleError, match="claims something false"):
            require_sound(rule(**base, **keys))


def test_python_rule_goes_through_the_same_checks() -> None:
    with pytest.raises(RuleError, match=r"error\[unknown-key\]"):
        rule(rule="x", about="y", source="proof: z", opps=["aten.gelu.default"])
    with pytest.raises(RuleError, match="text, numbers"):
        rule(rule=object(), about="y", source="proof: z")


def test_user_rule_replaces_ours_for_its_operator(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD, encoding="utf-8")
    book = with_user_rules(default_rules(), [tmp_path])
    assert "activation is replaced by the user's my-gelu for aten.gelu.default" in book.notes[0]
    assert book.hash != default_rules().hash
    x = Node("x", Kind.INPUT, "x", result=Tensor((2,), "float32"))
    node = Node("y", Kind.CALL, "aten.gelu.default", (Ref("x"),), (), Tensor((2,), "float32"))
    assert [r.rule for r in book.for_node(node)] == ["my-gelu"]
    assert [r.rule for r in book.for_node(replace(node, target="aten.silu.default"))] == ["activation"]
    assert book.covers(node, Graph((x, node), ("y",)))


def test_unsound_user_rule_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("permutation}", "orthogonal}"), encoding="utf-8")
    with pytest.raises(RuleError, match="claims something false"):
        with_user_rules(default_rules(), [tmp_path / "mine.yaml"])


def test_two_rules_of_one_name() -> None:
    found = parse(GOOD)
    with pytest.raises(RuleError, match="two rules are called my-gelu"):
        RuleBook(found + found)
