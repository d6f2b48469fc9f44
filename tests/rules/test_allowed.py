"""Rule files cannot do harm: no operator that writes, no text that takes long to read, no error without words."""

from __future__ import annotations

from pathlib import Path

import pytest

from symgraph.errors import RuleError
from symgraph.rules.loading import parse
from symgraph.rules.schema import Rule

RULE = """\
- rule: tried
  about: Does harm.
  source: "proof: none"
  {what}
  signature: "x[d] -> [d]"
  admits: {{d: identity}}
"""

WRITING = [
    "pattern: mul(x, zero_(from_file(name, shared, size)))",
    "pattern: mul(x, from_file(name, shared, size))",
    "pattern: mul(x, relu_(x))",
    "pattern: copy_(x, x)",
    "pattern: add(x, x, out=x)",
    "ops: [aten.relu_.default]",
    "ops: [aten.add.out]",
    "ops: [aten.from_file.default]",
    "ops: [aten.item.default]",
    "ops: [aten._cudnn_init_dropout_state.default]",
    "ops: [aten.save.default]",
]


@pytest.mark.parametrize("what", WRITING)
def test_operators_that_write_are_not_resolved(what: str) -> None:
    with pytest.raises(RuleError, match=r"writes to|reads no tensor|return tensors|internal"):
        parse(RULE.format(what=what))


def test_a_file_of_the_user_stays_as_it_is(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"A" * 100)
    text = RULE.format(what="pattern: mul(x, zero_(from_file(name, shared, size)))")
    with pytest.raises(RuleError):
        parse(f"{text}  examples:\n    - {{sizes: {{d: 10}}, args: {{name: {victim}, shared: true, size: 10}}}}\n")
    assert victim.read_bytes() == b"A" * 100


def bomb(levels: int) -> str:
    lines = ["- &a0 [x, x]"]
    lines += [f"- &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(levels)]
    return "\n".join(lines)


ENDLESS = {
    "an alias of itself": "&a [*a]",
    "aliases of aliases": bomb(9),
    "a nest": "[" * 400,
    "a long text": "# " + "x" * 2_000_000,
    "many rules": "\n".join(f"- {{rule: r{i}}}" for i in range(2000)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_text_without_end_is_refused(name: str) -> None:
    with pytest.raises(RuleError):
        parse(ENDLESS[name])


LARGE = [
    "  when: " + "+".join("x" * 500) + " == 1\n",
    "  when: " + "(" * 500 + "\n",
    "  examples: [{batch: [100000, 100000]}]\n",
    "  examples: [{args: {k: [4000, 4000]}}]\n",
    "  examples: [{sizes: {d: -3}}]\n",
]


@pytest.mark.parametrize("more", LARGE)
def test_what_takes_too_long_to_check_is_refused(more: str) -> None:
    with pytest.raises(RuleError):
        parse(RULE.format(what="ops: [aten.relu.default]").replace("x[d]", "self[d]") + more)


def test_an_alias_is_read_as_what_it_stands_for() -> None:
    text = RULE.format(what="ops: &ops [aten.relu.default]").replace("x[d]", "self[d]")
    (found,) = parse(text + "  gaps: {d: &why nothing}\n")
    assert isinstance(found, Rule)
