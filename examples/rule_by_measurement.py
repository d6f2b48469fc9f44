"""A kernel of one's own that no rule covers: from the gap in the symmetry graph to a rule, by measurement.

    python examples/rule_by_measurement.py

The kernel normalises its input by its length and multiplies by a gain. symgraph sees only its name. Called with many
shapes and moved by random elements of every class, it shows which axes are one and how large their class is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import symgraph
from symgraph.rules.check import check
from symgraph.rules.rule_text import as_yaml
from symgraph.rules.scaffold import new_rule, used
from symgraph.rules.worked import in_words, worked
from symgraph.symmetry.coverage import gaps


@torch.library.custom_op("examples::fused_norm", mutates_args=())
def fused_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """A fast kernel could stand here."""
    scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return scaled if weight is None else scaled * weight


@fused_norm.register_fake
def _(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return torch.empty_like(x)


class Block(nn.Module):
    """A residual block with the kernel as its norm."""

    def __init__(self, width: int = 8, hidden: int = 24) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(fused_norm(x, self.gain, 1e-6))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.blocks, self.write = nn.Linear(5, 8), nn.Sequential(Block(), Block()), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.blocks(self.read(x)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "rule_by_measurement")
    parser.add_argument("--fast", action="store_true", help="changes nothing: this example is fast already")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = symgraph.model(Net(), (torch.randn(2, 5),))

    print("1. what is missing, and what that freezes\n")
    graph = symgraph.infer(model)
    (gap,) = gaps(graph)
    print(f"{gap.operator} is called {gap.calls} times and freezes {gap.frozen} of {graph.graph.size} parameters")

    print("\n2. a rule, measured where the model calls the kernel\n")
    rule = new_rule(gap.operator, used(gap.operator, graph.graph))
    print(as_yaml(rule))
    report = check(rule)
    print(f"sound: {report.sound}, tight: {report.tight}")

    print("\n3. what it says\n")
    print(in_words(rule))
    print(f"\n{worked(rule)}")

    print("\n4. with the rule the residual stream may be rotated\n")
    graph = symgraph.infer(model, rules=[rule])
    print(graph)
    proof = symgraph.verify(model, symmetry=graph)
    proof.raise_if_failed()
    print(f"\nrandom elements of the larger group change the outputs by {proof.together:.0e} (relative, float64)")

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fused_norm.yaml"
    path.write_text(as_yaml(rule), encoding="utf-8")
    print(f"the rule is in {path}")


if __name__ == "__main__":
    main()
