"""An operator of one's own: what symgraph says about it, and how a rule of a few lines finds the symmetry behind it.

    python examples/custom_rule.py

A rule that claims too much is refused with the counterexample, so a rule can be tried out without fear.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import symgraph
from symgraph.rules.schema import Rule

RULE_FILE = Path(__file__).parent / "rules" / "two_slopes.yaml"


@torch.library.custom_op("examples::two_slopes", mutates_args=())
def two_slopes(x: Tensor, left: float, right: float) -> Tensor:
    """A fast kernel of one's own could stand here; symgraph sees only the name of the operator."""
    return torch.where(x < 0, left * x, right * x)


@two_slopes.register_fake
def _(x: Tensor, left: float, right: float) -> Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(two_slopes(self.read(x), 0.2, 1.5))


def rule_in_python(admits: str | list[str]) -> Rule:
    """The rule of `rules/two_slopes.yaml`, with the claim left open."""
    return symgraph.rule(
        rule="two-slopes",
        about="A line through zero with one slope on each side, as LeakyReLU.",
        source="proof: f(s x) = s f(x) for every s > 0",
        ops=["examples.two_slopes.default"],
        signature="x[*] -> [*]",
        admits={"*": admits},
        examples=[{"args": {"left": 0.2, "right": 1.5}}],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "custom_rule")
    parser.add_argument("--fast", action="store_true", help="changes nothing: this example is fast already")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = symgraph.model(Net(), (torch.randn(2, 6),))

    print("1. without a rule: nothing is assumed, and the report says how to get one\n")
    print(symgraph.infer(model))

    print("\n2. a rule that claims too much (changes of sign) is refused\n")
    try:
        symgraph.infer(model, rules=[rule_in_python("signed permutation")])
    except symgraph.SymgraphError as error:
        print(f"error[{error.title}]: {error}")

    print(f"\n3. the rule in {RULE_FILE.parent.name}/{RULE_FILE.name} is true\n")
    graph = symgraph.infer(model, rules=[RULE_FILE])
    print(graph)
    proof = symgraph.verify(model, symmetry=graph)
    proof.raise_if_failed()
    print(f"\nrandom elements of the larger group change the outputs by {proof.together:.0e} (relative, float64)")

    print("\n4. the same rule in Python gives the same symmetry graph")
    same = symgraph.infer(model, rules=[rule_in_python(["positive monomial", "semi-permutation"])])
    print(f"   fingerprints equal: {same.fingerprint == graph.fingerprint}")

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "symmetry.json"
    path.write_text(graph.to_json(indent=2), encoding="utf-8")
    print(f"   the symmetry graph is in {path}")


if __name__ == "__main__":
    main()
