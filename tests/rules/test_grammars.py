"""The three small grammars: printing and parsing are inverse, and no text crashes a parser."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symgraph.errors import RuleError
from symgraph.ir import DType, Tensor
from symgraph.rules import condition, pattern, signature
from symgraph.rules.condition import Condition
from symgraph.rules.condition import Term as C
from symgraph.rules.expression import Term as P
from symgraph.rules.grammar import GrammarError
from symgraph.rules.pattern import Pattern
from symgraph.rules.signature import AxisToken, Operand, Signature

NAMES = st.sampled_from(["a", "b", "x1", "head", "dim"])
AXES = st.lists(st.builds(AxisToken, NAMES, st.sampled_from(["", "'", "~"])), max_size=3, unique_by=lambda t: t.name)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    names = draw(st.lists(st.sampled_from(["x", "weight", "bias"]), min_size=1, unique=True))
    lead = draw(st.sampled_from([(), (AxisToken("..."),)]))
    operands = tuple(Operand(n, (*lead, *draw(AXES)), draw(st.booleans())) for n in names)
    known = {t.name for o in operands for t in o.axes}
    result = tuple(t for t in (*lead, *draw(AXES)) if t.name in known)
    return Signature(operands, ((*result, AxisToken("_"), AxisToken("1")),))


numbers = st.one_of(st.integers(-9, 99), st.floats(-100, 100, allow_nan=False), st.booleans(), st.none())
leaves = st.one_of(
    st.builds(lambda v: C("constant", value=v), st.one_of(numbers, st.sampled_from(["", "halves"]))),
    st.builds(lambda n: C("name", value=n), NAMES),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda k, a, b: C(k, (a, b)), st.sampled_from(["+", "-", "*", "/", "//"]), inner, inner),
        st.builds(lambda a: C("rank", (a,)), inner),
        st.builds(lambda a, b: C("size", (a, b)), inner, inner),
        st.builds(lambda a: C("list", tuple(a)), st.lists(inner, max_size=2)),
    ),
    max_leaves=5,
)
comparisons = st.builds(
    lambda k, a, b: C(k, (a, b)), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), values, values
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda k, a, b: C(k, (a, b)), st.sampled_from(["and", "or"]), inner, inner),
        st.builds(lambda a: C("not", (a,)), inner),
    ),
    max_leaves=4,
)
terms = st.recursive(
    st.one_of(
        st.builds(lambda n: P("var", n), NAMES),
        st.just(P("any")),
        st.builds(lambda v: P("constant", v), st.one_of(st.integers(-9, 9), st.floats(0, 9), st.just(2**63 - 1))),
    ),
    lambda inner: st.one_of(
        st.builds(lambda o, a: P("call", o, tuple(a)), st.sampled_from(["add", "mul", "silu", "cat"]), st.lists(inner)),
        st.builds(lambda a: P("list", items=tuple(a)), st.lists(inner, max_size=2)),
    ),
    max_leaves=6,
)


@given(signatures())
def test_signature_round_trip(tree: Signature) -> None:
    assert signature.parse(str(tree)) == tree


@given(conditions)
def test_condition_round_trip(tree: C) -> None:
    text = str(Condition(tree))
    assert str(condition.parse(text)) == text
    assert condition.parse(text) == Condition(tree)


@given(terms.filter(lambda t: t.kind == "call"))
def test_pattern_round_trip(tree: P) -> None:
    assert pattern.parse(str(Pattern(tree))) == Pattern(tree)


@settings(max_examples=300)
@given(st.sampled_from([signature.parse, condition.parse, pattern.parse]), st.text(max_size=40))
def test_arbitrary_text_never_crashes(parse: object, text: str) -> None:
    with suppress(RuleError):
        parse(text)  # type: ignore[operator]


WORDS = [*"x[],'~?*_()12+-@", "...", "->", "==", "and", "not", "//", "inf", '"', "size(", "len(", "add(", "**"]


@settings(max_examples=300)
@given(st.sampled_from([signature.parse, condition.parse, pattern.parse]), st.lists(st.sampled_from(WORDS)))
def test_shuffled_tokens_never_crash(parse: object, words: list[str]) -> None:
    with suppress(RuleError):
        parse(" ".join(words))  # type: ignore[operator]


@pytest.mark.parametrize("text", ["(" * 500, "-" * 900 + "x", "not " * 400 + "a", "[" * 900, "f(" * 200])
@pytest.mark.parametrize("parse", [signature.parse, condition.parse, pattern.parse])
def test_deep_nesting_is_refused(parse: object, text: str) -> None:
    with pytest.raises(RuleError):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p == 0", True),
        ("p != 0 or causal == true", True),
        ("not causal == true", False),
        ("rank(x) == 3 and size(x, -1) == 6", True),
        ("half * 2 == size(x, 2)", True),
        ("half == size(x, -1) // 2 + 1 - 1", True),
        ("dims == [1, 1] and len(dims) == 2", True),
        ('kind == "float32"', True),
        ("bias == none", True),
        ("rank(number) == 0", True),
        ("number <= -1e9", False),
        ("missing == 1", False),
        ("not missing == 1", False),
        ("bias < 3", False),
        ("size(x, 9) == 1", False),
        ("1 / 0 == 1", False),
    ],
)
def test_condition_values(text: str, expected: bool) -> None:
    arguments = {
        "p": 0.0,
        "causal": True,
        "x": Tensor((2, 3, 6), "float32"),
        "half": 3,
        "dims": (1, 1),
        "kind": DType("float32"),
        "bias": None,
        "number": 0.5,
    }
    assert condition.parse(text).evaluate(arguments) is expected


@pytest.mark.parametrize(
    ("parse", "text", "column"),
    [
        (signature.parse, "x[... i] -> [j]", 0),
        (signature.parse, "x[i i] -> [i]", 4),
        (signature.parse, "x[* i] -> [*]", 1),
        (signature.parse, "x[i], x[i] -> [i]", 0),
        (signature.parse, "x[i -> [i]", 4),
        (condition.parse, "a == ", 5),
        (condition.parse, "a = 1", 2),
        (condition.parse, "__import__(1)", 10),
        (pattern.parse, "x + no_such_operator(y)", 4),
        (pattern.parse, "x.silu()", 0),
        (pattern.parse, "X + 1", 0),
    ],
)
def test_mistakes_have_a_column(parse: object, text: str, column: int) -> None:
    with pytest.raises(GrammarError) as caught:
        parse(text)  # type: ignore[operator]
    assert caught.value.column == column
