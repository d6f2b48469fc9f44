"""What a rule claims is proven at each call: constants, roles and kinds of operands that its examples do not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symgraph
from symgraph.errors import RuleError
from symgraph.inference.pipeline import infer
from symgraph.rules import proof
from symgraph.rules.book import RuleBook, default_rules
from symgraph.rules.loading import rule
from symgraph.rules.schema import Rule
from symgraph.rules.trial import Trial

R, L = torch.randn, nn.Linear
FIRST = torch.eye(6)[:, :1]


class Net(nn.Module):
    """A function of the net and its inputs; tensors become parameters."""

    def __init__(self, f: Callable[..., Tensor], *inputs: Tensor, **parts: Any) -> None:
        super().__init__()
        self.f = f
        self.example_inputs = inputs
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.f(self, *inputs)
        return result


def heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], 2, 3).transpose(1, 2)


def attends(s: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    mixed = F.scaled_dot_product_attention(heads(s.q(x)), heads(s.k(x)), heads(s.v(x)), attn_mask=mask)
    result: Tensor = s.o(mixed.transpose(1, 2).flatten(2))
    return result


def routes(gate: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def f(s: Any, x: Tensor) -> Tensor:
        weights, places = gate(s.r(x)).topk(2, -1)
        mixed: Tensor = ((s.e[places] @ x[:, None, :, None]).squeeze(-1) * weights.unsqueeze(-1)).sum(1)
        return mixed

    return f


def group_limited(scores: Tensor) -> Tensor:
    best = scores.view(-1, 2, 3).amax(-1).topk(1, -1).indices
    kept = torch.zeros(len(scores), 2).scatter(1, best, 1.0).repeat_interleave(3, 1)
    return scores.sigmoid().masked_fill(kept == 0, 0.0)


def router(gate: Callable[[Tensor], Tensor]) -> Net:
    return Net(routes(gate), R(6, 5), r=L(5, 6), e=R(6, 3, 5))


def behind_a_norm(gate: Callable[[Tensor], Tensor]) -> Net:
    return Net(lambda s, x: routes(gate)(s, F.rms_norm(x, (5,))), R(6, 5), r=L(5, 6), e=R(6, 3, 5))


def chosen(scores: Callable[..., Tensor], *beside: Tensor, **parts: Any) -> Net:
    """Rows of a table that scores choose, whatever the values of these."""
    choose = lambda s, x, *m: s.e[scores(s, x, *m).topk(2, -1).indices].sum(1) + s.o(x)  # noqa: E731
    return Net(choose, R(6, 5), *beside, r=L(5, 6), e=R(6, 3), o=L(5, 3), **parts)


def onto_rows(rows: Callable[[Tensor], Tensor]) -> Net:
    """Scores by a linear map without a bias, of rows that are made of the input."""
    choose = lambda s, x: s.e[F.linear(rows(x), s.r).topk(2, -1).indices].sum(1)  # noqa: E731
    return Net(choose, R(6, 5), r=R(6, 5), e=R(6, 3))


def straight_through(x: Tensor) -> Tensor:
    return (10 * x).round() - x + x


def projections() -> dict[str, nn.Module]:
    return {"q": L(6, 6), "k": L(6, 6), "v": L(6, 6), "o": L(6, 6)}


# net, the rule that is not used in full, and what it would have claimed
LOWERED: dict[str, tuple[Callable[[], Net], str, str]] = {
    "value-bias-under-any-mask": (
        lambda: Net(attends, R(2, 4, 6), torch.ones(2, 1, 4, 4, dtype=torch.bool), **projections()),
        "attention",
        "shift of value",
    ),
    "ties-of-relu": (lambda: router(F.relu), "sort", "..., d"),
    "ties-of-saturation": (lambda: router(lambda x: F.hardtanh(4 * x)), "sort", "..., d"),
    "ties-of-groups": (lambda: router(group_limited), "sort", "..., d"),
    "ties-of-sigmoid-at-any-size": (lambda: router(torch.sigmoid), "sort", "..., d"),
    "ties-of-sigmoid-that-is-stretched": (lambda: behind_a_norm(lambda x: (50 * x).sigmoid()), "sort", "..., d"),
    "ties-of-softmax-without-its-values": (lambda: chosen(lambda s, x: s.r(x).softmax(-1)), "sort", "..., d"),
    "ties-of-rows-of-signs": (lambda: chosen(lambda s, x: F.linear(x.sign(), s.r.weight.sign())), "sort", "..., d"),
    "ties-of-units-that-are-off": (
        lambda: chosen(lambda s, x: F.linear(F.relu(s.h(x)), s.r.weight), h=L(5, 5)),
        "sort",
        "..., d",
    ),
    "ties-of-relu-times-a-number": (lambda: chosen(lambda s, x: 2 * F.relu(s.r(x))), "sort", "..., d"),
    "ties-of-relu-beside-a-number": (lambda: router(lambda x: 1 - F.relu(x)), "sort", "..., d"),
    "ties-of-whole-quotients": (lambda: router(lambda x: x.div(0.1, rounding_mode="floor")), "sort", "..., d"),
    "ties-of-what-cancels": (lambda: router(straight_through), "sort", "..., d"),
    "ties-of-sigmoid-far-out": (lambda: behind_a_norm(lambda x: (x + 100).sigmoid()), "sort", "..., d"),
    "ties-of-sigmoid-by-steps": (
        lambda: behind_a_norm(lambda x: ((x + 4 + 4 + 4 + 4) * 3).sigmoid()),
        "sort",
        "..., d",
    ),
    "ties-of-sigmoid-by-factors": (lambda: behind_a_norm(lambda x: (x * 7 * 7 * 7).sigmoid()), "sort", "..., d"),
    "ties-of-padded-rows": (lambda: onto_rows(lambda x: F.pad(x, (0, 0, 1, 0))), "sort", "..., d"),
    "ties-of-rows-of-zeros": (lambda: onto_rows(lambda x: torch.cat([torch.zeros(1, 5), x])), "sort", "..., d"),
    "ties-of-rows-that-are-subtracted": (lambda: onto_rows(lambda x: x - x[:1]), "sort", "..., d"),
    "ties-of-rows-without-weight": (lambda: onto_rows(lambda x: x * FIRST), "sort", "..., d"),
    "ties-of-masked-rows": (
        lambda: chosen(lambda s, x, m: s.r(x) * m, torch.ones(6, 1, dtype=torch.bool)),
        "sort",
        "..., d",
    ),
}


@pytest.mark.parametrize("name", LOWERED)
def test_what_fails_at_the_call_is_not_used_and_is_named(name: str) -> None:
    make, named, claim = LOWERED[name]
    torch.manual_seed(0)
    net = make()
    found = symgraph.infer(net)
    assert any(note.startswith(f"rule {named}, not used in full at") and claim in note for note in found.notes)
    symgraph.verify(net, symmetry=found, perturb=0.1).raise_if_failed()


HELD: dict[str, tuple[Callable[[], Net], int]] = {
    "gain-and-bias-in-one": (
        lambda: Net(lambda s, x: s.o(F.layer_norm(s.i(x), (6,), s.w, s.w)), R(4, 6), i=L(6, 6), o=L(6, 3), w=R(6)),
        6,
    ),
    "a-linear-router": (lambda: router(lambda x: x), 6),
    "a-softmax-router": (lambda: router(lambda x: x.softmax(-1)), 6),
    "a-sigmoid-router-behind-a-norm": (lambda: behind_a_norm(torch.sigmoid), 6),
    "a-sigmoid-of-a-number-more": (lambda: behind_a_norm(lambda x: ((x + 2) * 2).sigmoid()), 6),
    "a-router-at-another-temperature": (lambda: router(lambda x: 1 - x / 3), 6),
    "a-router-less-its-largest": (lambda: router(lambda x: x - x.amax(-1, keepdim=True)), 6),
    "a-choice-by-rows-beside-ones": (lambda: onto_rows(lambda x: torch.cat([torch.ones(1, 5), x.cos()])), 6),
    "a-choice-by-a-linear-map": (lambda: chosen(lambda s, x: s.r(x)), 6),
    "attention-to-itself": (
        lambda: Net(
            lambda s, x: s.o(F.relu(s.a(x) + F.scaled_dot_product_attention(s.p, s.p, s.p))),
            R(6, 6),
            a=L(6, 6),
            o=L(6, 3),
            p=R(6, 6),
        ),
        6,
    ),
    "float8": (
        lambda: Net(lambda s, x: s.o(s.m(x).to(torch.float8_e4m3fn).to(x.dtype)), R(6, 5), m=L(5, 7), o=L(7, 3)),
        7,
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_what_holds_at_the_call_is_used(name: str) -> None:
    make, size = HELD[name]
    torch.manual_seed(0)
    net = make()
    found = symgraph.infer(net)
    assert any(s.size == size for s in found.active)
    symgraph.verify(net, symmetry=found, perturb=0.1).raise_if_failed()


def test_a_mask_that_is_computed_is_known_to_be_open() -> None:
    causal = Net(lambda s, x: attends(s, x, torch.ones(4, 4, dtype=torch.bool).tril()), R(2, 4, 6), **projections())
    found = symgraph.infer(causal)
    assert not found.notes
    assert any("v.bias" in str(constant) for constant in found.constants)


@pytest.mark.parametrize("limit", [1.0, 30.0, 1e-2])
def test_a_length_that_is_cut_off_is_seen(limit: float) -> None:
    net = Net(lambda s, x: s.o(F.normalize(s.a(x), dim=-1, eps=limit)), R(6, 5), a=L(5, 6), o=L(6, 3))
    found = symgraph.infer(net)
    assert not found.radial
    assert [str(s.group) for s in found.active] == ["orthogonal"]


def test_a_length_that_is_only_kept_from_zero_is_not_seen() -> None:
    net = Net(lambda s, x: s.o(F.normalize(s.a(x), dim=-1)), R(6, 5), a=L(5, 6), o=L(6, 3))
    assert symgraph.infer(net).radial


def test_calls_that_are_alike_share_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(*(layer for n in range(6) for layer in (nn.Linear(8 + n, 9 + n), nn.ReLU())))
    graph, book = symgraph.trace(net, (R(3, 8),)), RuleBook(default_rules().rules)
    proven: list[str] = []
    settled = proof._settled

    def noted(rule: Rule, trials: list[Trial]) -> proof.Proof:
        proven.append(rule.rule)
        return settled(rule, trials)

    monkeypatch.setattr(proof, "_settled", noted)
    first = infer(graph, book)
    # An input may be added as a mask, what an operator made may not.
    assert proven == ["linear", "positively-homogeneous", "linear"]
    assert str(infer(graph, book)) == str(first)
    assert len(proven) == 3


# -- rules of one's own ----------------------------------------------------------------------------------------------

POINTWISE: dict[str, Any] = {"signature": "self[*] -> [*]", "admits": {"*": "invertible"}}
FALSE = {
    "a-slope-of-one": (
        {"ops": ["aten.leaky_relu.default"], **POINTWISE, "examples": [{"args": {"negative_slope": 1.0}}]},
        0.01,
    ),
    "limits-far-away": (
        {"ops": ["aten.clamp.default"], **POINTWISE, "examples": [{"args": {"min": -900.0, "max": 900.0}}]},
        None,
    ),
    "positive-entries": ({"ops": ["aten.relu.default"], **POINTWISE, "examples": [{"positive": ["self"]}]}, None),
    "whole-numbers": ({"ops": ["aten.floor.default"], **POINTWISE, "examples": [{"integers": {"self": "3"}}]}, None),
    "one-position": (
        {
            "ops": ["aten.cumsum.default"],
            "signature": "self[... d] -> [... d]",
            "at": {"d": "dim"},
            "admits": {"d": "permutation"},
            "examples": [{"sizes": {"d": 1}, "args": {"dim": -1}}],
        },
        None,
    ),
    "a-structure": ({"ops": ["aten.relu.default"], "structure": "identity"}, None),
}


def own(keys: dict[str, Any]) -> Rule:
    return rule(rule="tried", about="Claims too much.", source="proof: none", **keys)


@pytest.mark.parametrize("name", FALSE)
def test_a_false_rule_is_refused_whatever_its_examples(name: str) -> None:
    keys, slope = FALSE[name]
    net = Net(lambda s, x: s.o(F.leaky_relu(s.a(x), slope or 0.1)), R(5, 6), a=L(6, 8), o=L(8, 3))
    with pytest.raises(RuleError, match=r"claims something false|prove nothing"):
        symgraph.infer(net, rules=[own(keys)])


def test_a_false_structure_is_refused_at_the_call() -> None:
    net = Net(lambda s, x: s.o(s.a(x).view(5, 2, 4).transpose(1, 2).reshape(5, 8)), R(5, 6), a=L(6, 8), o=L(8, 3))
    with pytest.raises(RuleError, match=r"claims something false at \(top level\)"):
        symgraph.infer(net, rules=[own({"ops": ["aten.transpose.int"], "structure": "reshape"})])


def test_an_assumption_that_nothing_shows_is_no_error(tmp_path: Path) -> None:
    keys = {
        "ops": ["aten.topk.default"],
        "signature": "self[... d] -> [... _], [... _]",
        "at": {"d": "dim", "_": "dim"},
        "admits": {"d": "permutation"},
        "points": {"1": "d"},
        "assumes": {"self": "distinct"},
        "examples": [{"args": {"dim": -1, "k": 2}}],
    }
    found = symgraph.infer(router(F.relu), rules=[own(keys)])
    assert any("self is not known to be distinct" in note for note in found.notes)
