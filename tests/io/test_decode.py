"""Plain data as dataclasses: what is written is read back, and everything else is refused with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symgraph.io.decode import Malformed, decode, encode, parse


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    inside: tuple[Leaf, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    leaves: tuple[Leaf, ...]
    weight: float | str | Mapping[str, float] = "even"
    pair: tuple[float, float] = (0.0, 1.0)
    count: int = 3
    whole: bool = False


numbers = st.floats(allow_nan=False, allow_infinity=False)
leaf = st.recursive(
    st.builds(Leaf, st.text()), lambda x: st.builds(Leaf, st.text(), st.lists(x, max_size=2).map(tuple))
)
trees = st.builds(
    Tree,
    st.lists(leaf, max_size=3).map(tuple),
    st.one_of(numbers, st.text(), st.dictionaries(st.text(), numbers)),
    st.tuples(numbers, numbers),
    st.integers(0, 2**40),
    st.booleans(),
)


@given(trees)
def test_what_is_written_is_read_back(tree: Tree) -> None:
    assert decode(Tree, encode(tree)) == tree


@pytest.mark.parametrize(
    "plain, said",
    [
        ({"leaves": [], "count": True}, "count: Expected `int`, got `bool`"),
        ({"leaves": [], "pair": [1]}, "pair: Expected `array` of length 2"),
        ({"leaves": [{"name": "a", "inside": [{"name": 3}]}]}, "leaves[0].inside[0].name: Expected `str`"),
        ({"leaves": [{"name": "a", "insid": []}]}, "leaves[0]: 'insid' is unknown (did you mean `inside`?)"),
        ({"leaves": [], "zzz": 1}, "'zzz' is unknown (known: leaves, weight, pair, count, whole)"),
        ({}, "Object missing required field `leaves`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(plain: object, said: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(Tree, plain)
    assert said in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except Malformed as error:
        assert "\n" not in str(error)


def test_a_number_of_json_stays_a_number() -> None:
    assert parse('{"x": 1e-07}') == {"x": 1e-07}
