"""A ReLU network by hand: what its symmetry is, how symgraph finds the same, and what it is good for.

    python examples/mlp_by_hand.py

1. Permuting and scaling the hidden units of a network changes its weights and not its outputs: done with torch alone.
2. `infer`, `verify` and `align` do the same without being told anything about the network.
3. Two networks trained on handwritten digits from different seeds are aligned, and the loss barrier between them falls.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import symgraph
from symgraph.measure.plots import barrier_plot

PIXELS, CLASSES, HELD_OUT = 64, 10, 360


class MLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(PIXELS, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def moved_by_hand(model: MLP) -> MLP:
    """The same function with other weights: hidden unit i goes to another place, scaled by s_i > 0."""
    hidden = model.fc1.out_features
    order, scale = torch.randperm(hidden), torch.rand(hidden) + 0.5
    other = MLP(hidden)
    with torch.no_grad():
        other.fc1.weight.copy_(scale[:, None] * model.fc1.weight[order])
        other.fc1.bias.copy_(scale * model.fc1.bias[order])
        # ReLU lets positive scales through, so the next layer can undo both changes.
        other.fc2.weight.copy_(model.fc2.weight[:, order] / scale)
        other.fc2.bias.copy_(model.fc2.bias)
    return other


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.data, dtype=torch.float32)[order] / 16, torch.tensor(found.target)[order]


def trained(seed: int, hidden: int, epochs: int) -> MLP:
    torch.manual_seed(seed)
    model = MLP(hidden)
    x, y = (t[HELD_OUT:] for t in digits())
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """|A - B| / |A| over all weights."""
    difference = sum(float((a[n] - b[n]).square().sum()) for n in a)
    return (difference / sum(float(t.square().sum()) for t in a.values())) ** 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "mlp_by_hand")
    parser.add_argument("--fast", action="store_true", help="smaller and shorter")
    options = parser.parse_args(arguments)
    hidden, epochs = (32, 10) if options.fast else (64, 30)

    print("1. by hand")
    a = trained(0, hidden, epochs)
    b = moved_by_hand(a)
    x, y = (t[:HELD_OUT] for t in digits())
    with torch.no_grad():
        change = float((a(x) - b(x)).abs().max())
    print(f"   weights differ by {distance(a.state_dict(), b.state_dict()):.2f} (relative), outputs by {change:.0e}\n")

    print("2. the same by symgraph")
    model = symgraph.model(a, (x[:2],))
    graph = symgraph.infer(model)
    print(graph)
    proof = symgraph.verify(model, symmetry=graph)
    proof.raise_if_failed()
    print(f"\n   random elements of the group change the outputs by {proof.together:.0e} (relative, float64)")
    aligned = symgraph.align(model, symgraph.model(b, (x[:2],)), symmetry=graph)
    print(f"   aligned back: weights differ by {distance(a.state_dict(), aligned.state):.0e}\n")

    print("3. another seed, trained on the same digits")
    other = symgraph.model(trained(1, hidden, epochs), (x[:2],))
    aligned = symgraph.align(model, other, symmetry=graph)
    test = [{"x": x, "labels": y}]
    before = symgraph.loss_barrier(model, other, test, metrics=["accuracy"])
    after = symgraph.loss_barrier(aligned.reference, aligned.state, test, module=a, metrics=["accuracy"])
    for name, result in (("as trained", before), ("aligned", after)):
        middle = result.metric("accuracy").values[5]
        print(f"   {name:<10}  loss barrier {result.barrier:.3f}, accuracy of the mean of both {middle:.1%}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = barrier_plot({"as trained": before, "aligned": after}, options.out / "barrier.png", overwrite=True)
    print(f"   drawn to {path}")


if __name__ == "__main__":
    main()
