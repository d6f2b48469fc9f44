"""Rules that are measured: sound, tight, as large as the shipped ones, and read back from the text that they print."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symgraph.errors import RuleError
from symgraph.groups.lattice import SymmetryClass, describe, down
from symgraph.inference.pipeline import infer
from symgraph.rules.book import default_rules, with_user_rules
from symgraph.rules.check import check
from symgraph.rules.loading import parse
from symgraph.rules.probing import Call, layout
from symgraph.rules.rule_text import as_yaml
from symgraph.rules.scaffold import Use, new_rule, used
from symgraph.rules.schema import Rule, plain
from symgraph.tracing import trace

# What a person would write: the signature, the classes, and the laws beside them.
EXPECTED: dict[str, tuple[str, dict[str, str], dict[str, object]]] = {
    "aten.lgamma.default": ("self[*] -> [*]", {"*": "semi-permutation"}, {}),
    "aten.tan.default": ("self[*] -> [*]", {"*": "semi-permutation + signed permutation"}, {}),
    "aten.multiply.Tensor": (
        "self[*], other[*] -> [*]",
        {"*": "semi-permutation + monomial"},
        {"product": {"self": 1, "other": 1}},
    ),
    "aten.bilinear.default": (
        "input1[... a], input2[... b], weight[c a' b'], bias[c]? -> [... c]",
        {"a": "invertible", "b": "invertible", "c": "invertible", "...": "semi-permutation"},
        {"adds": "bias"},
    ),
    "aten.cosine_similarity.default": (
        "x1[... a], x2[... a] -> [...]",
        {"a": "orthogonal", "...": "semi-permutation"},
        {"at": {"a": "dim"}, "reduces": "a", "when": "eps == 1e-08"},
    ),
    "aten.softmax.int": (
        "self[... a] -> [... a]",
        {"a": "permutation", "...": "semi-permutation"},
        {"blind": {"self": "a"}},
    ),
    "aten.embedding.default": (
        "weight[a b], indices[...] -> [... b]",
        {"a": "permutation", "b": "invertible", "...": "semi-permutation"},
        {"indexes": {"indices": "a"}},
    ),
    "aten.mse_loss.default": ("self[*], target[*] -> []", {"*": "orthogonal"}, {}),
    "aten.glu.default": (
        "self[... a] -> [... _]",
        {"a": "identity", "...": "semi-permutation"},
        {"at": {"a": "dim", "_": "dim"}},
    ),
    "aten.pdist.default": ("self[a b] -> [_]", {"a": "identity", "b": "orthogonal"}, {"when": "p == 2.0"}),
}


def classes(rule: Rule) -> dict[str, str]:
    return {axis: describe(bound) for axis, bound in rule.admits.items()}


@pytest.mark.parametrize("target", EXPECTED)
def test_what_is_measured_is_sound_and_tight_and_can_be_read_back(target: str) -> None:
    rule = new_rule(target)
    report = check(rule)
    assert report.sound and report.tight and not report.loose, report
    (read,) = parse(as_yaml(rule))
    assert plain(read) == plain(rule)
    signature, admits, laws = EXPECTED[target]
    assert str(rule.signature) == signature
    assert {axis: set(said.split(" + ")) for axis, said in classes(rule).items()} == {
        axis: set(said.split(" + ")) for axis, said in admits.items()
    }
    assert {key: str(v) if key == "when" else v for key in laws if (v := getattr(rule, key))} == laws


@torch.library.custom_op("scaffolds::fused_norm", mutates_args=())
def fused_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    shape = x.shape[-1:]
    return nn.functional.layer_norm(x, shape, weight, bias, eps).clone()


def test_a_gain_and_its_bias_are_found_behind_a_norm() -> None:
    rule = new_rule("scaffolds.fused_norm.default", Use({}, {"x": 2, "weight": 1, "bias": 1}))
    assert check(rule).sound and check(rule).tight
    assert str(rule.signature) == "x[... a], weight[a~]?, bias[a]? -> [... a]"
    assert (rule.gain, rule.adds, rule.centred) == ("weight", "bias", "a")
    assert classes(rule)["a"] == "orthogonal fixing ones"


def test_numbers_that_matter_become_a_condition() -> None:
    assert str(new_rule("aten.cdist.default", Use({"p": 2.0})).when) == "p == 2.0"
    other = new_rule("aten.cdist.default", Use({"p": 1.0}))
    assert other.when is None and "orthogonal" not in classes(other)["b"]


def test_positive_operands_where_there_is_no_value_otherwise() -> None:
    (example,) = new_rule("aten.log.default").examples
    assert example.positive == ("self",)


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("aten.add_.Tensor", "writes to its operands"),
        ("aten.no_such.default", "torch has no such operator"),
        ("aten.item.default", "does not return tensors"),
    ],
)
def test_what_no_rule_can_be_about(target: str, cause: str) -> None:
    with pytest.raises(RuleError, match="there can be no rule about") as caught:
        new_rule(target)
    assert cause in str(caught.value)


def test_what_never_runs_says_what_it_takes() -> None:
    with pytest.raises(RuleError, match="does not run on anything that was tried") as caught:
        new_rule("aten.cross.default")
    assert "--args (it takes dim)" in str(caught.value)


# -- planted symmetries ------------------------------------------------------------------------------------------------

PLANTED: dict[SymmetryClass, object] = {
    SymmetryClass.INVERTIBLE: lambda x: 2.0 * x,
    SymmetryClass.ORTHOGONAL: lambda x: x / x.square().sum(-1, keepdim=True).add(1.0).sqrt(),
    SymmetryClass.ORTHOGONAL_ONES: lambda x: x - x.mean(-1, keepdim=True) / (1 + x.var(-1, keepdim=True)),
    SymmetryClass.POSITIVE_MONOMIAL: torch.relu,
    SymmetryClass.SIGNED: torch.tanh,
    SymmetryClass.PERMUTATION: lambda x: x.softmax(-1),
    SymmetryClass.IDENTITY: lambda x: x.cumsum(-1),
}


@torch.library.custom_op("scaffolds::planted", mutates_args=())
def planted(x: Tensor, kind: int) -> Tensor:
    function = list(PLANTED.values())[kind]
    return function(x).clone()  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("cls", PLANTED)
def test_a_planted_class_is_found(cls: SymmetryClass) -> None:
    kind = list(PLANTED).index(cls)
    rule = new_rule("scaffolds.planted.default", Use({"kind": kind}, {"x": 2}))
    assert check(rule).sound
    bound = rule.admits["*" if "*" in rule.admits else "a"]
    assert cls in bound
    larger = {c for c in PLANTED if cls in down(c)} - {cls}
    assert not any(c in bound for c in larger)


# -- where axes belong together ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), st.data())
@settings(max_examples=25, deadline=None)
def test_planted_axes_are_told_apart(left: list[str], data: st.DataObject) -> None:
    """Operands of an einsum with random letters: those letters come back."""
    right = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True))
    out = data.draw(st.permutations(sorted(set(left) | set(right))))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    found = layout(Call("scaffolds.einsum.default", {"x": len(left), "y": len(right)}, given={"equation": equation}))
    assert found is not None
    renamed = dict(zip(left + right, found.operands["x"] + found.operands["y"], strict=True))
    assert len(set(renamed.values())) == len(renamed)
    assert found.operands == {"x": tuple(renamed[n] for n in left), "y": tuple(renamed[n] for n in right)}
    assert found.results == (tuple(renamed[n] for n in out),)


@torch.library.custom_op("scaffolds::einsum", mutates_args=())
def einsum(x: Tensor, y: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, x, y).clone()


# -- in a model --------------------------------------------------------------------------------------------------------


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.write(torch.lgamma(self.read(x)))
        return result


def test_a_measured_rule_finds_the_symmetry_of_a_model() -> None:
    graph = trace(Kernel(), (torch.randn(2, 4),))
    use = used("aten.lgamma.default", graph)
    assert use == Use({}, {"self": 2}, {})
    book = with_user_rules(default_rules(), [new_rule("aten.lgamma.default", use)])
    assert infer(graph).active == ()
    assert str(infer(graph, book).space("hidden").group) == "permutation"


def test_an_operator_that_a_model_does_not_call() -> None:
    assert used("aten.tan.default", trace(Kernel(), (torch.randn(2, 4),))) is None


def test_every_shipped_rule_is_read_back_from_its_text() -> None:
    text = "\n".join(map(as_yaml, default_rules().rules))
    assert [plain(r) for r in parse(text)] == [plain(r) for r in default_rules().rules]
